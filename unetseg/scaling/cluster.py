"""`--cluster ray`: the blocks of a folder predicted by the workers of a Ray cluster.

Ray Data hands each worker the paths of a block and gets back how many masks it wrote and a row for
each image that failed; pixels never travel, so that images and masks lie where all machines see
them. Of a worker that ends, Ray gives the block to another one, without limit. That one finds on
disk which images were in work, predicts them one by one in a process apart, and puts aside what
ends that (see `prediction/alone.py`): no image ends more than one worker.
"""

import os
import pickle
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from unetseg.bundle import find_bundle
from unetseg.config import DeviceConfig, PredictConfig, ScalingConfig
from unetseg.errors import ConfigError, MachineError, UnetsegError, imported
from unetseg.prediction.exported import is_exported
from unetseg.prediction.manifest import failure_row
from unetseg.prediction.predict import work_of
from unetseg.progress import SILENT, Progress
from unetseg.scaling.blocks import PER_BLOCK, Block, Shard
from unetseg.scaling.object_storage import Place, Stored, list_stored, places, reaching
from unetseg.scaling.shards import Totals, holding, predict_block
from unetseg.text import address_of, plural

BLOCKS_PER_WORKER = 8
"""At least, so that all end at about the same time."""
TOKEN = Path("~/.ray/auth_token")
"""What lets a process into a cluster of Ray."""
TRIES = 5
"""Of a block whose workers end."""


class Worker:
    """An actor with the trained U-Net, which it loads once.

    Args:
        run: The folder of the trained U-Net.
        inputs: Of the images.
        output: For the masks.
        settings: Of the prediction.
        times: Blocks that it will predict, about.
    """

    def __init__(
        self,
        run: Path,
        inputs: Sequence[Path],
        output: Path,
        settings: tuple[PredictConfig, DeviceConfig],
        times: int,
    ) -> None:
        self._held, self._error = ExitStack(), None
        source, self._target = places(inputs, output)
        try:
            if any(map(address_of, (*inputs, output))):
                work = work_of(run, (), Path(gettempdir()), *settings)
                work = replace(work, times=times, given=inputs)
                self._predict = Stored(work, source, self._target).predict_block
            else:
                work = replace(work_of(run, inputs, output, *settings), times=times)
                self._held.enter_context(holding(work))
                self._predict = partial(predict_block, work)
        except UnetsegError as error:  # Ray would begin it anew
            self._error = error

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """What became of a block, pickled as it came."""
        block: Block = pickle.loads(rows["block"][0])
        try:
            if self._error:
                raise self._error
            with reaching(), self._counted(block) as is_left:
                answer: Any = self._predict(block) if is_left else _lost(block)
        except UnetsegError as error:
            answer = error
        return {"answer": [pickle.dumps(answer)]}

    @contextmanager
    def _counted(self, block: Block) -> Iterator[bool]:
        """Note one more try of a block, where it outlasts this process; whether one is left.

        Ray begins a block again for ever, also where workers end before any image is in work.
        """
        names = [f"{block.journal.file}.try{number}" for number in range(TRIES)]
        there = self._target.there(names)
        if len(there) < TRIES:
            self._target.write(names[len(there)], b"-")
        try:
            yield len(there) < TRIES
        finally:  # an error is an answer too; a worker that was killed gives none
            for name in self._target.there(names):
                self._target.remove(name)


def _lost(block: Block) -> dict[str, Any]:
    """The images of a block that ended all its workers."""
    summary = f"each worker that had the block of this image ended, {TRIES} of them"
    fix = "Look for the reason in the logs of Ray, or at the images of the block one by one."
    error = MachineError(summary, fix=fix, code="deadly")
    rows = [failure_row(path, error) for path, _ in block.images]
    return {"written": 0, "skipped": 0, "failures": rows}


