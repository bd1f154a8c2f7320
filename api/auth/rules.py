"""Which role each route needs. A route that says nothing: viewer for GET and HEAD, admin for everything else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette._utils import get_route_path
from starlette.routing import Mount, compile_path
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

_ACCESS = "__perdure_access__"
_ONLY_ASKS = "__perdure_only_asks__"
_READS = {"GET", "HEAD"}
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class Access(Enum):
    """Who may use a route."""

    ANYONE = "anyone"
    VIEWER = "viewer"
    ADMIN = "admin"


def anyone_may(endpoint: Endpoint) -> Endpoint:
    """Marks an endpoint that answers without sign-in. It must tell such a caller nothing worth hiding."""
    return _marked(endpoint, Access.ANYONE)


def viewers_may(endpoint: Endpoint) -> Endpoint:
    """Marks an endpoint that viewers may use though it is not a GET: it changes nothing of anybody else's."""
    return _marked(endpoint, Access.VIEWER)


def admins_only(endpoint: Endpoint) -> Endpoint:
    """Marks a GET that only admins may use."""
    return _marked(endpoint, Access.ADMIN)


def only_asks(endpoint: Endpoint) -> Endpoint:
    """Marks an endpoint that changes nothing though it is a POST: only its refusals are worth a line of the audit
    log."""
    setattr(endpoint, _ONLY_ASKS, True)
    return endpoint


def _marked(endpoint: Endpoint, access: Access) -> Endpoint:
    setattr(endpoint, _ACCESS, access)
    return endpoint


@dataclass(frozen=True)
class Route:
    """A route as rules see it; `template` such as `/api/v1/jobs/{job_id}`."""

    template: str
    pattern: re.Pattern[str]
    methods: frozenset[str]
    marked: Access | None
    only_asks: bool = False

    def access(self, method: str) -> Access:
        """What this method needs here."""
        return self.marked or by_method(method)


class Routes:
    """All routes of an application, in the order in which it tries them. Made at the first request, when all are in."""

    def __init__(self, app: FastAPI) -> None:
        self.all = list(_routes(app))

    def match(self, scope: Scope) -> Route | None:
        """The route that will answer this request; None: no such path."""
        path, method = get_route_path(scope), scope["method"]
        partial: Route | None = None
        for route in self.all:
            if route.pattern.match(path):
                if not route.methods or method in route.methods:
                    return route
                partial = partial or route
        return partial


def by_method(method: str) -> Access:
    """The rule where no route says otherwise."""
    return Access.VIEWER if method in _READS else Access.ADMIN


def area(path: str) -> str:
    """The first word of a path below /api/v1: `jobs` of /api/v1/jobs/1 and of /api/v1/jobs.csv; empty elsewhere."""
    below = path.removeprefix("/api/v1/")
    return "" if below == path else below.split("/", 1)[0].split(".", 1)[0]


def _routes(app: FastAPI) -> Iterable[Route]:
    for found in iter_route_contexts(app.routes):
        if isinstance(found.original_route, Mount):
            pattern, template, _ = compile_path(f"{found.path}/{{path:path}}")
            # Files that ship with us: no stranger learns anything, and a sign-in page cannot do without.
            files = isinstance(found.original_route.app, StaticFiles)
            yield Route(template, pattern, frozenset(), Access.ANYONE if files else None)
        else:
            pattern, template, _ = compile_path(str(found.path))
            marked = getattr(found.endpoint, _ACCESS, None)
            asks = getattr(found.endpoint, _ONLY_ASKS, False)
            yield Route(template, pattern, frozenset(found.methods or ()), marked, asks)
