"""How fast this machine is with a U-Net: its ceiling, the engines, a file's way, a training."""

import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unetseg.bundle import BundleInfo, build_segmenter, load_bundle, save_bundle
from unetseg.config import (
    BenchConfig,
    NetworkConfig,
    PairsConfig,
    PredictConfig,
    RuntimeConfig,
    TrainConfig,
    TrainingConfig,
)
from unetseg.data.crops.crop import crop
from unetseg.data.crops.dataset import Sample, crop_loader
from unetseg.data.facts.image_values import image_facts
from unetseg.data.facts.survey import survey
from unetseg.data.files.folders import find_images
from unetseg.data.files.image import ImageFile, match_bands, read_image
from unetseg.data.files.pngs import write_png
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.pairs.dataset_yaml import find_described
from unetseg.data.sample import draw_cells
from unetseg.errors import ConfigError, ImageError, MachineError, PairingError, UnetsegError
from unetseg.prediction.engine import Engine, fitting_batch, machine_for
from unetseg.prediction.outputs import Job, Writer, plan_job
from unetseg.prediction.pipeline import Opened, alike
from unetseg.prediction.predict import Prediction, Predictor, predict_images
from unetseg.progress import SILENT, Progress
from unetseg.runtime import (
    MEBIBYTE,
    Machine,
    choose_dtype,
    dtype_name,
    explained_memory,
    start,
    synchronise,
    usable_cores,
    versions,
)
from unetseg.skiplab.cost import Cost, network_cost
from unetseg.timing import in_turns, seconds_of
from unetseg.training.fit import Trainer
from unetseg.training.plan import FORWARD_SHARE, bundle_info, make_plan
from unetseg.training.run import TrainingRun
from unetseg.training.tuning import TIMED, WARM_UP, compile_step, training_batches, tried_plan
from unetseg.unet.segmenter import Segmenter

QUICK = ("eager", "fused")
"""Engines that are ready at once."""
ENGINES = (*QUICK, "compile", "openvino")
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
SMALLEST_PRODUCT, LARGEST_PRODUCT = 512, {"cpu": 4096, "cuda": 8192, "mps": 4096}
"""Sides of the square matrices that are multiplied."""
LONGEST_PRODUCT = 0.6
"""Seconds that one product takes at most, about."""
COPIED, COPIES = 256 * MEBIBYTE, 7
"""Bytes that are copied, more than any cache holds; and how often."""


@dataclass(frozen=True)
class Speed:
    """How fast one kind of work goes."""

    name: str
    milliseconds: float
    """For one image, or one crop of a training."""
    images_per_second: float
    megapixels_per_second: float
    gflops: float = 0.0
    """10⁹ operations of convolutions per second; multiplication and addition count as two."""
    share: float | None = None
    """Of the GFLOP/s that a product of matrices reaches, measured in the same turns."""
    ready_seconds: float | None = None
    """Until the first result, with all that is prepared for it."""


@dataclass(frozen=True)
class Part:
    """Work side by side."""

    title: str
    rows: tuple[Speed, ...]
    bounds: str = ""
    """The row that bounds the others: what takes longest alone."""


@dataclass(frozen=True)
class Benchmark:
    """All figures; their names are those of the JSON."""

    machine: dict[str, Any]
    model: dict[str, Any]
    engines: Part
    refused: dict[str, str]
    """Engine → why it does not run here."""
    prediction: Part
    training: Part | None
    format: int = 2


