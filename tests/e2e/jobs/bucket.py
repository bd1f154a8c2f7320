"""Puts and gets objects, with whatever credentials boto3 finds, until there is one named `stop`; one line a round.

bucket.py BUCKET: asks its task's metadata endpoint too, as many libraries do once in a while; talks to itself
over its own address, on a connection that it opens once; and says its address on stderr, whenever it is another one.
"""

from __future__ import annotations

import itertools
import os
import socket
import sys
import time
import urllib.request

import boto3
from botocore.exceptions import ClientError

bucket = sys.argv[1]


def own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("192.0.2.1", 9))
        return str(asking.getsockname()[0])


address = own_address()
print("address", address, file=sys.stderr, flush=True)
listener = socket.create_server((address, 0))
inside = socket.create_connection(listener.getsockname())
accepted, _ = listener.accept()
client = boto3.client("s3")


def put_and_got(number: int) -> bool:
    """False: there is a `stop`."""
    if client.list_objects_v2(Bucket=bucket, Prefix="stop")["KeyCount"]:
        return False
    client.put_object(Bucket=bucket, Key=f"round-{number}", Body=b"%d" % number)
    said = client.get_object(Bucket=bucket, Key=f"round-{number}")["Body"].read()
    assert said == b"%d" % number, said
    return True


def in_a_round(number: int) -> bool:
    """The same again where it was frozen between asking for credentials, which live for seconds here, and their use."""
    while True:
        try:
            return put_and_got(number)
        except ClientError as problem:
            if problem.response["Error"]["Code"] != "ExpiredToken":
                raise


for number in itertools.count():
    if not in_a_round(number):
        break
    with urllib.request.urlopen(os.environ["ECS_CONTAINER_METADATA_URI_V4"] + "/task", timeout=300) as answer:
        assert answer.status == 200
    inside.sendall(b"ping")
    assert accepted.recv(10) == b"ping"
    if own_address() != address:
        address = own_address()
        print("address", address, file=sys.stderr, flush=True)
    print("round", number, flush=True)
    time.sleep(0.5)
