"""What every request passes, and how the server starts and ends."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest
from fastapi import APIRouter, Request
from starlette.testclient import TestClient

from unetseg.errors import ConfigError, ImageError, MachineError, OutOfMemoryError
from unetseg.serving.door import HEADERS, Limits, Refusal
from unetseg.serving.server import build_app, listen, token_for, url_of

LOCAL = "http://127.0.0.1"
SMALL = Limits(body=1000, requests=2, seconds=1.0)
TOKEN = "a token"


def router() -> APIRouter:
    router = APIRouter()

    @router.post("/count")
    async def count(request: Request) -> int:
        return len(await request.body())

    @router.get("/health")
    async def health() -> str:
        return "well"

    @router.get("/fails")
    async def fails(how: str) -> None:
        raise {
            "data": ImageError("no image", ["a.png"], "Give one."),
            "bomb": ImageError("large", code="decompression-bomb"),
            "text": ImageError("text", code="no-image"),
            "setting": ConfigError("wrong"),
            "memory": OutOfMemoryError("full"),
            "machine": MachineError("no disk"),
            "refusal": Refusal(409, "no", "Ask again.", retry=3),
            "bug": ZeroDivisionError("secret"),
            "disk": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/secret"),
        }[how]

    return router


def client(limits: Limits = SMALL, token: str | None = None, base: str = LOCAL) -> TestClient:
    return TestClient(build_app([router()], limits, token), base_url=base)


def test_every_answer_has_the_headers() -> None:
    for path in ("/health", "/none", "/openapi.json", "/fails?how=bug", "/fails"):
        answer = client().get(path)
        assert HEADERS.items() <= dict(answer.headers).items(), path
        if path != "/openapi.json" and answer.is_error:
            assert answer.json()["error"].keys() == {"message", "fix"}


@pytest.mark.parametrize(
    ("how", "status", "message"),
    [
        ("data", 422, "no image\na.png"),
        ("bomb", 413, "large"),
        ("text", 415, "text"),
        ("setting", 422, "wrong"),
        ("memory", 413, "full"),
        ("machine", 500, "no disk"),
        ("refusal", 409, "no"),
        ("bug", 500, "this is a bug of the server"),
        ("disk", 507, "the server has no room left on its disk"),
    ],
)
def test_an_error_has_its_status(how: str, status: int, message: str) -> None:
    answer = client().get("/fails", params={"how": how})
    assert (answer.status_code, answer.json()["error"]["message"]) == (status, message)
    assert answer.headers.get("retry-after") == ("3" if how == "refusal" else None)


def test_a_body_is_read_up_to_the_limit() -> None:
    assert client().post("/count", content=bytes(1000)).json() == 1000
    assert client().post("/count", content=bytes(1001)).status_code == 413

    def parts() -> Iterator[bytes]:
        yield from [bytes(600)] * 2

    assert client().post("/count", content=parts()).status_code == 413  # no length is told


def test_all_bodies_together_have_a_limit() -> None:
    app = build_app([router()], Limits(body=1000, bodies=1500))
    app.state.door.bytes = 600  # of others
    asked = TestClient(app, base_url=LOCAL)
    assert asked.post("/count", content=bytes(900)).json() == 900
    answer = asked.post("/count", content=bytes(901))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert app.state.door.bytes == 600


def test_json_has_a_limit_of_its_own() -> None:
    asked, kind = client(Limits()), {"content-type": "application/json"}
    assert asked.post("/count", content=bytes(2**24), headers=kind).json() == 2**24
    assert asked.post("/count", content=bytes(2**24 + 1), headers=kind).status_code == 413


def test_without_token_only_this_machine_is_answered_to() -> None:
    for host in ("localhost:8000", "127.0.0.1", "[::1]:80"):
        assert client().get("/health", headers={"host": host}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "[", ""):
        assert client().get("/health", headers={"host": host}).status_code == 421


def test_other_sites_may_not_write() -> None:
    asked = client()
    for origin in ("http://evil.example", "null", "http://[", f"{LOCAL}:8001", LOCAL):
        answer = asked.post("/count", content=b"x", headers={"origin": origin})
        assert answer.status_code == (200 if origin == LOCAL else 403)


def test_the_token_is_asked_for() -> None:
    locked = client(token=TOKEN, base="http://cells.example")
    basic = b64encode(f"me:{TOKEN}".encode()).decode()
    assert locked.get("/health").status_code == 200
    for given in (None, "Bearer", "Bearer another", "Basic !", f"Other {TOKEN}"):
        answer = locked.post("/count", headers={"authorization": given} if given else {})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic")
    for given in (f"Bearer {TOKEN}", f"Basic {basic}"):
        assert locked.post("/count", headers={"authorization": given}).status_code == 200


def test_a_token_is_made_where_others_may_ask() -> None:
    assert token_for("127.0.0.1", None) is None
    assert token_for("0.0.0.0", TOKEN) == token_for("localhost", TOKEN) == TOKEN
    made = {token_for("0.0.0.0", None) for _ in range(2)}
    assert len(made) == 2
    assert all(token and len(token) > 30 for token in made)


def test_only_so_many_at_once_and_none_while_it_drains() -> None:
    app = build_app([router()], SMALL)
    asked = TestClient(app, base_url=LOCAL)
    app.state.door.under_way = 2
    answer = asked.post("/count")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert asked.get("/health").status_code == 200
    app.state.door.under_way, app.state.door.is_draining = 0, True
    assert asked.post("/count").status_code == 503
    assert app.state.door.under_way == 0


def test_a_port_that_is_taken_is_named() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert url_of(first) == f"http://127.0.0.1:{port}"
        with pytest.raises(MachineError, match=f"cannot listen at 127.0.0.1:{port}: "):
            listen("127.0.0.1", port)


def test_without_its_packages_the_extra_is_named() -> None:
    script = "import sys; sys.modules['uvicorn'] = None; import unetseg.serving"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "MachineError: a server needs uvicorn" in done.stderr
    assert "pip install 'unetseg[serve]'" in done.stderr


SCRIPT = """
import asyncio
from fastapi import APIRouter, Request, Response
from unetseg.serving import door, server
from unetseg.serving.door import Limits
from unetseg.serving.server import build_app, listen, run, url_of

