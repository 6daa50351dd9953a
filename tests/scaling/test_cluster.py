"""A Ray cluster of this machine: workers are killed, images kill them, and every mask is there."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.builders import noise, save_run
from unetseg.config import DeviceConfig, ExportConfig, PredictConfig, ScalingConfig
from unetseg.errors import BundleError, ConfigError, MachineError
from unetseg.export.export import export
from unetseg.prediction.jobs import find_inputs
from unetseg.prediction.predict import predict_folder
from unetseg.progress import SILENT
from unetseg.scaling import cluster
from unetseg.scaling.blocks import Block, Blocks, Shard
from unetseg.scaling.cluster import predict_on_cluster
from unetseg.scaling.shards import Totals
from unetseg.storage import write_bytes

POISON = """
import os, signal, sys, threading
def look(event, args):
    if event == "open" and str(args[0]).endswith("0003.png"):
        if threading.current_thread().name.startswith("ThreadPoolExecutor"):  # not planning
            os.kill(os.getpid(), signal.SIGSEGV)
sys.addaudithook(look)
"""
WORDS = ["--device", "cpu", "--precision", "float32"]


def draw(folder: Path, count: int, side: int) -> Path:
    """Images, of which the sixth is none."""
    folder.mkdir()
    for number in range(count):
        Image.fromarray(noise(side, side, 3, seed=number)).save(folder / f"{number:04}.png")
    (folder / "0005.png").write_bytes(b"no image")
    return folder


def masks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*.png")}


# ------------------------------------------------------------------------- without Ray


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker in this process, handed what Ray would hand it."""

    def answers(work: tuple[Any, ...], blocks: Iterable[Block], _: object) -> Iterator[Any]:
        worker = cluster.Worker(*work)
        for block in blocks:
            yield pickle.loads(worker({"block": [pickle.dumps(block)]})["answer"][0])

    monkeypatch.setattr(cluster, "_cluster", lambda *_: nullcontext(2))
    monkeypatch.setattr(cluster, "_answers", answers)


def on_cluster(run: Path, folder: Path, out: Path, existing: str = "refuse") -> Totals:
    config = PredictConfig.model_validate({"existing": existing})
    device = DeviceConfig(device="cpu", precision="float32")
    return predict_on_cluster(run, [folder], out, (config, device, ScalingConfig(cluster="ray")))


@pytest.mark.usefixtures("inline")
def test_workers_write_the_masks_of_one_process_and_rows_of_what_failed(tmp_path: Path) -> None:
    run, folder, out = save_run(tmp_path / "run"), draw(tmp_path / "in", 12, 40), tmp_path / "out"
    predict_folder(run, folder, tmp_path / "whole", device="cpu", precision="float32")
    totals = on_cluster(run, folder, out)
    assert (totals.written, totals.skipped, totals.failed) == (11, 0, 1)
    assert masks(out) == masks(tmp_path / "whole")
    assert failures(out) == {"0005.png": "no-image"}
    with pytest.raises(ConfigError, match="holds files already"):
        on_cluster(run, folder, out)
    (out / "0001.png").unlink()
    totals = on_cluster(run, folder, out, "skip")
    assert (totals.written, totals.skipped, totals.failed) == (1, 10, 1)
    Image.fromarray(noise(40, 40, 3)).save(folder / "0005.png")
    assert on_cluster(run, folder, out, "overwrite").written == 12
    assert not (out / "failures.jsonl").exists()


@pytest.mark.usefixtures("inline")
def test_workers_predict_with_an_exported_file(tmp_path: Path) -> None:
    run, folder = save_run(tmp_path / "run"), draw(tmp_path / "in", 7, 40)
    file = export(run, ExportConfig(to="torchscript"), output=tmp_path / "net.pt").file
    assert on_cluster(file, folder, tmp_path / "out").written == 6


@pytest.mark.usefixtures("inline")
def test_a_cluster_may_have_no_cores_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_cluster", lambda *_: nullcontext(0))
    run, folder = save_run(tmp_path / "run"), draw(tmp_path / "in", 7, 40)
    assert on_cluster(run, folder, tmp_path / "out").written == 6


@pytest.mark.row(50)
def test_a_block_that_ends_all_its_workers_is_given_up(tmp_path: Path) -> None:
    run, folder, out = save_run(tmp_path / "run"), draw(tmp_path / "in", 8, 40), tmp_path / "out"
    settings = PredictConfig(existing="skip"), DeviceConfig(device="cpu")
    (block,) = Blocks(find_inputs([folder], out, SILENT), Shard()).read()
    worker = cluster.Worker(run, [folder], out, settings, 1)
    for number in range(cluster.TRIES):
        write_bytes(out / f"{block.journal.file}.try{number}", b"-")
    answer = pickle.loads(worker({"block": [pickle.dumps(block)]})["answer"][0])
    assert (answer["written"], len(answer["failures"])) == (0, 8)
    assert "each worker that had the block of this image ended" in str(answer["failures"][0])
    assert not list(out.rglob("*.try*"))
    answer = pickle.loads(worker({"block": [pickle.dumps(block)]})["answer"][0])
    assert (answer["written"], len(answer["failures"])) == (7, 1)


def test_an_answer_of_a_worker_is_no_end_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder, out = save_run(tmp_path / "run"), draw(tmp_path / "in", 6, 40), tmp_path / "out"
    settings = PredictConfig(existing="skip"), DeviceConfig(device="cpu")
    (block,) = Blocks(find_inputs([folder], out, SILENT), Shard()).read()
    worker = cluster.Worker(run, [folder], out, settings, 1)

    def full(_: object) -> None:
        raise MachineError("the disk is full")

    with monkeypatch.context() as filled:
        filled.setattr(worker, "_predict", full)
        for _ in range(cluster.TRIES + 1):
            answer = pickle.loads(worker({"block": [pickle.dumps(block)]})["answer"][0])
            assert isinstance(answer, MachineError)
    answer = pickle.loads(worker({"block": [pickle.dumps(block)]})["answer"][0])
    assert answer["written"] + len(answer["failures"]) == 6
    assert "each worker" not in str(answer["failures"])


