"""MMBatch's configuration endpoints, so that its scripts run: its keys and shapes, our settings behind them.

Documented at https://docs.memverge.com/MMBatch/latest/User%20Guide/api. Errors have our shape.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from sqlmodel import Session

from api.configuration.changes import Wish, change, merged
from api.configuration.mmbatch_keys import as_theirs, read_keys, theirs
from api.configuration.models import ConfigurationChanged, Section
from api.dependencies import Asking, Database, Settings, Workflows
from api.serving.errors import described
from api.serving.reading import reads
from perdure.domain.configuration import SystemConfiguration
from perdure.records.settings.configuration import current_configuration

router = APIRouter(tags=["mmbatch"])
_MOST_KEYS = 100


class MMBatchLog(BaseModel):
    """Its log configuration."""

    level: str = Field(description="Least important lines that are written.", examples=["info"])
    maxSizeMB: int = Field(description="MB after which the server's log file is rotated.", examples=[10])
    maxBackups: int = Field(description="Rotated files kept.", examples=[10])


class MMBatchConfiguration(BaseModel):
    """The configuration as MMBatch shows it; durations as Go writes them. `docs/mmbatch-compatibility.md` says which
    keys mean what here."""

    addr: str = Field(description="Where the server listens.", examples=["https://0.0.0.0:8081"])
    id: str = Field(description="Without effect.")
    staticFolder: str = Field(description="Without effect.")
    security: dict[str, JsonValue] = Field(description="Certificate, key and Cognito.")
    ckpt: dict[str, JsonValue] = Field(
        description="Checkpoints.", examples=[{"ckptMode": "iterative", "ckptInterval": "15m0s"}]
    )
    node: dict[str, JsonValue] = Field(description="Nodes and their logs.")
    job: dict[str, JsonValue] = Field(description="Job volumes and how long records are kept.")
    log: MMBatchLog


class MMBatchConfigurationChanged(MMBatchConfiguration):
    """The same after a change."""

    notes: list[str] = Field(description="What was accepted without effect, what was dropped, what needs a restart.")


class MMBatchLogChanged(MMBatchLog):
    """The same after a change."""

    notes: list[str] = Field(description="What takes effect when.")


class KeyValues(BaseModel):
    """Keys by their full path."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"kvMap": {"ckpt.ckptInterval": "5m", "ckpt.ckptMode": "none"}}]},
    )

    kvMap: dict[str, str] = Field(
        max_length=_MOST_KEYS, description="All values as text; lists with commas, maps as `k:v,k:v`."
    )


Fields = Annotated[
    dict[str, JsonValue],
    Body(
        description="The properties to change, by the last word of their keys.",
        examples=[{"ckptMode": "iterative", "ckptInterval": "15m", "diagnosisMode": False}],
        max_length=_MOST_KEYS,
    ),
]
LogFields = Annotated[
    dict[str, JsonValue],
    Body(description="The properties to change.", examples=[{"level": "debug"}], max_length=_MOST_KEYS),
]


@router.get("/config", summary="MMBatch: the configuration")
@reads
def read(session: Session) -> MMBatchConfiguration:
    """Every key that MMBatch documents, those without effect included."""
    return MMBatchConfiguration.model_validate(as_theirs(current_configuration(session)))


@router.put("/configKV", summary="MMBatch: change keys", responses=described(HTTPStatus.CONFLICT))
async def change_keys(
    database: Database, workflows: Workflows, settings: Settings, asking: Asking, wanted: KeyValues
) -> MMBatchConfigurationChanged:
    """All keys of a request are changed, or none. Keys that mean nothing here are accepted and kept, and `notes` says
    so; AWS keys are dropped."""
    changed, notes = await _change(
        database, workflows, settings, asking.name, dict(wanted.kvMap), ("body", "kvMap"), ""
    )
    return MMBatchConfigurationChanged.model_validate(_whole(changed) | {"notes": notes})


@router.put("/ckptConfig", summary="MMBatch: change the checkpoint configuration")
async def change_checkpoint(
    database: Database, workflows: Workflows, settings: Settings, asking: Asking, wanted: Fields
) -> MMBatchConfigurationChanged:
    """The `ckpt` keys without their prefix, such as `ckptInterval`."""
    changed, notes = await _change(database, workflows, settings, asking.name, wanted, ("body",), "ckpt.")
    return MMBatchConfigurationChanged.model_validate(_whole(changed) | {"notes": notes})


@router.get("/log/config", summary="MMBatch: the log configuration")
@reads
def read_log(session: Session) -> MMBatchLog:
    """Level and file sizes."""
    return MMBatchLog.model_validate(as_theirs(current_configuration(session))["log"])


@router.put("/log/config", summary="MMBatch: change the log configuration")
async def change_log(
    database: Database, workflows: Workflows, settings: Settings, asking: Asking, wanted: LogFields
) -> MMBatchLogChanged:
    """Takes effect within seconds, on the agents too."""
    changed, notes = await _change(database, workflows, settings, asking.name, wanted, ("body",), "log.")
    shown: Any = _whole(changed)["log"]
    return MMBatchLogChanged.model_validate(shown | {"notes": notes})


async def _change(
    database: Database,
    workflows: Workflows,
    settings: Settings,
    by: str,
    values: dict[str, JsonValue],
    at: tuple[str, ...],
    prefix: str,
) -> tuple[ConfigurationChanged, list[str]]:
    """RequestValidationError names their keys, as they were sent."""
    found = read_keys({f"{prefix}{name}": value for name, value in values.items()})
    if found.problems:
        raise _invalid(at, {name.removeprefix(prefix): why for name, why in found.problems.items()})
    by_section: dict[Section, dict[str, JsonValue]] = {}
    for setting, value in found.ours.items():
        section, field = setting.split(".")
        by_section.setdefault(section, {})[field] = value  # type: ignore[arg-type]  # KEYS names sections only

    def transform(stored: SystemConfiguration) -> SystemConfiguration:
        updates: dict[str, Any] = {"without_effect": stored.without_effect | found.kept}
        for section, some in by_section.items():
            updates[section] = _merged(section, stored, some, at, prefix)
        return stored.model_copy(update=updates)

    def place(field: str) -> tuple[str, ...]:
        return (*at, theirs(f"server.{field}").removeprefix(prefix))

    wish = Wish(by, transform, frozenset(by_section), place=place)
    changed = await change(database, workflows, settings, wish)
    return changed, [*found.notes, *changed.notes, *changed.warnings]


def _merged(
    section: Section, stored: SystemConfiguration, some: dict[str, JsonValue], at: tuple[str, ...], prefix: str
) -> Any:
    try:
        return merged(section, stored, some, ())
    except RequestValidationError as problem:
        named = {
            theirs(".".join(map(str, (section, *error["loc"][:1])))).removeprefix(prefix): error["msg"].removeprefix(
                "Value error, "
            )
            for error in problem.errors()
        }
        raise _invalid(at, named) from problem


def _invalid(at: tuple[str, ...], problems: dict[str, str]) -> RequestValidationError:
    return RequestValidationError(
        [{"type": "value_error", "loc": (*at, name), "msg": why} for name, why in problems.items()]
    )


def _whole(changed: ConfigurationChanged) -> dict[str, Any]:
    configuration = changed.configuration
    kept = {each.name: each.value for each in configuration.without_effect}
    return as_theirs(
        SystemConfiguration(
            checkpoint=configuration.checkpoint,
            job_volume=configuration.job_volume,
            log=configuration.log,
            server=configuration.server,
            cognito=configuration.cognito,
            without_effect=kept,
        )
    )
