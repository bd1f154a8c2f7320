"""The edge to AWS: clients with time-outs, calls in threads, AWS's errors turned into ours. All activities use it.

boto3 reads region, credentials and AWS_ENDPOINT_URL by itself; nothing here knows which cloud answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from perdure.domain.errors import (
    AttachmentLimitReached,
    CloudThrottled,
    CloudUnavailable,
    PerdureError,
    VolumeFailed,
    VolumeGone,
    VolumeQuotaReached,
)

T = TypeVar("T")

# Temporal retries whole activities; botocore only what is worth a second try at once.
_CALLS_AT_ONCE = 24
"""Of this process. asyncio's own threads are few on a small machine (6 with two processors), and the records need them:
a hundred jobs that ask at once would wait for each other, and while AWS does not answer, all else would stand still."""
_THREADS = ThreadPoolExecutor(_CALLS_AT_ONCE, thread_name_prefix="aws")
_CONFIG = Config(
    connect_timeout=5,
    read_timeout=20,
    retries={"mode": "standard", "total_max_attempts": 3},
    max_pool_connections=_CALLS_AT_ONCE,
)

_THROTTLED = {"RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequestsException"}
_PASSING = {
    "InternalError",
    "InternalFailure",
    "ServerException",
    "ServiceUnavailable",
    "Unavailable",
    "RequestTimeout",
}

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
_QUOTA = {"VolumeLimitExceeded", "MaxIOPSLimitExceeded", "VolumeTypeLimitExceeded"}


def client(service: str, region: str | None = None, *, tries: int = 3) -> Any:
    """A boto3 client, of the environment's region unless named; safe to share between threads. `tries`: 1 for calls
    that must not be sent twice."""
    session: Any = boto3.session.Session()
    config = _CONFIG.merge(Config(retries={"mode": "standard", "total_max_attempts": tries}))
    return session.client(service, region_name=region, config=config)


def error_code(problem: ClientError) -> str:
    """AWS's name for what went wrong."""
    return str(problem.response.get("Error", {}).get("Code", ""))


def as_ours(problem: Exception, what: str) -> PerdureError:
    """The error of ours for one of botocore's. `what` says what was asked for, as in `attach vol-1 to i-1`."""
    if not isinstance(problem, ClientError):
        return CloudUnavailable(f"AWS did not answer ({what}): {problem}. Check the network and AWS_ENDPOINT_URL.")
    code = error_code(problem)
    sentence = f"AWS refused to {what}: {code}: {problem.response.get('Error', {}).get('Message', '')}"
    if code in _THROTTLED:
        return CloudThrottled(sentence)
    if code in _PASSING:
        return CloudUnavailable(sentence)
    if code in {"InvalidVolume.NotFound", "InvalidSnapshot.NotFound"}:
        return VolumeGone(sentence)
    if code in _QUOTA:
        return VolumeQuotaReached(f"{sentence}; ask AWS for a higher quota of EBS, or keep fewer volumes")
    if code == "AttachmentLimitExceeded":
        return AttachmentLimitReached(f"{sentence}; run fewer jobs on an instance, or larger instances")
    return VolumeFailed(sentence)


async def call(what: str, function: Callable[..., T], **arguments: Any) -> T:
    """Call boto3 in a thread. Raises CloudUnavailable, VolumeGone or VolumeFailed with `what` in the sentence."""
    try:
        return await asyncio.get_running_loop().run_in_executor(_THREADS, partial(function, **arguments))
    except (BotoCoreError, ClientError) as problem:
        raise as_ours(problem, what) from problem
