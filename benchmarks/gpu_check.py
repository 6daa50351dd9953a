"""What a GPU shows of unetseg in ten minutes: right, as fast as it can, and short of memory.

    python -m benchmarks.gpu_check --save                    # `make gpu-check`
    python -m benchmarks.gpu_check --device cpu --quick      # the same on a CPU, small

Each check is a row: PASS, FAIL or SKIP, and its figure. None stops the others, and with --save
benchmarks/results/gpu-NAME.md is written anew after each. Without a GPU it says so and ends with 3;
it ends with 1 where a check failed. The last line is one JSON object.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import unetseg
from benchmarks.networks import NETWORKS
from benchmarks.pictures import lay, pieces
from benchmarks.rounds import RESULTS, machine_lines, markdown, parser, report
from benchmarks.steps import our_learner
from unetseg.bench import Row, bench
from unetseg.config import BenchConfig, MachineConfig, PredictConfig, RuntimeConfig, TrainConfig
from unetseg.data.facts.survey import survey
from unetseg.data.files.folders import find_images
from unetseg.doctor import examine
from unetseg.errors import MachineError
from unetseg.prediction.outputs import plan_job
from unetseg.prediction.predict import Prediction, predict_images
from unetseg.prediction.predictor import Predictor
from unetseg.progress import Silent
from unetseg.resources import MEBIBYTE
from unetseg.runtime import Machine, start, synchronise
from unetseg.storage import read_csv, write_text
from unetseg.text import first_line
from unetseg.timing import median_seconds
from unetseg.training.plan import make_plan
from unetseg.training.tuning import compile_step, step_memory, tried_plan

PEAKS = {"B200": 2250, "GH200": 989, "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312}
PEAKS |= {"L40S": 362, "L4": 121, "A40": 150, "A30": 165, "A10": 125, "RTX 4090": 165}
"""10¹² dense bf16 operations per second by NVIDIA's data sheets; the first name that is part."""
PRECISIONS = ("float32", "bf16", "fp16")
CLOSE = {"float32": 0.01, "bf16": 0.1, "fp16": 0.02}
"""Largest relative error of logits and of the loss against a CPU's float32; a GPU's has TF32."""
EQUAL = 0.99
"""Share of pixels that get the same class."""
FALL = 0.5
"""Share of the CPU's fall of the loss that a precision reaches at least in as many steps."""
STEPS = 10


class FailedError(Exception):
    """A figure is out of its bounds."""


class SkippedError(Exception):
    """A check that cannot be made here; why."""


@dataclass
class Subject:
    """What the checks share.

    Attributes:
        machine: With the arithmetic that "auto" takes there.
        folder: For all that is written.
        quick: Whether sizes are such that a CPU takes seconds.
        rows: What `bench` measured, by network.
    """

    machine: Machine
    folder: Path
    quick: bool
    rows: dict[str, list[Row]] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """As --device names it."""
        return str(self.machine.device)

    @property
    def data(self) -> Path:
        """A folder of pairs, drawn when it is first wanted."""
        pairs, side = self.folder / "pairs", 128 if self.quick else 512
        if not pairs.exists():
            squares = pieces(self.folder / "sample", 4 if self.quick else 48)
            lay(pairs, squares, (side, side), 6 if self.quick else 64, ".png")
        return pairs

    @property
    def images(self) -> list[Path]:
        """Those of the pairs."""
        return [path for path, _ in find_images([self.data / "images"])]

    @property
    def run(self) -> Path:
        """What the first check has trained."""
        run = self.folder / "runs" / "trained"
        if not (run / "model").is_dir():
            raise SkippedError("nothing was trained")
        return run

    def train(self, name: str, progress: Silent | None = None, **flags: Any) -> Path:
        """Train on the device; the run folder."""
        small: dict[str, Any] = {
            "depth": 2,
            "width": 4,
            "patch": 64,
            "epochs": 1,
            "augment": "light",
        }
        usual: dict[str, Any] = small if self.quick else {"budget": "60s"}
        where: dict[str, Any] = {"out": self.folder / "runs", "name": name, "device": self.device}
        progress = progress or Silent()
        return unetseg.train(self.data, progress=progress, **where, **(usual | flags))


Check = Callable[[Subject], str]


