"""The configuration: read, replaced, changed, its history, and what of it holds for one job.

Sections share one pattern, so their routes are made from the table of sections; each has its own model in the API's
documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Response
from pydantic import BaseModel
from sqlmodel import Session

from api.configuration.changes import Place, Transform, Wish, change, etag, merged, of_body, shown
from api.configuration.models import (
    CHANGES,
    REPLACEMENTS,
    SECTIONS,
    Configuration,
    ConfigurationChanged,
    ConfigurationPatch,
    ConfigurationReplacement,
    HistoryView,
    JobConfigurationView,
    JobSettingView,
    Section,
    VolumePriceView,
    WithoutEffectView,
)
from api.configuration.volume_prices import volume_prices
from api.dependencies import Asking, Cursor, Database, JobId, Limit, Settings, SignInProofs, Workflows
from api.serving.errors import described
from api.serving.reading import reads
from api.wire.responses import PageOf
from perdure.domain.configuration import SystemConfiguration
from perdure.domain.job_settings import ignored_variables, job_settings
from perdure.domain.jobs import FINISHED_STATES
from perdure.records.jobs.jobs import get_job
from perdure.records.settings.configuration import (
    configuration_at,
    current_configuration,
    list_changes,
    newest_configuration,
)

router = APIRouter(tags=["configuration"])

IfMatch = Annotated[
    str | None,
    Header(
        max_length=200,
        description="ETag of the version to change: 412 if another one holds by now. Without it, whatever holds is"
        " changed.",
    ),
]
REFUSALS = described(HTTPStatus.PRECONDITION_FAILED, HTTPStatus.CONFLICT)
"""409: the change would lock everybody out."""


@dataclass(frozen=True)
class _Changing:
    """Stores a change for whoever asks for it; the answer bears the version that holds then."""

    database: Database
    workflows: Workflows
    settings: Settings
    asking: Asking
    proofs: SignInProofs
    response: Response
    if_match: str | None

    async def __call__(
        self, transform: Transform, sections: Iterable[Section], place: Place = of_body
    ) -> ConfigurationChanged:
        """`sections`: what the request is about. `place`: where a field of the server section stands in it."""
        name = self.asking.name
        wish = Wish(name, transform, frozenset(sections), self.if_match, place, self.proofs.of(name))
        changed = await change(self.database, self.workflows, self.settings, wish)
        self.response.headers["ETag"] = etag(changed.number)
        return changed


async def _changing(
    database: Database,
    workflows: Workflows,
    settings: Settings,
    asking: Asking,
    proofs: SignInProofs,
    response: Response,
    if_match: IfMatch = None,
) -> _Changing:
    return _Changing(database, workflows, settings, asking, proofs, response, if_match)


Changing = Annotated[_Changing, Depends(_changing)]


def _of_server(field: str) -> tuple[str, ...]:
    return ("body", "server", field)


@router.get("/configuration", summary="The whole configuration")
@reads
def read(session: Session, settings: Settings, response: Response) -> Configuration:
    """All sections, with what this server's environment decides instead. The ETag names this version; send it as
    If-Match with a change to be sure that nobody else changed anything since."""
    version = newest_configuration(session)
    response.headers["ETag"] = etag(version.number)
    return shown(version, settings)


@router.put("/configuration", summary="Replace the whole configuration", responses=REFUSALS)
async def replace(save: Changing, wanted: ConfigurationReplacement) -> ConfigurationChanged:
    """All six sections must be there; a field that is left out gets its default."""
    values: dict[str, Any] = {
        name: SECTIONS[name].model_validate(getattr(wanted, name).model_dump()) for name in SECTIONS
    }

    def transform(stored: SystemConfiguration) -> SystemConfiguration:
        return stored.model_copy(update=values)

    return await save(transform, SECTIONS, _of_server)


@router.patch("/configuration", summary="Change some of the configuration", responses=REFUSALS)
async def patch(save: Changing, wanted: ConfigurationPatch) -> ConfigurationChanged:
    """Merged: what is left out keeps its value, null gives a field or a whole section its default. Lists and maps are
    replaced as a whole. One version is stored for all of it, or nothing."""
    wishes: dict[Any, Any] = wanted.model_dump(exclude_unset=True)

    def transform(stored: SystemConfiguration) -> SystemConfiguration:
        return stored.model_copy(
            update={
                name: SECTIONS[name]() if some is None else merged(name, stored, some, ("body", name))
                for name, some in wishes.items()
            }
        )

    return await save(transform, wishes, _of_server)


@router.get("/configuration/job_volume/prices", summary="What job volumes cost an hour")
@reads
def prices_of_volumes(session: Session) -> list[VolumePriceView]:
    """What jobs of some sizes get under the job volume section as it holds, and what AWS charges for that. `/check`
    answers the same for a section that is not stored yet."""
    return volume_prices(session, current_configuration(session))


@router.get("/configuration/history", summary="Who changed what, newest first")
@reads
def history(session: Session, limit: Limit = 50, cursor: Cursor = None) -> PageOf[HistoryView]:
    """Every version that was ever stored, with each field's value before and after."""
    page = list_changes(session, limit=limit, after=cursor)
    return PageOf(items=[HistoryView.model_validate(entry) for entry in page.items], next=page.next)


