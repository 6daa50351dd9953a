"""What every request must pass before it is answered: host, origin, token, size, time, number.

What a router may rely on: bodies are no larger and no slower than `Limits`; a request that writes
(anything but GET and HEAD) comes from no other web site; raising a `Refusal`, or any
`UnetsegError`, answers `{"error": {"message", "fix"}}` with its status. An answer without an end
(server-sent events) stops when `request.app.state.door.is_draining`.
"""

import asyncio
import base64
import binascii
import errno
import json
import logging
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.exceptions import HTTPException, RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unetseg.data.files.limits import BOMB
from unetseg.errors import ConfigError, DataError, OutOfMemoryError, UnetsegError
from unetseg.serving.metrics import Metrics
from unetseg.text import printable

log = logging.getLogger(__name__)

HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer, unless it has its own."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
OPEN = {"/health", "/v2/health/live", "/v2/health/ready"}
"""Paths that need no token: those of probes, which tell nothing."""
READING = {"GET", "HEAD"}
GONE = 499
"""The status that is counted where the client went away before it was answered."""
MOST_JSON = 16 * 2**20
"""Bytes of JSON that are read: in memory it takes several times as much."""
LINGERING = 2.0
"""Seconds that a client which is refused may still send: else it might not see the answer."""


@dataclass(frozen=True)
class Limits:
    """What one client, and all together, may ask for."""

    body: int = 64 * 2**20
    """Bytes of a request."""
    bodies: int = 512 * 2**20
    """Bytes of all requests under way."""
    requests: int = 128
    """Requests that write or compute and are under way at once; more are refused with 429."""
    seconds: float = 60.0
    """From the first byte of a request to its last; the same again until it is answered."""
    drain: float = 30.0
    """Seconds after SIGTERM in which what is under way may end."""


