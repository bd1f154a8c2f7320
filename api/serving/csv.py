"""Tables as CSV (RFC 4180, UTF-8), written as they are read: memory does not grow with their length.

A cell of text that a spreadsheet would take for a formula gets an apostrophe in front: names come from whoever submits
jobs. https://owasp.org/www-community/attacks/CSV_Injection
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal

from starlette.responses import StreamingResponse

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_CHUNK = 64 * 1024
"""Characters."""
DESCRIBED: dict[int | str, dict[str, object]] = {
    200: {
        "description": "A table; its first line names the columns.",
        "content": {"text/csv": {"schema": {"type": "string"}}},
    }
}
"""For an endpoint's `responses`."""


def csv_response(filename: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> StreamingResponse:
    """A download called `filename`, which must be a plain name of ours. `rows` is read in a thread, as it is sent."""
    return StreamingResponse(
        csv_chunks(columns, rows),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{filename}"'},
    )


def csv_chunks(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[bytes]:
    """The table in pieces. Times are ISO 8601 UTC; nothing known is an empty cell; lists are parted by spaces."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([cell(value) for value in row])
        if written.tell() >= _CHUNK:
            yield written.getvalue().encode("utf-8", "replace")
            written.seek(0)
            written.truncate()
    yield written.getvalue().encode("utf-8", "replace")


def cell(value: object) -> str:
    """A value as it stands in a table. Numbers are ours and stay as they are."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return "'" + text if text.startswith(_FORMULA) else text
