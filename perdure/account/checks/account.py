"""The account around the queue: roles, quotas, and the rights of whoever looks."""

from __future__ import annotations

from collections.abc import Iterator

from perdure.account.asking import NOT_ALLOWED
from perdure.account.findings import Call, Finding, Severity
from perdure.account.picture import QUOTAS, QueuePicture
from perdure.domain.volume_sizes import LEAST_GIB

_TOO_MUCH = {"AdministratorAccess", "PowerUserAccess", "AmazonEC2FullAccess", "AmazonS3FullAccess", "IAMFullAccess"}
_ECS = "AmazonEC2ContainerServiceforEC2Role"
_GIB_PER_TIB = 1024


def roles(picture: QueuePicture) -> Iterator[Finding]:
    """An instance's role is every job's on it: a job shares the network of its host, and its metadata service."""
    for role in picture.roles:
        wide = sorted(set(role.policies) & _TOO_MUCH)
        for statement in role.statements:
            actions = statement.get("Action", [])
            actions = [actions] if isinstance(actions, str) else actions
            wide += [
                each
                for each in actions
                if statement.get("Effect") == "Allow" and each in {"*", "ec2:*", "s3:*", "iam:*"}
            ]
        if wide:
            what = f"The instances' role has {', '.join(wide)}."
            why = "Every job on an instance can take its role. Perdure's agent needs nothing of EC2."
            mend = (
                "the rights in deploy/iam/agent.json instead"
                if not role.policies
                else "".join(
                    f"aws iam detach-role-policy --role-name {role.name} --policy-arn arn:aws:iam::aws:policy/{name}; "
                    for name in wide
                    if name in role.policies
                ).rstrip("; ")
            )
            yield Finding(
                Severity.WARNING, "roles", role.name, what, why, mend or "the rights in deploy/iam/agent.json instead"
            )
        known = bool(role.policies or role.statements) and not any(
            right.startswith("iam:") for right in picture.refused
        )
        may_join = (
            _ECS in role.policies or bool(wide) or any("ecs:" in str(each.get("Action")) for each in role.statements)
        )
        if known and not may_join:
            what, why = f"The role lacks {_ECS}.", "The instance cannot join the cluster, and no job starts on it."
            mend = (
                f"aws iam attach-role-policy --role-name {role.name} "
                f"--policy-arn arn:aws:iam::aws:policy/service-role/{_ECS}"
            )
            yield Finding(Severity.ERROR, "roles", role.name, what, why, mend)


def quotas(picture: QueuePicture) -> Iterator[Finding]:
    """Room for the instances, and for a volume for each job."""
    spot = [one for one in picture.environments if one.resources.get("type") == "SPOT"]
    vcpus = sum(int(one.resources.get("maxvCpus", 0)) for one in spot)
    allowed = picture.quotas.get("L-34B43A08")
    if allowed is not None and vcpus > allowed:
        what = f"The queue may grow to {vcpus} vCPUs, and the account may have {allowed:g} on Spot."
        yield _quota("L-34B43A08", what, "A reclaimed job may wait for an instance that never comes.", vcpus)
    jobs = int(vcpus / _smallest(picture)) if vcpus else 0
    wanted, storage = jobs * LEAST_GIB / _GIB_PER_TIB, picture.quotas.get("L-7A658B76")
    if storage is not None and wanted > storage:
        what = f"{jobs} jobs with {LEAST_GIB} GiB each need {wanted:.0f} TiB of gp3; the account may have {storage:g}."
        why = "A job that gets no volume is kept in the store, or runs unprotected where there is none."
        yield _quota("L-7A658B76", what, why, int(wanted) + 1)


def _smallest(picture: QueuePicture) -> float:
    """The fewest vCPUs that a job of the queue asks for; 1 when nobody knows."""
    found = [
        float(each["value"])
        for one in picture.definitions
        for properties in one.containers
        for each in properties.get("resourceRequirements", [])
        if each.get("type") == "VCPU"
    ]
    return min(found, default=1.0) or 1.0


def _quota(code: str, what: str, why: str, wanted: float) -> Finding:
    service, name = QUOTAS[code]
    call = Call(
        "service-quotas",
        "request-service-quota-increase",
        {"ServiceCode": service, "QuotaCode": code, "DesiredValue": float(wanted)},
    )
    return Finding(Severity.WARNING, "quotas", f"{code} ({name})", what, why, call.command())


def rights(picture: QueuePicture) -> Iterator[Finding]:
    """What could not be looked at."""
    for right, said in sorted(picture.refused.items()):
        what = f"AWS did not answer: {said}"
        why = "What rests on it could not be judged."
        mend = f"grant {right} (deploy/iam/looking.json has all that this command reads)"
        mend = mend if said.startswith(NOT_ALLOWED) else "what AWS says"
        yield Finding(Severity.NOTE, "rights", right, what, why, mend)
