"""Can Perdure work on these images and processors, and restore on one what was saved on another?"""

from __future__ import annotations

from collections.abc import Iterator

from perdure.account.environments import Environment
from perdure.account.findings import Finding, Severity
from perdure.account.picture import QueuePicture
from perdure.domain.instance_types import expected_features


def images(picture: QueuePicture) -> Iterator[Finding]:
    """The machine image's kind."""
    said = picture.refused.get("ec2:DescribeImages", "")
    if "NotFound" in said or "Unavailable" in said:
        what = f"An image that is named is gone: {said}"
        mend = "name another one, in the compute environment or its launch template"
        yield Finding(Severity.ERROR, "image", picture.queue["jobQueueName"], what, "No instance starts from it.", mend)
    for one in picture.environments:
        if one.resources.get("type") not in {"SPOT", "EC2"}:
            continue
        kinds = [str(each.get("imageType", "")) for each in one.resources.get("ec2Configuration", [])]
        mend = (
            f"aws batch update-compute-environment --compute-environment {one.name} "
            "--compute-resources 'ec2Configuration=[{imageType=ECS_AL2023}]'"
        )
        if not kinds and not one.images:
            what, why = (
                "It names no image.",
                "Batch's default has changed over time; Amazon Linux 2023 is what Perdure is for.",
            )
            yield Finding(Severity.WARNING, "image", one.name, what, why, mend)
        for kind in kinds:
            yield from _kind(one, kind, mend)
        for image in one.images:
            if image.get("State") not in {None, "available"}:
                what = f"The image {image['ImageId']} is {image['State']}."
                yield Finding(Severity.ERROR, "image", one.name, what, "No instance starts from it.", mend)


def _kind(one: Environment, kind: str, mend: str) -> Iterator[Finding]:
    if "BOTTLEROCKET" in kind.upper():
        what, why = (
            f"Its image is {kind}.",
            "Nothing can be installed on Bottlerocket, which has containerd and no Docker.",
        )
        yield Finding(Severity.ERROR, "image", one.name, what, why, mend)
    elif kind in {"ECS_AL1", "ECS_AL2"}:
        severity = Severity.ERROR if kind == "ECS_AL1" else Severity.WARNING
        why = "Kernel 5.10 or newer is needed, and Amazon's support of it ends or has ended."
        yield Finding(severity, "image", one.name, f"Its image is {kind}.", why, mend)
    if kind.endswith("_NVIDIA"):
        what, why = (
            f"Its image is {kind}, for GPUs.",
            "Freezing jobs on GPUs is off by default and nobody has tried it.",
        )
        mend = "/etc/perdure/agent.env: PERDURE_GPU=true, if you want to try"
        yield Finding(Severity.WARNING, "image", one.name, what, why, mend)


def processors(picture: QueuePicture) -> Iterator[Finding]:
    """A checkpoint made with AVX-512 does not go on where there is none."""
    spot = [one for one in picture.environments if one.resources.get("type") == "SPOT"]
    named = sorted({name for one in spot for name in one.resources.get("instanceTypes", [])})
    subject = picture.queue["jobQueueName"]
    if "optimal" in named or any(name.startswith("default_") for name in named):
        what = f"Its instance types are {', '.join(named)}: AWS chooses the families."
        why = "They have different processors, and a job saved on a newer one may not go on on an older one."
        mend = "name families of one processor, as c6i m6i r6i; `perdure nodes compatible` lists them"
        yield Finding(Severity.WARNING, "processors", subject, what, why, mend)
    kinds = {
        kind
        for one in spot
        for each in one.instance_types
        for kind in (each.get("ProcessorInfo") or {}).get("SupportedArchitectures", [])
    }
    if {"x86_64", "arm64"} <= kinds:
        what, why = "It has x86_64 and arm64 instances.", "Nothing that is saved on one goes on on the other."
        mend = "one compute environment, with a queue of its own, for each"
        yield Finding(Severity.ERROR, "processors", subject, what, why, mend)
        return
    if "arm64" in kinds:
        what, why = "Its instances are arm64.", "The bundle for aarch64 is built by the same recipe; nobody has run it."
        yield Finding(Severity.WARNING, "processors", subject, what, why, "try it on one instance first")
    features = {name: found for name in named if (found := expected_features(name)) is not None}
    common = frozenset.intersection(*features.values()) if features else frozenset()
    richer = sorted(name for name, found in features.items() if found - common)
    if richer:
        poorer = sorted(name for name in features if name not in richer) or sorted(features)
        what = f"Its families differ: what is saved on {', '.join(richer)} may need what {', '.join(poorer)} lack."
        why = "Such a job waits for a fitting instance, or starts anew, as the policy says."
        mend = "one compute environment for each kind of processor; `perdure nodes compatible` says what fits"
        yield Finding(Severity.WARNING, "processors", subject, what, why, mend)
