"""How fast this machine is with a U-Net: its ceiling, the engines, a file's way, a training."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, cycle, islice
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from unetseg.bundle import build_segmenter, load_bundle, save_bundle
from unetseg.config import (
    BenchConfig,
    DataConfig,
    NetworkConfig,
    PairsConfig,
    PredictConfig,
    RuntimeConfig,
    TrainConfig,
    TrainingConfig,
)
from unetseg.data.crops.crop import crop
from unetseg.data.crops.dataset import Sample
from unetseg.data.crops.loading import crop_batches
from unetseg.data.facts.image_values import image_facts
from unetseg.data.facts.survey import survey
from unetseg.data.files.folders import find_images
from unetseg.data.files.image import ImageFile
from unetseg.data.files.nodata import read_matched
from unetseg.data.files.pngs import write_png
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.pairs.dataset_yaml import find_described
from unetseg.data.sample import draw_cells
from unetseg.errors import ConfigError, ImageError, MachineError, PairingError, UnetsegError
from unetseg.prediction.engine import Engine, fitting_batch
from unetseg.prediction.outputs import Writer, plan_job
from unetseg.prediction.pipeline import alike
from unetseg.prediction.predict import Prediction, predict_images
from unetseg.prediction.predictor import Predictor
from unetseg.progress import SILENT, Progress
from unetseg.resources import processor
from unetseg.runtime import dtype_name, explained_memory, start, synchronise, versions
from unetseg.skiplab.cost import Cost, network_cost
from unetseg.timing import in_turns, median_seconds, seconds_of
from unetseg.training.fit import Trainer
from unetseg.training.plan import FORWARD_SHARE, bundle_info, make_plan
from unetseg.training.run import TrainingRun
from unetseg.training.tuning import compile_step, tried_plan
from unetseg.training.workers import TIMED, WARM_UP, training_batches

ENGINES = {"auto": ("eager", "fused"), "all": ("eager", "fused", "compile", "openvino")}
"""Those that are ready at once, and all."""
TRAINING, PREDICTION = 0.5, 0.4
"""Shares of the time: training's of all, and prediction's of what training leaves."""
MOST_ROUNDS = 50
"""Rounds after which nothing more is learned."""
NOTABLE = 1.1
"""Ratio from which loading is said to hold up the training steps."""
DRAWN_SIDE, SMALLEST_SIDE, LARGEST_SIDE = 512, 32, 1024
"""Side of drawn images, and limits for squares as large as the user's images, pixels."""
PICTURE = 256
"""Side of the picture that drawn images repeat, pixels: to draw more takes its time."""
FEWEST = 4
"""Images that are predicted from folder to folder, however long that takes."""
PRODUCT, BOUNDS = "product of matrices", "bounds"
"""The stage that is a network's ceiling, and the word for the work that bounds its stage."""
SMALLEST_PRODUCT, LARGEST_PRODUCT = 512, {"cpu": 4096, "cuda": 8192, "mps": 4096}
"""Sides of the square matrices that are multiplied."""
LONGEST_PRODUCT = 0.6
"""Seconds that one product takes at most, about."""


@dataclass(frozen=True)
class Row:
    """How fast one kind of work goes; no figures where it does not run here."""

    stage: str
    """What it is part of: the rows of one stage stand together."""
    what: str
    per_second: float | None = None
    """Images, crops of a training, or products of matrices."""
    gflops: float | None = None
    """10⁹ operations per second; multiplication and addition count as two."""
    share: float | None = None
    """Of the GFLOP/s that a product of matrices reaches, measured in the same turns."""
    word: str = ""
    """When an engine is ready, or why it is not; "bounds" for the work that bounds its stage."""


@dataclass(frozen=True)
class Benchmark:
    """All figures; their names are those of the JSON."""

    machine: dict[str, str]
    model: dict[str, Any]
    rows: list[Row]
    format: int = 3


@dataclass(frozen=True)
class Subject:
    """What is measured: a network on its machine, images for it, and a training of its like."""

    bundle: Path
    predictor: Predictor
    images: list[Path]
    side: int
    """Of the squares that the engines are compared on, pixels."""
    cost: Cost
    """Of the network for such a square."""
    training: TrainingRun
    """Of such a network, begun by nobody."""


