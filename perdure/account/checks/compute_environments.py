"""Can jobs of these compute environments be protected at all?"""

from __future__ import annotations

from collections.abc import Iterator

from perdure.account.environments import Environment
from perdure.account.findings import Finding, Severity
from perdure.account.picture import QueuePicture

_UNPROTECTABLE = {
    "FARGATE": "Fargate gives nobody the host on which a container runs, so no agent can be there.",
    "FARGATE_SPOT": "Fargate gives nobody the host on which a container runs, so no agent can be there.",
    "ECS_MANAGED_INSTANCES": "ECS Managed Instances run AWS's own locked image, so no agent can be installed.",
}
_MOVE = (
    "a compute environment of type SPOT (ECS on EC2) with Perdure's launch template, in front of this one in the queue"
)


def kind(picture: QueuePicture) -> Iterator[Finding]:
    """Fargate, EKS, managed instances and on-demand."""
    for one in picture.environments:
        found, shown = one.resources.get("type", ""), one.shown
        if shown.get("eksConfiguration") or shown.get("containerOrchestrationType") == "EKS":
            what, why = (
                "It runs jobs on EKS.",
                "Kubernetes does not start containers by Docker; Perdure's runtime is not asked.",
            )
            yield Finding(Severity.ERROR, "environment-kind", one.name, what, why, _MOVE)
        elif found in _UNPROTECTABLE:
            what = f"It is of type {found}: its jobs cannot be protected."
            yield Finding(Severity.ERROR, "environment-kind", one.name, what, _UNPROTECTABLE[found], _MOVE)
        elif shown.get("type") == "UNMANAGED":
            what = "It is unmanaged: its instances cannot be seen here."
            why = "Batch does not start them, so there is no launch template to look at."
            mend = "perdure doctor on one of its instances"
            yield Finding(Severity.NOTE, "environment-kind", one.name, what, why, mend)
        elif found == "EC2":
            what = "It starts on-demand instances."
            why = "AWS reclaims none of those; protection helps where instances are Spot."
            yield Finding(Severity.NOTE, "environment-kind", one.name, what, why, "nothing, if that is what you want")


def state(picture: QueuePicture) -> Iterator[Finding]:
    """Do queue and environments take jobs?"""
    if not picture.environments:
        what, why = "No compute environment of the queue could be looked at.", "Everything below rests on them."
        yield Finding(Severity.ERROR, "environment-state", picture.queue["jobQueueName"], what, why, "see `rights`")
    if picture.queue.get("state") == "DISABLED":
        name = picture.queue["jobQueueName"]
        mend = f"aws batch update-job-queue --job-queue {name} --state ENABLED"
        yield Finding(Severity.WARNING, "environment-state", name, "The queue is disabled.", "No job starts.", mend)
    for one in picture.environments:
        if one.shown.get("status") == "INVALID":
            what, why = f"It is invalid: {one.shown.get('statusReason', '')}", "No job starts there."
            mend = "Batch user guide, `INVALID compute environment`"
            yield Finding(Severity.ERROR, "environment-state", one.name, what, why, mend)
        elif one.shown.get("state") == "DISABLED":
            mend = f"aws batch update-compute-environment --compute-environment {one.name} --state ENABLED"
            what, why = "It is disabled.", "A restored job finds no instance there."
            yield Finding(Severity.WARNING, "environment-state", one.name, what, why, mend)


def strategy(picture: QueuePicture) -> Iterator[Finding]:
    """How Spot capacity is chosen, and whether an update ends jobs."""
    for one in _spot(picture):
        if one.resources.get("allocationStrategy", "BEST_FIT") in {"BEST_FIT", "BEST_FIT_PROGRESSIVE"}:
            what = f"Its allocation strategy is {one.resources.get('allocationStrategy', 'BEST_FIT')}."
            why = "It looks at prices or sizes alone, so jobs land where AWS reclaims most."
            mend = (
                "a new compute environment with allocationStrategy SPOT_PRICE_CAPACITY_OPTIMIZED"
                if "allocationStrategy" not in one.resources or one.resources["allocationStrategy"] == "BEST_FIT"
                else f"aws batch update-compute-environment --compute-environment {one.name} "
                "--compute-resources allocationStrategy=SPOT_PRICE_CAPACITY_OPTIMIZED"
            )
            yield Finding(Severity.WARNING, "allocation-strategy", one.name, what, why, mend)
        if (one.shown.get("updatePolicy") or {}).get("terminateJobsOnUpdate"):
            what = "An update of it terminates its jobs (terminateJobsOnUpdate)."
            why = "Batch ends them itself, as by TerminateJob: that is final, and no reclaim."
            mend = (
                f"aws batch update-compute-environment --compute-environment {one.name} "
                "--update-policy terminateJobsOnUpdate=false"
            )
            yield Finding(Severity.WARNING, "allocation-strategy", one.name, what, why, mend)


def zones(picture: QueuePicture) -> Iterator[Finding]:
    """Is there a second zone when the first has no Spot capacity?"""
    spot = [one for one in _spot(picture) if one.zones]
    everywhere = frozenset(zone for one in spot for zone in one.zones)
    if len(everywhere) == 1:
        what = f"All its subnets are in {next(iter(everywhere))}."
        why = "When that zone has no Spot capacity, a reclaimed job waits; in another zone it would go on."
        mend = (
            f"aws batch update-compute-environment --compute-environment {spot[0].name} "
            f"--compute-resources subnets={','.join(spot[0].resources.get('subnets', []))},SUBNET-OF-ANOTHER-ZONE"
        )
        yield Finding(Severity.WARNING, "zones", spot[0].name, what, why, mend)


def _spot(picture: QueuePicture) -> list[Environment]:
    return [one for one in picture.environments if one.resources.get("type") == "SPOT"]