def test_a_worker_answers_with_what_is_wrong_with_its_model(tmp_path: Path) -> None:
    folder = draw(tmp_path / "in", 6, 40)
    settings = PredictConfig(), DeviceConfig()
    worker = cluster.Worker(tmp_path / "none", [folder], tmp_path / "out", settings, 1)
    answer = worker({"block": [pickle.dumps(None)]})["answer"][0]
    assert isinstance(pickle.loads(answer), BundleError)


# ---------------------------------------------------------------------------- with Ray


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """Of processes, in which one image is deadly."""
    pytest.importorskip("ray", reason="ray is an extra")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(POISON)
    paths = [str(tmp_path / "path"), str(Path(__file__).parents[2])]
    quiet = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
    quiet |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    quiet["RAY_worker_niceness"] = "0"  # else they wait for all other tests
    return os.environ | quiet | {"PYTHONPATH": os.pathsep.join(paths)}


def predict(
    run: Path, folder: Path, out: Path, surroundings: dict[str, str], *more: str
) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "unetseg", "predict", run, folder, "-o", out, *WORDS, *more]
    return subprocess.Popen(
        [str(word) for word in words],
        env=surroundings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: "subprocess.Popen[str]", code: int) -> str:
    told, _ = process.communicate(timeout=500)
    assert process.returncode == code, told
    return told


def failures(out: Path) -> dict[str, str]:
    rows = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
    return {Path(row["image"]).name: row["code"] for row in rows}


@pytest.mark.row(48, 49, 50)
@pytest.mark.slow
def test_deadly_and_damaged_images_are_listed_and_all_others_predicted(
    tmp_path: Path, surroundings: dict[str, str]
) -> None:
    run, folder, out = save_run(tmp_path / "run"), draw(tmp_path / "in", 24, 40), tmp_path / "out"
    words = ["--cluster", "ray", "--address", "local", "--workers", "1"]
    process = predict(run, folder, out, surroundings, *words)
    told, _ = process.communicate(timeout=300)
    if "timed out during startup" in told:
        pytest.skip("Ray gives itself 30 seconds to start, too few on this machine now")
    assert process.returncode == 4, told
    assert "no mask for 2 images, 22 have one" in told
    assert failures(out) == {"0003.png": "deadly", "0005.png": "no-image"}
    assert len(masks(out)) == 22
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def two_nodes(surroundings: dict[str, str]) -> Iterator[str]:
    """The address of a cluster of two node processes, a core each."""
    address = f"127.0.0.1:{free_port()}"
    ray = str(Path(sys.executable).with_name("ray"))
    words = [ray, "start", "--num-cpus=1", "--object-store-memory=200000000", "--block"]
    head = ["--head", f"--port={address.split(':')[1]}", "--include-dashboard=false"]
    nodes = []
    for more in (head, [f"--address={address}"]):
        nodes.append(subprocess.Popen([*words, *more], env=surroundings, start_new_session=True))
        time.sleep(15)
    yield address
    for node in reversed(nodes):
        node.terminate()
    for node in nodes:
        node.wait(60)


def workers_of() -> dict[int, int]:
    """Memory of each worker, bytes, by process."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::MapWorker" in (entry / "cmdline").read_bytes():
                found[int(entry.name)] = 4096 * int((entry / "statm").read_text().split()[1])
        except OSError:
            continue
    return found


@pytest.mark.row(48, 49, 50)
@pytest.mark.slow
def test_1000_images_on_two_nodes_with_a_worker_killed(
    tmp_path: Path, surroundings: dict[str, str], two_nodes: str
) -> None:
    run, folder, out = (
        save_run(tmp_path / "run"),
        draw(tmp_path / "in", 1000, 256),
        tmp_path / "out",
    )
    plain = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    begun = time.monotonic()
    finish(predict(run, folder, tmp_path / "whole", plain), 4)  # nothing is deadly there
    alone = time.monotonic() - begun
    begun = time.monotonic()
    words = ["--cluster", "ray", "--address", two_nodes, "--workers", "1-2"]
    process = predict(run, folder, out, surroundings, *words)
    memory: list[int] = []
    killed = 0
    while process.poll() is None:
        there = workers_of()
        memory.append(max(there.values(), default=0))
        if not killed and len(there) == 2 and len(masks(out)) > 200:
            killed = max(there)
            os.kill(killed, signal.SIGKILL)
        time.sleep(0.5)
    together = time.monotonic() - begun
    told = finish(process, 4)
    assert killed
    assert "no mask for 2 images, 998 have one" in told
    assert failures(out) == {"0003.png": "deadly", "0005.png": "no-image"}
    expected = masks(tmp_path / "whole")
    del expected["0003.png"]
    assert len(expected) == 998
    assert masks(out) == expected
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    Image.fromarray(noise(256, 256, 3)).save(folder / "0005.png")
    again = finish(predict(run, folder, out, surroundings, *words, "--existing", "skip"), 4)
    assert "there already: 998 masks" in again
    assert failures(out) == {"0003.png": "deadly"}
    half = [value for value in memory if value][len(memory) // 2 :]
    print(  # noqa: T201
        f"alone {alone:.0f} s, cluster {together:.0f} s with a kill; largest worker "
        f"{max(memory) / 2**20:.0f} MiB, at the end {half[-1] / 2**20:.0f} MiB\n{told}"
    )
    assert max(memory) < 1.5 * half[0]
