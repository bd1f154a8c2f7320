"""The only reader of the environment: one settings class per process.

AWS is known by URLs alone (`AWS_ENDPOINT_URL`, the metadata URL); boto3 reads its own variables, and Temporal's
client reads TEMPORAL_* and its configuration file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

if TYPE_CHECKING:
    from temporalio.client import Client, Interceptor

STORE_KEY = Path("/etc/perdure/store.key")
"""The installation's key for the seals of stored checkpoints: on every instance and on the server, for root alone."""
CRIU_PREFIX = Path("/opt/perdure/criu")
"""Where set-up puts CRIU and the private PATH folder of its helpers."""


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="PERDURE_", extra="ignore")

    log_level: str = "INFO"
    """`debug`, `info`, `warning` or `error`; wins over the configuration's. Command lines log nothing."""
    log_file: Path | None = None
    """Where to log, rotated; none: to stderr."""
    metrics_address: str = Field(
        "",
        description="HOST:PORT at which a control worker or an agent serves Temporal's metrics for Prometheus, without"
        " a lock; empty: nowhere. On an instance jobs can reach it, as they share the host's network.",
    )

    tracing: bool = Field(
        False,
        description="Of API, control worker and agent: send traces by OTLP over HTTP, as OTEL_EXPORTER_OTLP_ENDPOINT"
        " says. An agent needs packages for it that the release does not bring.",
    )

    @property
    def log_level_fixed(self) -> bool:
        """Did the environment name a level? It wins over the configuration's then."""
        return "log_level" in self.model_fields_set


