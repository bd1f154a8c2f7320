"""The page at `/`: where things are, and how many jobs there are. Self-contained; the console comes later."""

from __future__ import annotations

from html import escape

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse
from sqlmodel import Session

from api.auth.rules import anyone_may
from api.dependencies import PerhapsAsking, Settings, ToSignIn
from api.serving.reading import reads
from perdure.domain.jobs import FINISHED_STATES, JobState
from perdure.records.jobs.jobs import count_jobs

router = APIRouter(include_in_schema=False)

STYLE = """
:root { color-scheme: light dark; --ink: #16202b; --soft: #5b6b7b; --line: #dfe5ea; --paper: #fff; --mark: #0b7a75 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8edf2; --soft: #9fb0c0; --line: #2b3743; --paper: #131a21; --mark: #4fd1c5 }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif }
main { max-width: 44rem; margin: 12vh auto 4rem; padding: 0 1.5rem }
h1 { font-size: 2.6rem; letter-spacing: -.02em; margin: 0 }
h1 span { color: var(--mark) }
p { color: var(--soft); margin: .4rem 0 2.2rem; font-size: 1.1rem }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .8rem; margin: 0 0 2.2rem }
dl div { border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem }
dt { color: var(--soft); font-size: .85rem }
dd { margin: 0; font-size: 1.9rem; font-variant-numeric: tabular-nums }
ul { list-style: none; padding: 0; border-top: 1px solid var(--line) }
li a { display: flex; justify-content: space-between; padding: .8rem .2rem; border-bottom: 1px solid var(--line) }
a { color: inherit; text-decoration: none }
a:hover, a:focus { color: var(--mark) }
li span { color: var(--soft) }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


@router.get("/")
@anyone_may
@reads
def home(session: Session, settings: Settings, asking: PerhapsAsking, elsewhere: ToSignIn) -> Response:
    """Links to the API's pages and to Temporal's, over counts of the jobs; strangers see neither of the two."""
    if elsewhere is not None:
        return elsewhere
    html = page(count_jobs(session), settings.temporal_ui_url) if asking else page()
    return HTMLResponse(html, headers={"Content-Security-Policy": POLICY})


def _boxes(counts: dict[JobState, int]) -> dict[str, int]:
    return {
        "Jobs": sum(counts.values()),
        "Unfinished": sum(number for state, number in counts.items() if state not in FINISHED_STATES),
        "Succeeded": counts.get(JobState.SUCCEEDED, 0),
        "Failed": counts.get(JobState.FAILED, 0),
    }


def page(counts: dict[JobState, int] | None = None, temporal_ui_url: str = "") -> str:
    """The page as HTML."""
    boxes = {} if counts is None else _boxes(counts)
    links = [
        ("/docs", "API", "try every call"),
        (temporal_ui_url, "Temporal", "each job's workflow, step by step"),
        ("/api/v1/jobs", "Jobs", "JSON"),
        ("/api/v1/nodes", "Nodes", "JSON"),
        ("/api/v1/health", "Health", "JSON"),
    ]
    numbers = "".join(f"<div><dt>{escape(name)}</dt><dd>{number}</dd></div>" for name, number in boxes.items())
    lines = "".join(
        f'<li><a href="{escape(url, quote=True)}">{escape(name)} <span>{escape(text)}</span></a></li>'
        for url, name, text in links
        if url
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Perdure</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main><h1>Perdure<span>.</span></h1>"
        "<p>AWS Batch jobs that outlive the Spot instances they run on.</p>"
        f"<dl>{numbers}</dl><ul>{lines}</ul></main></body></html>"
    )
