"""The settings people change while the system runs: system level (in the database), job level (environment), effective.

Each section is one model: its fields carry their defaults, limits, units and an example, and the API's documentation is
made of them. Job level wins over system level. A bad job-level value never stops a job: the system value is used and
the caller gets a warning to show. There is no secret in here: AWS is reached by roles, never by typed-in keys.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue, field_validator, model_validator

from perdure.domain.values import Frozen, parse_duration
from perdure.domain.volume_rules import check_rule
from perdure.domain.volume_sizes import LEAST_GIB, usual_size_gib, usual_speed
from perdure.domain.volumes import VolumeOptions, impossible

MINIMUM_INTERVAL_SECONDS = 1.0
LONGEST_VALUE = 256
"""Characters of an environment value that are looked at; a longer one is invalid."""
LARGEST_RESERVE_MIB = 16 * 1024 * 1024
"""16 TiB, the largest EBS volume."""
MOST_TAGS = 40
"""AWS allows 50 on a volume; the others are ours. https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html"""
_OF_IMAGES = frozenset({"", "/bin", "/boot", "/etc", "/lib", "/lib64", "/run", "/sbin", "/usr", "/var"})
"""Folders that an image needs: a volume over one of them would hide it."""
_KERNELS = ("/proc/", "/sys/", "/dev/")
_TAG = re.compile(r"[\w +\-=.:/@]*")


def _seconds(value: object) -> object:
    """Seconds as a number, or a duration as text (`15m`)."""
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, bool) or (isinstance(value, int | float) and not math.isfinite(value)):
        raise ValueError("must be a number of seconds, or a duration such as 15m, 90s or 1h30m")
    return value


Seconds = Annotated[float, BeforeValidator(_seconds, json_schema_input_type=float | str)]
"""A number of seconds; read from text such as `15m` too."""


class CheckpointConfiguration(Frozen):
    """When checkpoints are taken and what is kept, for jobs whose environment says nothing else."""

    enabled: bool = Field(True, description="Take checkpoints at all.", examples=[True])
    interval_seconds: Seconds = Field(
        900.0,
        ge=0,
        le=31_622_400,
        description="Seconds between periodic checkpoints, or a duration such as `15m`: 0 turns them off (the final one"
        " on a notice is still taken), else 1 s to 366 days.",
        examples=["15m", 900],
    )
    shortest_interval_seconds: Seconds = Field(
        0.0,
        ge=0,
        le=31_622_400,
        description="Seconds, or a duration, to which an instance may shorten the interval by itself, so that a final"
        " checkpoint is written within half of a notice: the less time, the less has changed. 0: the interval is kept.",
        examples=["2m", 0],
    )
    diagnosis: bool = Field(False, description="Keep volumes and checkpoints of finished jobs.", examples=[False])
    keep: int = Field(2, ge=1, le=20, description="Committed checkpoints kept per job, newest first.", examples=[2])
    reserve_mib: int = Field(
        64, ge=0, le=LARGEST_RESERVE_MIB, description="MiB of the job volume that no checkpoint may use.", examples=[64]
    )
    full_every: int = Field(
        8,
        ge=1,
        le=64,
        description="Where the job volume can share unchanged memory between checkpoints (XFS): of so many in a row,"
        " one is written whole and shares nothing with those before it, so that one bad block does not damage all."
        " 1: none shares anything.",
        examples=[8],
    )
    predump: bool = Field(
        True,
        description="Where the job volume can share unchanged memory: read it, and write what is new, before the"
        " freeze, which is short then.",
        examples=[True],
    )
    lazy_restore: bool = Field(
        False,
        description="Let a restored job go on while most of its memory is still being read: each page comes, verified,"
        " when it is asked for, and all others meanwhile. No checkpoint is taken before all is there. A failure on the"
        " way ends the container, and the next attempt restores the same checkpoint whole. So it is done only where"
        " Batch starts a container again that ended with exit code 137 and attempts are left; for checkpoints on a job"
        " volume that shares unchanged memory; and not for memory that processes may share since a fork, or of a GPU.",
        examples=[False],
    )
    rehearsal: bool = Field(
        True,
        description="Restore a job's first checkpoint, and one after its programs, kinds of descriptors or mounts have"
        " changed, beside the running job, look at it and throw it away: the only proof that it restores. At low"
        " priority, where memory is free, without network.",
        examples=[True],
    )
    deregister_instance: bool = Field(
        False,
        description="Where the ECS agent of a reclaimed instance was stopped (the job's retry rules only know"
        " `Host EC2*`, and every job on the instance is safe): deregister its container instance as well, so that Batch"
        " need not find out by itself, which may take 20 minutes. Not tried on AWS. The server's role needs"
        " `ecs:DescribeContainerInstances` and `ecs:DeregisterContainerInstance`.",
        examples=[False],
    )
    dump_limit_seconds: Seconds = Field(
        110.0,
        gt=0,
        le=3600,
        description="Seconds, or a duration: a dump that takes longer is ended and the job thawed.",
        examples=[110],
    )
    own_network: bool = Field(
        False,
        description="Each protected job gets a network namespace of its own: the same address on every node, NAT to"
        " outside, no way in. Else it shares its host's network, as Batch's jobs do.",
        examples=[False],
    )
    refuse_io_uring: bool = Field(
        True,
        description="Containers get no io_uring, which cannot be saved; programs fall back to epoll.",
        examples=[True],
    )

    @field_validator("interval_seconds", "shortest_interval_seconds")
    @classmethod
    def _interval(cls, value: float) -> float:
        if 0 < value < MINIMUM_INTERVAL_SECONDS:
            raise ValueError("must be 0 (off) or at least 1 second")
        return value


class JobVolumeConfiguration(Frozen):
    """The managed EBS volume of each job: its root layer, its data and its checkpoints. Holds for volumes made from
    now on; of one that exists only growth and snapshots change."""

    enabled: bool = Field(
        True,
        description="Make a volume for each job. Off: checkpoints of jobs that have none yet go to the store; without a"
        " store these jobs run unprotected, each with an event that says so.",
        examples=[True],
    )
    for_jobs: list[Annotated[str, Field(max_length=300)]] = Field(
        default_factory=list,
        max_length=50,
        description="Which jobs get one: rules, of which one must hold; empty: all. The conditions of a rule must all"
        " hold: `queue=NAME`, `name=NAME` (`*` for any characters), `vcpus>=N`, `vcpus<=N`, `memory>=MIB`,"
        " `memory<=MIB`. The others' checkpoints go to the store; without a store they run unprotected.",
        examples=[["queue=genomics-*", "name=align* memory>=8192"]],
    )
    volume_type: Literal["gp2", "gp3", "io1", "io2"] = Field(
        "gp3", description="EBS volume type. `io1` and `io2` need `iops`.", examples=["gp3"]
    )
    size_gib: int = Field(
        0,
        ge=0,
        le=16384,
        description="Size in GiB. 0: by the memory that the job asks for: 50 GiB for its files and room for `keep` + 1"
        " checkpoints of all of it, at least 100.",
        examples=[0, 100],
    )
    grow_to_gib: int = Field(
        0,
        ge=0,
        le=16384,
        description="A volume that is nearly full is made larger while its job runs, by half, up to so many GiB: looked"
        " at after each checkpoint. 0: never. Volumes that exist grow as well. EC2 allows few changes of one volume in"
        " a day.",
        examples=[0, 500],
    )
    iops: int = Field(
        0,
        ge=0,
        le=256_000,
        description="Operations a second. 0: what the type has by itself (gp3: 3,000), or more where the throughput"
        " needs it. AWS charges for more than 3,000.",
        examples=[0, 6000],
    )
    throughput_mib_per_second: int = Field(
        0,
        ge=0,
        le=2_000,
        description="gp3 alone: MiB/s, 125 to 2,000, and at most a quarter of `iops`. 0: by the memory that the job"
        " asks for: enough to write all of it in 90 s, which a notice leaves for it; 125 to 1,000. AWS charges for more"
        " than 125.",
        examples=[0, 500],
    )
    encrypted: bool = Field(
        False,
        description="Encrypt volumes, and so their snapshots. Off: as the account's default says.",
        examples=[True],
    )
    kms_key: str = Field(
        "",
        pattern=r"^[A-Za-z0-9:/_-]{0,300}$",
        description="Id, ARN or alias of the KMS key; empty: the account's default for EBS. The server's role must be"
        " allowed to use it (deploy/iam).",
        examples=["alias/jobs"],
    )
    mount_path: str = Field(
        "/mnt/perdure",
        pattern=r"^/[A-Za-z0-9._/-]{1,200}$",
        description="Where the job sees it: an absolute path inside the container.",
        examples=["/mnt/perdure"],
    )
    zone_snapshot_seconds: Seconds = Field(
        1800.0,
        ge=0,
        le=31_622_400,
        description="Seconds at least between two snapshots of a volume while its job runs, or a duration such as"
        " `30m`; 0: none. With them, a change of zone moves only what changed since. None is taken where little"
        " changed, or where they would cost more than a tenth of the instance.",
        examples=["30m", 1800],
    )
    initialization_mib_per_second: int = Field(
        0,
        ge=0,
        le=300,
        description="After a change of zone: MiB/s at which EBS fills the new volume by itself, 100 to 300. AWS charges"
        " for it. 0: blocks come when they are first touched.",
        examples=[0],
    )
    tags: dict[str, str] = Field(
        default_factory=dict,
        max_length=MOST_TAGS,
        description=f"Tags put on every volume and snapshot: at most {MOST_TAGS}; names up to 128 characters and not"
        " beginning with `aws:` or `perdure:`, values up to 256.",
        examples=[{"team": "genomics", "cost-centre": "42"}],
    )
    scratch: list[str] = Field(
        default_factory=lambda: ["/scratch", "/cromwell_root"],
        max_length=20,
        description="Host folders that jobs mount as scratch: each job gets its own, empty, on its volume instead.",
        examples=[["/scratch", "/cromwell_root"]],
    )

    @field_validator("for_jobs")
    @classmethod
    def _rules(cls, value: list[str]) -> list[str]:
        for rule in value:
            check_rule(rule)
        return value

    @field_validator("initialization_mib_per_second")
    @classmethod
    def _rate(cls, value: int) -> int:
        if 0 < value < 100:
            raise ValueError("must be 0 (off) or 100 to 300 MiB/s")
        return value

    @field_validator("scratch")
    @classmethod
    def _absolute(cls, value: list[str]) -> list[str]:
        if any(not path.startswith("/") or ".." in path.split("/") or len(path) > 200 for path in value):
            raise ValueError("must be absolute paths without '..'")
        return value

    @field_validator("mount_path")
    @classmethod
    def _no_parent(cls, value: str) -> str:
        if ".." in value.split("/") or value.rstrip("/") in _OF_IMAGES or f"{value}/".startswith(_KERNELS):
            raise ValueError("must be a folder of its own, without '..': an image has something else there")
        return value

    @field_validator("tags")
    @classmethod
    def _tags(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not 1 <= len(name) <= 128 or len(text) > 256 or not _TAG.fullmatch(name) or not _TAG.fullmatch(text):
                raise ValueError(
                    "names have 1 to 128 characters, values up to 256: letters, digits, spaces and + - = . _ : / @"
                )
            if name.lower().startswith(("aws:", "perdure:")):
                raise ValueError("names may not begin with 'aws:' or 'perdure:', which are taken")
        return value

    def made_for(self, memory_mib: int | None, keep: int) -> tuple[int, VolumeOptions]:
        """GiB and options of the volume of a job that asks for so much memory and keeps so many checkpoints."""
        size_gib = self.size_gib or usual_size_gib(memory_mib, keep)
        return size_gib, usual_speed(self.volume_type, memory_mib, self.options)

    @property
    def options(self) -> VolumeOptions:
        """What volumes are made with, besides type and size, as far as it is set."""
        return VolumeOptions(
            iops=self.iops,
            throughput_mib_per_second=self.throughput_mib_per_second,
            encrypted=self.encrypted,
            kms_key=self.kms_key,
        )

    @model_validator(mode="after")
    def _possible(self) -> JobVolumeConfiguration:
        if 0 < self.grow_to_gib < self.size_gib:
            raise ValueError("grow_to_gib must be 0 (never), or at least size_gib")
        if problem := impossible(self.volume_type, self.size_gib or LEAST_GIB, self.options):
            raise ValueError(problem)
        return self


class StoreConfiguration(Frozen):
    """Where the checkpoints of jobs without a managed volume are kept (`job_volume.enabled` off). Holds for jobs that
    begin from now on; one that has begun stays with the store that it began with."""

    kind: Literal["none", "directory", "s3"] = Field(
        "none",
        description="`directory`: a file system that all instances and the server have mounted (EFS, FSx, NFS,"
        " JuiceFS). `s3`: a bucket. `none`: a job without a managed volume runs unprotected, with an event that says"
        " so.",
        examples=["s3"],
    )
    directory: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._/-]{1,200})?$",
        description="For `directory`: an absolute path, the same on every instance and on the server. It must exist.",
        examples=["/mmc-checkpoint"],
    )
    bucket: str = Field(
        "",
        pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$",
        description="For `s3`: the bucket's name. The instances' role and the server's must be allowed to list it, and"
        " to get, put and delete its objects.",
        examples=["my-checkpoints"],
    )
    prefix: str = Field(
        "perdure/",
        pattern=r"^([A-Za-z0-9_-][A-Za-z0-9._-]*/){0,8}$",
        max_length=200,
        description="For `s3`: what the names of all objects begin with; empty, or ending with a slash.",
        examples=["perdure/"],
    )
    region: str = Field(
        "",
        pattern=r"^([a-z]{2}(-[a-z]{2,12}){1,3}-\d{1,2})?$",
        description="For `s3`: the bucket's region; empty: the instance's own.",
        examples=["us-east-1"],
    )
    kms_key: str = Field(
        "",
        pattern=r"^[A-Za-z0-9:/_-]{0,300}$",
        description="For `s3`: id, ARN or alias of the KMS key that encrypts the objects; empty: the bucket's default.",
        examples=["alias/checkpoints"],
    )
    bucket_owner: str = Field(
        "",
        pattern=r"^(\d{12})?$",
        description="For `s3`: the AWS account that the bucket must belong to; empty: not looked at.",
        examples=["123456789012"],
    )
    sealed: bool = Field(
        False,
        description="Accept only checkpoints that are sealed with the installation's key, a file on each instance and"
        " on the server (`PERDURE_STORE_KEY_FILE`). For stores that others can write.",
        examples=[True],
    )
    scratch_gib: int = Field(
        100,
        ge=1,
        le=16384,
        description="GiB of its instance's disk that a running job's files and newest checkpoint may take, at most;"
        " less where less is free.",
        examples=[100],
    )

    @field_validator("directory")
    @classmethod
    def _no_parent(cls, value: str) -> str:
        if ".." in value.split("/"):
            raise ValueError("must be an absolute path without '..'")
        return value

    @model_validator(mode="after")
    def _complete(self) -> StoreConfiguration:
        if self.kind == "directory" and not self.directory:
            raise ValueError("kind directory needs a directory")
        if self.kind == "s3" and not self.bucket:
            raise ValueError("kind s3 needs a bucket")
        return self


LogLevel = Literal["debug", "info", "warning", "error", "critical"]


def _level(value: object) -> object:
    """Any case; `warn` as other programs spell it."""
    if not isinstance(value, str):
        return value
    word = value.lower()
    return {"warn": "warning", "fatal": "critical"}.get(word, word)


class LogConfiguration(Frozen):
    """What Perdure's own programs log. It takes effect within seconds and without a restart. A file is written only by
    programs that are told its name (`PERDURE_LOG_FILE`); what jobs print is not touched."""

    level: Annotated[LogLevel, BeforeValidator(_level, json_schema_input_type=str)] = Field(
        "info", description="Least important lines that are written.", examples=["info"]
    )
    max_size_mb: int = Field(
        10, ge=1, le=10_240, description="MB (10^6 bytes) after which a server's log file is rotated.", examples=[10]
    )
    max_backups: int = Field(10, ge=0, le=1000, description="Rotated files kept per log.", examples=[10])
    node_max_size_mb: int = Field(
        2, ge=1, le=10_240, description="MB after which an agent's log file is rotated.", examples=[2]
    )
    node_total_mb: int = Field(
        1024,
        ge=1,
        le=102_400,
        description="MB that all log files of an agent may take together: it keeps fewer rotated files if need be.",
        examples=[1024],
    )


class ServerConfiguration(Frozen):
    """Where the server listens, and how long it remembers. Environment variables of the server win over this."""

    address: str = Field(
        "127.0.0.1",
        max_length=100,
        description="IP address to listen on, or `localhost`; `0.0.0.0` and `::` are all of the machine's. Any but"
        " loopback needs a sign-in (Cognito or API tokens) and a certificate. Takes effect after a restart.",
        examples=["127.0.0.1", "0.0.0.0"],
    )
    port: int = Field(8080, ge=1, le=65535, description="TCP port. Takes effect after a restart.", examples=[8080])
    cert_file: str | None = Field(
        None,
        description="Path of the TLS certificate (PEM, with its chain) on the server; null: plain HTTP.",
        examples=["/etc/perdure/server.crt"],
    )
    key_file: str | None = Field(
        None,
        description="Path of the certificate's private key (PEM, unencrypted) on the server; goes with `cert_file`.",
        examples=["/etc/perdure/server.key"],
    )
    keep_succeeded_seconds: Seconds = Field(
        259_200.0,
        ge=0,
        le=31_622_400,
        description="How long the record of a job that succeeded is kept after its end: seconds or a duration; 0: for"
        " ever. Totals are kept anyhow.",
        examples=["72h", 259_200],
    )
    keep_failed_seconds: Seconds = Field(
        604_800.0,
        ge=0,
        le=31_622_400,
        description="The same for a job that failed or was stopped.",
        examples=["168h", 604_800],
    )
    keep_volume_seconds: Seconds = Field(
        604_800.0,
        ge=0,
        le=31_622_400,
        description="How long the volume of a job that is over, or its checkpoints in a store, are kept where they were"
        " kept (a reclaim ended the job for good, or diagnosis mode): seconds or a duration, counted from the job's"
        " end; then they are deleted. 0: until a person deletes them.",
        examples=["168h", 604_800],
    )
    orphan_grace_seconds: Seconds = Field(
        86_400.0,
        ge=0,
        le=31_622_400,
        description="How long a volume or snapshot that no job owns any more is left, from when it was found: seconds"
        " or a duration; then it is deleted. Only what bears this installation's tags. 0: it is listed, never deleted.",
        examples=["24h", 86_400],
    )
    keep_audit_seconds: Seconds = Field(
        31_536_000.0,
        ge=0,
        le=316_224_000,
        description="How long a line of the audit log is kept: seconds or a duration; 0: for ever.",
        examples=["8760h", 31_536_000],
    )

    @field_validator("address")
    @classmethod
    def _address(cls, value: str) -> str:
        if value != "localhost":
            try:
                ipaddress.ip_address(value)
            except ValueError:
                raise ValueError("must be an IP address such as 127.0.0.1, 0.0.0.0 or ::, or localhost") from None
        return value

    @field_validator("cert_file", "key_file")
    @classmethod
    def _path(cls, value: str | None) -> str | None:
        if value is not None and (not value.startswith("/") or len(value) > 1000 or not value.isprintable()):
            raise ValueError("must be an absolute path, or null")
        return value

    @model_validator(mode="after")
    def _pair(self) -> ServerConfiguration:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together: give both, or neither")
        return self


Group = Annotated[str, Field(pattern=r"^[^\s\x00-\x1f\x7f-\x9f]{1,128}$")]
"""The name of a Cognito group."""


class CognitoConfiguration(Frozen):
    """Sign-in by an Amazon Cognito user pool. No AWS keys: the server uses its role, people use their passwords."""

    enabled: bool = Field(False, description="People sign in with Cognito.", examples=[False])
    region: str = Field(
        "",
        pattern=r"^([a-z]{2}(-[a-z]{2,12}){1,3}-\d{1,2})?$",
        description="AWS region of the pool.",
        examples=["us-east-1"],
    )
    user_pool_id: str = Field(
        "", pattern=r"^([\w-]{1,54}_[0-9A-Za-z]{1,55})?$", description="The user pool's id.", examples=["us-east-1_aB3"]
    )
    client_id: str = Field(
        "",
        pattern=r"^[\w+]{0,128}$",
        description="The pool's app client for Perdure, without a secret.",
        examples=["4a"],
    )
    domain: str = Field(
        "",
        max_length=300,
        pattern=r"^(https?://[A-Za-z0-9.\[\]:-]{1,260}(/[\w./-]*)?)?$",
        description="Base URL of the pool's hosted sign-in page; empty: user name and password only.",
        examples=["https://perdure.auth.us-east-1.amazoncognito.com"],
    )
    identity_pool_id: str = Field(
        "",
        pattern=r"^([\w-]{1,55}:[0-9a-f-]{1,55})?$",
        description="Accepted because MMBatch asks for it; without effect, because Perdure never trades a sign-in for"
        " AWS credentials.",
        examples=["us-east-1:3f2504e0-4f89-11d3-9a0c-0305e82c3301"],
    )
    admin_groups: list[Group] = Field(
        default_factory=lambda: ["admin"], max_length=50, description="Members may change things.", examples=[["admin"]]
    )
    viewer_groups: list[Group] = Field(
        default_factory=list,
        max_length=50,
        description="Members may read; empty: everyone of the pool may.",
        examples=[["science"]],
    )

    @model_validator(mode="after")
    def _complete(self) -> CognitoConfiguration:
        missing = [name for name in ("region", "user_pool_id", "client_id") if not getattr(self, name)]
        if self.enabled and missing:
            raise ValueError(f"cannot be enabled without {', '.join(missing)}")
        if self.enabled and not self.admin_groups:
            raise ValueError("cannot be enabled without admin_groups: nobody could change anything any more")
        return self


class JobConfiguration(Frozen):
    """The sections that jobs go by. Workflows get these and no others: the rest is no business of their histories."""

    checkpoint: CheckpointConfiguration = CheckpointConfiguration()
    job_volume: JobVolumeConfiguration = JobVolumeConfiguration()
    store: StoreConfiguration = StoreConfiguration()


class SystemConfiguration(JobConfiguration):
    """Everything the server is configured with, as one value."""

    log: LogConfiguration = LogConfiguration()
    server: ServerConfiguration = ServerConfiguration()
    cognito: CognitoConfiguration = CognitoConfiguration()
    without_effect: dict[str, JsonValue] = Field(
        default_factory=dict, description="The reference product's settings that mean nothing here, as they were given."
    )


class FieldChange(Frozen):
    """One setting that differs between two versions; `field` such as `checkpoint.keep`."""

    field: str
    old: JsonValue
    new: JsonValue


def differences(old: SystemConfiguration, new: SystemConfiguration) -> list[FieldChange]:
    """The settings that differ, section by section. Maps and lists count as one value."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    return [
        FieldChange(field=f"{section}.{field}", old=before[section].get(field), new=after[section].get(field))
        for section in after
        for field in sorted(before[section].keys() | after[section].keys())
        if before[section].get(field) != after[section].get(field)
    ]


