"""`python -m api.serving.healthy`: exit code 0 when this machine's API server serves. For containers' health checks.

They run it every few seconds for as long as the server lives: the standard library's client takes half of httpx's time.
"""

from __future__ import annotations

import http.client
import ssl
import sys

from perdure.settings import ApiSettings

LIMIT_SECONDS = 4.0
_PATH = "/api/v1/health"


def main() -> int:
    """1 when it does not answer, or says that something it needs is out of reach."""
    settings = ApiSettings()
    address = ("127.0.0.1", settings.api_port)
    connection: http.client.HTTPConnection
    if settings.api_cert_file or settings.bootstrap_dir:
        # Only whether it serves is asked, from the same machine: nothing secret is sent.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(*address, timeout=LIMIT_SECONDS, context=context)
    else:
        connection = http.client.HTTPConnection(*address, timeout=LIMIT_SECONDS)
    try:
        connection.request("GET", _PATH)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as problem:
        print(f"{address[0]}:{address[1]}{_PATH} does not answer: {problem}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    print(text)
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
