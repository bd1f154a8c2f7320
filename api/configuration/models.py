"""What the configuration's endpoints take and answer.

A section is read as its own model. PUT takes the same model, but strictly: no unknown fields, no text for numbers.
PATCH takes the same fields, each of which may be left out, or null for its default.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, create_model

from api.auth.principals import Role
from api.auth.sign_in_responses import ChallengeView
from api.wire.responses import Wire
from perdure.domain.configuration import (
    CheckpointConfiguration,
    CognitoConfiguration,
    JobVolumeConfiguration,
    LogConfiguration,
    ServerConfiguration,
    StoreConfiguration,
)
from perdure.domain.values import Frozen

Section = Literal["checkpoint", "job_volume", "store", "log", "server", "cognito"]
SECTIONS: dict[Section, type[Frozen]] = {
    "checkpoint": CheckpointConfiguration,
    "job_volume": JobVolumeConfiguration,
    "store": StoreConfiguration,
    "log": LogConfiguration,
    "server": ServerConfiguration,
    "cognito": CognitoConfiguration,
}
_STRICT = ConfigDict(extra="forbid", strict=True)


class CheckpointReplacement(CheckpointConfiguration):
    """The whole section; what is left out gets its default."""

    model_config = _STRICT


class JobVolumeReplacement(JobVolumeConfiguration):
    """The whole section; what is left out gets its default."""

    model_config = _STRICT


class StoreReplacement(StoreConfiguration):
    """The whole section; what is left out gets its default."""

    model_config = _STRICT


class LogReplacement(LogConfiguration):
    """The whole section; what is left out gets its default."""

    model_config = _STRICT


class ServerReplacement(ServerConfiguration):
    """The whole section; what is left out gets its default."""

    model_config = _STRICT


class CognitoReplacement(CognitoConfiguration):
    """The whole section; what is left out gets its default."""

    model_config = _STRICT


REPLACEMENTS: dict[Section, type[BaseModel]] = {
    "checkpoint": CheckpointReplacement,
    "job_volume": JobVolumeReplacement,
    "store": StoreReplacement,
    "log": LogReplacement,
    "server": ServerReplacement,
    "cognito": CognitoReplacement,
}


def _change_of(name: str, section: type[Frozen]) -> type[BaseModel]:
    """The section's fields, each optional. Limits of several fields together are checked once it is merged."""
    fields: dict[str, Any] = {
        field: (info.rebuild_annotation() | None, Field(None, description=info.description, examples=info.examples))
        for field, info in section.model_fields.items()
    }
    words = "What is to change: fields that are left out keep their value, null gives one its default."
    return create_model(name, __config__=_STRICT, __doc__=words, **fields)


CHANGES: dict[Section, type[BaseModel]] = {
    "checkpoint": _change_of("CheckpointChange", CheckpointConfiguration),
    "job_volume": _change_of("JobVolumeChange", JobVolumeConfiguration),
    "store": _change_of("StoreChange", StoreConfiguration),
    "log": _change_of("LogChange", LogConfiguration),
    "server": _change_of("ServerChange", ServerConfiguration),
    "cognito": _change_of("CognitoChange", CognitoConfiguration),
}


class ConfigurationReplacement(BaseModel):
    """All six sections, so that none is reset by being forgotten."""

    model_config = _STRICT

    checkpoint: CheckpointReplacement
    job_volume: JobVolumeReplacement
    store: StoreReplacement
    log: LogReplacement
    server: ServerReplacement
    cognito: CognitoReplacement


ConfigurationPatch = create_model(
    "ConfigurationPatch",
    __config__=_STRICT,
    __doc__="Sections to change, each as its own PATCH takes it; null gives a section its defaults.",
    **{
        name: (change | None, Field(None, description=SECTIONS[name].__doc__.split("\n")[0]))  # type: ignore[union-attr]
        for name, change in CHANGES.items()
    },  # type: ignore[call-overload]
)


class WithoutEffectView(Wire):
    """A setting of the reference product that is accepted and kept, but means nothing here."""

    name: str = Field(examples=["ckpt.tcpClose"])
    value: JsonValue = Field(description="As it was given.")
    why: str = Field(description="Why it has no effect.")


class Overridden(BaseModel):
    """A setting that the server's own environment decides."""

    field: str = Field(examples=["server.port"])
    variable: str = Field(description="The environment variable that wins.", examples=["PERDURE_API_PORT"])
    value: JsonValue = Field(description="What it says, and what holds for this server.")


class Configuration(BaseModel):
    """The configuration that holds. Its number is also its ETag."""

    number: int = Field(description="Rises with every change; 0: nothing was ever changed.", examples=[7])
    changed_at: datetime | None = Field(description="UTC; null: never.")
    changed_by: str | None = Field(description="Who changed it last.", examples=["local"])
    checkpoint: CheckpointConfiguration
    job_volume: JobVolumeConfiguration
    store: StoreConfiguration
    log: LogConfiguration
    server: ServerConfiguration
    cognito: CognitoConfiguration
    overridden: list[Overridden] = Field(description="What this server's environment decides instead.")
    without_effect: list[WithoutEffectView] = Field(description="Accepted from MMBatch's scripts, without effect.")