@dataclass(frozen=True)
class Subject:
    """What is measured: a network on its machine, images for it, and a training of its like."""

    segmenter: Segmenter
    info: BundleInfo
    bundle: Path
    machine: Machine
    remark: str
    """What the bundle says against fast arithmetic, if it does."""
    images: list[Path]
    side: int
    """Of the squares that the engines are compared on, pixels."""
    cost: Cost
    """Of the network for such a square."""
    training: TrainingRun
    """Of such a network, begun by nobody."""

    def squares(self, number: int) -> list[NDArray[Any]]:
        """So many squares from the middles of the images, side×side×C raw pixel values."""
        paths = [self.images[at % len(self.images)] for at in range(number)]
        images = [match_bands(read_image(path), self.info.bands, path) for path in paths]
        return [crop(each, (len(each) // 2, each.shape[1] // 2), self.side) for each in images]


def bench(
    run: Path | None = None,
    config: BenchConfig | None = None,
    *,
    network: NetworkConfig | None = None,
    runtime: RuntimeConfig | None = None,
    progress: Progress = SILENT,
) -> Benchmark:
    """Measure how fast this machine predicts, and if wanted trains, and what bounds it.

    Args:
        run: A trained U-Net; without one, the network that training would choose here.
        config: What is measured.
        network: The U-Net where there is no run.
        runtime: Device, arithmetic, engine; and how training loads.
        progress: Hears what is done.

    Raises:
        ConfigError: settings contradict each other.
        BundleError: `run` holds no model.
        DataError: the images cannot be used.
        MachineError: no engine runs here.
    """
    config, runtime = config or BenchConfig(), runtime or RuntimeConfig()
    network = network or NetworkConfig()
    if run is not None and network.model_fields_set:
        given = sorted(f"--{name}" for name in network.model_fields_set)
        raise ConfigError(f"{run} brings its own network; these are for none", given)
    seconds = config.seconds * (1 - TRAINING if config.train else 1)
    training = None
    with TemporaryDirectory(prefix="unetseg-bench-") as folder:
        subject = open_subject(run, config, network, runtime, Path(folder))
        names = engine_names(config.engines, runtime.engine)
        engines, ceilings, refused = compare_engines(
            subject, names, config.batch, seconds * (1 - PREDICTION), progress
        )
        predictor = Predictor(subject.bundle, device=runtime)
        prediction = measure_prediction(
            predictor, subject, Path(folder) / "masks", seconds * PREDICTION, progress
        )
        if config.train:
            training = measure_training(subject.training, TRAINING * config.seconds, progress)
        machine, model = describe_machine(subject, ceilings), describe_model(subject)
        return Benchmark(machine, model, engines, refused, prediction, training)


def engine_names(asked: Sequence[str], engine: str = "auto") -> list[str]:
    """The engines that are compared, each once: what was asked for, and the one that is set.

    >>> engine_names(["auto"], "compile")
    ['eager', 'fused', 'compile']
    """
    groups = {"auto": QUICK, "all": ENGINES}
    names = [name for group in asked for name in groups.get(group, (group,))]
    return list(dict.fromkeys(names if engine == "auto" else [*names, engine]))


def speed(name: str, seconds: float, pixels: float, gflop: float = 0.0) -> Speed:
    """The figures of work that takes `seconds` for an image of so many pixels and operations.

    >>> speed("fused", 0.5, pixels=2e6, gflop=100).gflops
    200.0
    """
    return Speed(name, 1000 * seconds, 1 / seconds, pixels / seconds / 1e6, gflop / seconds)


def medians(
    work: Mapping[str, Callable[[], object]], seconds: float, progress: Progress = SILENT
) -> dict[str, float]:
    """Median seconds of a call of each, measured in turns."""
    turns = {name: partial(seconds_of, one) for name, one in work.items()}
    rounds = in_turns(turns, MOST_ROUNDS, seconds, progress)
    return {name: median(taken) for name, taken in rounds.items()}


# ------------------------------------------------------------------ network and images


def open_subject(
    run: Path | None,
    config: BenchConfig,
    network: NetworkConfig,
    runtime: RuntimeConfig,
    folder: Path,
) -> Subject:
    """Load the network of `run`, or make the one that training would; find or draw images.

    Args:
        run: A trained U-Net, if there is one.
        config: What is measured.
        network: The U-Net where there is no run.
        runtime: Device and arithmetic.
        folder: An empty folder for what is drawn.
    """
    trained = load_bundle(run) if run else None
    images = find_material(config.data, config.count) if config.data else []
    bands, dtype, side = 3, "uint8", config.size or DRAWN_SIDE
    if images:
        facts = image_facts(images[0])
        bands, dtype = facts.bands, facts.dtype
        side = config.size or max(SMALLEST_SIDE, min(*facts.shape, LARGEST_SIDE))
    if trained:
        bands, dtype, network = trained[1].bands, trained[1].dtype, trained[1].network
    pairs = config.data if config.train else None
    pairs = pairs or draw_pairs(folder / "pairs", config.count, side, bands, dtype)
    training = plan_training(pairs, network, config, runtime, folder)
    info = trained[1] if trained else bundle_info(training.plan, training.known, data_hash="")
    torch.manual_seed(runtime.seed)
    segmenter = trained[0] if trained else build_segmenter(info).eval()
    if run is None:
        run = folder / "model"
        save_bundle(run, segmenter.state_dict(), info)
    machine, remark = machine_for(info, training.machine, runtime.precision)
    images = images or sorted((pairs / "images").iterdir())
    cost = network_cost(info, side)
    return Subject(segmenter, info, run, machine, remark, images, side, cost, training)


def plan_training(
    pairs: Path, network: NetworkConfig, config: BenchConfig, runtime: RuntimeConfig, folder: Path
) -> TrainingRun:
    """The training of a network on these pairs, begun by nobody; `folder` is its own."""
    network = network.model_copy(update={"weights": "none"})
    training = TrainingConfig(batch=config.batch or "auto")
    settings = TrainConfig(network=network, training=training, runtime=runtime)
    machine, known = start(runtime), survey(pairs)
    plan = make_plan(known, settings, machine)
    if config.train:
        plan = tried_plan(plan, known, settings, machine)
    return TrainingRun(folder, pairs, settings, machine, known, plan, data_hash="")


def find_material(data: Path, number: int) -> list[Path]:
    """Images of a folder, of its pairs where it has pairs: `number` of them from all over the list.

    Those bigger than memory are left out: one of them would take all the time.

    Raises:
        ImageError: there are none.
    """
    try:
        paths = [pair.image for pair in find_described(data, PairsConfig())[0].pairs]
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
    """Draw pairs into `folder`, which is returned: cells in all mirror images, again and again."""
    picture, mask = draw_cells(PICTURE, seed=0, index=0)
    layers = np.dstack([picture[..., np.arange(bands) % 3], mask])
    margin = max(0, side - PICTURE)
    for at in range(number):
        turned = np.rot90(layers, at % 4)[:: 1 if at % 8 < 4 else -1]
        drawn = np.pad(turned, ((0, margin), (0, margin), (0, 0)), "symmetric")[:side, :side]
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
        left, right, product = torch.randn(3, side, side).to(device, dtype)
        multiply = partial(_multiply, left, right, product)
        multiply()  # the first time is slower
        if side >= LARGEST_PRODUCT[device.type] or 8 * seconds_of(multiply) > LONGEST_PRODUCT:
            return multiply, 2 * side**3 / 1e9
        side *= 2  # takes 8 times as long


def _multiply(left: torch.Tensor, right: torch.Tensor, product: torch.Tensor) -> None:
    torch.mm(left, right, out=product)
    synchronise(left.device)


def copy_bandwidth(device: torch.device) -> float:
    """Gigabytes per second that a copy in the device's memory reads and writes together."""
    source = torch.ones(COPIED, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)

    def copy() -> None:
        target.copy_(source)
        synchronise(device)

    return 2 * COPIED / 1e9 / median(seconds_of(copy) for _ in range(COPIES))


def compare_engines(
    subject: Subject,
    names: Sequence[str],
    batch: int | None,
    seconds: float,
    progress: Progress = SILENT,
) -> tuple[Part, dict[str, float], dict[str, str]]:
    """Measure engines on the same images, from raw pixels to class indexes.

    Where the machine has a fast arithmetic, the plain engine runs in float32 too.

    Returns:
        The engines; GFLOP/s of products of matrices by arithmetic; engines that do not run here,
        with the reason.

    Raises:
        MachineError: no engine runs here.
    """
    machine = subject.machine
    batch = batch or fitting_batch(machine, subject.side, subject.side)
    images = subject.squares(batch)
    wanted = [(name, machine) for name in names]
    if machine.dtype != torch.float32:
        wanted.insert(0, ("eager", replace(machine, dtype=torch.float32)))
    work: dict[str, Callable[[], object]] = {}
    ready, refused = {}, {}
    for name, where in wanted:
        try:
            ready_seconds, run = _prepare(subject, where, name, images)
        except UnetsegError as error:
            refused[name] = error.summary
        else:
            ready[f"{name} {dtype_name(where.dtype)}"] = ready_seconds
            work[f"{name} {dtype_name(where.dtype)}"] = run
    if not work:
        raise MachineError("no engine runs here", [f"{n}: {why}" for n, why in refused.items()])
    gflop = {}
    for dtype in dict.fromkeys(
        [torch.float32, machine.dtype, choose_dtype("auto", machine.device)]
    ):
        work[dtype_name(dtype)], gflop[dtype_name(dtype)] = fitting_product(machine.device, dtype)
    taken = medians(work, seconds, progress)
    ceilings = {dtype: product / taken[dtype] for dtype, product in gflop.items()}
    rows = []
    for name, ready_seconds in ready.items():
        row = speed(name, taken[name] / batch, subject.side**2, subject.cost.gflop)
        share = row.gflops / ceilings[name.split()[1]]
        rows.append(replace(row, share=share, ready_seconds=ready_seconds))
    return Part(f"network, batch of {batch}", tuple(rows)), ceilings, refused


def _prepare(
    subject: Subject, machine: Machine, name: str, images: list[NDArray[Any]]
) -> tuple[float, Callable[[], object]]:
    """Seconds until an engine, with its own copy of the network, has given its first result."""
    began = time.perf_counter()
    own = deepcopy(subject.segmenter)
    engine = Engine(own, machine, tile=subject.side, overlap=0.0, engine=name)
    run = partial(engine.classes_of, images, [None] * len(images))
    run()
    return time.perf_counter() - began, run


def describe_machine(subject: Subject, ceilings: dict[str, float]) -> dict[str, Any]:
    """The machine in words and numbers."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return {
        "name": subject.machine.name,
        "processor": model[1] if model else platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "dtype": dtype_name(subject.machine.dtype),
        "remark": subject.remark,
        "gflops_at_best": ceilings,
        "copy_gigabytes_per_second": copy_bandwidth(subject.machine.device),
        "versions": versions(),
    }


def describe_model(subject: Subject) -> dict[str, Any]:
    """The network in words and numbers."""
    network = subject.info.network
    return {
        "name": network.encoder or f"U-Net, depth {network.depth}, width {network.width}",
        "parameters": subject.cost.parameters,
        "bands": subject.info.bands,
        "classes": len(subject.info.class_map.classes),
        "size": subject.side,
        "gflop": subject.cost.gflop,
    }


# ------------------------------------------------------------------ a file's way


def measure_prediction(
    predictor: Predictor,
    subject: Subject,
    folder: Path,
    seconds: float,
    progress: Progress = SILENT,
) -> Part:
    """Predict images, first stage by stage, then with all of them overlapped as predicting does.

    Args:
        predictor: The model, ready to predict.
        subject: The images; as many are taken as the time allows.
        folder: An empty folder for the masks.
        seconds: Time for all of it.
        progress: Hears what is done.

    Raises:
        ImageError: an image does not fit the model.
    """
    class_map = predictor.info.class_map
    jobs = [plan_job(path, folder / str(n), class_map) for n, path in enumerate(subject.images)]
    stages_alone(predictor, jobs, 0)  # the first time is slower
    progress.start("predicting", 2)
    alone, pixels = stages_alone(predictor, jobs, seconds / 2)
    progress.advance("predicting")
    chosen = jobs[: max(FEWEST, int(seconds / 2 / sum(alone.values())))]
    result = Prediction()
    together = seconds_of(lambda: predict_images(predictor, chosen, PredictConfig(), result)) / len(
        chosen
    )
    progress.finish("predicting")
    if result.failures:
        raise ImageError("some images cannot be predicted", list(result.failures.values()))
    gflop = subject.cost.gflop * pixels / subject.side**2
    rows = [speed(f"{stage} alone", taken, pixels) for stage, taken in alone.items()]
    rows.append(speed("one after the other", sum(alone.values()), pixels))
    rows.append(speed("folder to folder", together, pixels, gflop))
    choice, longest = predictor.engine.choice, max(alone, key=lambda stage: alone[stage])
    return Part(f"prediction, {len(chosen)} images, {choice.name}", tuple(rows), longest)


def stages_alone(
    predictor: Predictor, jobs: Sequence[Job], seconds: float
) -> tuple[dict[str, float], float]:
    """Seconds of each stage for an image, one after the other, and its pixels, as means.

    As many images of one size go through the network at once as in a prediction. One such batch is
    always predicted, and none is begun after `seconds`.
    """
    engine, taken = predictor.engine, dict.fromkeys(("read", "network", "write"), 0.0)

    def timed(stage: str, work: Callable[..., Any], *arguments: object) -> Any:
        began = time.perf_counter()
        result = work(*arguments)
        taken[stage] += time.perf_counter() - began
        return result

    done = pixels = 0
    ended = time.perf_counter() + seconds
    opened: Iterator[Opened[Job]] = (timed("read", predictor.open, job) for job in jobs)
    for batch in alike(opened, engine.images_at_once):
        nodata = [each.nodata for each in batch]
        indexes = timed("network", engine.classes_of, [each.image for each in batch], nodata)
        for job, index in zip((each.name for each in batch), indexes, strict=True):
            write = Writer(job, *index.shape).write_mask
            timed("write", write, job.mask, iter([index]), predictor.info.class_map)
            pixels += index.size
        done += len(batch)
        if time.perf_counter() > ended:
            break
    return {stage: spent / done for stage, spent in taken.items()}, pixels / done


# ------------------------------------------------------------------ a training


@explained_memory("Choose a smaller --batch, or a smaller --width.")
def measure_training(run: TrainingRun, seconds: float, progress: Progress = SILENT) -> Part:
    """Measure the training that `run` would be: steps alone, loading alone, and both together.

    Args:
        run: Data, settings and plan, in a folder of its own.
        seconds: Time for all of it.
        progress: Hears what is done.

    Raises:
        OutOfMemoryError: a step does not fit in memory.
    """
    machine, batch, pixels = run.machine, run.plan.batch, run.plan.patch**2
    workers = None if run.config.runtime.workers == "auto" else run.config.runtime.workers
    progress.start("training", 3)
    with closing(Trainer(run, time.monotonic(), SILENT)) as trainer:
        trainer.segmenter.train()
        crops, numbers = next(iter(crop_loader(trainer.crops, trainer.order, 0))), count()

        def step(crops: Sample) -> None:
            trainer.learner.step(crops, next(numbers), 1.0)
            synchronise(machine.device)

        if run.config.runtime.compile == "yes":
            compile_step(trainer.learner, crops)
        for _ in range(2):  # the first ones choose algorithms and take memory
            step(crops)
        multiply, product = fitting_product(machine.device, machine.dtype)
        taken = medians({"steps": partial(step, crops), "product": multiply}, seconds / 3)
        progress.advance("training")
        loading = seconds_each(iter(crop_loader(trainer.crops, trainer.order, 0)), seconds / 3)
        progress.advance("training")
        batches = training_batches(trainer.crops, trainer.order, machine, workers)
        together = seconds_each(map(step, batches), seconds / 3, WARM_UP + TIMED)
    progress.finish("training")
    gflop = network_cost(trainer.info, run.plan.patch).gflop / FORWARD_SHARE
    steps = speed("steps alone", taken["steps"] / batch, pixels, gflop)
    return Part(
        title=f"training, {batch} × {run.plan.patch}×{run.plan.patch}",
        rows=(
            speed("loading alone, one process", loading / batch, pixels),
            replace(steps, share=steps.gflops * taken["product"] / product),
            speed("loading and steps", together / batch, pixels, gflop),
        ),
        bounds="loading" if together > NOTABLE * taken["steps"] else "steps",
    )


def seconds_each(work: Iterator[object], seconds: float, skipped: int = 1) -> float:
    """Seconds from one result of endless `work` to the next, the first ones not counted."""
    for _ in islice(work, skipped):
        pass
    began = time.perf_counter()
    for done, _ in enumerate(work, 1):
        taken = time.perf_counter() - began
        if taken > seconds:
            return taken / done
    raise AssertionError("the batches of a training have no end")