def expect(held: bool, figure: str) -> str:
    """The figure, where it is within its bounds.

    Raises:
        FailedError: it is not.
    """
    if not held:
        raise FailedError(figure)
    return figure


# ------------------------------------------------------------------ right


def doctor(subject: Subject) -> str:
    """Whether `unetseg doctor` finds nothing with which training would fail."""
    found = examine(MachineConfig(device=subject.device), subject.folder)
    told = [f"{each.severity}: {each.summary}" for each in found.findings]
    return expect(not found.errors, "; ".join(told) or "nothing is wrong")


def training(subject: Subject) -> str:
    """Whether a training on drawn pairs learns them."""
    began = time.monotonic()
    *_, last = read_csv(subject.train("trained") / "metrics.csv")
    dice, seconds = float(last["val_dice"]), time.monotonic() - began
    figure = f"Dice {dice:.3f} after {last['step']} steps, {seconds:.0f} s in all"
    return expect(dice > (0 if subject.quick else 0.7), figure)


def masks(subject: Subject, engine: str, precision: str) -> str:
    """Whether an engine in an arithmetic gives the masks of a CPU in float32."""
    there = {"device": subject.device, "precision": precision, "engine": engine}
    ours = unetseg.load(subject.run, **there).engine
    theirs = unetseg.load(subject.run, device="cpu", precision="float32", engine="eager").engine
    off, same = [], []
    for path in subject.images[:2]:
        image = _pixels(path)
        logits, expected = ours.logits(image).cpu(), theirs.logits(image)
        off.append(float((logits - expected).norm() / expected.norm()))
        same.append(float(np.mean(ours.classes(image) == theirs.classes(image))))
    figure = f"logits off by {max(off):.2%}, {min(same):.3%} of the pixels the same"
    return expect(max(off) <= CLOSE[precision] and min(same) >= EQUAL, figure)


def precision(subject: Subject, precision: str) -> str:
    """Whether steps in an arithmetic begin and fall as those of a CPU in float32."""
    network, batch, steps = ("tiny", 1, 3) if subject.quick else ("base32", 4, STEPS)
    losses = {}
    for device, arithmetic in ((subject.device, precision), ("cpu", "float32")):
        config = MachineConfig.model_validate({"device": device, "precision": arithmetic})
        learner, crops = our_learner(network, batch, config)
        losses[device, arithmetic] = [float(learner.step(crops, n, 1.0)) for n in range(steps)]
    expected, found = losses["cpu", "float32"], losses[subject.device, precision]
    figure = f"loss {found[0]:.4f} → {found[-1]:.4f} in {steps} steps; "
    figure += f"CPU {expected[0]:.4f} → {expected[-1]:.4f}"
    begins = abs(found[0] - expected[0]) <= CLOSE[precision] * abs(expected[0])
    return expect(begins and found[0] - found[-1] >= FALL * (expected[0] - expected[-1]), figure)


def compiled(subject: Subject) -> str:
    """Whether a training step compiles, loses the same, and is faster."""
    network, batch = ("tiny", 1) if subject.quick else ("classic", 16)
    config = MachineConfig(device=subject.device)
    seconds: dict[str, float] = {}
    losses: dict[str, float] = {}
    for name in ("eager", "compiled"):
        learner, crops = our_learner(network, batch, config)
        began = time.monotonic()
        problem = compile_step(learner, crops) if name == "compiled" else None
        expect(not problem, str(problem))
        took = time.monotonic() - began
        losses[name] = float(learner.step(crops, 0, 1.0))

        def step(learner: Any = learner, crops: Any = crops) -> None:
            learner.step(crops, 1, 1.0)
            synchronise(subject.machine.device)

        step()
        seconds |= median_seconds({name: step}, 1 if subject.quick else 20, 20)
    ratio = seconds["eager"] / seconds["compiled"]
    figure = f"loss {losses['compiled']:.4f}, eager {losses['eager']:.4f}; "
    figure += f"{ratio:.2f} times as fast, compiling took {took:.0f} s"
    return expect(abs(losses["compiled"] / losses["eager"] - 1) <= CLOSE["bf16"], figure)


