"""Metrics of a process that speaks to Temporal: the client library's own, served for Prometheus when an address is set.

The library counts what waits, fails and takes long (docs/operations.md); a process adds its own beside it by
`Runtime.metric_meter`.
"""

from __future__ import annotations

from temporalio.runtime import LoggingConfig, PrometheusConfig, Runtime, TelemetryConfig, TelemetryFilter

from perdure.domain.errors import ConfigurationInvalid


def set_up(metrics_address: str, *, quiet: bool = False) -> Runtime:
    """Make the process's runtime, before the first client. `metrics_address`: HOST:PORT of /metrics, without a lock;
    empty: none. `quiet`: the library logs errors alone. Raises ConfigurationInvalid when the address cannot be used."""
    logging = LoggingConfig(filter=TelemetryFilter(core_level="ERROR" if quiet else "WARN", other_level="ERROR"))
    metrics = PrometheusConfig(bind_address=metrics_address) if metrics_address else None
    try:
        runtime = Runtime(telemetry=TelemetryConfig(logging=logging, metrics=metrics))
    except (RuntimeError, ValueError) as problem:
        raise ConfigurationInvalid(
            f"PERDURE_METRICS_ADDRESS {metrics_address!r} cannot be used: {problem}"
        ) from problem
    Runtime.set_default(runtime)
    return runtime