class EffectiveConfiguration(Frozen):
    """What holds for one job. `interval_source` is `system` or the environment variable that won."""

    checkpoint: CheckpointConfiguration
    job_volume: JobVolumeConfiguration
    store: StoreConfiguration = StoreConfiguration()
    interval_source: str = "system"


MODE_NAMES = ("PERDURE_CHECKPOINT_MODE", "MMC_CHECKPOINT_MODE")
INTERVAL_NAMES = ("PERDURE_CHECKPOINT_INTERVAL", "MMC_CHECKPOINT_INTERVAL")
DIAGNOSIS_NAMES = ("PERDURE_CHECKPOINT_DIAGNOSIS", "MMC_CHECKPOINT_DIAGNOSIS")
IO_URING_NAMES = ("PERDURE_REFUSE_IO_URING",)
NETWORK_NAMES = ("PERDURE_CHECKPOINT_OWN_NETWORK",)
IMAGE_NAMES = ("MMC_CHECKPOINT_IMAGE_PATH", "MMC_CHECKPOINT_IMAGE_SUBPATH")
"""Without effect: where checkpoints are kept is the system's to say (the store section)."""
JOB_LEVEL_NAMES = MODE_NAMES + INTERVAL_NAMES + DIAGNOSIS_NAMES + IO_URING_NAMES + NETWORK_NAMES + IMAGE_NAMES
"""Environment variables of a job that configure Perdure; ours before the reference product's."""

