"""Names that both ends of a conversation must spell alike: task queues, workflows, their ids, search attributes."""

from __future__ import annotations

CONTROL_QUEUE = "control"
"""Workflows and control-plane activities."""

JOB_PROTECTION = "JobProtection"
NODE_WATCH = "NodeWatch"
VOLUME_MIGRATION = "VolumeMigration"
LOG_COLLECTION = "LogCollection"
LOG_KEEPING = "LogKeeping"
JOB_OUTPUT = "JobOutput"
RESUMPTION = "Resumption"
RETENTION = "Retention"
PRICE_KEEPING = "PriceKeeping"
RECONCILIATION = "Reconciliation"
VOLUME_REMOVAL = "VolumeRemoval"
ORPHAN_SEARCH = "OrphanSearch"

RETENTION_ID = "retention"
"""The only workflow of its kind."""
PRICE_KEEPING_ID = "prices"
"""The same."""
RECONCILIATION_ID = "reconciler"
"""The same."""
ORPHAN_SEARCH_ID = "orphan-search"
"""For a person, one at a time."""

SEARCH_ATTRIBUTES: dict[str, str] = {
    "PerdureState": "Keyword",
    "PerdureQueue": "Keyword",
    "PerdureZone": "Keyword",
    "PerdureNode": "Keyword",
    "PerdureProtections": "Int",
    "PerdureAttempt": "Int",
    "PerdureLastCheckpoint": "Datetime",
}
"""Custom search attributes by Temporal type. SQL visibility allows 10 Keyword and 3 of each other type."""


def node_queue(instance_id: str) -> str:
    """The task queue that only the agent on that instance serves."""
    return f"node-{instance_id}"


def job_workflow_id(job_id: str) -> str:
    """Workflow of one Batch job."""
    return f"batch-job/{job_id}"


def node_workflow_id(instance_id: str) -> str:
    """Workflow that keeps the inventory entry of one instance."""
    return f"node/{instance_id}"


def migration_workflow_id(job_id: str, epoch: int) -> str:
    """Child workflow that brings a job volume to the zone in which `epoch` attaches."""
    return f"migrate/{job_id}/{epoch}"


def volume_removal_id(volume_id: str) -> str:
    """Workflow that deletes a kept volume for a person, one at a time."""
    return f"remove-volume/{volume_id}"


def log_collection_id(request_id: str) -> str:
    """Workflow that asks a node for its logs, once."""
    return f"logs/{request_id}"


def job_output_id(request_id: str) -> str:
    """Workflow that reads what a job printed, once."""
    return f"output/{request_id}"


def log_keeping_id(key: str) -> str:
    """Workflow that stores one bundle of logs that a node sent by itself."""
    return f"keep-logs/{key}"


def resumption_id(job_id: str) -> str:
    """Workflow that submits a new job from the kept checkpoint of this one."""
    return f"resume/{job_id}"
