"""`--shard I/N`: one of several predictions, on any machines, that together predict a folder."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from unetseg.prediction.manifest import BLOCKS, Journal, append_lines, blocks_of, failure_row
from unetseg.prediction.predict import Prediction, Work, manifest_of, predict_listed
from unetseg.progress import SILENT, Progress, Silent
from unetseg.scaling.blocks import PER_BLOCK, Block, Blocks, Shard
from unetseg.scaling.listing import list_images
from unetseg.storage import writing
from unetseg.text import plural

TOLD = 20
"""Messages of blocks, and failures, that are shown; all failures are in the file."""


@dataclass
class Totals:
    """What became of many images, without a list of them."""

    file: Path
    """Where the failures are listed."""
    written: int = 0
    skipped: int = 0
    failed: int = 0
    told: list[str] = field(default_factory=list)
    """The first failures, a line each."""

    @classmethod
    def of(cls, result: Prediction, file: Path) -> Self:
        """Those of a folder that was predicted at once."""
        totals = cls(file)
        totals.count(**counted(result))
        return totals

    def count(self, written: int, skipped: int, failures: Sequence[Mapping[str, Any]]) -> None:
        """Count what `counted` says of a block."""
        self.written += written
        self.skipped += skipped
        self.failed += len(failures)
        for row in failures[: TOLD - len(self.told)]:
            parts = [row["message"], *row["offenders"], row["fix"], *row["commands"]]
            self.told.append("; ".join(filter(None, parts)))

    def add(self, counts: Mapping[str, Any]) -> None:
        """Count a block, and list its failures.

        Raises:
            MachineError: the file cannot be written.
        """
        self.count(**counts)
        append_lines(self.file, counts["failures"])


def counted(result: Prediction) -> dict[str, Any]:
    """How many masks are written and were there, and a row for each image that failed."""
    rows = [failure_row(image, error) for image, error in result.failures.items()]
    return {"written": len(result.written), "skipped": len(result.skipped), "failures": rows}


class BlockProgress(Silent):
    """Of the blocks of one prediction: all images count as one task."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._said = progress, 0

    def advance(self, task: str, steps: int = 1, **facts: object) -> None:
        """Hand on the images; the bands of large ones are not counted."""
        if task == "predicting":
            self._progress.advance(task, steps, **facts)

    def say(self, message: str) -> None:
        """Hand on the first messages: every block of a million images may have the same to say."""
        self._said += 1
        if self._said <= TOLD:
            self._progress.say(message)


def predict_block(work: Work, block: Block, progress: Progress = SILENT) -> dict[str, Any]:
    """Write the masks of a block that are not there yet, and count them.

    It may be begun again after any end, or at two places at once: files are whole or not there.

    Raises:
        ConfigError: as `predict_folder`.
    """
    result = predict_listed(work, block.images, progress, block.journal)
    progress.advance("predicting", len(result.skipped))
    return counted(result)


def holding(work: Work) -> AbstractContextManager[object]:
    """Keep out whoever would predict into the same folder with something else; see `held`."""
    return manifest_of(work, Journal(f"{BLOCKS}/processes.jsonl", names=frozenset())).held()


def predict_shard(shard: str, work: Work, progress: Progress = SILENT) -> Totals:
    """As `predict_folder`, of the images of one shard, such as "0/3".

    Every image is in the same shard wherever it is asked, and the masks are those of a prediction
    of all. Failures are in `failures-0-of-3.jsonl`.

    Raises:
        ConfigError: as `predict_folder`; the blocks before that with the reason are done.
        ImageError: there is no image.
        MachineError: another process works in the folder with another model or settings.
    """
    mine = Shard.of(shard)
    blocks = list_images(work.given, work.output, mine, progress)
    work = replace(work, times=max(1, blocks.total // PER_BLOCK))
    with holding(work):
        totals = Totals(work.output / f"failures-{mine}.jsonl")
        with writing(totals.file):
            totals.file.unlink(missing_ok=True)
        earlier = blocks_of(work.output)
        predict_blocks(blocks, earlier, partial(predict_block, work), totals, progress)
    return totals


def predict_blocks(
    blocks: Blocks,
    earlier: Sequence[str],
    predict: Callable[[Block, Progress], Mapping[str, Any]],
    totals: Totals,
    progress: Progress,
) -> None:
    """Predict one block after the other, and count them."""
    progress.say(f"{blocks.total:,} of {plural(blocks.listed, 'image')}: shard {blocks.shard}")
    progress.start("predicting", blocks.total)
    of_blocks = BlockProgress(progress)
    for block in blocks.read(earlier):
        totals.add(predict(block, of_blocks))
    progress.finish("predicting")
