"""A thin REST client: deadlines, credentials and the one place where errors get their class.

Rules
-----
1. Nothing of aiohttp leaves this module: every failure is one of the tree under ``DestinationError``.
2. A request whose answer was not understood may have been applied: a lost, late or unreadable answer and a 500, 502
   or 504 to anything but a GET raise ``OutcomeUnknown``. Only failures before the request was sent are ``Transient``.
3. The client never retries, except once after 401/403 with a fresh token.
4. Credentials and query strings (they may be signatures) are never put into a message.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
from yarl import URL

from syncd import __version__
from syncd.errors import AuthFailed, ConfigError, DestinationError, OutcomeUnknown, Rejected, Transient
from syncd.rest.answers import classify_status, service_words, shown_url
from syncd.rest.streaming import Deadlines, Pace, Source, Streamed, Throttle, Upload

__all__ = ["Auth", "BasicAuth", "BearerAuth", "Deadlines", "Json", "RestClient", "Throttle", "TokenProvider"]

Json = dict[str, Any]
TokenProvider = Callable[[bool], Awaitable[str]]
"""Returns a bearer token; the argument is true when the last one was refused and a fresh one is needed."""

PIECE_BYTES: Final = 1 << 20
ANSWER_MAX_BYTES: Final = 256 << 20
KEEPALIVE_S: Final = 4.0  # uvicorn closes idle connections after 5 s; a request that meets the closing is ambiguous
_UNSENT: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
)


@dataclass(frozen=True, slots=True)
class BasicAuth:
    """A user name and a password."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class BearerAuth:
    """A bearer token, asked for before each request (the provider caches it)."""

    token: TokenProvider