def predict_on_cluster(
    run: Path,
    inputs: Sequence[Path],
    output: Path,
    settings: tuple[PredictConfig, DeviceConfig, ScalingConfig],
    progress: Progress = SILENT,
) -> Totals:
    """As `predict_folder`, by the workers of a cluster, in folders that all its machines share.

    Raises:
        ConfigError: as `predict_folder`, though blocks may be done; or masks may be there already.
        ImageError: there is no image.
        MachineError: Ray is not installed, or its cluster not there.
        BundleError: there is no usable model.
    """
    config, device, scaling = settings
    if scaling.shard:
        raise ConfigError("--shard and --cluster are two ways to share images", fix="Choose one.")
    if not is_exported(run):
        find_bundle(run)
    inputs = [path if address_of(path) else path.absolute() for path in inputs]
    output = output if address_of(output) else output.absolute()
    with reaching():
        source, target = places(inputs, output)
        if is_fresh := config.existing == "refuse":
            _refuse_files(target)
            config = config.model_copy(update={"existing": "skip"})  # of blocks that are retried
        blocks = list_stored(source, target, inputs, Shard(), progress)
        with target.totals("failures.jsonl") as totals, _cluster(scaling.address, progress) as most:
            workers = scaling.bounds[1] or most or 1  # an autoscaler may start them later
            times = max(1, blocks.total // PER_BLOCK // workers)
            work = run.absolute(), inputs, output, (config, device), times
            progress.start("predicting", blocks.total)
            for counts in _answers(
                work, blocks.read(target.earlier(), workers * BLOCKS_PER_WORKER), scaling
            ):
                if is_fresh:  # then those that were there are of a worker that ended
                    counts["written"] += counts["skipped"]
                    counts["skipped"] = 0
                totals.add(counts)
                done = counts["written"], counts["skipped"], len(counts["failures"])
                progress.advance("predicting", sum(done))
            progress.finish("predicting")
    return totals


def _refuse_files(target: Place) -> None:
    if there := [name for name in target.names() if not name.startswith(".")]:
        raise ConfigError(
            f"{target.address} holds files already",
            sorted(there),
            "Add --existing skip to predict only what is missing, or --existing overwrite.",
        )


@contextmanager
def _cluster(address: str | None, progress: Progress) -> Iterator[int]:
    """Connect to a cluster, or start one on this machine; yield its GPUs, or cores without any."""
    if TOKEN.expanduser().is_file():  # then `ray start` asks for it, where nothing else is said
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    imported("ray.data", "ray")
    import ray
    from ray.data import DataContext

    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # of any kind, plain ones too
        fix = "Start one with `ray start --head`, and give its --address (and its RAY_AUTH_TOKEN)."
        raise MachineError(f"no Ray cluster: {error}", fix=fix) from error
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    try:
        there = ray.cluster_resources()
        cores, gpus = (int(there.get(name, 0)) for name in ("CPU", "GPU"))
        machines = plural(len([node for node in ray.nodes() if node["Alive"]]), "machine")
        progress.say(f"Ray cluster of {machines}, {plural(cores, 'core')}, {plural(gpus, 'GPU')}")
        yield gpus or cores
    except ray.exceptions.RayError as error:
        raise MachineError(f"the Ray cluster gave up: {error}") from error
    finally:
        ray.shutdown()


def _answers(
    work: tuple[Any, ...], blocks: Iterable[Block], scaling: ScalingConfig
) -> Iterator[dict[str, Any]]:
    """What became of each block, as they end."""
    import pyarrow
    import ray
    from ray.data import ActorPoolStrategy, from_arrow_refs

    has_gpus = ray.cluster_resources().get("GPU", 0) and work[3][1].device != "cpu"
    low, high = scaling.bounds
    tables = [ray.put(pyarrow.table({"block": [pickle.dumps(block)]})) for block in blocks]
    answers = from_arrow_refs(tables).map_batches(
        Worker,
        fn_constructor_args=work,
        batch_size=1,
        compute=ActorPoolStrategy(min_size=low, max_size=high),
        num_cpus=scaling.cores,
        num_gpus=1 if has_gpus else None,
    )
    for row in answers.iter_rows():
        answer = pickle.loads(row["answer"])
        if isinstance(answer, UnetsegError):
            raise answer
        yield answer
