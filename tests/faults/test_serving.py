"""A server as a process of its own, and what clients do to it: it lives on, and leaves nothing."""

import io
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2
import numpy as np
import pytest
from PIL import Image

from tests.builders import blotches, save_run

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="asks /proc"),
]
GROWTH = 400
"""Megabytes that the server may need more than before, whatever comes."""


CLIENT = httpx2.Client(timeout=60, verify=False, limits=httpx2.Limits(max_keepalive_connections=0))


class Server(NamedTuple):
    """A server, its address, and the folder that it has for temporary files."""

    process: subprocess.Popen[str]
    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def megabytes(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found
        return int(found[1]) / 1024

    def left(self) -> list[Path]:
        return [path for path in self.folder.glob("*/*") if path.name != "__pycache__"]


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Server]:
    run = save_run(folder / "cells")
    (folder / "tmp").mkdir()
    words = [sys.executable, "-m", "unetseg", "serve", str(run), "--port", "0", *flags]
    known = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp")}
    with subprocess.Popen(
        [*words, "--device", "cpu", "--precision", "float32"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=known,
    ) as process:
        try:
            assert process.stdout
            told = ""
            while "next:" not in told:
                line = process.stdout.readline()
                assert line, told
                told += line
            yield Server(process, int(told.partition("127.0.0.1:")[2].split()[0]), folder / "tmp")
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), "--timeout", "3s", "--max-body", "8") as one:
        predicted(one)  # what the first one takes is not what others take
        yield one


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One with the usual limits."""
    with serving(tmp_path_factory.mktemp("patient")) as one:
        yield one


@pytest.fixture(autouse=True)
def it_lives_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each of these tests it answers, has grown little, and nothing is left."""
    one = request.getfixturevalue("server") if "server" in request.fixturenames else None
    before = one.megabytes() if one else 0
    yield
    if one:
        predicted(one)
        assert one.process.poll() is None
        assert one.megabytes() < before + GROWTH
        assert one.left() == []


def png(height: int = 64, width: int = 64, seed: int = 0) -> bytes:
    content = io.BytesIO()
    Image.fromarray(blotches(height, width, seed=seed)).save(content, "PNG")
    return content.getvalue()


def ask(one: Server, content: bytes, name: str = "a.png") -> httpx2.Response:
    files = {"file": (name, content)}
    return CLIENT.post(f"{one.url}/predict", files=files)


def predicted(one: Server) -> None:
    answer = ask(one, png())
    assert answer.status_code == 200, answer.text
    assert np.asarray(Image.open(io.BytesIO(answer.content))).shape == (64, 64)


def head(length: int | None) -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = ["POST /predict HTTP/1.1", "Host: localhost", "Content-Type: image/png", size]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.row(51)
@pytest.mark.parametrize("length", [None, 10**12, 2**70])
def test_a_body_without_end_is_cut(server: Server, length: int | None) -> None:
    part = bytes(2**20)
    with server.connect() as connection:
        connection.sendall(head(length))
        sent, began = 0, time.monotonic()
        try:
            while time.monotonic() < began + 20:
                connection.sendall(b"100000\r\n" + part + b"\r\n" if length is None else part)
                sent += 1
        except OSError:
            pass  # it hung up
        assert sent < 4000
        assert time.monotonic() < began + 15


@pytest.mark.row(52)
def test_bombs_are_refused(server: Server) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(10**6), 9) * 3
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    answer = ask(server, bomb)
    assert answer.status_code == 413
    assert "400000000 pixels" in answer.text
    lying = bomb.replace(header, struct.pack(">IIBBBBB", 5000, 5000, 8, 2, 0, 0, 0))
    assert ask(server, lying).status_code in {413, 415, 422}
    content = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(content, "TIFF", compression="group4")
    assert ask(server, content.getvalue(), "a.tif").status_code == 413
    for kind in ("application/json", "multipart/form-data; boundary=x"):
        nested = b"[" * 10**6 if "json" in kind else b"--x\r\n" * 10**6
        path = "/v2/models/cells/infer" if "json" in kind else "/predict"
        headers = {"content-type": kind}
        answer = CLIENT.post(server.url + path, content=nested, headers=headers)
        assert 400 <= answer.status_code < 500


@pytest.mark.row(53)
def test_slow_clients_are_let_go_of(server: Server) -> None:
    """Those that send nothing, a body byte by byte, and those that do not take their answer."""
    connections = [server.connect() for _ in range(20)]
    for connection in connections[:10]:
        connection.sendall(head(100) + b"x")
    for connection in connections[10:]:
        connection.sendall(b"POST /pre")
    predicted(server)  # nobody else waits for them
    for connection in connections:
        with connection:
            answer = b""
            while part := connection.recv(4096):
                answer += part
            assert not answer or b" 408 " in answer


@pytest.mark.row(54)
@pytest.mark.parametrize("name", ["../../../etc/x.png", "/etc/passwd", "..", "a\x00b", "C:\\x.png"])
def test_names_that_climb_out_stay_inside(server: Server, name: str) -> None:
    content = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="'
        + name.encode()
        + b'"\r\n\r\n'
        + png()
        + b"\r\n--x--\r\n"
    )
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = CLIENT.post(f"{server.url}/predict", content=content, headers=headers)
    assert answer.status_code in {200, 400}
    assert sorted(path.name for path in server.folder.parent.iterdir()) == ["cells", "tmp"]


@pytest.mark.slow
@pytest.mark.row(55)
def test_of_a_crowd_everybody_is_answered(patient: Server) -> None:
    statuses, start = Counter[int](), threading.Barrier(200)

    def client(number: int) -> None:
        content = png(seed=number % 4)
        start.wait(60)
        answer = ask(patient, content)
        statuses[answer.status_code] += 1
        assert answer.status_code == 200 or "retry-after" in answer.headers

    threads = [threading.Thread(target=client, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert statuses.total() == 200
    assert set(statuses) <= {200, 429, 503}
    assert statuses[200] >= 128
    assert patient.left() == []


@pytest.mark.row(56)
def test_who_goes_away_is_dropped(server: Server) -> None:
    content = png(1500, 1500)
    for _ in range(30):
        with server.connect() as connection:
            connection.sendall(head(len(content)) + content)
        # and away
    began = time.monotonic()
    predicted(server)
    assert time.monotonic() < began + 30  # the others would take longer
    metrics = CLIENT.get(f"{server.url}/metrics").text
    gone = re.search(r'requests_total\{path="/predict",status="499"\} (\d+)', metrics)
    assert gone
    assert int(gone[1]) > 20


@pytest.mark.slow
@pytest.mark.row(57)
def test_sigterm_in_the_middle_lets_work_end(patient: Server) -> None:
    content, found = png(700, 700), list[httpx2.Response]()
    threads = [
        threading.Thread(target=lambda: found.append(ask(patient, content))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    while "under_way 6" not in CLIENT.get(f"{patient.url}/metrics").text:
        time.sleep(0.01)
    patient.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(60)
    assert [answer.status_code for answer in found] == [200] * 6
    assert patient.process.wait(20) == 143
    assert list(patient.folder.iterdir()) == []
