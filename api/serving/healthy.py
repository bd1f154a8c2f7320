"""`python -m api.serving.healthy`: exit code 0 when this machine's API server serves. For containers' health checks."""

from __future__ import annotations

import ssl
import sys

import httpx

from perdure.settings import ApiSettings

LIMIT_SECONDS = 4.0


def main() -> int:
    """1 when it does not answer, or says that something it needs is out of reach."""
    settings = ApiSettings()
    # Only whether it serves is asked, from the same machine: nothing secret is sent.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    secured = settings.api_cert_file or settings.bootstrap_dir
    url = f"{'https' if secured else 'http'}://127.0.0.1:{settings.api_port}/api/v1/health"
    try:
        answer = httpx.get(url, verify=context, timeout=LIMIT_SECONDS)
    except httpx.HTTPError as problem:
        print(f"{url} does not answer: {problem}", file=sys.stderr)
        return 1
    print(answer.text)
    return 0 if answer.is_success else 1


if __name__ == "__main__":
    sys.exit(main())
