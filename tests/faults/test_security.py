"""What SECURITY.md promises: nothing is run, nothing absurd is taken at its word, nothing goes out.

Payloads are real: what they would do is seen, not what the code says.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.builders import bundle_info, save_run
from unetseg.bundle import load_bundle
from unetseg.cli.app import run
from unetseg.config import MOST_CHANNELS
from unetseg.errors import BundleError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

Capture = pytest.CaptureFixture[str]
TRAINING = ["--epochs", "1", "--patch", "32", "--depth", "1", "--width", "2", "--batch", "2"]
TRAINING += ["--workers", "0", "--device", "cpu"]


# ------------------------------------------------------------------------- 41: nothing is run


class Payload:
    """What would leave the file `ran` if it were unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("__import__('pathlib').Path('ran').touch()",)


YAML = "a: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [ran]]\n"


@pytest.fixture
def unspoilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, in which no payload may have run at the end."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ran").unlink(missing_ok=True)
    pickle.loads(pickle.dumps(Payload()))
    assert (tmp_path / "ran").exists()  # as it would look
    (tmp_path / "ran").unlink()
    yield tmp_path
    assert not (tmp_path / "ran").exists()


@pytest.mark.row(41)
@pytest.mark.parametrize("name", ["evil.pt", "evil.pth", "model.safetensors", "model"])
def test_a_pickled_model_is_refused(unspoilt: Path, data: Path, capsys: Capture, name: str) -> None:
    evil = save_run(unspoilt / "run") / "model/model.safetensors" if "." in name else None
    file = evil if name == "model.safetensors" and evil else unspoilt / name
    torch.save({"state_dict": Payload()}, file)
    if file == evil:
        info = json.loads(file.with_name("model.json").read_text())
        info["weights_sha256"] = sha256(file.read_bytes()).hexdigest()
        file.with_name("model.json").write_text(json.dumps(info))
    source = str(unspoilt / "run") if file == evil else str(file)
    assert run(["predict", source, str(data / "images"), "-o", str(unspoilt / "out")]) == 8
    assert run(["train", str(data), "--from", source, *TRAINING[:2]]) == 8
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.row(41)
@pytest.mark.long
def test_pickled_weights_of_an_encoder_are_refused(
    unspoilt: Path, data: Path, capsys: Capture
) -> None:
    torch.save({"conv1.weight": Payload()}, unspoilt / "evil.pth")
    flags = ["--encoder", "resnet18", "--weights", "evil.pth", "--epochs", "1"]
    assert run(["train", str(data), *flags]) == 8
    assert "cannot be read as weights" in capsys.readouterr().err


@pytest.mark.row(41)
@pytest.mark.parametrize("name", ["evil.npy", "evil.npz"])
def test_a_pickled_array_is_refused(unspoilt: Path, data: Path, capsys: Capture, name: str) -> None:
    for path in sorted((data / "images").iterdir()):  # a folder of arrays, of which one is evil
        pixels: Any = np.asarray(Image.open(path))
        np.save(path.with_suffix(".npy"), pixels)
        path.unlink()
    evil = np.array([[Payload()]], object)
    if name.endswith("z"):
        path.with_suffix(".npy").unlink()
        np.savez(path.with_suffix(".npz"), evil)
    else:
        np.save(path.with_suffix(".npy"), evil, allow_pickle=True)
    assert run(["check", str(data), "--images", "images", "--masks", "masks"]) == 5
    assert "never unpickled" in capsys.readouterr().out
    save_run(unspoilt / "run")
    assert run(["predict", "run", str(data / "images/*.np*"), "-o", "out", "--device", "cpu"]) == 4
    assert "never unpickled" in capsys.readouterr().err


@pytest.mark.row(41)
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("dataset.yaml", []),
        ("classes.yaml", []),
        ("my.yaml", ["--classes"]),
        ("settings.yaml", ["--config"]),
    ],
)
def test_yaml_that_calls_python_is_refused(
    unspoilt: Path, data: Path, capsys: Capture, name: str, flags: list[str]
) -> None:
    file = data / name
    file.write_text(YAML)
    given = [*flags, str(file)] if flags else []
    assert run(["check", str(data), *given]) in {2, 5}
    assert "python/object" in "".join(capsys.readouterr())
    assert unspoilt.is_dir()


# ------------------------------------------------------- 42, 43: models with absurd numbers


@contextmanager
def little_memory(more: int) -> Iterator[None]:
    """Let the process take no more than so many bytes beside what it holds; on Linux."""
    if not Path("/proc/self/statm").exists():
        yield
        return
    limits = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def set_at(content: dict[str, Any], value: object, *keys: str) -> None:
    for key in keys[:-1]:
        content = content[key]
    content[keys[-1]] = value


