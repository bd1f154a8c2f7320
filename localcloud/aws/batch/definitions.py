"""From a SubmitJob request and its job definition to a job: what overrides what, and what is refused.

Source: AWS Batch API reference, SubmitJob and ContainerOverrides: command, environment (by name) and
resourceRequirements (by type) of the submission win; so do its retryStrategy and timeout, whole. Keys may come
capitalised: some clients write them as their SDK's classes are called.
"""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from localcloud.aws.batch.jobs import ContainerPlan, Job, now_ms
from localcloud.aws.batch.retry import parse_strategy
from localcloud.aws.cloud_config import ACCOUNT
from localcloud.errors import AwsError
from localcloud.node_link import ContainerOptions, Mount, Tmpfs, Ulimit

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

JOB_NAME = re.compile(r"^[a-zA-Z0-9][\w-]{0,127}$", re.ASCII)
NOT_PLAYED = ("arrayProperties", "dependsOn", "nodeOverrides", "eksPropertiesOverride", "ecsPropertiesOverride")
USER_MAPS = {"tags", "parameters", "options"}


def lower_keys(value: Any) -> Any:
    """The request with every key of the API beginning in lower case; maps of the user's own are left as they are."""
    if isinstance(value, list):
        return [lower_keys(item) for item in value]
    if not isinstance(value, dict):
        return value
    lowered = {name[:1].lower() + name[1:]: item for name, item in value.items()}
    return {name: item if name in USER_MAPS else lower_keys(item) for name, item in lowered.items()}


def make_job(batch: BatchClient, request: dict[str, Any], region: str, shortest_timeout: float) -> Job:
    """The job that this SubmitJob asks for. AwsError ClientException for what AWS refuses, or we do not play yet."""
    name = request.get("jobName", "")
    if not JOB_NAME.match(name):
        raise _refuse(f"The job name `{name[:140]}` must be up to 128 letters, numbers, hyphens and underscores.")
    for feature in NOT_PLAYED:
        if request.get(feature):
            raise _refuse(f"This local Batch does not play {feature} yet: submit single jobs without it.")
    definition = find_definition(batch, request.get("jobDefinition", ""))
    queue = _find_queue(batch, request.get("jobQueue", ""))
    parameters = {**definition.get("parameters", {}), **(request.get("parameters") or {})}
    timeout = (request.get("timeout") or definition.get("timeout") or {}).get("attemptDurationSeconds")
    if timeout is not None and timeout < shortest_timeout:
        raise _refuse(f"timeout.attemptDurationSeconds must be at least {shortest_timeout:g}.")
    job_id = str(uuid.uuid4())
    return Job(
        job_id=job_id,
        arn=f"arn:aws:batch:{region}:{ACCOUNT}:job/{job_id}",
        name=name,
        queue=queue["jobQueueName"],
        queue_arn=queue["jobQueueArn"],
        definition_arn=definition["jobDefinitionArn"],
        compute_environment=queue["computeEnvironmentOrder"][0]["computeEnvironment"].rsplit("/", 1)[-1],
        plan=plan_container(definition["containerProperties"], request.get("containerOverrides") or {}, parameters),
        strategy=parse_strategy(request.get("retryStrategy") or definition.get("retryStrategy")),
        timeout_seconds=timeout,
        tags=request.get("tags") or {},
        parameters=parameters,
        propagate_tags=bool(request.get("propagateTags", definition.get("propagateTags", False))),
        created_at=now_ms(),
    )


def find_definition(batch: BatchClient, wanted: str) -> dict[str, Any]:
    """An active definition by ARN, `name:revision` or name (then the newest). ClientException when there is none."""
    name, _, revision = wanted.rsplit("/", 1)[-1].partition(":")
    found: list[Any] = []
    if name:
        found = list(batch.describe_job_definitions(jobDefinitionName=name, status="ACTIVE")["jobDefinitions"])
    if revision:
        found = [definition for definition in found if str(definition["revision"]) == revision]
    if not found:
        raise _refuse(f"JobDefinition {wanted} is not found or not active.")
    definition: dict[str, Any] = max(found, key=lambda candidate: int(candidate["revision"]))
    if "containerProperties" not in definition:
        raise _refuse(f"This local Batch runs jobs of one container; {wanted} is of another kind.")
    return definition