Auth = BasicAuth | BearerAuth | None


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """One request; ``target`` names its object in errors."""

    method: str
    url: str
    data: bytes | Source | None
    headers: Mapping[str, str]
    foreign: bool
    deadlines: Deadlines
    doing: str
    target: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class RestClient:
    """One server, one bounded connection pool. A service whose refusals say more overrides ``classify``.

    ``base_url`` is http(s) with an optional path prefix; credentials written into it are taken as basic auth.
    ``headers`` are sent with every request. ``throttle`` waits for bandwidth. ``proxy`` None takes HTTP(S)_PROXY and
    NO_PROXY from the environment. ``trusted_hosts`` ("host:port") are other hosts that may see the credentials, for
    artifacts that the server keeps at ``mlflow-artifacts://host:port/``.
    """

    def __init__(
        self,
        base_url: str,
        *,
        auth: Auth = None,
        ca_file: str | None = None,
        verify_tls: bool = True,
        deadlines: Deadlines | None = None,
        connections: int = 16,
        headers: Mapping[str, str] | None = None,
        throttle: Throttle | None = None,
        proxy: str | None = None,
        trusted_hosts: Collection[str] = (),
    ) -> None:
        self.base_url, self._auth = _take_base_url(base_url, auth)
        self.deadlines = deadlines or Deadlines()
        self._tls = _tls(ca_file, verify=verify_tls) if self.base_url.startswith("https:") else None
        self._connections = connections
        self._headers = dict(headers or {})
        self._throttle = throttle
        self._proxy = proxy or _environment_proxy(self.base_url)
        self._trusted_hosts = frozenset(trusted_hosts)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def classify(
        self, method: str, status: int, headers: Mapping[str, str], body: bytes, *, doing: str, target: str
    ) -> DestinationError:
        """Return the error that an answer of that status (not 2xx) means."""
        return classify_status(method, status, headers, service_words(body), doing=doing, target=target)

    async def get(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        total_s: float | None = None,
        doing: str,
        target: str = "",
    ) -> Json:
        """GET a JSON object. ``path`` starts at the base URL and is percent-encoded already.

        ``total_s`` replaces both deadlines where the server may think long before it answers.
        """
        url = f"{self.base_url}{path}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")
        answer = await self.exchange("GET", url, total_s=total_s, doing=doing, target=target)
        return _as_json(answer, "GET", doing, target)

    async def text(self, path: str, *, doing: str) -> str:
        """GET a short text."""
        answer = await self.exchange("GET", f"{self.base_url}{path}", doing=doing)
        return answer.body.decode("utf-8", "replace")

    async def call(
        self, method: str, path: str, body: Mapping[str, Any] | bytes, *, doing: str, target: str = ""
    ) -> Json:
        """Send a JSON body (a mapping, or bytes that are JSON already) and return the JSON object answered."""
        return await self.call_url(method, f"{self.base_url}{path}", body, doing=doing, target=target)

    async def call_url(
        self,
        method: str,
        url: str,
        body: Mapping[str, Any] | bytes,
        *,
        foreign: bool = False,
        doing: str,
        target: str = "",
    ) -> Json:
        """Do as ``call`` does, with a whole URL; ``foreign`` leaves this server's credentials out."""
        data = body if isinstance(body, bytes) else encode_json(body, doing=doing, target=target)
        kind = {"Content-Type": "application/json"}
        answer = await self.exchange(
            method, url, data=data, headers=kind, foreign=foreign, doing=doing, target=target or shown_url(url)
        )
        return _as_json(answer, method, doing, target or shown_url(url))

    def is_foreign(self, url: str) -> bool:
        """Whether that URL is of another host, to which no credentials may be sent unless it is trusted."""
        host = urlsplit(url).netloc
        return host != urlsplit(self.base_url).netloc and host not in self._trusted_hosts

    async def put_upload(
        self,
        url: str,
        artifact: Upload,
        *,
        start: int = 0,
        length: int | None = None,
        foreign: bool = False,
        headers: Mapping[str, str] | None = None,
        chunked: bool = False,
        doing: str,
        target: str,
    ) -> Answer:
        """PUT bytes of an artifact, streamed with Content-Length, or without it if ``chunked``.

        ``foreign`` is for pre-signed URLs elsewhere: no credentials of this server are sent there. The deadline is
        ``stall_s`` for each piece to be taken and ``total_s`` for the answer; waiting for the disk or for bandwidth
        does not count.
        """
        length = artifact.size_bytes - start if length is None else length
        return await self.exchange(
            "PUT",
            url,
            data=Source(artifact, start, length, chunked=chunked),
            headers=headers or {},
            foreign=foreign,
            doing=doing,
            target=target,
        )

    async def exchange(
        self,
        method: str,
        url: str,
        *,
        data: bytes | Source | None = None,
        headers: Mapping[str, str] | None = None,
        foreign: bool = False,
        total_s: float | None = None,
        doing: str,
        target: str = "",
    ) -> Answer:
        """Send one request and return the successful answer; raise any DestinationError, or what a body raised."""
        given = self.deadlines if total_s is None else replace(self.deadlines, stall_s=total_s, total_s=total_s)
        request = _Outgoing(method, url, data, headers or {}, foreign, given, doing, target or shown_url(url))
        async with self._opened(request) as (response, deadline):
            deadline.reschedule(asyncio.get_running_loop().time() + given.total_s)
            body = await _read_bounded(response, doing, target)
            return Answer(response.status, response.headers, body)

    async def download(
        self, url: str, *, headers: Mapping[str, str] | None = None, doing: str, target: str
    ) -> AsyncIterator[bytes]:
        """Yield the bytes of a GET in pieces; each may be ``stall_s`` late."""
        loop = asyncio.get_running_loop()
        request = _Outgoing("GET", url, None, headers or {}, self.is_foreign(url), self.deadlines, doing, target)
        async with self._opened(request) as (response, deadline):
            expected = response.content_length
            got = 0
            while True:
                deadline.reschedule(loop.time() + self.deadlines.stall_s)
                piece = await response.content.read(PIECE_BYTES)
                deadline.reschedule(None)
                if not piece:
                    break
                got += len(piece)
                yield piece
            if expected is not None and got != expected:
                raise Transient(f"{got} of {expected} bytes came", doing=doing, target=target)

    @asynccontextmanager
    async def _opened(self, request: _Outgoing) -> AsyncIterator[tuple[aiohttp.ClientResponse, asyncio.Timeout]]:
        """Send, refresh a refused token once, translate every error; yield an answer of status 2xx."""
        if isinstance(request.data, bytes) and self._throttle is not None:
            await self._throttle(len(request.data))
        try:
            async with asyncio.timeout(request.deadlines.total_s) as deadline:
                for attempt in (1, 2):
                    async with await self._sent(request, deadline, refresh=attempt == 2) as response:
                        if 200 <= response.status < 300:
                            yield response, deadline
                            return
                        error = await self._refusal(request, response)
                    renewable = isinstance(self._auth, BearerAuth) and not request.foreign
                    if not (isinstance(error, AuthFailed) and renewable and attempt == 1):
                        raise error
        except TimeoutError as exc:
            raise _translated(exc, request) from exc
        except (aiohttp.ClientError, OSError) as exc:
            if isinstance(request.data, Source) and request.data.failure is not None:
                raise request.data.failure from exc
            raise _translated(exc, request) from exc

    async def _sent(self, request: _Outgoing, deadline: asyncio.Timeout, *, refresh: bool) -> aiohttp.ClientResponse:
        """Send the request and return the answer, of which only the head has come."""
        credentials = {} if request.foreign else await self._credentials(refresh=refresh)
        if self._session is None:
            self._session = self._open_session()
        pace = Pace(deadline, request.deadlines)
        streamed = isinstance(request.data, Source)
        try:
            return await self._session.request(
                request.method,
                URL(request.url, encoded=True),
                data=Streamed(request.data, self._throttle, pace) if isinstance(request.data, Source) else request.data,
                headers={**request.headers, **credentials},
                proxy=self._proxy,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    sock_connect=request.deadlines.connect_s,
                    sock_read=None if streamed else request.deadlines.stall_s,
                ),
            )
        finally:
            pace.release()

    async def _refusal(self, request: _Outgoing, response: aiohttp.ClientResponse) -> DestinationError:
        body = await _read_bounded(response, request.doing, request.target)
        return self.classify(
            request.method, response.status, response.headers, body, doing=request.doing, target=request.target
        )

    def _open_session(self) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._connections,
                ssl=self._tls if self._tls is not None else True,
                keepalive_timeout=KEEPALIVE_S,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"syncd/{__version__}", "Accept": "application/json, */*", **self._headers},
            read_bufsize=PIECE_BYTES,
        )
        # Retrying is decided above this client, and a streamed body must not be sent by halves twice.
        session._retry_connection = False
        return session

    async def _credentials(self, *, refresh: bool) -> dict[str, str]:
        if self._auth is None:
            return {}
        if isinstance(self._auth, BasicAuth):
            pair = f"{self._auth.username}:{self._auth.password}".encode()
            return {"Authorization": "Basic " + base64.b64encode(pair).decode()}
        return {"Authorization": f"Bearer {await self._auth.token(refresh)}"}


