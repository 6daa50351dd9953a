"""A server under load, beside one as people write it; its memory; what becomes of a crowd.

    python -m benchmarks.serve load
    python -m benchmarks.serve memory --requests 500

Both servers run as processes with the same U-Net, one after the other, in turns. Clients keep their
connections, and each sends its next image when it has the answer to the last. The last line is one
JSON object.
"""

import asyncio
import io
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.memory import resident
from benchmarks.networks import fresh_run, plain_weights
from benchmarks.rounds import markdown, paired_ratio, parser, report

CLIENTS = (1, 8, 64)
NETWORK, SIDE = "base16", 256
SMALL_NETWORK, SMALL_SIDE = "tiny", 64
CROWD = 200
MOMENTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of the requests after which memory is looked at."""
FORM = (
    b"--x\r\nContent-Disposition: form-data; name=file; filename=a.png\r\n"
    b"Content-Type: image/png\r\n\r\n%b\r\n--x--\r\n"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print tables and a line of JSON."""
    flags = parser("serve", __doc__)
    flags.add_argument("part", choices=["load", "memory"])
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--seconds", type=float, default=3.0, help="of each cell of a round")
    flags.add_argument("--requests", type=int, default=10_000, help="over which memory is watched")
    given = flags.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="serve-") as folder:
        if given.part == "load":
            lines, result = asyncio.run(under_load(Path(folder), given.rounds, given.seconds))
            report("serve", "A server under load", lines, result, write=given.save)
        else:
            lines, result = asyncio.run(for_long(Path(folder), given.requests))
            report("serve_memory", "A server's memory", lines, result, write=given.save)


class Cell(NamedTuple):
    """What came of a crowd of clients."""

    times: list[float]
    """Seconds of each request that was answered with 200."""
    statuses: Counter[int]
    seconds: float

    @property
    def per_second(self) -> float:
        """Requests that were answered with 200."""
        return len(self.times) / self.seconds

    def told(self) -> str:
        """How many were answered how."""
        return ", ".join(f"{n} answered {status}" for status, n in sorted(self.statuses.items()))


async def under_load(folder: Path, rounds: int, seconds: float) -> tuple[list[str], dict[str, Any]]:
    """Requests per second and their times, of both servers with one client and with many."""
    run = fresh_run(NETWORK, folder)
    weights = plain_weights(NETWORK, run, folder / "weights.pt")
    body, cells = image(SIDE), defaultdict[tuple[str, int], list[Cell]](list)
    with (
        serving("unetseg", "serve", run) as (_, ours),
        serving("benchmarks.naive_server", NETWORK, weights) as (_, naive),
    ):
        ports = {"unetseg": ours, "naive": naive}
        for port in ports.values():
            await crowd(port, body, clients=2, seconds=1)
        for number in range(rounds):
            for clients in CLIENTS:
                for name in sorted(ports, reverse=number % 2 == 0):
                    cells[name, clients].append(await crowd(ports[name], body, clients, seconds))
        all_at_once = await crowd(ours, body, CROWD, requests=CROWD)
    lost = CROWD - all_at_once.statuses.total()
    lines = [f"U-Net {NETWORK}, images of {SIDE}×{SIDE} as PNG, {rounds} rounds of {seconds:g} s:"]
    rows, result = compared(cells)
    heads = ["clients", "requests/s", "naive", "ratio", "p50 / p99, s", "naive p50 / p99, s"]
    lines += ["", *markdown(heads, rows)]
    lines += [f"{CROWD} at once: {all_at_once.told()}, {lost} lost.", ""]
    return lines, {"network": NETWORK, "side": SIDE, **result, "crowd": all_at_once.statuses}


def compared(
    cells: Mapping[tuple[str, int], Sequence[Cell]],
) -> tuple[list[list[str]], dict[str, Any]]:
    """A row for each number of clients."""
    rows, result = [], dict[str, Any]()
    for clients in CLIENTS:
        ours, theirs = cells["unetseg", clients], cells["naive", clients]
        ratio = paired_ratio(*([1 / one.per_second for one in each] for each in (ours, theirs)))
        row = [str(clients)]
        row += [f"{statistics.median(c.per_second for c in each):.1f}" for each in (ours, theirs)]
        row.append(str(ratio))
        for each in (ours, theirs):
            times = list(chain.from_iterable(one.times for one in each))
            row.append(" / ".join(f"{np.quantile(times, share):.2f}" for share in (0.5, 0.99)))
        rows.append(row)
        result[f"ratio_{clients}"] = round(ratio.median, 3)
    return rows, result


async def for_long(folder: Path, requests: int) -> tuple[list[str], dict[str, Any]]:
    """Memory of our server over many small requests."""
    run, body = fresh_run(SMALL_NETWORK, folder), image(SMALL_SIDE)
    looks, done, all_ = list[tuple[int, int]](), 0, Cell([], Counter(), 0)
    with serving("unetseg", "serve", run) as (process, port):
        for share in MOMENTS:
            if wanted := round(share * requests) - done:
                cell = await crowd(port, body, clients=8, requests=wanted)
                all_.statuses.update(cell.statuses)
                done += wanted
            looks.append((done, resident(process.pid)))
    rows = [[f"{count}", f"{megabytes} MB"] for count, megabytes in looks]
    lines = [f"Images of {SMALL_SIDE}×{SMALL_SIDE}, 8 clients: {all_.told()}.", ""]
    return [*lines, *markdown(["requests", "resident memory"], rows)], {"megabytes": looks}


@contextmanager
def serving(module: str, *words: object) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server as a process of its own, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = ["--port", port, "--device", "cpu", "--precision", "float32"]
    given = [*words, *(flags if module == "unetseg" else [port])]
    nowhere = subprocess.DEVNULL
    command = [sys.executable, "-m", module, *map(str, given)]
    with subprocess.Popen(command, stdout=nowhere, stderr=nowhere) as process:
        try:
            until = time.monotonic() + 60
            while time.monotonic() < until and process.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield process, port
        finally:
            process.terminate()


def image(side: int) -> bytes:
    """A request with a PNG of blurred noise, as a form."""
    rng, content = np.random.default_rng(0), io.BytesIO()
    coarse = rng.integers(0, 255, (side // 8, side // 8, 3), np.uint8)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(content, "PNG")
    body = FORM % content.getvalue()
    head = (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    return head.encode() + body


async def crowd(
    port: int, request: bytes, clients: int, seconds: float = 600, requests: int = 2**31
) -> Cell:
    """Let so many clients ask until the time or the requests are over."""
    times, statuses, left = list[float](), Counter[int](), requests
    start = time.perf_counter()
    until = start + seconds

    async def client() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left > 0 and time.perf_counter() < until:
            left -= 1
            began = time.perf_counter()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
            status = int(head.split()[1])
            statuses[status] += 1
            if status == 200:
                times.append(time.perf_counter() - began)
            if b"connection: close" in head:
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return Cell(times, statuses, time.perf_counter() - start)


if __name__ == "__main__":
    main()
