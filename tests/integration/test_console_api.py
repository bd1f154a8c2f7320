"""What the console asks for besides: life-lines, the page of a workflow, several metrics at once, places of jobs."""

from __future__ import annotations

import httpx
import pytest

from tests.integration.test_api import address, api, assert_error, database, portal, temporal

__all__ = ["address", "api", "database", "portal", "temporal"]


def test_a_life_line(api: httpx.Client) -> None:
    found = api.get("/api/v1/jobs/job-1/life-line").json()
    assert found["lanes"] == [{"epoch": 1, "attempt": 1, "instance_id": "i-1", "zone": "us-east-1a", "end": None}]
    waits = found["stretches"][-1]
    assert (waits["kind"], waits["epoch"], waits["ended_at"]) == ("wait", 1, None) and waits["seconds"] > 0
    assert [(mark["kind"], mark["number"]) for mark in found["marks"]] == [("periodic", 7)]
    finished = api.get("/api/v1/jobs/job-0/life-line").json()
    assert finished["now"] == "2026-03-01T13:00:00Z"
    assert all(one["ended_at"] is not None for one in finished["stretches"])
    assert_error(api.get("/api/v1/jobs/nobody/life-line"), 404, "unknown_job")


def test_temporals_page_of_a_job_names_its_run(api: httpx.Client) -> None:
    found = api.get("/api/v1/jobs/job-1/workflow").json()
    run = found["run_id"]
    assert found["url"] == f"http://127.0.0.1:8233/namespaces/default/workflows/batch-job%2Fjob-1/{run}/history"
    forgotten = api.get("/api/v1/jobs/job-3/workflow")
    assert forgotten.status_code == 200
    assert (forgotten.json()["run_id"], forgotten.json()["url"]) == (None, None)
    assert_error(api.get("/api/v1/jobs/nobody/workflow"), 404, "unknown_job")


def test_a_job_says_how_it_stands(api: httpx.Client) -> None:
    found = api.get("/api/v1/jobs/job-1").json()
    assert found["standing"].startswith("It starts on i-1 in us-east-1a, since ")
    assert found["reclaim_now"]["checkpoint"] == 7 and found["reclaim_now"]["notice_seconds"] == 120
    assert api.get("/api/v1/jobs/job-0").json()["reclaim_now"] is None


def test_a_list_says_where_jobs_are_when_asked(api: httpx.Client) -> None:
    plain = api.get("/api/v1/jobs", params={"limit": 3}).json()
    full = api.get("/api/v1/jobs", params={"limit": 3, "detail": True}).json()
    assert [one["job_id"] for one in plain["items"]] == [one["job_id"] for one in full["items"]]
    assert {one["instance_id"] for one in plain["items"]} == {"i-1"}
    assert {one["run_seconds"] for one in plain["items"]} == {None}
    for one in full["items"]:
        assert (one["instance_id"], one["zone"], one["attempts"]) == ("i-1", "us-east-1a", 1)
        assert one["last_checkpoint_at"] == "2026-03-01T12:00:00Z" and one["run_seconds"] == 0


def test_several_metrics_in_the_same_buckets(api: httpx.Client) -> None:
    names = ["spot_protections", "spot_savings_cost", "restore_success_rate"]
    wanted = [("metric", name) for name in names]
    span = {"level": "hour", "start": "2026-03-01T10:00:00Z", "end": "2026-03-01T14:00:00Z"}
    found = api.get("/api/v1/report/trends", params=[*span.items(), *wanted])
    if found.status_code == 422:  # hours are kept for 90 days
        span["level"] = "day"
        found = api.get("/api/v1/report/trends", params=[*span.items(), *wanted])
    body = found.json()
    assert [one["metric"] for one in body["trends"]] == names
    assert {len(one["values"]) for one in body["trends"]} == {len(body["at"])}
    assert body["trends"][0]["naive_values"] is None and body["trends"][1]["naive_values"] is not None
    for name, trend in zip(names, body["trends"], strict=True):
        series = api.get("/api/v1/report/series", params=span | {"metric": name}).json()
        assert trend["values"] == [point["value"] for point in series["points"]]
        assert (trend["title"], trend["unit"]) == (series["title"], series["unit"])


@pytest.mark.parametrize("names", [["nothing"], [], ["total_jobs"] * 13])
def test_metrics_that_are_none(api: httpx.Client, names: list[str]) -> None:
    assert_error(api.get("/api/v1/report/trends", params={"metric": names}), 422, "invalid_request")