class AgentSettings(_Settings):
    """Settings of the agent on an instance. Times in seconds."""

    metadata_url: str = Field(
        "http://169.254.169.254",
        validation_alias=AliasChoices("PERDURE_METADATA_URL", "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
        description="The instance metadata service.",
    )
    state_dir: Path = Path("/var/lib/perdure")
    """What outlives the agent: its spool, its records of containers, jobs without a volume. On an EBS volume."""
    run_dir: Path = Path("/run/perdure")
    """Sockets."""
    criu: Path = CRIU_PREFIX / "bin" / "criu"
    """CRIU, 4.2 or newer."""
    criu_path_first: Path = CRIU_PREFIX / "libexec"
    """A folder that CRIU searches for its helpers before any other."""
    runc: str = "runc"
    """The OCI runtime beneath ours."""
    gpu: bool = Field(False, description="Freeze jobs on NVIDIA GPUs too. Unverified: no GPU was at hand.")
    nvidia_smi: str = "nvidia-smi"
    """NVIDIA's program that lists GPUs."""
    cuda_checkpoint: str = "cuda-checkpoint"
    """NVIDIA's program that moves a GPU's state into memory."""
    container_start_timeout: float = Field(
        180.0,
        validation_alias=AliasChoices("PERDURE_CONTAINER_START_TIMEOUT", "ECS_CONTAINER_START_TIMEOUT"),
        description="ECS gives a container this long to start; a hold ends before it.",
    )
    ecs_stop: str = Field(
        "",
        description="The command that stops this instance's ECS agent, as on a shell; empty: it is never stopped. Jobs"
        " whose retry rules only know `Host EC2*` then stay frozen until the instance is gone.",
    )
    ecs_start: str = Field("", description="The command that starts it again, where the instance did not go after all.")
    attach_patience: float = 20.0
    """How long a first attempt waits for an answer from Temporal before it runs unprotected."""
    rehearsal_between: float = 600.0
    """Seconds between two rehearsals of a job: its make-up changed, the last one failed, or there was no room."""
    notice_poll: float = 0.5
    """Seconds between two looks at the metadata service. One look takes 2 ms of a processor."""
    store_key_file: Path = STORE_KEY
    """The installation's key for the seals of stored checkpoints; the same everywhere."""


class ControlSettings(_Settings):
    """Settings of the control worker."""

    database_url: str = "sqlite:////var/lib/perdure/server/perdure.db"
    """SQLite, or `postgresql+psycopg://USER@HOST/NAME` with the password in PGPASSWORD; of API and control worker."""
    volume_poll: float = 1.0
    """Seconds between two looks at a volume or snapshot that is changing state, at most: the first ones are closer."""
    cached_workflows: int = Field(
        200, ge=1, description="Open jobs that stay in memory; the others are read anew when something happens."
    )
    store_key_file: Path = STORE_KEY
    """The installation's key for the seals of stored checkpoints; the same everywhere."""
    ec2_mutations_per_second: float = Field(
        5.0, gt=0, description="Calls a second that change something in EC2; with several control workers, for each."
    )
    interruption_queue: str = Field(
        "",
        description="Address of an SQS queue with EventBridge's interruption warnings and rebalance recommendations;"
        " empty: none. Spot instances see theirs themselves; those of Interruptible Capacity Reservations do not.",
    )
    job_event_queue: str = Field(
        "",
        description="Address of an SQS queue with EventBridge's `Batch Job State Change`, so that jobs are known which"
        " no agent has seen; empty: none.",
    )
    job_queues: str = Field(
        "",
        description="With that, the job queues whose jobs are meant: names or ARNs separated by commas, `*` for any"
        " characters; empty: those of which an agent has told before.",
    )


class ApiSettings(_Settings):
    """Settings of the API server. An empty variable is none: compose files pass those on."""

    model_config = SettingsConfigDict(env_ignore_empty=True)

    database_url: str = "sqlite:////var/lib/perdure/server/perdure.db"
    """SQLite, or `postgresql+psycopg://USER@HOST/NAME` with the password in PGPASSWORD; of API and control worker."""
    api_host: str = "127.0.0.1"
    """The address to bind to; wins over the configuration's, as do the next three."""
    api_port: int = 8080
    """The port."""
    api_names: str = Field("", description="Host names to answer to, besides those of loopback.")
    api_cert_file: Path | None = None
    """Certificate with its chain, PEM."""
    api_key_file: Path | None = None
    """Its key, PEM, not readable by everybody."""
    bootstrap_dir: Path | None = Field(
        None, description="Where a first start leaves an admin token and a certificate, if nobody could sign in else."
    )
    api_trusted_proxies: str = Field(
        "", description="Addresses of proxies whose X-Forwarded-… headers are believed; empty: nobody's."
    )
    require_sign_in: bool = Field(False, description="Ask for a sign-in over loopback too, as behind a proxy.")
    temporal_ui_url: str = "http://127.0.0.1:8233"
    """Temporal's own pages, as a browser reaches them."""
    aws_endpoint_url: str = Field(
        "", validation_alias="AWS_ENDPOINT_URL", description="Set: AWS is simulated by something that has no console."
    )
    release_dir: Path | None = Field(None, description="Folder of the release for instances, served at /install.")
    instances_temporal: str = Field("", description="Temporal as instances reach it, for the installer: HOST:PORT.")


class CommandLineSettings(_Settings):
    """Settings of the `perdure` command."""

    token: str = Field("", description="API token that goes along with every request.")
    aws_region: str | None = Field(
        None,
        validation_alias="AWS_REGION",
        description="For commands that look into an AWS account; boto3 by itself reads AWS_DEFAULT_REGION alone.",
    )


KEEP_ALIVE = 15.0, 5.0
"""Seconds after which a silent connection to Temporal is asked for a sign of life, and for that sign. By default it is
30 and 15, and whoever waits for an answer over a dead connection waits as long. Temporal takes such questions each 10 s
and closes the connection of who asks more often (frontend.keepAliveMinTime)."""


async def connect_temporal(*, lazy: bool = True, interceptors: Sequence[Interceptor] = ()) -> Client:
    """A Temporal client from TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_TLS_… or Temporal's own file.

    Connects lazily, so that a process can start while the server is away. Workers cannot use a lazy client: with
    `lazy` off, RuntimeError says that the server is out of reach.
    """
    # Imported here: it takes long, and most programs that read a setting never speak to Temporal.
    from temporalio.client import Client
    from temporalio.contrib.pydantic import pydantic_data_converter
    from temporalio.envconfig import ClientConfig
    from temporalio.service import KeepAliveConfig

    options = ClientConfig.load_client_connect_config()
    options.setdefault("target_host", "127.0.0.1:7233")
    silent, sign = (round(seconds * 1000) for seconds in KEEP_ALIVE)
    return await Client.connect(
        **options,
        data_converter=pydantic_data_converter,
        lazy=lazy,
        interceptors=interceptors,
        keep_alive_config=KeepAliveConfig(interval_millis=silent, timeout_millis=sign),
    )