def distributed(subject: Subject) -> str:
    """Whether torchrun with one process trains what `unetseg train` does."""
    command = [sys.executable, "-m", "unetseg", "train"]
    words = [str(subject.data), "--device", subject.device, "--out", str(subject.folder / "runs")]
    words += ["--depth", "2", "--width", "4", "--patch", "32", "--epochs", "1", "--batch", "2"]
    words += ["--precision", "float32", "--workers", "0"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    dice = {}
    for name, begin in (("alone", command), ("ranks", [*torchrun, "1", *command[1:]])):
        subprocess.run([*begin, *words, "--name", name], capture_output=True, check=True)
        *_, last = read_csv(subject.folder / "runs" / name / "metrics.csv")
        dice[name] = float(last["val_dice"])
    figure = f"Dice {dice['ranks']:.4f}, alone {dice['alone']:.4f}"
    return expect(abs(dice["ranks"] - dice["alone"]) < 0.01, figure)


# ------------------------------------------------------------------ short of memory


@contextmanager
def memory_left(machine: Machine, share: float) -> Iterator[None]:
    """Leave so much of what the work so far took at most beyond what is held now.

    Raises:
        SkippedError: the device is no GPU.
    """
    limit_memory(machine.device, share)
    try:
        yield
    finally:
        lift_limit(machine.device)


def limit_memory(device: torch.device, share: float) -> None:
    """See `memory_left`; holds until it is lifted."""
    if device.type != "cuda":
        raise SkippedError("only a GPU's memory can be made short")
    torch.cuda.empty_cache()
    held, most = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    allowed, in_all = held + share * (most - held), torch.cuda.mem_get_info(device)[1]
    torch.cuda.set_per_process_memory_fraction(allowed / in_all, device.index or 0)


def lift_limit(device: torch.device) -> None:
    """Give all memory back."""
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0, device.index or 0)


def batch_trial(subject: Subject) -> str:
    """Whether the batch is found by trial: with all memory, and with that of five crops."""
    if subject.machine.is_cpu:
        raise SkippedError("a CPU's batch is not tried")
    small = {"depth": 2, "width": 4} if subject.quick else {}
    runtime = {"device": subject.device}
    config = TrainConfig.model_validate({"network": small, "runtime": runtime})
    known = survey(subject.data, config.data)
    plan = make_plan(known, config, subject.machine)
    free = tried_plan(plan, known, config, subject.machine)
    step_memory(5, plan, known, config, subject.machine)
    with memory_left(subject.machine, 1.05):
        short = tried_plan(plan, known, config, subject.machine)
    figure = f"{free.reasons['batch']}; short of memory: {short.batch}"
    return expect(free.batch >= short.batch and 3 <= short.batch <= 8, figure)


def halved_prediction(subject: Subject) -> str:
    """Whether a group that does not fit is halved, to the same masks."""
    engine = unetseg.load(subject.run, device=subject.device, engine="eager").engine
    group = [_pixels(subject.images[0])] * (4 if subject.quick else 16)
    _forget_peak(subject.machine)
    whole = engine.classes_of(group)
    with memory_left(subject.machine, 0.6):
        halves = engine.classes_of(group)
    same = min(float(np.mean(a == b)) for a, b in zip(whole, halves, strict=True))
    figure = f"{len(group)} images in {engine.share} parts, {same:.3%} of the pixels the same"
    return expect(engine.share > 1 and same >= EQUAL, figure)


