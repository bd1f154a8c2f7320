"""Commands that look into an AWS account need boto3, which an instance or a plain client does not have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from perdure.domain.errors import ConfigurationInvalid


@contextmanager
def account_parts() -> Iterator[None]:
    """Import what needs boto3 inside. Raises ConfigurationInvalid when it is not installed."""
    try:
        yield
    except ModuleNotFoundError as problem:
        if (problem.name or "").partition(".")[0] not in {"boto3", "botocore", "perdure"}:
            raise
        raise ConfigurationInvalid(
            "looking into an AWS account needs boto3: install Perdure's wheel with [account], on your own machine"
        ) from problem
