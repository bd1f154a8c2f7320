"""Runs the API server: `python -m api`. Loopback only: there is no sign-in yet."""

from __future__ import annotations

import sys

import uvicorn

from api.app import create_app
from api.auth.door import is_loopback as is_loopback
from perdure.logs import configure_logs
from perdure.settings import ApiSettings


def main() -> int:
    settings = ApiSettings()
    if not is_loopback(settings.api_host):
        print(
            f"The API does not start on {settings.api_host}: it has no sign-in yet, so it serves loopback only. "
            "Set PERDURE_API_HOST=127.0.0.1 and reach it through an SSH tunnel.",
            file=sys.stderr,
        )
        return 2
    configure_logs(settings.log_level, settings.log_file)
    uvicorn.run(
        create_app(settings),
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
