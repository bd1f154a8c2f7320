"""A log line is one line, whatever strangers write into it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import logging, structlog, sys
from pathlib import Path
from perdure.logs import configure_logs
configure_logs("INFO", Path(sys.argv[1]) if sys.argv[1:] else None)
evil = "/x\\n2026-01-01 [info] admin signed in\\x1b[2J\\r\\u2028"
structlog.get_logger("a").error("refused", path=evil)
logging.getLogger("uvicorn.error").warning("bad %s", evil)
try:
    raise ValueError(evil)
except ValueError:
    structlog.get_logger("a").exception("failed")
"""


def said(*arguments: str) -> str:
    """In a process of its own: setting up the logs changes all of it."""
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True)
    return done.stderr


def test_nobody_writes_a_line_of_their_own(tmp_path: Path) -> None:
    for text in (said(), said(str(tmp_path / "log")) + (tmp_path / "log").read_text()):
        lines = text.splitlines()
        assert len(lines) >= 3 and "\x1b" not in text and "\r" not in text
        assert not [line for line in lines if line.startswith("2026-01-01")]
        assert sum("admin signed in" in line for line in lines) >= 3
