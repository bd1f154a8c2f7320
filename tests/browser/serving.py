"""The API with the built console in the browser's network, in a thread of its own, to be stopped and started again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from sqlalchemy import Engine

from api.app import create_app
from api.auth.door import Door
from perdure.domain.configuration import SystemConfiguration
from perdure.records.schema.database import migrate, open_engine, writing
from perdure.records.settings.configuration import save_configuration
from perdure.settings import ApiSettings
from tests.browser.network import Network


class Serving:
    """A server at one address, with one database, whether it runs or not."""

    def __init__(self, folder: Path, network: Network, **settings: Any) -> None:
        self._settings = ApiSettings(database_url=f"sqlite:///{folder}/perdure.db", **settings)
        self.engine: Engine = open_engine(self._settings.database_url)
        migrate(self.engine)
        self._network = network
        self._listener: socket.socket | None = network.listen()
        self._port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.app: FastAPI
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """The listener is bound when this returns: the first request waits until the application is ready."""
        listener, self._listener = self._listener or self._network.listen(self._port), None
        self.app = create_app(self._settings)
        config = uvicorn.Config(self.app, log_config=None, lifespan="on", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._thread.start()

    def stop(self) -> None:
        """Open streams are cut after a second."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
            self._server = self._thread = None

    def forget(self) -> None:
        """What the running server believes for a second of its sign-in is looked up at the next request."""
        self.app.state.sign_in.forget()
        door: Any = self.app.middleware_stack
        while door is not None and not isinstance(door, Door):
            door = getattr(door, "app", None) or getattr(door, "_app", None)
        if door is not None:
            door._asked_at = float("-inf")

    def configure(self, configuration: SystemConfiguration, by: str = "a test") -> None:
        """As if `by` had saved it; it holds within a second."""
        with writing(self.engine) as session:
            save_configuration(session, configuration, at=datetime.now(UTC), by=by)


@contextmanager
def serving(folder: Path, network: Network, **settings: Any) -> Iterator[Serving]:
    """Until the end of the block."""
    server = Serving(folder, network, **settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        server.engine.dispose()
