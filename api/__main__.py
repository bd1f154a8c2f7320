"""Runs the API server: `python -m api`. Loopback only: there is no sign-in yet."""

from __future__ import annotations

import ipaddress
import sys

import uvicorn

from api.app import create_app
from perdure.logs import configure_logs
from perdure.settings import ApiSettings


def is_loopback(host: str) -> bool:
    """Does this address stay on the machine? Names other than localhost count as not."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
