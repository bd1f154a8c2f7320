"""The API server of a command line: where it is, who asks, and asking. Every error is one sentence."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Annotated, Any

import httpx
import typer

from perdure.cli.sign_ins import SignIn, load_sign_ins, save_sign_ins
from perdure.domain.errors import ConfigurationInvalid, NotAllowed, NotSignedIn, PerdureError, StackMissing, UnknownJob

SERVERS = "perdure.servers"
"""Entry-point group of functions that know of a server running on this machine: its URL, or None."""
_LIMIT_SECONDS = 30.0

Server = Annotated[
    str,
    typer.Option(
        "--server",
        envvar="PERDURE_SERVER",
        help="URL of the API server; else the one signed in to last (`perdure login`), else the local stack's.",
    ),
]
Parameters = Mapping[str, str | int | bool | list[str] | None]


class ApiServer:
    """One server, as the user of this command line."""

    def __init__(self, base: str, signed_in: SignIn, token: str = "") -> None:
        self.base = base
        self.signed_in = signed_in
        self._token = token or signed_in.bearer
        """`token`: from the environment; it wins over what is kept."""
        self._renewable = not token and bool(signed_in.refresh_token)
        try:
            verify: ssl.SSLContext | bool = trusting(signed_in.certificate) if signed_in.certificate else True
            # Nothing stays open between two requests, so nothing has to be closed at the end.
            limits = httpx.Limits(max_keepalive_connections=0)
            self._http = httpx.Client(base_url=base, verify=verify, timeout=_LIMIT_SECONDS, limits=limits)
        except (ssl.SSLError, httpx.InvalidURL, ValueError) as problem:
            raise ConfigurationInvalid(f"{base!r} cannot be asked: {problem}") from problem

    def ask(
        self,
        method: str,
        path: str,
        parameters: Parameters | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        limit_seconds: float = _LIMIT_SECONDS,
    ) -> httpx.Response:
        """The answer, a success. Raises UnknownJob for a 404, NotSignedIn, NotAllowed, PerdureError for others."""
        with self.stream(method, path, parameters, body, headers, limit_seconds) as answer:
            answer.read()
            return answer

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        parameters: Parameters | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        limit_seconds: float = _LIMIT_SECONDS,
    ) -> Iterator[httpx.Response]:
        """The same while it still comes."""
        request = functools.partial(
            self._http.build_request,
            method,
            path,
            params={name: value for name, value in (parameters or {}).items() if value is not None and value != ""},
            json=body,
            timeout=httpx.Timeout(limit_seconds, connect=10),
        )
        with self._errors():
            answer = self._http.send(request(headers=self._headers(headers)), stream=True)
            if answer.status_code == httpx.codes.UNAUTHORIZED and self._renew():
                answer.close()
                answer = self._http.send(request(headers=self._headers(headers)), stream=True)
            try:
                if not answer.is_success:
                    answer.read()
                    raise self._refusal(answer)
                yield answer
            finally:
                answer.close()

    def get(self, path: str, parameters: Parameters | None = None) -> Any:
        """The answer to GET as JSON."""
        return self.ask("GET", path, parameters).json()

    def _headers(self, more: Mapping[str, str] | None) -> dict[str, str]:
        mine = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        return {**mine, **(more or {})}

    def _renew(self) -> bool:
        """New tokens for a person whose old ones are over; False: it has to be a sign-in."""
        if not self._renewable:
            return False
        self._renewable = False
        answer = self._http.post("/api/v1/auth/refresh", json={"refresh_token": self.signed_in.refresh_token})
        tokens = answer.json().get("tokens") if answer.is_success else None
        if not tokens:
            return False
        self._token = tokens["id_token"]
        kept = load_sign_ins()
        renewed = {"id_token": self._token, "refresh_token": tokens.get("refresh_token") or ""}
        renewed = {name: value for name, value in renewed.items() if value}
        kept.servers[self.base] = self.signed_in.model_copy(update=renewed)
        save_sign_ins(kept)
        return True

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as problem:
            hint = f"; `perdure login {self.base}` can trust its certificate" if "CERTIFICATE" in str(problem) else ""
            raise PerdureError(f"the server at {self.base} cannot be reached: {problem}{hint}") from problem
        except (httpx.HTTPError, httpx.InvalidURL) as problem:
            raise PerdureError(f"the server at {self.base} does not answer: {problem or type(problem).__name__}") from (
                problem
            )

    def _refusal(self, answer: httpx.Response) -> PerdureError:
        words = _words(answer)
        match answer.status_code:
            case httpx.codes.NOT_FOUND:
                return UnknownJob(words)
            case httpx.codes.UNAUTHORIZED:
                return NotSignedIn(f"{words.rstrip('.')}; sign in with `perdure login {self.base}`")
            case httpx.codes.FORBIDDEN:
                return NotAllowed(words)
            case httpx.codes.UNPROCESSABLE_ENTITY:
                return ConfigurationInvalid(words)
        return PerdureError(words)


def trusting(certificate: str) -> ssl.SSLContext:
    """TLS that trusts exactly this certificate (PEM). It was shown to the user, so the name in it does not matter."""
    context = ssl.create_default_context(cadata=certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def find_server(server: str, token: str = "") -> ApiServer:
    """The server that is meant: named, or signed in to last, or the local stack's. `token` wins over what is kept.

    Raises StackMissing without any, or when several stacks run on this machine.
    """
    kept = load_sign_ins()
    base = (server or kept.last or _local_server()).rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise ConfigurationInvalid(f"{base[:80]!r} is no URL; write for example https://perdure.example.com:8443")
    return ApiServer(base, kept.servers.get(base, SignIn()), token)


def get(server: str, path: str) -> Any:
    """The answer to GET `path` as JSON."""
    return find_server(server, token_of_environment()).get(path)


def token_of_environment() -> str:
    """PERDURE_TOKEN, for scripts. Read here because a token among the words of a command line is seen by everybody."""
    from perdure.settings import CommandLineSettings

    return CommandLineSettings().token


def _words(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {answer.status_code}"


def _local_server() -> str:
    for entry in entry_points(group=SERVERS):
        try:
            url = entry.load()()
        except ImportError:  # its extra is not installed
            continue
        if url:
            return str(url)
    raise StackMissing(
        "no server is named: sign in to one with `perdure login URL`, give --server URL or PERDURE_SERVER, "
        "or start a local stack"
    )