def bench(
    run: Path | None = None,
    config: BenchConfig | None = None,
    *,
    network: NetworkConfig | None = None,
    runtime: RuntimeConfig | None = None,
    progress: Progress = SILENT,
) -> Benchmark:
    """Measure how fast this machine predicts, and if wanted trains, and what bounds it.

    The network is that of `run`; without one, `network` as training would choose it here.

    Raises:
        ConfigError: settings contradict each other.
        BundleError: `run` holds no model.
        DataError: the images cannot be used.
        MachineError: no engine runs here.
    """
    config, runtime = config or BenchConfig(), runtime or RuntimeConfig()
    network = network or NetworkConfig()
    if run is not None and network.model_fields_set:
        given = sorted(f"--{name.replace('_', '-')}" for name in network.model_fields_set)
        raise ConfigError(f"{run} brings its own network; these are for none", given)
    seconds = config.seconds * (1 - TRAINING if config.train else 1)
    asked = [*config.engines, *([runtime.engine] if runtime.engine != "auto" else [])]
    engines = dict.fromkeys(name for group in asked for name in ENGINES.get(group, (group,)))
    with TemporaryDirectory(prefix="unetseg-bench-") as folder:
        subject = open_subject(run, config, network, runtime, Path(folder))
        most = seconds * (1 - PREDICTION)
        rows = measure_engines(subject, list(engines), config.batch, most, progress)
        rows += measure_prediction(subject, Path(folder), seconds * PREDICTION, progress)
        if config.train:
            rows += measure_training(subject.training, TRAINING * config.seconds, progress)
        return Benchmark(*described(subject), rows)


def described(subject: Subject) -> tuple[dict[str, str], dict[str, Any]]:
    """The machine and the network in words and numbers."""
    machine, info, cost = subject.predictor.machine, subject.predictor.info, subject.cost
    network = info.network
    return {
        "name": machine.name,
        "processor": processor()[0],
        "dtype": dtype_name(machine.dtype),
        "remark": subject.predictor.remark,
        **versions(),
    }, {
        "name": network.encoder or f"U-Net, depth {network.depth}, width {network.width}",
        "parameters": cost.parameters,
        "bands": info.bands,
        "classes": len(info.class_map.classes),
        "size": subject.side,
        "gflop": cost.gflop,
    }


def row(
    stage: str, what: str, seconds: float, gflop: float = 0, best: float = 0, word: str = ""
) -> Row:
    """The figures of work of so many operations that takes `seconds`.

    >>> row("network", "fused", 0.5, gflop=100, best=800).share
    0.25
    """
    gflops = gflop / seconds
    return Row(stage, what, 1 / seconds, gflops or None, gflops / best if best else None, word)


# ------------------------------------------------------------------ network and images


def open_subject(
    run: Path | None,
    config: BenchConfig,
    network: NetworkConfig,
    runtime: RuntimeConfig,
    folder: Path,
) -> Subject:
    """Load the network of `run`, or make the one that training would; find or draw images.

    What is drawn goes to `folder`, which is empty.
    """
    where = DataConfig(**config.model_dump(include={*PairsConfig.model_fields}))
    images = find_material(config.data, config.count, where) if config.data else []
    bands, dtype, side = 3, "uint8", config.size or DRAWN_SIDE
    if images:
        facts = image_facts(images[0])
        bands, dtype = facts.bands, facts.dtype
        side = config.size or max(SMALLEST_SIDE, min(*facts.shape, LARGEST_SIDE))
    if run is not None:
        info = load_bundle(run)[1]
        bands, dtype, network = info.bands, info.dtype, info.network
    pairs = config.data if config.train else None
    if pairs is None:
        pairs = draw_pairs(folder / "pairs", config.count, side, bands, dtype)
        where = DataConfig()
    settings = TrainConfig(
        data=where,
        network=network.model_copy(update={"weights": "none"}),
        training=TrainingConfig(batch=config.batch or "auto"),
        runtime=runtime,
    )
    machine, known = start(runtime), survey(pairs, where)
    plan = make_plan(known, settings, machine)
    if config.train:
        plan = tried_plan(plan, known, settings, machine)
    training = TrainingRun(folder, pairs, settings, machine, known, plan, data_hash="")
    if run is None:
        run, info = folder / "model", bundle_info(plan, known, data_hash="")
        torch.manual_seed(runtime.seed)
        save_bundle(run, build_segmenter(info).state_dict(), info)
    images = images or sorted((pairs / "images").iterdir())
    return Subject(
        run, Predictor(run, device=runtime), images, side, network_cost(info, side), training
    )