class Answer(JSONResponse):
    """JSON in ASCII: names of files need not be text, and UTF-8 has no place for such bytes."""

    def render(self, content: object) -> bytes:
        """The bytes of the answer."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class Refusal(HTTPException):
    """An answer that is no success.

    Args:
        status: Of HTTP.
        message: What came, and what was expected.
        fix: What to do.
        retry: Seconds after which the same may succeed.
    """

    def __init__(self, status: int, message: str, fix: str = "", retry: int | None = None) -> None:
        super().__init__(status, message, {"retry-after": str(retry)} if retry else None)
        self.fix = fix


def status_of(error: UnetsegError) -> int:
    """The status of HTTP that says what kind of error it is."""
    match error:
        case UnetsegError(__cause__=OSError(errno=errno.ENOSPC | errno.EDQUOT)):
            return 507
        case DataError(code=code):
            return {BOMB: 413, "no-image": 415}.get(code, 422)
        case ConfigError():
            return 422
        case OutOfMemoryError():
            return 413
    return 500


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """An error as JSON; the Open Inference Protocol has a text."""
    headers: Mapping[str, str] | None = None
    match error:
        case (
            OSError(errno=errno.ENOSPC | errno.EDQUOT)
            | AnyHTTPException(__cause__=OSError(errno=errno.ENOSPC | errno.EDQUOT))
        ):  # the latter while a form is read
            status, message = 507, "the server has no room left on its disk"
            fix = "Free space there, or let TMPDIR name a folder that has some."
        case AnyHTTPException():
            status, message, fix = error.status_code, error.detail, getattr(error, "fix", "")
            headers = error.headers
        case UnetsegError():
            status, fix = status_of(error), error.fix
            message = "\n".join([error.summary, *error.offenders])
        case RequestValidationError():
            problems = error.errors()
            told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in problems]
            status, message, fix = 422, "; ".join(told), "/openapi.json says what is expected."
        case _:
            status, message, fix = 500, "this is a bug of the server", "Its log says where."
    content: object = {"message": message, "fix": fix}
    if request.url.path.startswith("/v2/"):
        content = f"{message}. {fix}" if fix else message
    return Answer({"error": content}, status, headers)


@dataclass
class DoorState:
    """What is known of the requests under way."""

    limits: Limits
    token: str | None
    under_way: int = 0
    """Requests that write or compute."""
    bytes: int = 0
    """Of their bodies."""
    is_draining: bool = False
    """Whether the server is about to end, and takes no new work."""
    is_over: bool = False
    """Whether the work that is still under way was given up."""
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    """What works at it."""
    metrics: Metrics = field(default_factory=Metrics)


class Door:
    """What every request passes: host, origin, token, size and time of its body, number at once.

    Args:
        app: What answers.
        state: The limits, and what is under way.
    """

    def __init__(self, app: ASGIApp, state: DoorState) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":  # "lifespan"
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        exchange = Exchange(receive, send, Headers(scope=scope), self._state)
        try:
            await self._answered(scope, exchange)
        finally:
            self._state.bytes -= exchange.bytes
            path = getattr(scope.get("route"), "path", "other")
            seconds = time.monotonic() - began
            self._state.metrics.answered(path, exchange.status or GONE, seconds)

    async def _answered(self, scope: Scope, exchange: "Exchange") -> None:
        is_work = scope["method"] not in READING
        try:
            self._refuse(scope, Headers(scope=scope), is_work=is_work)
        except Refusal as refusal:
            response = await answer_error(Request(scope), refusal)
            await response(scope, exchange.receive, exchange.send)
            return
        task = asyncio.current_task()
        assert task
        self._state.under_way += is_work
        self._state.tasks.add(task)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            if not self._state.is_over or exchange.status:
                raise
            task.uncancel()
            ended = Refusal(503, "the server ended before this was done", "Ask another one.", 5)
            response = await answer_error(Request(scope), ended)
            await response(scope, exchange.receive, exchange.send)
        except Exception as error:
            log.exception("%s %s", scope["method"], printable(scope["path"]))
            if exchange.status:
                raise  # the connection is closed: whoever reads sees that it is not whole
            response = await answer_error(Request(scope), error)
            await response(scope, exchange.receive, exchange.send)
        finally:
            self._state.under_way -= is_work
            self._state.tasks.discard(task)

    def _refuse(self, scope: Scope, headers: Headers, *, is_work: bool) -> None:
        """Refuse what is not to be answered, before anything of its body is read.

        Raises:
            Refusal: so it is.
        """
        state, limits = self._state, self._state.limits
        host = headers.get("host", "")
        if not state.token and _hostname(f"//{host}") not in LOOPBACK:
            told = "this server answers to 127.0.0.1 and localhost alone"
            raise Refusal(421, told, "Start it with --host and use its token.")
        origin = headers.get("origin")
        if is_work and origin and origin.partition("://")[2] != host:
            raise Refusal(403, f"a page of {origin} may not write here")
        if state.token and scope["path"] not in OPEN and not _brings(headers, state.token):
            fix = "Send it: Authorization: Bearer TOKEN, or as the password of any user."
            refusal = Refusal(401, "the token is missing or wrong", fix)
            refusal.headers = {"www-authenticate": 'Basic realm="unetseg"'}
            raise refusal
        length, most = headers.get("content-length", "0"), most_of(headers, limits)
        if not length.isdecimal() or int(length) > most:
            raise _too_large(most)
        if is_work and state.is_draining:
            raise Refusal(503, "the server is about to end", "Ask another one.", retry=5)
        if is_work and state.under_way >= limits.requests:
            told = f"{state.under_way} requests are under way already"
            raise Refusal(429, told, "Send fewer at once.", retry=1)


class Exchange:
    """One request and its answer: bounds on the body, headers on the answer.

    Args:
        receive: Gives the parts of the request.
        send: Takes those of the answer.
        headers: Of the request.
        state: The limits, and what is under way.
    """

    def __init__(self, receive: Receive, send: Send, headers: Headers, state: DoorState) -> None:
        self._receive, self._send, self._state = receive, send, state
        self.status = 0  # of the answer, once it has begun
        self.bytes = 0  # of the body, so far
        self._is_whole = headers.get("content-length", "0") == "0"
        self._is_whole &= "transfer-encoding" not in headers
        self._most = most_of(headers, state.limits)
        self._until = time.monotonic() + state.limits.seconds

    async def receive(self) -> Message:
        """The next part of the request.

        Raises:
            Refusal: it is too large, or comes too slowly.
        """
        if self._is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout(self._until - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            told = f"the request did not come within {self._state.limits.seconds:g} seconds"
            raise Refusal(408, told) from None
        size = len(message.get("body", b""))
        self.bytes += size
        self._state.bytes += size
        self._is_whole = not message.get("more_body", False)
        if self.bytes > self._most:
            raise _too_large(self._most)
        if self._state.bytes > self._state.limits.bodies:
            raise Refusal(429, "the requests under way are too large together", retry=1)
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer; where the request was not read, end the connection."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if not self._is_whole:
                headers["connection"] = "close"
        elif not message.get("more_body", False) and not self._is_whole:
            await self._send({**message, "more_body": True})
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGERING):
                    while (await self._receive()).get("more_body", False):
                        pass
            message = {"type": "http.response.body"}
        await self._send(message)


def most_of(headers: Headers, limits: Limits) -> int:
    """The most bytes that a request may have."""
    is_json = headers.get("content-type", "").startswith("application/json")
    return min(limits.body, MOST_JSON) if is_json else limits.body


def _too_large(most: int) -> Refusal:
    told = f"the request is larger than {most / 2**20:g} MB"
    return Refusal(413, told, "Send less, or start the server with a larger --max-body.")


def _hostname(address: str) -> str:
    """The host of an address, "" where it is none.

    >>> _hostname("//127.0.0.1:8000"), _hostname("//[::1]:80"), _hostname("//[")
    ('127.0.0.1', '::1', '')
    """
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _brings(headers: Headers, token: str) -> bool:
    """Whether a request brings the token, as a bearer or as the password of any user."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return secrets.compare_digest(given.encode(), token.encode())
