"""Builds the Dockerfile for real and uses unetseg inside: `make container-test`.

    python -m tests.container                                # docker, else podman
    python -m tests.container --torch cpu --storage images    # podman: built once, kept there

Inside, unetseg has no network and no right of root; it can write what is mounted, /cache and /tmp,
and /dev/shm has 64 MB. Where the base image cannot be pulled, podman as root builds on a Debian of
debootstrap, with this machine's certificates and settings of pip and uv. Nothing is left behind.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGE = "localhost/unetseg-container-test"
DEBIAN = f"{IMAGE}-debian"
CONFINED = [
    "--network=none",
    "--read-only",
    "--tmpfs=/tmp",
    "--shm-size=64m",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
]
STRANGER = "4321:4321"
"""User and group that the image does not know."""
TRAIN = (
    "train photos --depth 2 --width 8 --patch 64 --epochs 12 --seed 1 --save-every 0 --device cpu"
)
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
SETTINGS = (  # of pip and uv: the machine's and the user's
    *("/etc/pip.conf", "/etc/xdg/pip/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf"),
    *("/etc/uv/uv.toml", "~/.config/uv/uv.toml"),
)
INSPECTION = """
import json, os, pathlib, shutil, socket, sys

def can_write(folder):
    try:
        (pathlib.Path(folder) / "x").write_text("")
    except OSError:
        return False
    return True

leftovers = "/build /work /cache /tmp /root/.cache /var/lib/apt/lists /var/cache/apt/archives"
left = [str(path) for folder in leftovers.split() for path in pathlib.Path(folder).glob("*.*")]
bytes_of = {
    package.name: sum(file.lstat().st_size for file in (package, *package.rglob("*")))
    for package in pathlib.Path(sys.prefix).glob("lib/python3.*/site-packages/*")
}
print(json.dumps({
    "user": os.getuid(),
    "rights": int(open("/proc/self/status").read().split("CapEff:")[1].split()[0], 16),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "/dev/shm": shutil.disk_usage("/dev/shm").total,
    "left": left,
    "writable": [folder for folder in ("/", sys.prefix, "/cache", "/tmp") if can_write(folder)],
    "largest": sorted(bytes_of.items(), key=lambda item: -item[1])[:12],
}))
"""
"""What a process in the container sees of its limits and of what the build left."""


class Engine:
    """docker or podman, and the image that is tested."""

    def __init__(self, words: list[str], work: Path, storage: Path, run_words: list[str]) -> None:
        self.words, self.work, self.storage, self.run_words = words, work, storage, run_words
        self.is_podman = words[0].endswith("podman")
        self.container = f"unetseg-test-{os.getpid()}"
        self.limits: list[str] = []
        self.environment = {**os.environ, "TMPDIR": str(work)}
        if self.is_podman:
            self.words = [*words, "--root", f"{storage}/images", "--runroot", f"{storage}/run"]
            # The usual ones; podman's own are more than root may give on some machines.
            self.limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"]

    def __call__(self, *words: str) -> str:
        """What a command prints."""
        done = subprocess.run(
            [*self.words, *words], capture_output=True, text=True, env=self.environment
        )
        if done.returncode:
            told = f"{done.stdout}{done.stderr}"
            raise RuntimeError(f"exit {done.returncode} of {shlex.join(words)}\n{told}")
        return done.stdout

    def options(self, user: str, mounts: Mapping[Path, str]) -> list[str]:
        """How a container is run: confined, with these folders, as this user or the image's."""
        volumes = [f"--volume={folder}:{place}" for folder, place in mounts.items()]
        users = [f"--user={user}"] if user else []
        names = [f"--name={self.container}"]
        return [*names, *CONFINED, *self.limits, *self.run_words, *users, *volumes]

    def run(self, *words: str, user: str = "", mounts: Mapping[Path, str], also: str = "") -> str:
        """What unetseg prints in a container that is gone afterwards."""
        return self("run", "--rm", *self.options(user, mounts), *also.split(), IMAGE, *words)


# ------------------------------------------------------------------------------------ build


