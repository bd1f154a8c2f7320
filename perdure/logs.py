"""Structured logs: one set-up for every process, to stderr or to a file that rotates; level and sizes may change while
the process runs."""

from __future__ import annotations

import logging
import logging.handlers
import sys
from pathlib import Path

import structlog

from perdure.domain.configuration import LogConfiguration

log = structlog.get_logger(__name__)
MB = 1_000_000
ACCESS = "perdure.access"
"""The logger of the API's access log, which has a file of its own."""
QUIET = ("alembic", "boto3", "botocore", "httpcore", "httpx", "s3transfer", "urllib3")
"""Libraries that are never asked for more than warnings: at `debug` botocore writes credentials and tokens, and the
agent's look at the metadata service would fill its file."""


class RotatedFile(logging.handlers.RotatingFileHandler):
    """A log file that is rotated when it is full. With no old ones to keep, a full file begins anew."""

    def doRollover(self) -> None:
        """Called by `emit` when the next line would not fit."""
        super().doRollover()
        if self.backupCount == 0 and self.stream is not None:
            self.stream.truncate(0)

    def resize(self, max_bytes: int, backups: int) -> None:
        """From now on. Old files beyond `backups` are removed at once."""
        self.acquire()
        try:
            self.maxBytes, self.backupCount = max_bytes, backups
            path = Path(self.baseFilename)
            for old in path.parent.glob(f"{path.name}.*"):
                number = old.name.removeprefix(f"{path.name}.")
                if number.isdecimal() and int(number) > backups:
                    old.unlink(missing_ok=True)
        finally:
            self.release()


def configure_logs(level: str = "INFO", file: Path | None = None) -> None:
    """Send structlog and the standard library's records to one place, as one line each (JSON in a file).

    `level` is a standard level name; a file rotates as the log section's defaults say.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    tamed: list[structlog.typing.Processor] = []
    handler: logging.Handler
    renderer: structlog.typing.Processor
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        tamed = [_tame]  # JSON does it by itself
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        usual = LogConfiguration()
        handler = RotatedFile(file, maxBytes=usual.max_size_mb * MB, backupCount=usual.max_backups)
        renderer = structlog.processors.JSONRenderer()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tamed, renderer],
        )
    )
    _quieten()
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _tame(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Values may come from strangers: none may begin a line of its own or speak to a terminal."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            # A traceback has several lines by nature: set off, so that none of them looks like an event.
            kept = "\n" if name == "exception" else ""
            apart = value.replace("\n", "\n    ") if kept else value
            event[name] = "".join(c if c.isprintable() or c == kept else _escaped(c) for c in apart)
    return event


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def apply_log_settings(section: LogConfiguration, number: int, *, level_fixed: bool, on_node: bool = False) -> None:
    """Log by `section`, which is that of configuration `number`, from the next line on.

    `level_fixed`: the process's environment named a level, which wins. `on_node`: the sizes for agents count.
    """
    _quieten()
    root = logging.getLogger()
    # Before or after, whichever lets the line through.
    said_before = root.isEnabledFor(logging.INFO)
    if said_before:
        log.info("log settings", number=number, level_fixed=level_fixed, settings=section.model_dump())
    if not level_fixed:
        root.setLevel(section.level.upper())
    size, backups = file_limits(section, on_node=on_node)
    for handler in (*root.handlers, *logging.getLogger(ACCESS).handlers):
        if isinstance(handler, RotatedFile):
            handler.resize(size, backups)
    if not said_before:
        log.info("log settings", number=number, level_fixed=level_fixed, settings=section.model_dump())


def _quieten() -> None:
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def file_limits(section: LogConfiguration, *, on_node: bool) -> tuple[int, int]:
    """Bytes of a log file and how many rotated ones are kept beside it. On a node all files together stay within
    `node_total_mb`, the one being written included."""
    if not on_node:
        return section.max_size_mb * MB, section.max_backups
    size = min(section.node_max_size_mb, section.node_total_mb)
    return size * MB, min(section.max_backups, section.node_total_mb // size - 1)