@router.get(
    "/jobs/{job_id}/configuration",
    summary="What holds for one job, and where each value comes from",
    responses=described(HTTPStatus.NOT_FOUND),
)
@reads
def of_job(session: Session, job_id: JobId) -> JobConfigurationView:
    """The job's own environment wins over the system's configuration, which wins over the defaults. A finished job is
    shown with what held at its end; the volume with what held when it was made."""
    job = get_job(session, job_id)
    finished = job.finished_at if job.state in FINISHED_STATES else None
    checkpoint_from = configuration_at(session, finished) if finished else current_configuration(session)
    volume_from = configuration_at(session, job.volumes[-1].created_at) if job.volumes else checkpoint_from
    return JobConfigurationView(
        job_id=job_id,
        as_of=finished,
        settings=[
            JobSettingView.model_validate(setting)
            for setting in job_settings(checkpoint_from, volume_from, job.environment)
        ],
        without_effect=[WithoutEffectView.model_validate(each) for each in ignored_variables(job.environment)],
    )


def _add_section(section: Section) -> None:
    """GET, PUT and PATCH of one section."""
    path, name = f"/configuration/{section}", section.replace("_", " ")
    model = SECTIONS[section]

    @reads
    def read_section(session: Session, response: Response) -> Any:
        """As stored. What the server's environment decides instead stands in the whole configuration."""
        version = newest_configuration(session)
        response.headers["ETag"] = etag(version.number)
        return getattr(version.configuration, section)

    async def replace_section(save: Changing, wanted: BaseModel) -> ConfigurationChanged:
        """What is left out gets its default."""
        value = model.model_validate(wanted.model_dump())
        return await save(lambda old: old.model_copy(update={section: value}), {section})

    async def patch_section(save: Changing, wanted: BaseModel) -> ConfigurationChanged:
        """What is left out keeps its value, null gives a field its default. Lists and maps are replaced as a whole."""
        some = wanted.model_dump(exclude_unset=True)

        def transform(old: SystemConfiguration) -> SystemConfiguration:
            return old.model_copy(update={section: merged(section, old, some, ("body",))})

        return await save(transform, {section})

    router.get(path, summary=f"The {name} section", response_model=model)(_named(read_section, section))
    router.put(path, summary=f"Replace the {name} section", responses=REFUSALS)(
        _named(replace_section, section, REPLACEMENTS[section])
    )
    router.patch(path, summary=f"Change some of the {name} section", responses=REFUSALS)(
        _named(patch_section, section, CHANGES[section])
    )


def _named(endpoint: Callable[..., Any], section: str, body: type[BaseModel] | None = None) -> Callable[..., Any]:
    """The endpoint under a name of its own (operation ids are made of it), with the section's model as its body."""
    endpoint.__name__ = endpoint.__name__.replace("section", section)
    if body is not None:
        endpoint.__annotations__["wanted"] = body
    return endpoint


for _section in SECTIONS:
    _add_section(_section)
