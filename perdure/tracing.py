"""Traces for OpenTelemetry: a request to the API, the workflow that it starts, the activity on the node, as one trace.

Off by default; then nothing of OpenTelemetry is imported for it. Where spans go, how many, and under which name stands
in OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME;
docs/operations.md).
Spans hold ids, names and the words of errors, and nothing of what is sent or stored.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import perdure

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider
    from temporalio.contrib.opentelemetry import TracingInterceptor


@dataclass(frozen=True)
class Tracing:
    """Where a process's spans go."""

    provider: TracerProvider | None = None
    """None: nowhere."""

    def interceptors(self) -> list[TracingInterceptor]:
        """For a Temporal client: its calls, and the workflows and activities of its workers. What a workflow does is
        traced only within what somebody else has begun."""
        if self.provider is None:
            return []
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        from temporalio.contrib.opentelemetry import TracingInterceptor

        interceptor = TracingInterceptor(self.provider.get_tracer("perdure", perdure.__version__))
        # The identity of the trace and nothing else: whatever else a stranger's request brings would stay in histories.
        interceptor.text_map_propagator = TraceContextTextMapPropagator()
        return [interceptor]


OFF = Tracing()
log = logging.getLogger(__name__)


def begin_tracing(wanted: bool, program: str) -> Tracing:
    """Send the process's spans by OTLP over HTTP, from threads of its own; what is left is sent at its end. `program`:
    its name, unless OTEL_SERVICE_NAME has another. Without the packages it goes on without traces, and says so: they
    are no reason not to protect a job."""
    if not wanted:
        return OFF
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as missing:
        log.error("PERDURE_TRACING is on, but %s is missing: install perdure[tracing], or turn it off", missing.name)
        return OFF
    ours = Resource.create({SERVICE_NAME: f"perdure-{program}", SERVICE_VERSION: perdure.__version__})
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)
