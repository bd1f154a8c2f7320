"""Puts and gets objects for so many rounds, with whatever credentials boto3 finds; one line a round.

bucket.py BUCKET ROUNDS: asks its task's metadata endpoint too, as many libraries do once in a while.
"""

from __future__ import annotations

import os
import sys
import time
import urllib.request

import boto3

bucket, rounds = sys.argv[1], int(sys.argv[2])
client = boto3.client("s3")
for number in range(rounds):
    client.put_object(Bucket=bucket, Key=f"round-{number}", Body=b"%d" % number)
    said = client.get_object(Bucket=bucket, Key=f"round-{number}")["Body"].read()
    assert said == b"%d" % number, said
    with urllib.request.urlopen(os.environ["ECS_CONTAINER_METADATA_URI_V4"] + "/task", timeout=20) as answer:
        assert answer.status == 200
    print("round", number, flush=True)
    time.sleep(0.2)