def find_engine() -> str:
    """The first of docker and podman that answers."""
    for program in ("docker", "podman"):
        with suppress(FileNotFoundError):
            if not subprocess.run([program, "info"], capture_output=True).returncode:
                return program
    sys.exit("neither docker nor podman answers; for example: sudo apt-get install podman")


def build(engine: Engine, base: str, torch: str) -> str:
    """Build the image as its users do; its size."""
    try:
        if not engine("images", "--quiet", base):
            engine("pull", base)
    except RuntimeError as why:
        if not (engine.is_podman and os.geteuid() == 0 and shutil.which("debootstrap")):
            sys.exit(
                f"{why}\nName an image that can be pulled, with --base; or let root build on a new"
                " Debian: apt-get install podman debootstrap"
            )
        print(f"{base} cannot be pulled; building on a Debian of debootstrap", flush=True)
        base = DEBIAN
        if not engine("images", "--quiet", DEBIAN):
            draw_debian(engine)
    revision = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()
    given = {"BASE_IMAGE": base, "TORCH": torch, "REVISION": revision}
    words = ["build", *(f"--build-arg={key}={value}" for key, value in given.items())]
    if engine.is_podman:
        words += ["--network=host", *engine.limits]
    if base == DEBIAN:
        words += [f"--volume={path}:{path}:ro" for path in local_paths()]
    command = [*engine.words, *words, f"--tag={IMAGE}", str(ROOT)]
    with subprocess.Popen(command, env=engine.environment) as process:
        try:
            process.wait()
        finally:  # when we are ended, too: by SIGTERM it ends what it started
            process.terminate()
    assert not process.returncode, f"exit {process.returncode} of the build"
    return size(int(engine("image", "inspect", "--format={{.Size}}", IMAGE)))


def size(count: int) -> str:
    """Bytes in the units of docker."""
    return f"{count / 1e9:.2f} GB" if count > 1e9 else f"{count / 1e6:.1f} MB"