server.HEAD_SECONDS, door.LINGERING = 0.5, 0.5
router = APIRouter()

@router.get("/much")
async def much() -> Response:
    return Response(bytes(2**25))

@router.post("/count")
async def count(request: Request, wait: float = 0) -> int:
    size = len(await request.body())
    await asyncio.sleep(wait)
    return size

listener = listen("127.0.0.1", 0)
print(url_of(listener), flush=True)
run(build_app([router], Limits(body=1000_000, seconds=1.0)), listener)
"""


@contextmanager
def running() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server as a process of its own, and its address."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def connected(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def rest_of(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(4096), b""))


@pytest.mark.long
def test_slow_clients_are_let_go_of_and_refused_ones_see_why() -> None:
    with running() as (_, url):
        head = b"POST /count HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"

        def ask(*parts: bytes, pause: float = 0) -> bytes:
            with connected(url) as connection:
                for part in parts:
                    connection.sendall(part)
                    time.sleep(pause)
                return rest_of(connection)

        idle = connected(url)
        idle.sendall(b"GET /much HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")  # and takes nothing
        assert ask(b"POST /count HT") == b""  # and no more of its head
        assert b" 408 " in ask(head % 10, b"x")  # and no more of its body
        assert b" 413 " in ask(head % 10**12, *[bytes(10**6)] * 3, pause=0.1)  # without an end
        chunked = b"POST /count HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunks = [b"100000\r\n" + bytes(0x100000) + b"\r\n"] * 3
        assert b" 413 " in ask(chunked, *chunks, pause=0.1)
        assert httpx2.post(f"{url}/count", content=b"xyz").json() == 3
        assert len(httpx2.get(f"{url}/much").content) == 2**25
        with idle:
            assert len(rest_of(idle)) < 2**25  # it was given up


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGTERM")
def test_what_is_under_way_ends_before_the_server_does() -> None:
    with running() as (process, url), connected(url) as connection:
        head = b"POST /count?wait=0.7 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n\r\nabc"
        connection.sendall(head)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        assert httpx2.post(f"{url}/count").status_code == 503
        assert rest_of(connection).endswith(b"\r\n\r\n3")
        assert process.wait(20) == -signal.SIGTERM  # by itself; the command line says 143


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGTERM")
def test_at_a_second_signal_what_is_not_done_is_answered() -> None:
    with running() as (process, url), connected(url) as connection:
        head = b"POST /count?wait=60 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n\r\nabc"
        connection.sendall(head)
        time.sleep(0.3)
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        answer = rest_of(connection)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 5" in answer
        assert process.wait(20) == -signal.SIGTERM