class Shortage(Silent):
    """Takes memory away from a training after its third step."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.steps, self.said = machine, 0, list[str]()

    def advance(self, task: str, steps: int = 1, **facts: object) -> None:
        """A step is done."""
        if task == "training":
            self.steps += 1
            if self.steps == 3:
                limit_memory(self.machine.device, 0.6)

    def say(self, message: str) -> None:
        """Keep what is said."""
        self.said.append(message)


def halved_training(subject: Subject) -> str:
    """Whether a training whose memory becomes too little goes on in parts."""
    _forget_peak(subject.machine)
    shortage = Shortage(subject.machine)
    flags = {"epochs": 4} if subject.quick else {"budget": "20s"}
    try:
        run = subject.train("short", shortage, **flags, workers=0)
    finally:
        lift_limit(subject.machine.device)
    parts = json.loads((run / "plan.json").read_bytes())["parts"]
    return expect(parts > 1, f"in {parts} parts, {shortage.steps} steps; {shortage.said[-1]}")


def _forget_peak(machine: Machine) -> None:
    if machine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(machine.device)


# ------------------------------------------------------------------ fast


def look_ahead(subject: Subject) -> str:
    """Whether giving a GPU the next group before the last is waited for makes nothing slower."""
    config = PredictConfig(existing="overwrite")
    device = RuntimeConfig(device=subject.device)
    work: dict[str, Callable[[], None]] = {}
    for ahead in (0, 1):
        predictor = Predictor(subject.run, config, device)
        predictor.engine.ahead = ahead
        folder, class_map = subject.folder / f"ahead{ahead}", predictor.info.class_map
        folder.mkdir(exist_ok=True)
        jobs = [plan_job(path, folder / path.stem, class_map) for path in subject.images]
        work[str(ahead)] = partial(predict_images, predictor, jobs, config, Prediction())
        work[str(ahead)]()
    seconds = median_seconds(work, 2 if subject.quick else 9, 30)
    same = all(
        mask.read_bytes() == (subject.folder / "ahead0" / mask.name).read_bytes()
        for mask in (subject.folder / "ahead1").glob("*.png")
    )
    ratio, speed = seconds["0"] / seconds["1"], len(subject.images) / seconds["1"]
    figure = f"{speed:.0f} images/s, {ratio:.2f} times as fast as without; same masks: {same}"
    return expect(same and (subject.quick or ratio >= 0.9), figure)


def speed(subject: Subject, network: str) -> str:
    """Images and crops per second, and what share of the machine's best that is."""
    small = {"seconds": 1.0, "size": 64, "count": 4, "batch": 2}
    usual = {"seconds": 60.0, "size": 512, "engines": ("all",)}
    config = BenchConfig.model_validate((small if subject.quick else usual) | {"train": True})
    runtime = RuntimeConfig(device=subject.device)
    rows = bench(None, config, network=NETWORKS[network], runtime=runtime).rows
    subject.rows[network] = rows
    told = [_best(rows, "network"), _best(rows, "prediction", "folder to folder")]
    told += [_best(rows, "training", "steps alone"), _best(rows, "training", "loading and steps")]
    return "; ".join(_speed(row, peak_of(subject.machine.name)) for row in told)


def _best(rows: Sequence[Row], stage: str, what: str = "") -> Row:
    those = [row for row in rows if row.stage.startswith(stage) and what in row.what]
    return max(those, key=lambda row: row.per_second or 0)


def _speed(row: Row, peak: float | None) -> str:
    shares = f", {row.share:.0%} of a product" if row.share else ""
    if peak and row.gflops:
        shares += f", {row.gflops / 1000 / peak:.1%} of the bf16 peak"
    return f"{row.stage.split(',')[0]}, {row.what}: {row.per_second or 0:,.1f}/s{shares}"


def scripts(subject: Subject, name: str, *words: str) -> str:
    """How many times as fast as the plain script, by another benchmark, in a process of its own."""
    if subject.quick:
        raise SkippedError("minutes, even if small")
    command = [sys.executable, "-m", f"benchmarks.{name}", "--device", subject.device, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FailedError(done.stderr.strip().splitlines()[-1])
    found = json.loads(done.stdout.splitlines()[-1])
    ratios = {kind: found[f"ratio_{kind}"] for kind in ("plain", "flags")}
    return expect(ratios["plain"] > 1, ", ".join(f"{kind} {r:.2f}×" for kind, r in ratios.items()))


def peak_of(name: str) -> float | None:
    """Its bf16 peak, 10¹² operations per second; None: not known.

    >>> peak_of("NVIDIA H200"), peak_of("NVIDIA H100 PCIe"), peak_of("CPU (2 threads)")
    (989, 756, None)
    """
    return next((peak for key, peak in PEAKS.items() if re.search(rf"\b{key}\b", name)), None)


def _pixels(path: Path) -> Any:
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))


# ------------------------------------------------------------------ all of them


