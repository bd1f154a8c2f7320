"""Where the AWS console shows a log stream. Pure."""

from __future__ import annotations

import re
from urllib.parse import quote

_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-\d+")
_HOSTS = {"cn-": "console.amazonaws.cn", "us-gov-": "console.amazonaws-us-gov.com"}


def log_page(zone: str, group: str, stream: str) -> str | None:
    """The address of a log stream's page in the AWS console; None where group, stream or region is not known.

    The form of the address is a belief: docs/aws-assumptions.md. Behind `#` names are escaped twice, with `$` for `%`.
    """
    region = _REGION.match(zone)
    if not (region and group and stream):
        return None
    host = next((host for begin, host in _HOSTS.items() if zone.startswith(begin)), "console.aws.amazon.com")
    where = f"log-groups/log-group/{_twice(group)}/log-events/{_twice(stream)}"
    return f"https://{host}/cloudwatch/home?region={region[0]}#logsV2:{where}"


def _twice(name: str) -> str:
    return quote(quote(name, safe=""), safe="").replace("%", "$")