ABSURD: list[tuple[object, tuple[str, ...]]] = [
    (10**9, ("network", "depth")),
    (2**62, ("network", "width")),
    ([1] * 10**6, ("network", "widths")),
    ([MOST_CHANNELS + 1, 1, 1], ("network", "widths")),
    (10**9, ("network", "blocks_per_level")),
    (2**62, ("network", "growth")),
    (["concat"] * 10**6, ("network", "skip")),
    (10**9, ("bands",)),
    (-1, ("bands",)),
    ([0.5] * 10**6, ("normalisation", "mean")),
    ([0.0] * 3, ("normalisation", "std")),
    (10**12, ("tile",)),
    (1.0, ("overlap",)),
    (-1e-9, ("overlap",)),
    ("os.system", ("network", "block")),
    ("os.system", ("network", "encoder")),
    ("os.system", ("loader",)),
    (
        [{"name": "a", "code": i, "colour": [0, 0, 0]} for i in range(10**5)],
        ("class_map", "classes"),
    ),
]


@pytest.mark.row(42, 43)
@pytest.mark.parametrize(("value", "place"), ABSURD, ids=lambda part: str(part)[:40])
def test_a_model_of_absurd_settings_is_refused(
    tmp_path: Path, value: object, place: tuple[str, ...]
) -> None:
    file = save_run(tmp_path, bundle_info({"depth": 1, "width": 2})) / "model/model.json"
    content = json.loads(file.read_text())
    set_at(content, value, *place)
    file.write_text(json.dumps(content))
    with little_memory(2**28), pytest.raises(BundleError) as caught:
        load_bundle(tmp_path)
    assert len(str(caught.value)) < 10_000


def header(**tensors: Any) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


SMALL = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.row(43)
@pytest.mark.parametrize(
    "content",
    [
        (2**63).to_bytes(8, "little"),
        (2**40).to_bytes(8, "little") + b"{}",
        header(a=SMALL | {"shape": [2**62, 2**62]}) + bytes(4),
        header(a=SMALL | {"shape": [2**34], "data_offsets": [0, 2**36]}) + bytes(4),
        header(a=SMALL | {"data_offsets": [4, 0]}) + bytes(4),
        header(a=SMALL, b=SMALL) + bytes(4),
        header(a=SMALL | {"dtype": "PICKLE"}) + bytes(4),
        header(**{f"a{i}": SMALL | {"shape": [0], "data_offsets": [0, 0]} for i in range(10**4)}),
        b"",
    ],
    ids=lambda content: content[:60].hex()[:30],
)
def test_weights_of_absurd_sizes_are_refused(tmp_path: Path, content: bytes) -> None:
    folder = save_run(tmp_path) / "model"
    (folder / "model.safetensors").write_bytes(content)
    info = json.loads((folder / "model.json").read_text())
    info["weights_sha256"] = sha256(content).hexdigest()
    (folder / "model.json").write_text(json.dumps(info))
    with little_memory(2**28), pytest.raises(BundleError, match="does not hold the network"):
        load_bundle(tmp_path)


@pytest.mark.row(43)
@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_files_beyond_any_model_are_not_read(tmp_path: Path, name: str) -> None:
    folder = save_run(tmp_path) / "model"
    with (folder / name).open("r+b") as file:
        file.truncate(2**35)  # sparse: it takes no disk
    with little_memory(2**28), pytest.raises(BundleError, match="at most"):
        load_bundle(tmp_path)


# ------------------------------------------------------------------------- 45: names are text


EVIL = "\x1b]0;title\x07\x1b[31m<script>\n[red]\u202e"


@pytest.mark.row(45)
@pytest.mark.long
def test_names_are_shown_and_not_obeyed(data: Path, tmp_path: Path, capsys: Capture) -> None:
    """By every command, of sound and damaged files: no control character, no forged line."""
    for folder in ("images", "masks"):
        for number, path in enumerate(sorted((data / folder).iterdir())):
            path.rename(path.with_name(f"{EVIL}{number}.png"))
    bad = Path(shutil.copytree(data, tmp_path / EVIL))
    images = sorted((bad / "images").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:60])
    images[1].write_bytes(b"")
    images[2].unlink()
    runs, images_of = str(tmp_path / "runs"), str(data / "images")
    trained = f"{runs}/{EVIL}"
    for command, code in (
        (["check", str(data), "--device", "cpu"], 0),
        (["check", str(bad), "--device", "cpu"], 5),
        (["train", str(bad), *TRAINING, "--out", runs], 5),
        (["train", str(data), *TRAINING, "--out", runs, "--name", "r"], 0),
        (["train", str(data), *TRAINING, "--out", runs, "--name", EVIL, "--resume"], 8),
        (["eval", f"{runs}/r", str(data)], 0),
        (["eval", trained, str(data)], 8),
        (["predict", f"{runs}/r", images_of, "-o", str(tmp_path / "out")], 0),
        (["predict", f"{runs}/r", images_of, "-o", str(tmp_path / "out")], 2),
        (["predict", f"{runs}/r", str(bad / "images"), "-o", str(tmp_path / "bad")], 4),
        (["import", "coco", str(bad), str(tmp_path / "imported")], 5),
        (["train", str(data), "--config", EVIL], 2),
        (["train", str(data), "--epochs", EVIL], 2),
        ([EVIL], 2),
    ):
        assert run(command) == code, command[0]
        told = "".join(capsys.readouterr())
        assert all(letter.isprintable() or letter == "\n" for letter in told), command
        assert command == [EVIL] or "<script>\n" not in told, command


