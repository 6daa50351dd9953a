"""What the app reads in run folders: what a training tells, what a U-Net is and what it made.

Each file is read anew only when it has changed.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from unetseg.serving.pictures import state_of
from unetseg.storage import parse_json, read_csv, read_json

if TYPE_CHECKING:
    from unetseg.bundle import BundleInfo

LOG, MANIFEST = "log.jsonl", "predictions.jsonl"
"""Files of a run, and of a folder of masks; torch is not loaded to name them."""
PREDICTIONS = "predictions"
"""Folder of a run; in it is a folder of masks, called as the version of the U-Net."""
VERSION = r"[0-9a-f]{12}"
"""What `version_of` gives."""
MOST_FILES = 4096
"""Files of which is remembered what they hold."""

T = TypeVar("T")


class Predicted(NamedTuple):
    """What a trained U-Net made of an image."""

    mask: Path
    doubt: float | None
    objects: Path


def validations(run: Path) -> Iterator[dict[str, Any]]:
    """The rows of a run's log that say how good it was."""
    with suppress(OSError), (run / LOG).open("rb") as lines:
        for line in lines:
            with suppress(ValueError):
                row = parse_json(line)
                if row.get("event") == "validation":
                    yield row


def preview_of(row: Mapping[str, Any]) -> str:
    """The name of the picture of a validation."""
    return f"step_{row['step']:06d}.png"


def told_row(run: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    """A validation as the page shows it."""
    preview = preview_of(row)
    there = (run / "previews" / preview).is_file()
    figures = {name: row.get(name) for name in ("step", "seconds", "train_loss", "val_dice")}
    shown = f"api/previews/{preview}" if there else None
    return figures | {"run": run.name, "preview": shown}


def of_file(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """The same, called anew only when the file has changed."""
    known: OrderedDict[Path, tuple[object, T]] = OrderedDict()

    def current(file: Path) -> T:
        state = state_of(file)
        found = known.get(file)
        if found is None or found[0] != state:
            found = known[file] = state, read(file)
            while len(known) > MOST_FILES:
                known.popitem(last=False)
        return found[1]

    return current


@of_file
def predictions_of(manifest: Path) -> dict[str, Predicted]:
    """What a manifest of masks holds, by the ids of the images."""
    from unetseg.prediction.manifest import Manifest

    folder = manifest.parent
    if not manifest.is_file():
        return {}
    return {
        Path(name).stem: Predicted(
            folder / name,
            record.doubt.score if record.doubt else None,
            folder / f"{Path(name).stem}_objects.csv",
        )
        for name, record in Manifest(folder).done.items()
        if (folder / name).is_file()
    }


def object_rows(predicted: Predicted) -> list[dict[str, str]]:
    """The objects of a predicted mask."""
    return list(read_csv(predicted.objects)) if predicted.objects.is_file() else []


@of_file
def count_objects(table: Path) -> int:
    """The rows of a table of objects; 0 where there is none."""
    if not table.is_file():
        return 0
    with table.open("rb") as lines:
        return max(0, sum(1 for _ in lines) - 1)


class Trained(NamedTuple):
    """A run with a trained U-Net."""

    run: Path
    info: "BundleInfo"
    version: str
    """See `version_of`; hashed once, not at each request."""


@of_file
def trained_of(model: Path) -> Trained:
    """The U-Net that a run's model.json tells of, as it is now."""
    from unetseg.bundle import read_info

    info = read_info(model)
    return Trained(model.parents[1], info, version_of(info))


def version_of(info: "BundleInfo") -> str:
    """What changes with a U-Net: with its weights, and with what was measured of them later."""
    content = info.model_dump_json(exclude={"scores", "versions"})  # no mask depends on these
    return sha256(content.encode()).hexdigest()[:12]


def plan_words(plan: dict[str, Any]) -> list[str]:
    """What a plan chose, and why, in lines."""
    values = plan | {name: plan.get("network", {}).get(name) for name in ("depth", "width")}
    values = {name: f"{v:.3g}" if isinstance(v, float) else v for name, v in values.items()}
    return [
        f"{name}: {values[name]} ({reason})" if values.get(name) else f"{name}: {reason}"
        for name, reason in plan.get("reasons", {}).items()
        if isinstance(values.get(name) or "", str | int)
    ]


json_of = of_file(read_json)
"""As `read_json`."""
