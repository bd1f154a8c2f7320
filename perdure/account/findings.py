"""One thing that is wrong with a job queue, and what mends it."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """How much it matters."""

    ERROR = "error"
    """Jobs of the queue are not protected, or not all of them."""
    WARNING = "warning"
    """They are, but some reclaims will not be survived, or cost more than they must."""
    NOTE = "note"
    """Nothing is wrong; good to know, or not to be seen from outside."""


@dataclass(frozen=True)
class Call:
    """One call of AWS's API: `service` and `operation` as AWS's command line spells them (batch,
    register-job-definition), `arguments` as boto3 takes them."""

    service: str
    operation: str
    arguments: dict[str, Any]

    def command(self) -> str:
        """The same as a command line for a shell."""
        return f"aws {self.service} {self.operation} --cli-input-json {shlex.quote(json.dumps(self.arguments))}"

    @property
    def right(self) -> str:
        """The IAM action that it needs."""
        words = re.split("-", self.operation)
        return f"{self.service}:{''.join(word.capitalize() for word in words)}"


@dataclass(frozen=True)
class Finding:
    """`check`: the check's name in the table, stable, for programs. `subject`: what it is about, by AWS's name for it.
    `what` is wrong and `why` it matters are sentences; `mend` is a command, or what a person has to do. `safe`: the
    call that `--fix` makes. Safe means that nothing that runs or waits is changed, and that it can be taken back."""

    severity: Severity
    check: str
    subject: str
    what: str
    why: str
    mend: str
    safe: Call | None = field(default=None, repr=False)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "severity": str(self.severity), "safe": self.safe is not None}
