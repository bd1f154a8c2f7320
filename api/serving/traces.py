"""Which requests are traced, if any (perdure.tracing). FastAPI makes the spans; nothing else of its telemetry is on.

A span holds a request's path and query. Sign-ins have codes in theirs, so they leave no trace; neither do requests that
come every few seconds.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from fastapi.telemetry import TelemetryConfig

from perdure.tracing import Tracing

_TRACED = "/api/v1/"
_NOT_TRACED = ("/api/v1/auth", "/api/v1/health", "/api/v1/stream")


def traced(tracing: Tracing) -> TelemetryConfig:
    """What FastAPI is to do. Whatever its own variables say, it sets nothing up by itself."""
    config = TelemetryConfig(
        tracing=tracing.provider is not None,
        metrics=False,
        logs=False,
        operation_spans=False,
        auto_configure=False,
        exclude=_untraced,
    )
    if tracing.provider is not None:
        config["tracer_provider"] = tracing.provider
    return config


def _untraced(scope: MutableMapping[str, Any]) -> bool:
    path = str(scope.get("path", ""))
    return not path.startswith(_TRACED) or path.startswith(_NOT_TRACED)