class FieldChangeView(Wire):
    """One setting that changed."""

    field: str = Field(examples=["checkpoint.keep"])
    old: JsonValue = Field(description="Before.", examples=[2])
    new: JsonValue = Field(description="After.", examples=[3])


class ConfigurationChanged(BaseModel):
    """The answer to every change."""

    number: int = Field(description="The version that holds now; also the ETag.", examples=[8])
    changes: list[FieldChangeView] = Field(description="What is different now; empty: it was so already.")
    notes: list[str] = Field(
        description="What takes effect when, a sentence each.",
        examples=[["Port 8443 takes effect after a restart of the server."]],
    )
    warnings: list[str] = Field(description="What a person should know, if anything.")
    jobs_told: int | None = Field(
        description="Running jobs that heard of a change of checkpoints; null: they need not, or could not be told."
    )
    nodes_told: int | None = Field(description="The same for nodes and a change of the log section.")
    configuration: Configuration


class ProblemView(Wire):
    """One value that would be refused."""

    field: str = Field(
        description="Section and field; the section alone if several of its fields do not go together.",
        examples=["checkpoint.keep"],
    )
    message: str = Field(description="What is allowed.", examples=["Input should be less than or equal to 20"])


class CertificateView(Wire):
    """A certificate that can be served."""

    subject: str = Field(examples=["CN=perdure.example.org"])
    names: list[str] = Field(description="Host names and addresses that it is for.")
    not_before: datetime
    not_after: datetime
    sha256: str = Field(description="Its fingerprint.")
    warning: str = Field(description="What will be wrong soon; empty: nothing.")


class VolumePriceView(Wire):
    """The volume that a job gets, and what AWS charges for it."""

    memory_mib: int = Field(description="That the job asks for.", examples=[16384])
    size_gib: int = Field(examples=[100])
    iops: int = Field(description="Operations a second that are asked for; 0: what its type has by itself.")
    throughput_mib_per_second: int = Field(description="The same in MiB/s.", examples=[183])
    region: str = Field(description="Where that is the price: of the newest instance.", examples=["us-east-1"])
    usd_per_hour: float | None = Field(description="Null: no price is known there.", examples=[0.0141])
    estimated: bool = Field(description="Does that rest on a price that is estimated?")


class ConfigurationChecked(BaseModel):
    """What a change would do now. Nothing was changed."""

    number: int = Field(description="The version that it was compared with.", examples=[7])
    changes: list[FieldChangeView] = Field(description="What would be different; empty: it is so already.")
    notes: list[str] = Field(description="What would take effect when, a sentence each.")
    problems: list[ProblemView] = Field(description="Why it would be refused; empty: it would be taken.")
    certificate: CertificateView | None = Field(
        None, description="If the server section was asked about: the one that it names, if that can be served."
    )
    volumes: list[VolumePriceView] | None = Field(
        None, description="If the job volume section was asked about: what jobs of some sizes would get and pay."
    )


class SignInTrial(BaseModel):
    """Somebody who is to sign in with a user pool that need not be in force yet."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    cognito: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Fields of the section that differ from what is stored.",
        examples=[{"user_pool_id": "us-east-1_aB3"}],
    )
    username: str = Field(min_length=1, max_length=128, examples=["ann"])
    secret: str = Field(
        min_length=1, max_length=256, description="The password, or the answer to `challenge`. It is kept nowhere."
    )
    challenge: Literal["NEW_PASSWORD_REQUIRED", "SMS_MFA", "SOFTWARE_TOKEN_MFA", "EMAIL_OTP"] | None = None
    challenge_session: str | None = Field(None, min_length=20, max_length=4096)


class SignInTried(Wire):
    """How it went. Nobody is signed in by it."""

    problem: str = Field("", description="Why it did not work; empty: it did, or the pool asks for more.")
    challenge: ChallengeView | None = Field(None, description="Send it back with the answer.")
    username: str = Field("", description="As the pool knows who signed in.")
    groups: list[str] = Field(default_factory=list)
    role: Role | None = Field(None, description="What they may do here; null: nothing.")
    proven: bool = Field(False, description="An admin got in: for 15 minutes, whoever asked may turn this sign-in on.")


class HistoryView(Wire):
    """Who changed what, when."""

    number: int = Field(examples=[8])
    at: datetime = Field(description="UTC.")
    by: str = Field(description="The name of who did it.", examples=["ada"])
    changes: list[FieldChangeView] = Field(description="Field by field: old and new.")


class JobSettingView(Wire):
    """One value that holds for the job."""

    field: str = Field(examples=["checkpoint.interval_seconds"])
    value: JsonValue = Field(examples=[900])
    source: str = Field(
        description="`environment` (the job's own), `system` (this configuration) or `default`.",
        examples=["environment"],
    )
    variable: str | None = Field(
        description="The variable, if the job's environment decides.", examples=["PERDURE_CHECKPOINT_INTERVAL"]
    )
    words: str = Field(
        description="The same as people say it.",
        examples=["15m, from the job's environment (PERDURE_CHECKPOINT_INTERVAL)"],
    )


class JobConfigurationView(BaseModel):
    """What holds, or held at its end, for one job."""

    job_id: str
    as_of: datetime | None = Field(description="The end of a finished job; null: now.")
    settings: list[JobSettingView]
    without_effect: list[WithoutEffectView] = Field(description="Variables of the job that mean nothing here.")
