"""The console as it is served: one page for every address, files for ever, and nothing that hides the API's answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from api.app import create_app
from api.routes import console
from perdure.settings import ApiSettings
from tests.integration.test_api import assert_error, served
from tests.patience import PATIENCE

PAGE = '<!doctype html><script type="module" src="/assets/index-1.js"></script>'


MANIFEST = {
    "index.html": {
        "file": "assets/index-1.js",
        "isEntry": True,
        "css": ["assets/index-1.css"],
        "imports": ["_base.js"],
    },
    "_base.js": {"file": "assets/base-1.js"},
    "_table.js": {"file": "assets/table-1.js", "css": ["assets/table-1.css"], "imports": ["_base.js", "_table.js"]},
    "src/pages/jobs/index.tsx": {"file": "assets/jobs-1.js", "imports": ["index.html", "_table.js"]},
    "src/pages/jobs/DayForm.tsx": {"file": "assets/day-1.js"},
    "src/pages/job/index.tsx": {"file": "assets/job-1.js", "imports": ["index.html"]},
    "src/pages/dashboard/index.tsx": {"file": "assets/dashboard-1.js"},
}
"""As Vite writes it."""
TABLE = ["</assets/table-1.js>; rel=modulepreload", "</assets/table-1.css>; rel=preload; as=style"]


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a built console would be; it is not there yet."""
    folder = tmp_path / "static"
    monkeypatch.setattr(console, "BUILT", folder)
    return folder


@pytest.fixture
def client(built: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    (built / "assets").mkdir(parents=True)
    (built / "index.html").write_text(PAGE)
    (built / "assets/index-1.js").write_text("let plain")
    (built / "assets/index-1.js.gz").write_bytes(b"\x1f\x8bpacked")
    (built / "assets/icon-1.svg").write_text("<svg/>")
    (built / "manifest.json").write_text(json.dumps(MANIFEST))
    with (
        served(create_app(ApiSettings(database_url=f"sqlite:///{tmp_path}/perdure.db"))) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        yield client


@pytest.mark.parametrize("address", ["/", "/jobs", "/jobs/5b3f:1.2", "/nodes/i-1", "/configuration", "/no-such-page"])
def test_every_address_gives_the_page(client: httpx.Client, address: str) -> None:
    for answer in (client.get(address), client.head(address)):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
    assert client.get(address).text == PAGE and client.head(address).content == b""


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("/", ["</assets/dashboard-1.js>; rel=modulepreload"]),
        ("/jobs", ["</assets/jobs-1.js>; rel=modulepreload", *TABLE]),
        (
            "/jobs/5b3f%3A1%2C%22%3E",
            [
                "</assets/job-1.js>; rel=modulepreload",
                "</api/v1/jobs/5b3f%3A1%2C%22%3E>; rel=preload; as=fetch",
                "</api/v1/jobs/5b3f%3A1%2C%22%3E/life-line>; rel=preload; as=fetch",
            ],
        ),
        ("/no-such-page", []),
    ],
)
def test_what_a_page_needs_is_named_beside_it(client: httpx.Client, address: str, wanted: list[str]) -> None:
    links = client.get(address).headers.get("link", "")
    assert [one for one in links.split(", ") if one] == [f"{one}; crossorigin" for one in wanted]


def test_a_stranger_is_not_told_to_ask_for_what_would_be_refused(built: Path, tmp_path: Path) -> None:
    built.mkdir()
    (built / "index.html").write_text(PAGE)
    settings = ApiSettings(database_url=f"sqlite:///{tmp_path}/perdure.db", require_sign_in=True)
    with served(create_app(settings)) as url:
        assert "link" not in httpx.get(f"{url}/jobs/job-1").headers


@pytest.mark.parametrize("address", ["/api", "/api/", "/api/v1/nothing", "/docs/nothing", "/favicon.ico"])
def test_what_is_no_page_stays_json(client: httpx.Client, address: str) -> None:
    assert_error(client.get(address), 404, "not_found")


def test_files_are_kept_for_ever_and_sent_compressed(client: httpx.Client) -> None:
    plain = client.get("/assets/index-1.js", headers={"Accept-Encoding": "identity"})
    assert plain.text == "let plain" and "content-encoding" not in plain.headers
    with client.stream("GET", "/assets/index-1.js", headers={"Accept-Encoding": "gzip"}) as packed:
        assert b"".join(packed.iter_raw()) == b"\x1f\x8bpacked"
    assert packed.headers["content-encoding"] == "gzip"
    for answer in (plain, packed, client.head("/assets/index-1.js")):
        assert answer.headers["content-type"].startswith("text/javascript")
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["vary"] == "Accept-Encoding"
    assert client.get("/assets/icon-1.svg").headers["content-type"].startswith("image/svg+xml")


def test_a_file_of_another_version_is_not_there(client: httpx.Client) -> None:
    for address in ("/assets/index-2.js", "/assets/../index.html/", "/assets/%2e%2e/%2e%2e/pyproject.toml", "/assets/"):
        answer = client.get(address)
        assert answer.status_code == 404 and "immutable" not in answer.headers["cache-control"], address


def test_nothing_but_reading(client: httpx.Client) -> None:
    assert client.post("/jobs").status_code == 405


def test_a_server_without_it_says_so(built: Path, tmp_path: Path) -> None:
    with served(create_app(ApiSettings(database_url=f"sqlite:///{tmp_path}/perdure.db"))) as url:
        answer = httpx.get(f"{url}/jobs")
        assert answer.status_code == 503 and "make console" in answer.text
        assert httpx.get(f"{url}/assets/index-1.js").status_code == 404
