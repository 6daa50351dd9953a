"""The HTTP server: an application made of routers, and how the server starts and ends.

Another router joins by being handed over:

    router = APIRouter(prefix="/app", lifespan=…)  # what it opens and closes with the server
    app = build_app([router], Limits(), token=token_for(host, None))
    listener = listen(host, port)  # port 0: a free one, `url_of(listener)` tells it
    run(app, listener)  # returns, or is interrupted, when all is answered
"""

import asyncio
import secrets
import socket
import time
from collections.abc import Sequence
from types import FrameType

import uvicorn
from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException as AnyHTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from unetseg import __version__
from unetseg.errors import MachineError, UnetsegError
from unetseg.serving.api_page import api_router
from unetseg.serving.door import LOOPBACK, Answer, Door, DoorState, Limits, answer_error

LEAST_READ = 2**16
"""Bytes of an answer that a client must take in `HEAD_SECONDS`."""
HEAD_SECONDS = 10.0
"""From a connection to the end of the headers of its first request, and of each after it."""
ENDING = 5
"""Seconds that what only reads may still take when the server ends."""


def build_app(
    routers: Sequence[APIRouter], limits: Limits, token: str | None = None, title: str = "unetseg"
) -> FastAPI:
    """The application of these routers, with `Door` before them, also as `app.state.door`.

    Args:
        routers: What it answers.
        limits: What may be asked for.
        token: What each request must bring, beside those of `OPEN`; None: no request comes from
            elsewhere, and only hosts of `LOOPBACK` are answered to.
        title: What it is called in /openapi.json.
    """
    app = FastAPI(
        title=title,
        version=__version__,
        docs_url=None,
        redoc_url=None,
        default_response_class=Answer,
    )
    for router in (*routers, api_router):
        app.include_router(router)
    app.add_exception_handler(AnyHTTPException, answer_error)
    app.add_exception_handler(UnetsegError, answer_error)
    app.add_exception_handler(RequestValidationError, answer_error)
    app.state.door = state = DoorState(limits, token)
    state.metrics.show("unetseg_requests_under_way", "Requests", lambda: state.under_way)
    app.add_middleware(Door, state=state)

    @app.get("/metrics", summary="Figures for Prometheus")
    async def metrics() -> Response:
        return Response(state.metrics.text(), media_type="text/plain; version=0.0.4")

    return app


# Start and end


def token_for(host: str, given: str | None) -> str | None:
    """The token that requests must bring: the given one; else one is made unless all are local."""
    if given or host in LOOPBACK:
        return given or None
    return secrets.token_urlsafe(24)


def listen(host: str, port: int) -> socket.socket:
    """A socket that connections reach; port 0 takes a free one.

    Raises:
        MachineError: the host or the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        told = f"cannot listen at {host}:{port}: {getattr(error, 'strerror', None) or error}"
        raise MachineError(told, fix="Choose another --port; --port 0 takes a free one.") from error


def url_of(listener: socket.socket) -> str:
    """The address of a server."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: FastAPI, listener: socket.socket) -> None:
    """Answer until SIGTERM or SIGINT, and then what is under way; then the signal has its effect.

    While that lasts, connections are still taken, so that probes see that it is not ready. What is
    not done within `Limits.drain`, or at a second signal, is answered 503.
    """
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=ENDING,
    )
    Server(config, app.state.door).run([listener])


class Server(uvicorn.Server):
    """Ends when nothing is under way any more."""

    def __init__(self, config: uvicorn.Config, state: DoorState) -> None:
        super().__init__(config)
        self._state = state
        self._signal: tuple[int, FrameType | None] | None = None
        self._until = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain; the second time give up what is under way; the third time end."""
        if self._state.is_over:
            super().handle_exit(sig, frame)
        elif self._state.is_draining:
            self._until = 0.0
        else:
            self._state.is_draining = True
            self._signal, self._until = (sig, frame), time.monotonic() + self._state.limits.drain

    async def on_tick(self, counter: int) -> bool:
        """Whether it ends; ten times a second."""
        state = self._state
        if self._signal and not state.is_over and time.monotonic() > self._until:
            state.is_over, self._until = True, time.monotonic() + ENDING
            for task in list(state.tasks):  # each is answered 503
                task.cancel()
        is_over = not state.under_way or (state.is_over and time.monotonic() > self._until)
        if self._signal and is_over and not self.should_exit:
            super().handle_exit(*self._signal)
        return await super().on_tick(counter)


class Connection(H11Protocol):
    """Is closed where the headers of a request do not come in time."""

    _seen: object = None
    _unsent = 0
    _has_resumed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch it."""
        super().connection_made(transport)
        self.loop.call_later(HEAD_SECONDS, self._look)

    def resume_writing(self) -> None:
        """Note that the client takes what is sent."""
        self._has_resumed = True
        super().resume_writing()

    def _look(self) -> None:
        """Close it if no request began since the last look, and none is under way.

        Or if the client has hardly taken anything of what was ready for it then.
        """
        unsent, before = self.transport.get_write_buffer_size(), self._unsent
        if unsent and before and unsent > before - LEAST_READ and not self._has_resumed:
            self.transport.abort()
            return
        self._unsent, self._has_resumed = unsent, False
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.cycle is self._seen:
            self.transport.close()  # once all is sent
        self._seen = self.cycle
        if unsent or not self.transport.is_closing():
            self.loop.call_later(HEAD_SECONDS, self._look)