def find_material(data: Path, number: int, where: PairsConfig) -> list[Path]:
    """Images of a folder, of its pairs where it has pairs: `number` of them from all over the list.

    Those bigger than memory are left out: one of them would take all the time.

    Raises:
        ImageError: there are none.
    """
    try:
        paths = [pair.image for pair in find_described(data, where)[0].pairs]
    except PairingError:
        paths = [path for path, _ in find_images([data])]
    ordinary = []
    for path in paths:
        with ImageFile(path) as image:
            ordinary += [] if image.is_large else [path]
    if not ordinary:
        raise ImageError("every image is bigger than memory", paths, "Give some ordinary images.")
    number = min(number, len(ordinary))
    return [ordinary[at * len(ordinary) // number] for at in range(number)]


def draw_pairs(folder: Path, number: int, side: int, bands: int, dtype: str) -> Path:
    """Draw pairs into `folder`, which is returned: cells, each time moved a little on."""
    picture, mask = draw_cells(PICTURE, seed=0, index=0)
    layers = np.dstack([picture[..., np.arange(bands) % 3], mask])
    margin = max(0, side - PICTURE)
    for at in range(number):
        moved = np.roll(layers, at, axis=(0, 1))
        drawn = np.pad(moved, ((0, margin), (0, margin), (0, 0)), "symmetric")[:side, :side]
        write_png(folder / "masks" / f"{at:04d}.png", np.ascontiguousarray(drawn[..., -1]))
        image = np.ascontiguousarray(drawn[..., :-1])
        if dtype == "uint8" and bands in {1, 3}:
            write_png(folder / "images" / f"{at:04d}.png", image)
        else:
            brighter = 1 if dtype == "uint8" else 100
            write_tiff(folder / "images" / f"{at:04d}.tif", image.astype(dtype) * brighter)
    return folder


# ------------------------------------------------------------------ ceilings and engines


def fitting_product(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], None], float]:
    """The largest product of two square matrices that takes a moment, and its GFLOP.

    It is what a convolution can be at best. It was computed once already.
    """
    side = SMALLEST_PRODUCT
    while True:
        multiply = partial(_multiply, *torch.randn(3, side, side).to(device, dtype))
        multiply()  # the first time is slower
        if side >= LARGEST_PRODUCT[device.type] or 8 * seconds_of(multiply) > LONGEST_PRODUCT:
            return multiply, 2 * side**3 / 1e9
        side *= 2  # takes 8 times as long


def _multiply(left: torch.Tensor, right: torch.Tensor, product: torch.Tensor) -> None:
    torch.mm(left, right, out=product)
    synchronise(left.device)