def plan_container(properties: dict[str, Any], overrides: dict[str, Any], parameters: dict[str, str]) -> ContainerPlan:
    """Lay the overrides over the definition's container properties."""
    command = [_fill(word, parameters) for word in overrides.get("command") or properties.get("command") or []]
    environment = _by(properties.get("environment"), "name") | _by(overrides.get("environment"), "name")
    resources = _by(properties.get("resourceRequirements"), "type") | _by(overrides.get("resourceRequirements"), "type")
    # The fields that resourceRequirements replaced are still taken.
    vcpus = _number(resources.get("VCPU", overrides.get("vcpus", properties.get("vcpus", 1))), "VCPU")
    memory = _number(resources.get("MEMORY", overrides.get("memory", properties.get("memory", 512))), "MEMORY")
    shown = {
        **properties,
        "command": command,
        "environment": [{"name": name, "value": value} for name, value in environment.items()],
        "resourceRequirements": [
            {"type": kind, "value": str(value)}
            for kind, value in {**resources, "VCPU": f"{vcpus:g}", "MEMORY": f"{memory:g}"}.items()
        ],
    }
    for replaced in ("vcpus", "memory"):
        shown.pop(replaced, None)
    return ContainerPlan(
        image=properties.get("image", ""),
        command=command,
        environment=environment,
        vcpus=vcpus,
        memory_mib=int(memory),
        mounts=_mounts(properties),
        user=properties.get("user") or None,
        privileged=bool(properties.get("privileged", False)),
        options=_options(properties),
        properties=shown,
    )


def _options(properties: dict[str, Any]) -> ContainerOptions:
    """ulimits, readonlyRootFilesystem and what is played of linuxParameters."""
    linux = properties.get("linuxParameters") or {}
    try:
        return ContainerOptions(
            ulimits=[
                Ulimit(name=one["name"], soft=one["softLimit"], hard=one["hardLimit"])
                for one in properties.get("ulimits") or []
            ],
            tmpfs=[
                Tmpfs(destination=one["containerPath"], size_mib=one["size"], options=one.get("mountOptions") or [])
                for one in linux.get("tmpfs") or []
            ],
            shared_memory_mib=linux.get("sharedMemorySize") or 64,
            init=bool(linux.get("initProcessEnabled", False)),
            read_only_root=bool(properties.get("readonlyRootFilesystem", False)),
        )
    except (KeyError, ValidationError) as problem:
        raise _refuse("ulimits or linuxParameters are incomplete or not usable.") from problem


def _refuse(message: str) -> AwsError:
    return AwsError("ClientException", message)


def _find_queue(batch: BatchClient, wanted: str) -> dict[str, Any]:
    found = batch.describe_job_queues(jobQueues=[wanted])["jobQueues"] if wanted else []
    if not found:
        raise _refuse(f"Job queue {wanted} does not exist.")
    queue: dict[str, Any] = dict(found[0])
    if queue["state"] != "ENABLED":
        raise _refuse(f"Job queue {wanted} is disabled.")
    return queue


def _by(items: list[dict[str, str]] | None, key: str) -> dict[str, str]:
    return {item[key]: item.get("value", "") for item in items or []}


def _number(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < float("inf"):
        raise _refuse(f"{what} must be a positive number, not `{value}`.")
    return number


def _fill(word: str, parameters: dict[str, str]) -> str:
    """`Ref::name` stands for a parameter; one that nobody gave stays as it is."""
    return re.sub(r"Ref::([A-Za-z0-9_-]+)", lambda match: str(parameters.get(match[1], match[0])), word)


def _mounts(properties: dict[str, Any]) -> list[Mount]:
    sources = {
        volume.get("name"): (volume.get("host") or {}).get("sourcePath") for volume in properties.get("volumes") or []
    }
    mounts = []
    for point in properties.get("mountPoints") or []:
        source, destination = sources.get(point.get("sourceVolume")), point.get("containerPath", "")
        if not source:
            raise _refuse(
                f"Volume {point.get('sourceVolume')} needs host.sourcePath: the local Batch knows no other kind."
            )
        if not source.startswith("/") or not destination.startswith("/"):
            raise _refuse(f"Mount {source} at {destination}: both must be absolute paths.")
        mounts.append(Mount(source=source, destination=destination, read_only=bool(point.get("readOnly", False))))
    return mounts