def settings() -> dict[str, str]:
    """This machine's settings of pip, uv and proxies that stand in the environment."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PIP_", "UV_")) or name.lower().endswith("_proxy")
    }


def local_paths() -> list[str]:
    """Files and folders of this machine that its settings of pip and uv name."""
    files = [path for name in SETTINGS if (path := Path(name).expanduser()).is_file()]
    text = "\n".join([*settings().values(), *(path.read_text() for path in files)])
    named = re.findall(r"(?<![\w:/])(?:file://)?(/[^\s,'\"]+)", text)
    return sorted({path for path in named if Path(path).exists()})


def draw_debian(engine: Engine) -> None:
    """Make an image of a small Debian with Python, with this machine's settings."""
    with tempfile.TemporaryDirectory(dir=engine.work) as folder:
        root = Path(folder, "root")
        subprocess.run(  # what it mounts and starts goes with its namespaces
            [
                *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
                *("debootstrap", "--variant=minbase"),
                *("--include=python3,python3-venv,python3-pip,ca-certificates", "trixie", root),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        shutil.rmtree(root / "var/cache/apt/archives")
        for name in SETTINGS:
            if (path := Path(name).expanduser()).is_file():
                place = root / name.replace("~", "root").lstrip("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)
        bundle = os.environ.get("SSL_CERT_FILE", CERTIFICATES)
        shutil.copyfile(bundle, f"{root}{CERTIFICATES}")
        environment = settings() | dict.fromkeys(("SSL_CERT_FILE", "PIP_CERT"), CERTIFICATES)
        changes = [f"--change=ENV {name}={value}" for name, value in environment.items()]
        archive = f"{folder}/debian.tar"
        subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
        engine("import", *changes, archive, DEBIAN)


# -------------------------------------------------------------------------------------- use


def limits(engine: Engine) -> str:
    """Nothing is allowed that is not needed; the build left nothing behind."""
    seen = json.loads(engine.run("-c", INSPECTION, mounts={}, also="--entrypoint=python"))
    largest = seen.pop("largest")
    expected = {
        "user": 1000,
        "rights": 0,
        "interfaces": ["lo"],
        "/dev/shm": 64 * 2**20,
        "left": [],
        "writable": ["/cache", "/tmp"],
    }
    assert seen == expected, f"{seen} instead of {expected}"
    for name, count in largest:
        print(f"{size(count):>12}  {name}")
    return "uid 1000 without rights, only lo, root read-only, no caches left"


def labels(engine: Engine) -> str:
    """The image says what it is."""
    told = json.loads(engine("image", "inspect", IMAGE))[0]["Config"]["Labels"]
    names = ("title", "description", "version", "revision", "licenses")
    said = {name: told[f"org.opencontainers.image.{name}"] for name in names}
    assert all(said.values()), said
    return f"{said['title']} {said['version']} {said['revision'][:12]} {said['licenses']}"


def doctor(engine: Engine) -> str:
    """The container's limits are those that unetseg goes by."""
    told = engine.run("doctor", "--out=/tmp", mounts={}, also="--cpus=1.5 --memory=3g")
    print(told)
    assert "the container's quota: 1.5" in told
    assert re.search(r"free memory +[12]\.\d GiB \(what the container's limit leaves", told)
    return "goes by --cpus 1.5, --memory 3g"


def demo(engine: Engine, work: Path) -> str:
    """Draw, train, evaluate and predict as the image's user."""
    told = engine.run("demo", "--budget", "30s", mounts={work / "demo": "/work"})
    return first(r"best validation Dice .+", told)


def first(pattern: str, text: str) -> str:
    """The first line that fits."""
    found = re.search(pattern, text)
    assert found, f"no {pattern!r} in\n{text}"
    return found[0].strip()


def mounted(work: Path) -> dict[Path, str]:
    """The photos, which cannot be written, and a folder for what comes out."""
    return {work / "demo/data/sample": "/work/photos:ro", work / "out": "/work/checkpoints"}


def train(engine: Engine, work: Path) -> str:
    """A whole training as a user whom the image does not know."""
    told = engine.run(*TRAIN.split(), "--name=whole", user=STRANGER, mounts=mounted(work))
    owner = (work / "out/whole/last.pt").stat().st_uid
    assert f"{owner}:{owner}" == STRANGER or os.geteuid(), owner  # rootless podman maps users
    return first(r"best validation Dice .+", told)


def evaluate(engine: Engine, work: Path) -> str:
    """Its scores."""
    told = engine.run("eval", "checkpoints/whole", "photos", user=STRANGER, mounts=mounted(work))
    return first(r".*Dice.*", told)


def predict(engine: Engine, work: Path) -> str:
    """Its masks."""
    words = ["predict", "checkpoints/whole", "photos/images", "-o", "checkpoints/masks"]
    told = engine.run(*words, user=STRANGER, mounts=mounted(work))
    images, masks = work / "demo/data/sample/images", work / "out/masks"
    assert {path.stem for path in images.iterdir()} <= {path.stem for path in masks.iterdir()}
    return first(r"\d+ masks", told)


def end(engine: Engine, work: Path, how: str, code: int, more: str = "") -> str:
    """Begin or resume a training, and end it as soon as it has saved another state."""
    name, state = engine.container, work / "out/cut/last.pt"
    before = state.stat().st_mtime_ns if state.exists() else 0
    options = engine.options(STRANGER, mounted(work))
    command = [*TRAIN.split(), "--name=cut", *more.split()]
    engine("run", "--detach", *options, IMAGE, *command)
    try:
        while not state.exists() or state.stat().st_mtime_ns == before:
            assert engine("ps", "--quiet", f"--filter=name={name}"), engine("logs", name)
            time.sleep(0.05)
        engine(*how.split(), name)
        found = int(engine("wait", name))
        assert found == code, f"exit {found} instead of {code}\n{engine('logs', name)}"
    finally:
        engine("rm", "--force", name)
    return f"exit {code}, a state is there"


def resume(engine: Engine, work: Path) -> str:
    """What was killed and stopped ends with the weights of the whole training."""
    engine.run(*TRAIN.split(), "--name=cut", "--resume", user=STRANGER, mounts=mounted(work))
    whole, cut = (work / f"out/{name}/model/model.safetensors" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes(), "the weights are others"
    return "weights equal those of the whole training, bit for bit"


def layers(engine: Engine) -> str:
    """The size of each layer, and what made it."""
    told = engine("history", "--no-trunc", "--human=false", "--format=json", IMAGE)
    lines = json.loads(told) if told.startswith("[") else map(json.loads, told.splitlines())
    entries = [{key.lower(): value for key, value in line.items()} for line in lines]
    filled = [entry for entry in reversed(entries) if int(entry["size"]) > 10_000]
    for entry in filled:
        print(f"{size(int(entry['size'])):>12}  {' '.join(entry['createdby'].split())[:90]}")
    return f"{len(filled)} of more than 10 kB"


# ------------------------------------------------------------------------------------- main


def try_all(engine: Engine, work: Path, base: str, torch: str) -> bool:
    """Build and use the image, and tell what ran; whether all went well."""
    steps: dict[str, Callable[[], str]] = {
        "build": partial(build, engine, base, torch),
        "labels": partial(labels, engine),
        "layers": partial(layers, engine),
        "limits, nothing left over": partial(limits, engine),
        "doctor": partial(doctor, engine),
        "demo": partial(demo, engine, work),
        "train, as another user": partial(train, engine, work),
        "eval": partial(evaluate, engine, work),
        "predict": partial(predict, engine, work),
        "train, killed (SIGKILL)": partial(end, engine, work, "kill", 137),
        "train --resume, stopped (SIGTERM)": partial(
            end, engine, work, "stop --time=60", 143, "--resume"
        ),
        "train --resume, to the end": partial(resume, engine, work),
    }
    rows: list[str] = []
    failed = False
    for name, step in steps.items():
        begin = time.monotonic()
        print(f"== {name}", flush=True)
        try:
            told = step()
        except (AssertionError, RuntimeError, OSError, subprocess.CalledProcessError) as why:
            print(why, file=sys.stderr, flush=True)
            told, failed = "FAILED", True
        rows.append(f"| {name} | {time.monotonic() - begin:.1f} | {told} |")
        if failed and name == "build":
            break
    print("\n| step | seconds | |\n|---|---|---|", *rows, sep="\n")
    return not failed


def main() -> None:
    """Build, use, tell, clean up."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.container",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    base = re.findall(r"^ARG BASE_IMAGE=(.+)$", (ROOT / "Dockerfile").read_text("utf-8"), re.M)[0]
    parser.add_argument("--engine", help='such as "podman --runtime runc"; else what answers')
    parser.add_argument("--torch", default="", help="--build-arg TORCH, such as cpu")
    parser.add_argument("--base", default=base, help="--build-arg BASE_IMAGE")
    parser.add_argument("--run", default="", help='more words for run, such as "--gpus all"')
    parser.add_argument("--storage", type=Path, help="podman's images are kept in this folder")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="unetseg-container-") as folder:
        work = Path(folder)
        for name in ("demo", "out", "storage"):
            (work / name).mkdir()
            (work / name).chmod(0o777)
        storage = given.storage.resolve() if given.storage else work / "storage"
        words = shlex.split(given.engine or find_engine())
        engine = Engine(words, work, storage, shlex.split(given.run))
        try:
            good = try_all(engine, work, given.base, given.torch)
        finally:
            clean(engine, work, keep=bool(given.storage))
    sys.exit(not good)


def clean(engine: Engine, work: Path, *, keep: bool) -> None:
    """Remove what other users wrote into the mounted folders, and what was built."""
    remove = ("--rm", "--user=0", "--entrypoint=rm", *engine.limits, f"--volume={work}:/mnt")
    commands = [
        ("rm", "--force", engine.container),
        ("run", *remove, IMAGE, "-rf", "/mnt/demo", "/mnt/out"),
    ]
    if not keep:
        commands.append(("rmi", "--all", "--force") if engine.is_podman else ("rmi", IMAGE))
    for words in commands:
        with suppress(RuntimeError):
            engine(*words)
    if engine.is_podman:
        mounts = (line.split()[1] for line in Path("/proc/mounts").read_text().splitlines())
        for place in sorted(mounts, reverse=True):  # those of builds that were ended, too
            if place.startswith(f"{engine.storage}/"):
                subprocess.run(["umount", "--lazy", place], check=False)


if __name__ == "__main__":
    main()