def ready_engines(
    subject: Subject, names: Sequence[str], number: int
) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """Engines with their own copies of the network, each of which has predicted once.

    They predict `number` squares from the middles of the images. Where the machine has a fast
    arithmetic, the plain engine runs in float32 too.

    Returns:
        Engine and arithmetic → what predicts again; and → when it was ready, or why it is not.

    Raises:
        MachineError: no engine runs here.
    """
    machine, side, bands = subject.predictor.machine, subject.side, subject.predictor.info.bands
    squares = []
    for path in islice(cycle(subject.images), number):
        with ImageFile(path) as file:
            image = read_matched(file, bands)[..., :bands]
        squares.append(crop(image, (len(image) // 2, image.shape[1] // 2), side))
    engines = [(name, machine) for name in names]
    if machine.dtype != torch.float32:
        engines.insert(0, ("eager", replace(machine, dtype=torch.float32)))
    work: dict[str, Callable[[], object]] = {}
    words = {}
    for name, where in engines:
        what, began = f"{name} {dtype_name(where.dtype)}", time.perf_counter()
        try:
            segmenter, _ = load_bundle(subject.bundle)
            engine = Engine(segmenter, where, tile=side, overlap=0.0, engine=name)
            predict = partial(engine.classes_of, squares)
            predict()
        except UnetsegError as error:
            words[what] = error.summary
        else:
            work[what], words[what] = predict, f"ready in {time.perf_counter() - began:.1f} s"
    if not work:
        raise MachineError("no engine runs here", [f"{what}: {why}" for what, why in words.items()])
    return work, words


def measure_engines(
    subject: Subject,
    names: Sequence[str],
    batch: int | None,
    seconds: float,
    progress: Progress = SILENT,
) -> list[Row]:
    """Measure in turns products of matrices, the ceiling, and engines from pixels to classes.

    Raises:
        MachineError: no engine runs here.
    """
    machine = subject.predictor.machine
    number = batch or fitting_batch(machine, subject.side, subject.side)
    work, words = ready_engines(subject, names, number)
    dtypes = {dtype_name(dtype): dtype for dtype in (torch.float32, machine.dtype)}
    products = {name: fitting_product(machine.device, dtype) for name, dtype in dtypes.items()}
    work |= {name: multiply for name, (multiply, _) in products.items()}
    taken = median_seconds(work, MOST_ROUNDS, seconds, progress)
    rows = [row(PRODUCT, name, taken[name], gflop) for name, (_, gflop) in products.items()]
    best, stage = {each.what: each.gflops or 0 for each in rows}, f"network, batch of {number}"
    for what, word in words.items():
        if what in taken:
            each, ceiling = taken[what] / number, best[what.split()[1]]
            rows.append(row(stage, what, each, subject.cost.gflop, ceiling, word))
        else:
            rows.append(Row(stage, what, word=word))
    return rows


# ------------------------------------------------------------------ a file's way, and a training


def measure_prediction(
    subject: Subject, folder: Path, seconds: float, progress: Progress = SILENT
) -> list[Row]:
    """Predict images stage by stage, and with all of them overlapped as predicting does, in turns.

    As many of the images are taken as the time allows.

    Raises:
        ImageError: an image does not fit the model.
    """
    predictor, engine = subject.predictor, subject.predictor.engine
    class_map, result = predictor.info.class_map, Prediction()
    jobs = [plan_job(path, folder / f"mask{n}", class_map) for n, path in enumerate(subject.images)]

    def predict() -> None:
        predict_images(predictor, jobs, PredictConfig(), result)

    every, jobs = jobs, jobs[:FEWEST]
    predict()  # the first time is slower
    jobs = every[: max(FEWEST, int(seconds * FEWEST / 4 / seconds_of(predict)))]
    if result.failures:
        raise ImageError("some images cannot be predicted", list(result.failures.values()))
    groups = [
        [np.asarray(each.image) for each in group]
        for group in alike(map(predictor.open, jobs), engine.images_at_once)
    ]
    indexes = [index for group in groups for index in engine.classes_of(group)]

    def write() -> None:
        for job, index in zip(jobs, indexes, strict=True):
            Writer(job, *index.shape).write_mask(job.mask, iter([index]), class_map)

    work = {
        "read alone": lambda: [predictor.open(job) for job in jobs],
        "network alone": lambda: [engine.classes_of(group) for group in groups],
        "write alone": write,
        "folder to folder": predict,
    }
    taken = median_seconds(work, MOST_ROUNDS, seconds, progress)
    longest = max(taken, key=lambda what: taken[what] if what.endswith("alone") else 0)
    stage = f"prediction, {len(jobs)} images, {engine.choice.name}"
    return [
        row(stage, what, spent / len(jobs), word=BOUNDS if what == longest else "")
        for what, spent in taken.items()
    ]


@explained_memory("Choose a smaller --batch, or a smaller --width.")
def measure_training(run: TrainingRun, seconds: float, progress: Progress = SILENT) -> list[Row]:
    """Measure the training that `run` would be: loading and steps alone in turns, then together.

    Raises:
        OutOfMemoryError: a step does not fit in memory.
    """
    batch = run.plan.batch
    workers = None if run.config.runtime.workers == "auto" else run.config.runtime.workers
    with closing(Trainer(run, time.monotonic(), SILENT)) as trainer:
        trainer.segmenter.train()
        loading, numbers = crop_batches(trainer.crops, trainer.order), count()
        crops = next(loading)

        def step(crops: Sample) -> None:
            trainer.learner.step(crops, next(numbers), 1.0)
            synchronise(run.machine.device)

        if run.config.runtime.compile == "yes":
            compile_step(trainer.learner, crops)
        for _ in range(WARM_UP):  # these choose algorithms and take memory
            step(crops)
        multiply, product = fitting_product(run.machine.device, run.machine.dtype)
        work = {"loading": lambda: next(loading), "steps": lambda: step(crops), PRODUCT: multiply}
        taken = median_seconds(work, MOST_ROUNDS, seconds / 2, progress)
        batches = training_batches(trainer.crops, trainer.order, run.machine, workers)
        with closing(batches):
            steps = map(step, batches)
            for _ in islice(steps, WARM_UP + TIMED):  # with these it chooses who loads
                pass
            both = {"together": lambda: seconds_of(partial(next, steps))}
            taken["together"] = fmean(in_turns(both, MOST_ROUNDS, seconds / 2)["together"])
    stage = f"training, {batch} × {run.plan.patch}×{run.plan.patch}"
    gflop = network_cost(trainer.info, run.plan.patch).gflop / FORWARD_SHARE
    words = (BOUNDS, "") if taken["together"] > NOTABLE * taken["steps"] else ("", BOUNDS)
    return [
        row(stage, "loading alone", taken["loading"] / batch, word=words[0]),
        row(
            stage, "steps alone", taken["steps"] / batch, gflop, product / taken[PRODUCT], words[1]
        ),
        row(stage, "loading and steps", taken["together"] / batch, gflop),
    ]