_TRUE = {"true", "1", "yes", "on", "enable", "enabled", "iterative", "auto"}
_FALSE = {"false", "0", "no", "off", "disable", "disabled", "none"}
_BOOLEANS = (
    ("enabled", MODE_NAMES),
    ("diagnosis", DIAGNOSIS_NAMES),
    ("refuse_io_uring", IO_URING_NAMES),
    ("own_network", NETWORK_NAMES),
)


class JobLevelValue(Frozen):
    """A variable of the job that sets a field of the checkpoint section. `problem`: why it cannot be used, else
    empty."""

    field: str
    variable: str
    value: float | bool | None = None
    problem: str = ""


def job_level_values(environment: Mapping[str, str]) -> list[JobLevelValue]:
    """What a job's environment says, usable or not; at most one per field."""
    found: list[JobLevelValue] = []
    name, text = _first(environment, INTERVAL_NAMES)
    if name is not None:
        try:
            seconds = parse_duration(text)
            if 0 < seconds < MINIMUM_INTERVAL_SECONDS:
                raise ValueError(f"{text!r} is shorter than 1s")
            found.append(JobLevelValue(field="interval_seconds", variable=name, value=seconds))
        except ValueError as problem:
            found.append(JobLevelValue(field="interval_seconds", variable=name, problem=str(problem)))
    for field, names in _BOOLEANS:
        name, text = _first(environment, names)
        if name is None:
            continue
        word = text.strip().lower()
        if word in _TRUE or word in _FALSE:
            found.append(JobLevelValue(field=field, variable=name, value=word in _TRUE))
        else:
            found.append(JobLevelValue(field=field, variable=name, problem=f"{text[:40]!r} is not true or false"))
    return found


def effective_configuration(
    system: JobConfiguration, environment: Mapping[str, str]
) -> tuple[EffectiveConfiguration, list[str]]:
    """The job's configuration and a warning sentence for each job-level value that could not be used."""
    found = job_level_values(environment)
    usable = [each for each in found if not each.problem]
    effective = EffectiveConfiguration(
        checkpoint=system.checkpoint.model_copy(update={each.field: each.value for each in usable}),
        job_volume=system.job_volume,
        store=system.store,
        interval_source=next((each.variable for each in usable if each.field == "interval_seconds"), "system"),
    )
    warnings = [
        f"{each.variable} is not usable ({each.problem}); the system's "
        f"{'interval' if each.field == 'interval_seconds' else 'value'} is used"
        for each in found
        if each.problem
    ]
    return effective, warnings


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> tuple[str | None, str]:
    for name in names:
        if name in environment:
            return name, environment[name][:LONGEST_VALUE]
    return None, ""
