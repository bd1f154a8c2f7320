"""What `perdure doctor --queue Q --fix` does: the safe calls of findings, and no others."""

from __future__ import annotations

from perdure.account.asking import Aws
from perdure.account.findings import Call, Finding


def mend(aws: Aws, findings: list[Finding]) -> list[tuple[Finding, str]]:
    """Make each finding's safe call once; (finding, what came of it) for each. A refusal is told, and the rest goes on.

    Not idempotent by itself: what is mended is no finding any more, so look again before mending again.
    """
    done: list[tuple[Finding, str]] = []
    for finding in findings:
        if finding.safe is None or any(finding.safe == earlier.safe for earlier, _ in done):
            continue
        done.append((finding, _make(aws, finding.safe)))
    return done


def _make(aws: Aws, call: Call) -> str:
    if call.operation != "register-job-definition":
        return f"left alone: {call.operation} is not among the safe calls"
    batch = aws.client("batch")
    made = aws.ask(call.right, lambda: batch.register_job_definition(**call.arguments)["jobDefinitionArn"], "")
    if not made:
        return f"refused: {aws.refused[call.right]}"
    return f"registered {made.rpartition('/')[2]}; jobs that name no revision use it from now on"