def encode_json(value: object, *, doing: str, target: str = "") -> bytes:
    """Return ``value`` as compact UTF-8 JSON; Rejected if it holds what JSON or UTF-8 cannot (a lone surrogate, NaN).

    A bare NaN must never be sent: MLflow answers it 200 and drops the rest of the body (measured, 2026-11).
    """
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except ValueError as exc:  # UnicodeEncodeError is one
        raise Rejected(f"cannot be written as JSON: {exc}", doing=doing, target=target) from exc


def _translated(exc: Exception, request: _Outgoing) -> DestinationError:
    """Return our error for one of aiohttp's or the operating system's."""
    about: dict[str, Any] = {"doing": request.doing, "target": request.target}
    words = _words(exc)
    if isinstance(exc, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return Transient(words, hint="check the certificate, or set ca_file", **about)
    if isinstance(exc, _UNSENT):
        return Transient(words, hint="is the server up, and the address right?", **about)
    if isinstance(exc, TimeoutError):
        given = request.deadlines
        words = f"no answer in time ({given.stall_s:g} s of silence or {given.total_s:g} s in all)"
    return (Transient if request.method in ("GET", "HEAD") else OutcomeUnknown)(words, **about)


def _words(exc: Exception) -> str:
    if isinstance(exc, aiohttp.ClientConnectorError) and not isinstance(exc, aiohttp.ClientSSLError):
        number = exc.os_error.errno or 0
        why = os.strerror(number) if number > 0 else exc.os_error.strerror
        return f"cannot connect to {exc.host}:{exc.port}: {why}"
    return str(exc) or type(exc).__name__


async def _read_bounded(response: aiohttp.ClientResponse, doing: str, target: str) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > ANSWER_MAX_BYTES:
            raise OutcomeUnknown("the answer is endless", doing=doing, target=target)
        pieces.append(piece)
    return b"".join(pieces)


def _as_json(answer: Answer, method: str, doing: str, target: str) -> Json:
    try:
        value = json.loads(answer.body)
    except ValueError:
        value = None
    if isinstance(value, dict):
        return value
    kind = Transient if method == "GET" else OutcomeUnknown
    begin = answer.body[:200].decode("utf-8", "replace")
    raise kind(
        f"{answer.status} with something that is not the JSON expected: {begin!r}",
        doing=doing,
        target=target,
        hint="does a proxy or a sign-in page answer?",
    )


def _take_base_url(base_url: str, auth: Auth) -> tuple[str, Auth]:
    """Return the URL without credentials and trailing slash, and the credentials that it held if none are given."""
    try:
        url = URL(base_url)
    except ValueError as exc:
        raise ConfigError(f"not a URL: {exc}", doing="reading the destination's uri") from exc
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError("expected http(s)://host[:port][/prefix]", doing="reading the destination's uri")
    if auth is None and url.user is not None:
        auth = BasicAuth(url.user, url.password or "")
    clean = url.with_user(None).with_query(None).with_fragment(None)
    return str(clean).rstrip("/"), auth


def _tls(ca_file: str | None, *, verify: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as exc:
        raise ConfigError(str(exc), doing="reading the CA file", target=ca_file or "") from exc
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _environment_proxy(base_url: str) -> str | None:
    parts = urlsplit(base_url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)
