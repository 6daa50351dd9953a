"""Spoilt inputs for every reader, in processes of little memory and time: `make fuzz SECONDS=600`.

    python -m tests.faults.fuzz --seconds 600 --processes 2 --finds finds
    python -m tests.faults.fuzz --replay images:123

An input is known by its target and seed. Whatever is no answer is a find: another error, a crash,
a hang, much memory, much time, something written beside the output. The spoilt file of the first
find of its kind is kept; once mended it belongs into tests/faults/corpus, which the tests read.
"""

import argparse
import multiprocessing as mp
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tests.faults.spoil import spoilt
from tests.faults.targets import TARGETS

MEMORY = 700 * 2**20
"""Bytes that reading an input may take beside what the process holds."""
CPU_SECONDS = 10.0
WALL_SECONDS = 90.0
"""Seconds without any answer after which a process is taken for hanging."""
WEIGHTS = {"images": 60, "run": 8, "weights": 8, "data": 6, "exports": 18}
"""How many of 100 inputs each target gets."""
ORDER = [target for target, share in WEIGHTS.items() for _ in range(share)]


class Input(NamedTuple):
    """A spoilt file in the sound folder of a target."""

    target: str
    file: Path
    content: bytes


class Bench:
    """The sound folders of all targets, and one input in one of them at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sound: dict[str, dict[Path, bytes]] = {}

    def sound(self, target: str) -> dict[Path, bytes]:
        """The files that may be spoilt, with their content; drawn at the first call."""
        if target not in self._sound:
            root = self.folder / target
            TARGETS[target].draw(root)
            paths = {path for spoil in TARGETS[target].spoil for path in root.glob(spoil)}
            files = sorted(path for path in paths if path.is_file())
            self._sound[target] = {path: path.read_bytes() for path in files}
        return self._sound[target]

    def draw(self, target: str, seed: int) -> Input:
        """The input of a seed."""
        chance = Random(f"{target}:{seed}")
        files = self.sound(target)
        file = chance.choice(list(files))
        others = [content for path, content in files.items() if path.suffix == file.suffix]
        return Input(target, file, spoilt(files[file], others, chance))

    def read(self, one: Input) -> None:
        """Read the input; whatever is raised is a find."""
        root = self.folder / one.target
        self.sound(one.target)
        one.file.write_bytes(one.content)
        before = set(root.rglob("*"))
        try:
            TARGETS[one.target].read(root, one.file)
            left = set(root.rglob("*")) - before
            assert not left, f"left behind: {sorted(left)}"
        finally:
            for path in set(root.rglob("*")) - before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for path, content in self._sound[one.target].items():
                if path == one.file or path.suffix == ".json" or not path.exists():
                    path.write_bytes(content)


def target_of(seed: int) -> str:
    """Whose input a seed is; neighbours differ."""
    return ORDER[seed * 37 % len(ORDER)]


def kind_of(error: BaseException) -> str:
    """What is equal of equal finds: the type, and the last place in the package."""
    places = [
        f"{Path(frame.filename).name}-{frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "/unetseg/" in frame.filename
    ]
    return "-".join([type(error).__name__, *places[-1:]])


def keep(finds: Path, kind: str, one: Input, seed: int, told: str) -> None:
    """Keep the first input of a kind, and count the others."""
    finds.mkdir(parents=True, exist_ok=True)
    note = finds / f"{one.target}-{kind}.txt"
    if not note.exists():
        (finds / f"{one.target}-{kind}-{one.file.name}").write_bytes(one.content)
        note.write_text(f"{one.target}:{seed} {one.file}\n{told}\n")
    with note.open("a") as file:
        file.write(f"again {seed}\n")


def peak() -> int:
    """The most memory that this process held since the last call, bytes."""
    told = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    Path("/proc/self/clear_refs").write_text("5")
    return int(told) * 1024


def serve(finds: Path, first: int, step: int, seconds: float, now: Any) -> None:
    """Read inputs until the time is up; `now` holds the seed in work, since when, and a count."""
    import resource  # Windows has none

    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.fsync = lambda fd: None  # for speed
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**28, 2**28))
    end, watcher = time.monotonic() + seconds, os.getppid()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["UNETSEG_CACHE_FOLDER"] = f"{folder}/cache"
        bench = Bench(Path(folder))
        page = resource.getpagesize()
        for target in TARGETS:
            for seed in range(3):  # what is loaded late is loaded now
                keep_if_wrong(bench, finds, target, seed)
        held = int(Path("/proc/self/statm").read_text().split()[0]) * page
        resource.setrlimit(resource.RLIMIT_AS, (held + 2**31, held + 2**31))
        peak()
        for seed in range(first, sys.maxsize, step):
            if time.monotonic() > end or os.getppid() != watcher:
                return
            now[0], now[1] = seed, time.time()
            target = target_of(seed)
            before = int(Path("/proc/self/statm").read_text().split()[1]) * page
            cpu = time.process_time()
            keep_if_wrong(bench, finds, target, seed)
            cpu, taken = time.process_time() - cpu, peak() - before
            if cpu > CPU_SECONDS or taken > MEMORY:
                kind = "time" if cpu > CPU_SECONDS else "memory"
                one = bench.draw(target, seed)
                keep(finds, f"{kind}-{one.file.name}", one, seed, f"{cpu:.1f} s, {taken} bytes")
            now[2] += 1


def keep_if_wrong(bench: Bench, finds: Path, target: str, seed: int) -> None:
    """Read the input of a seed, and keep it if it is a find."""
    one = bench.draw(target, seed)
    try:
        bench.read(one)
    except Exception as error:  # noqa: BLE001 (that is what is looked for)
        keep(finds, kind_of(error), one, seed, traceback.format_exc())


def watch(finds: Path, seconds: float, processes: int, first: int) -> int:
    """Let processes read inputs, begun anew when they crash or hang; how many were read."""
    context, end = mp.get_context("spawn"), time.monotonic() + seconds
    work: list[tuple[Any, Any]] = []
    total = 0

    def start(number: int, seed: int) -> tuple[Any, Any]:
        now = context.Array("d", [seed, time.time() + WALL_SECONDS, 0], lock=False)
        left = end - time.monotonic()
        process = context.Process(target=serve, args=(finds, seed, processes, left, now))
        process.start()
        return process, now

    work = [start(number, first + number) for number in range(processes)]
    while any(process.is_alive() for process, _ in work):
        time.sleep(0.5)
        for number, (process, now) in enumerate(work):
            hangs = process.is_alive() and time.time() - now[1] > WALL_SECONDS
            if hangs:
                process.kill()
                process.join()
            if (hangs or process.exitcode) and time.monotonic() < end:
                died = "hang" if hangs else f"died-{-process.exitcode}"
                seed = int(now[0])
                with tempfile.TemporaryDirectory() as folder:
                    one = Bench(Path(folder)).draw(target_of(seed), seed)
                    keep(finds, f"{died}-{one.file.name}", one, seed, died)
                total += int(now[2])
                work[number] = start(number, seed + processes)
    return total + sum(int(now[2]) for _, now in work)


def main() -> None:
    """Fuzz for some time, or replay one input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=int(time.time()) * 1000)
    parser.add_argument("--finds", type=Path, default=Path("finds"))
    parser.add_argument("--replay", help="target:seed")
    given = parser.parse_args()
    if given.replay:
        target, _, seed = given.replay.partition(":")
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder))
            bench.read(bench.draw(target, int(seed)))
        return
    count = watch(given.finds, given.seconds, given.processes, given.seed)
    notes = sorted(given.finds.glob("*.txt")) if given.finds.exists() else []
    for note in notes:
        print(f"{note.name}: {note.read_text().count('again ')}")
    print(f"{count} inputs from seed {given.seed} on, {len(notes)} kinds of finds in {given.finds}")
    sys.exit(bool(notes))


if __name__ == "__main__":
    main()