def checks(*, quick: bool) -> dict[str, Check]:
    """Name → check, in their order."""
    found: dict[str, Check] = {"doctor": doctor, "a training learns": training}
    for engine in ("eager", "fused"):
        for arithmetic in PRECISIONS:
            found[f"masks, {engine} {arithmetic}"] = partial(
                masks, engine=engine, precision=arithmetic
            )
    found["masks, compile bf16"] = partial(masks, engine="compile", precision="bf16")
    for arithmetic in PRECISIONS:
        found[f"steps in {arithmetic}"] = partial(precision, precision=arithmetic)
    found |= {
        "a compiled step": compiled,
        "batch trial": batch_trial,
        "out of memory, prediction": halved_prediction,
        "out of memory, training": halved_training,
        "look-ahead": look_ahead,
        "torchrun, one process": distributed,
    }
    for network in ("tiny",) if quick else ("classic", "resnet34"):
        found[f"speed, {network}"] = partial(speed, network=network)
    forward, steps = ("--seconds", "30"), ("--network", "classic", "--seconds", "60")
    found["against plain scripts, network"] = lambda one: scripts(one, "forward_pass", *forward)
    found["against plain scripts, training"] = lambda one: scripts(one, "train_steps", *steps)
    return found


def outcome(check: Check, subject: Subject) -> tuple[str, str]:
    """PASS, FAIL or SKIP, and the figure or the reason; whatever goes wrong is a FAIL."""
    try:
        return "PASS", check(subject)
    except SkippedError as why:
        return "SKIP", str(why)
    except FailedError as why:
        return "FAIL", str(why)
    except MachineError as error:
        return ("SKIP" if subject.machine.is_cpu else "FAIL"), error.summary
    except Exception as error:  # noqa: BLE001 (the others go on)
        traceback.print_exc()
        return "FAIL", f"{type(error).__name__}: {first_line(error)}"


def table(results: dict[str, tuple[str, str, float]], subject: Subject) -> list[str]:
    """All that is known so far, as lines of Markdown."""
    memory = f"{subject.machine.free_memory() // MEBIBYTE} MiB free"
    lines = [f"{subject.machine}, {memory}, CUDA {torch.version.cuda}", ""]
    cells = [[name, *row[:2], f"{row[2]:.0f}"] for name, row in results.items()]
    lines += markdown(["check", "result", "figure", "s"], cells)
    peak = peak_of(subject.machine.name)
    for network, rows in subject.rows.items():
        head = [network, "", "per second", "GFLOP/s", "of a product", "of the bf16 peak", ""]
        lines += markdown(head, [_cells(row, peak) for row in rows])
    return lines


def _cells(row: Row, peak: float | None) -> list[str]:
    return [
        row.stage,
        row.what,
        f"{row.per_second:,.1f}" if row.per_second else "",
        f"{row.gflops:,.0f}" if row.gflops else "",
        f"{row.share:.0%}" if row.share else "",
        f"{row.gflops / 1000 / peak:.1%}" if row.gflops and peak else "",
        row.word,
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Make all checks; the exit code."""
    flags = parser("gpu_check", __doc__)
    flags.add_argument("--device", default="cuda")
    flags.add_argument("--name", help="of the results (default: the GPU's)")
    flags.add_argument("--quick", action="store_true", help="small, for a dry run on a CPU")
    flags.add_argument("--only", default="", help="checks whose names match this, in Python's re")
    flags.add_argument("--seconds", type=float, default=540, help="no check begins after these")
    given = flags.parse_args(arguments)
    try:
        machine = start(MachineConfig(device=given.device))
    except MachineError as error:
        sys.stderr.write(f"{error}\nThese checks need a GPU; --device cpu --quick is a dry run.\n")
        return error.exit_code
    name = given.name or re.sub(r"\W+", "-", machine.name.removeprefix("NVIDIA ")).strip("-")
    results: dict[str, tuple[str, str, float]] = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        subject = Subject(machine, Path(folder), given.quick)
        for title, check in checks(quick=given.quick).items():
            if not re.search(given.only, title):
                continue
            start_of = time.monotonic()
            if start_of - began > given.seconds:
                result = "SKIP", "no time is left"
            else:
                result = outcome(check, subject)
            results[title] = (*result, time.monotonic() - start_of)
            sys.stderr.write(f"{result[0]}  {title}: {result[1]}\n")
            if given.save:
                lines = [f"# {machine.name}", "", *machine_lines(), "", *table(results, subject)]
                write_text(RESULTS / f"gpu-{name}.md", "\n".join([*lines, ""]))
        failed = [title for title, row in results.items() if row[0] == "FAIL"]
        found = {title: row[:2] for title, row in results.items()}
        report(f"gpu-{name}", machine.name, table(results, subject), found, write=given.save)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
