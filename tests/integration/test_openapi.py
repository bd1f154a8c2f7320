"""The whole OpenAPI, called at random: values that fit it and values that do not, alone and one after the other.

No server error, answers as the OpenAPI says, one shape for every refusal, and nothing lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, CheckContext, Response
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from api.app import create_app
from perdure.domain.jobs import JobState
from perdure.domain.nodes import Node
from perdure.records.jobs import jobs
from perdure.records.nodes import nodes
from perdure.records.schema.database import migrate, open_engine, reading, writing
from perdure.settings import ApiSettings
from tests.integration.test_api import address, portal, served, temporal
from tests.integration.test_records import NOW, event, full_job
from tests.patience import PATIENCE

__all__ = ["address", "portal", "temporal"]

EXAMPLES = int(os.environ.get("PERDURE_EXAMPLES", "5"))
"""Per operation, twice: of values that fit, and of others. `make fuzz` takes ten times as many."""
STEPS, STORIES = 8, 12
LEFT_OUT = {"/api/v1/stream", "/api/v1/volumes/orphans/search"}
"""The stream never ends. A look for orphans takes no input, and each waits 50 s for a control worker, which is not
here; tests/e2e/test_kept_volumes.py asks there."""
WAITS_FOR_OTHERS = {
    "/api/v1/jobs/{job_id}/resume",
    "/api/v1/jobs/{job_id}/logs",
    "/api/v1/jobs/{job_id}/output",
    "/api/v1/nodes/{instance_id}/logs",
    "/api/v1/nodes/{instance_id}/files",
    "/nodes/{instance_id}/{name}",
    "/api/v1/volumes/{volume_id}",
}
"""Ask a node or the control worker, which are not here: 503 or 504 is their right answer for a job that exists."""
ASKS_COGNITO = {"/api/v1/configuration", "/api/v1/configuration/cognito", "/api/v1/security/cognito"}
"""Before a user pool is turned on it is asked for its keys; made-up ones are out of reach."""


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('openapi')}/perdure.db"
    engine = open_engine(url)
    migrate(engine)
    for number in range(30):
        job = full_job(f"job-{number}", created_at=NOW - timedelta(minutes=number), state=list(JobState)[number % 14])
        with writing(engine) as session:
            jobs.record_job(session, job, [event(1), event(2)], 1)
    with writing(engine) as session:
        for number in range(3):
            nodes.record_node(session, Node(instance_id=f"i-{number}", zone="z", changed_at=NOW, first_seen_at=NOW))
    engine.dispose()
    return url


@pytest.fixture(scope="module")
def schema(database_url: str, address: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Of the real application on a real server, with Temporal."""
    with pytest.MonkeyPatch.context() as patch, served(create_app(ApiSettings(database_url=database_url))) as url:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # nobody is there: no call leaves this machine
        found = schemathesis.openapi.from_url(f"{url}/api/v1/openapi.json")
        yield found.exclude(path=list(LEFT_OUT))


def one_shape(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """Every refusal has the same body."""
    if response.status_code >= 400 and case.path != "/api/v1/health":
        assert response.headers.get("content-type", [""])[0] == "application/json", (response.status_code, case.path)
        body = response.json()
        assert set(body) == {"error"} and set(body["error"]) == {"code", "message", "details"}, body


def no_server_error(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """None but the word that something else is out of reach, where something else has to be asked."""
    asks_others = case.path in WAITS_FOR_OTHERS or case.path in ASKS_COGNITO
    if not (asks_others and response.status_code in {503, 504}):
        not_a_server_error(ctx, response, case)


def failures(response: Response, case: Case[Any]) -> list[str]:
    """What is wrong with an answer. Collected, not raised: hypothesis would try the call again, and the server has
    changed meanwhile."""
    try:
        case.validate_response(response, checks=CHECKS)
    except (FailureGroup, AssertionError) as problem:
        wrong = problem.exceptions if isinstance(problem, FailureGroup) else [problem]
        return [f"{case.as_curl_command()}\n{response.status_code} {response.text[:500]}\n{one}" for one in wrong]
    return []


CHECKS = [no_server_error, one_shape, content_type_conformance, response_schema_conformance]
QUIET = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)


KNOWN: st.SearchStrategy[dict[str, str]] = st.one_of(
    st.just({}),
    st.builds(
        lambda job, node: {"job_id": f"job-{job}", "instance_id": f"i-{node}"}, st.integers(0, 29), st.integers(0, 2)
    ),
)
"""Ids as they come, or ids of what there is."""


def without_proof(case: Case[Any]) -> None:
    """The local administrator, who needs none: a made-up token would end most calls at the door, which has its own
    tests."""
    for name in [name for name in case.headers if name.lower() in {"authorization", "cookie"}]:
        del case.headers[name]
    case.cookies.clear()


def test_every_operation_takes_whatever_comes(schema: Any, database_url: str) -> None:
    before = kept(database_url)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 60
    wrong: list[str] = []
    for operation in operations:
        for mode in schemathesis.GenerationMode:

            @QUIET
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode), known=KNOWN)
            def call(case: Case[Any], known: dict[str, str]) -> None:
                if case.path not in WAITS_FOR_OTHERS:
                    case.path_parameters.update((name, known[name]) for name in known if name in case.path_parameters)
                without_proof(case)
                wrong.extend(failures(case.call(timeout=PATIENCE), case))

            call()
    assert not wrong, wrong[0]
    assert kept(database_url) == before


def test_one_call_after_the_other(schema: Any, database_url: str) -> None:
    before = kept(database_url)
    wrong: list[str] = []
    machine = schema.exclude(path=list(WAITS_FOR_OTHERS)).as_state_machine()

    class Story(machine):  # type: ignore[misc, valid-type]
        def before_call(self, case: Case[Any]) -> None:
            without_proof(case)

        def validate_response(self, response: Response, case: Case[Any], **kwargs: Any) -> None:
            wrong.extend(failures(response, case))

    Story.run(settings=hypothesis.settings(QUIET, max_examples=STORIES, stateful_step_count=STEPS))
    assert not wrong, wrong[0]
    assert kept(database_url) == before


def kept(url: str) -> list[str]:
    """All jobs and their timelines: no call may lose or change any."""
    engine = open_engine(url)
    with reading(engine) as session:
        found = [jobs.get_job(session, f"job-{number}").model_dump_json() for number in range(30)]
    engine.dispose()
    return found
