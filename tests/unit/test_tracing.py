"""Traces: off they are nowhere, on they leave the process as OpenTelemetry's variables say."""

from __future__ import annotations

import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from api.serving.traces import traced
from perdure.settings import ApiSettings
from perdure.tracing import OFF, begin_tracing


class Collector(BaseHTTPRequestHandler):
    """Keeps what is sent to it."""

    heard: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        self.heard.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def test_it_is_off_by_default() -> None:
    assert ApiSettings().tracing is False
    assert begin_tracing(False, "api") is OFF
    assert OFF.interceptors() == [] and traced(OFF)["tracing"] is False


def test_spans_go_where_opentelemetrys_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    Collector.heard = []
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=here")
        provider = begin_tracing(True, "api").provider
        assert isinstance(provider, TracerProvider)
        with provider.get_tracer("test").start_as_current_span("a-span"):
            pass
        provider.shutdown()
        server.shutdown()
    ((path, body),) = Collector.heard
    assert path == "/v1/traces"
    assert all(word in body for word in (b"a-span", b"perdure-api", b"deployment.environment"))


def test_without_the_packages_it_says_so_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with caplog.at_level(logging.ERROR):
        assert begin_tracing(True, "agent") is OFF
    assert "perdure[tracing]" in caplog.text