@pytest.mark.row(45)
@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_names_that_are_no_text_are_told(data: Path) -> None:
    image = next((data / "images").iterdir())
    image.rename(image.with_name(os.fsdecode(b"\xff\xfe.png")))
    command = [sys.executable, "-m", "unetseg", "check", str(data), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0
    assert rb"\udcff\udcfe.png" in done.stdout
    assert b"Traceback" not in done.stderr


@pytest.mark.row(45)
def test_class_names_of_a_foreign_model_are_text(
    data: Path, tmp_path: Path, capsys: Capture
) -> None:
    file = save_run(tmp_path / "run") / "model/model.json"
    content = json.loads(file.read_text())
    content["class_map"]["classes"][1]["name"] = EVIL
    file.write_text(json.dumps(content))
    assert run(["eval", str(tmp_path / "run"), str(data), "--split", "all"]) == 0
    told = "".join(capsys.readouterr())
    assert all(letter.isprintable() or letter == "\n" for letter in told)
    assert "script" in told


# ---------------------------------------------------------------------- 46: nothing goes out


LISTENER = """
import os, sys

def heard(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.sendto"):
        goes_out = isinstance(arguments[1], tuple)  # a path is on this machine
        if event == "socket.bind" and arguments[1] == ("::1", 0):
            goes_out = False  # urllib3 looks whether there is IPv6; TensorBoard loads it with boto3
    else:
        goes_out = event in ("socket.getaddrinfo", "socket.gethostbyname", "urllib.Request")
    if goes_out:
        with open(os.environ["HEARD"], "a") as file:
            file.write(f"{event} {arguments}\\n")
        raise PermissionError("no network here")

sys.addaudithook(heard)
"""


@pytest.fixture
def walled(tmp_path: Path) -> Callable[..., None]:
    """Runs Python without a network, in all its processes; an attempt is a failure."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(LISTENER)
    heard = tmp_path / "heard"
    paths = f"{tmp_path / 'site'}{os.pathsep}{Path(__file__).parents[2]}"
    without = {"NO_ALBUMENTATIONS_UPDATE": "", "UNETSEG_CACHE_FOLDER": str(tmp_path / "cache")}
    environment = os.environ | without | {"PYTHONPATH": paths, "HEARD": str(heard)}
    del environment["NO_ALBUMENTATIONS_UPDATE"]  # the package sets it itself

    def work(*words: str) -> None:
        done = subprocess.run([sys.executable, *words], env=environment, capture_output=True)
        assert not heard.exists(), heard.read_text()
        assert done.returncode == 0, done.stderr.decode()

    return work


@pytest.mark.row(46)
@pytest.mark.long
def test_no_work_goes_out(walled: Callable[..., None], data: Path, tmp_path: Path) -> None:
    everything = "import unetseg; [getattr(unetseg, name) for name in unetseg.__all__]"
    walled("-c", f"{everything}; import unetseg.data.crops.transforms")
    out, trained = str(tmp_path / "out"), str(tmp_path / "runs/r")
    command = [*TRAINING, "--out", str(tmp_path / "runs"), "--name", "r"]
    command[command.index("--workers") + 1] = "1"
    walled("-m", "unetseg", "check", str(data), "--device", "cpu")
    walled("-m", "unetseg", "train", str(data), *command)
    walled("-m", "unetseg", "eval", trained, str(data))
    walled("-m", "unetseg", "predict", trained, str(data / "images"), "-o", out, "--overlay")


@pytest.mark.row(46)
@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', "
        "'import socket; socket.getaddrinfo(\"localhost\", 9)'])",
    ],
)
def test_an_attempt_would_be_heard(walled: Callable[..., None], attempt: str) -> None:
    with pytest.raises(AssertionError, match=r"socket|urllib"):
        walled("-c", attempt)
