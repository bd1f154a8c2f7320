"""Addresses of log streams in the AWS console."""

from __future__ import annotations

import pytest

from perdure.domain.log_pages import log_page


def test_a_stream_of_batchs_own_group() -> None:
    assert log_page("us-east-1a", "/aws/batch/job", "align/default/0a1b") == (
        "https://console.aws.amazon.com/cloudwatch/home?region=us-east-1"
        "#logsV2:log-groups/log-group/$252Faws$252Fbatch$252Fjob/log-events/align$252Fdefault$252F0a1b"
    )


@pytest.mark.parametrize(
    ("zone", "begin"),
    [
        ("cn-north-1a", "https://console.amazonaws.cn/cloudwatch/home?region=cn-north-1#"),
        ("us-gov-west-1b", "https://console.amazonaws-us-gov.com/cloudwatch/home?region=us-gov-west-1#"),
        ("us-west-2-lax-1a", "https://console.aws.amazon.com/cloudwatch/home?region=us-west-2#"),
    ],
)
def test_regions(zone: str, begin: str) -> None:
    assert (log_page(zone, "g", "s") or "").startswith(begin)


@pytest.mark.parametrize(("zone", "group", "stream"), [("", "g", "s"), ("z", "g", "s"), ("us-east-1a", "", "s")])
def test_where_something_is_not_known(zone: str, group: str, stream: str) -> None:
    assert log_page(zone, group, stream) is None
