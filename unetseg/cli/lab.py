"""unetseg lab: what the skip connections do, on the user's own data."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter
from pydantic import BaseModel

from unetseg.cli.console import observed, say, show_table
from unetseg.config import (
    AblateConfig,
    CompareConfig,
    DataConfig,
    GradientsConfig,
    LandscapeConfig,
    LookConfig,
    NetworkConfig,
    RuntimeConfig,
    SubjectConfig,
    TrainConfig,
    TrainingConfig,
)
from unetseg.errors import ConfigError
from unetseg.progress import Progress
from unetseg.storage import is_file, refuse_read_only

if TYPE_CHECKING:
    from unetseg.skiplab.look import Result

QUICK: dict[type[BaseModel], dict[str, Any]] = {
    GradientsConfig: {"depths": (10, 20, 56), "steps": 10},
    AblateConfig: {"images_used": 8, "window": 256},
    CompareConfig: {"seeds": 1},
    LandscapeConfig: {"images_used": 2, "window": 128, "points": 9, "iterations": 8},
    SubjectConfig: {"images_used": 6, "window": 512},
    NetworkConfig: {"width": 8},
    TrainingConfig: {"budget": 60.0},
}
"""What `--quick` sets where nothing else was asked for: minutes on a CPU."""
FILE = Annotated[Path | None, Parameter(name="--config")]
LOOK = Annotated[LookConfig, Parameter(name="*")]
C = TypeVar("C", bound=BaseModel)


def gradients(
    source: Path | None = None,
    /,
    *,
    width: int = 8,
    config_file: FILE = None,
    config: Annotated[GradientsConfig, Parameter(name="*")] = GradientsConfig(),
    look: LOOK = LookConfig(),
) -> None:
    """Measure how gradients flow: per layer, at the start and through training.

    Without SOURCE: stacks of convolutions on random images, with and without
    shortcuts. With a folder of pairs: U-Nets with and without skips, trained on
    it for some steps. With a run folder: the trained U-Net, with its skips and
    with all of them muted.

    Examples:
    unetseg lab gradients
    unetseg lab gradients --depths 20,56 --shortcuts identity,rezero,none --norms none,batch
    unetseg lab gradients photos/ --skips concat,none --steps 100
    unetseg lab gradients checkpoints/cells

    Parameters
    ----------
    source
        Folder of pairs, or run folder of `unetseg train`.
    width
        Channels of the first level of the U-Nets that are trained.
    config_file
        YAML file with settings.
    """
    from unetseg.skiplab import gradients as room

    base = TrainConfig(
        data=DataConfig(**look.data.model_dump()),
        network=NetworkConfig(width=width),
        runtime=RuntimeConfig(**look.device.model_dump()),
    )
    folder = look.output or _home("gradients", source)
    refuse_read_only(folder)
    settings = _quickened(config, look.quick)
    work = partial(room.gradients, settings, source=source, base=base)
    _show(lambda progress: work(output=folder, progress=progress))


def ablate(
    run: Path,
    data: Path,
    /,
    *,
    config_file: FILE = None,
    config: Annotated[AblateConfig, Parameter(name="*")] = AblateConfig(),
    look: LOOK = LookConfig(),
) -> None:
    """Break one skip at a time and see what the masks lose.

    Each level's skip is zeroed, replaced by its mean, taken from another image,
    and replaced by noise. The change of Dice has a 95% interval over images,
    and each level a verdict: it carries, helps, is idle or hurts.

    Examples:
    unetseg lab ablate checkpoints/cells photos/
    unetseg lab ablate checkpoints/cells photos/ --split val --edits zero,mean --quick

    Parameters
    ----------
    run
        Run folder of `unetseg train`.
    data
        Folder of pairs; images known from training keep their split.
    config_file
        YAML file with settings.
    """
    from unetseg.skiplab.ablate import ablate as break_skips

    settings = _quickened(config, look.quick)
    work = partial(break_skips, config=settings)
    _look_at("ablate", [run], data, settings, look, work)


def compare(
    data: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    quick: bool = False,
    config_file: FILE = None,
    config: Annotated[CompareConfig, Parameter(name="*")] = CompareConfig(),
    base: Annotated[TrainConfig, Parameter(name="*")] = TrainConfig(),
) -> None:
    """Train the same data with different skips and seeds, and compare masks, size and speed.

    Masks are scored on the test split (validation without one), clean and on
    corrupted copies: noise, blur, contrast, texture. A comparison that was
    interrupted goes on where it was.

    Examples:
    unetseg lab compare photos/ --budget 5m
    unetseg lab compare photos/ --skips concat,none,attention,nested --seeds 3 -e 30 --width 16

    Parameters
    ----------
    data
        Folder of pairs.
    output
        Folder to write to (default: checkpoints/lab/compare-NAME).
    quick
        One seed, a narrow network, a minute for each training.
    config_file
        YAML file with settings.
    """
    from unetseg.skiplab import compare as room

    settings, folder = _quickened(config, quick), output or _home("compare", data)
    asked = {"skip": base.network, "seed": base.runtime}
    wrong = [f"--{name}" for name, group in asked.items() if name in group.model_fields_set]
    if wrong:  # a slip is not trained for hours
        fix = "Give --skips concat,none and --seeds 3: kinds to compare, and trainings of each."
        raise ConfigError("a comparison sets these itself", wrong, fix)
    training = base.training if base.training.epochs else _quickened(base.training, quick)
    parts = {"network": _quickened(base.network, quick), "training": training}
    trained = base.model_copy(update=parts)
    _show(lambda progress: room.compare(data, settings, trained, output=folder, progress=progress))


def landscape(
    run: Path,
    data: Path,
    /,
    *,
    beside: Path | None = None,
    config_file: FILE = None,
    config: Annotated[LandscapeConfig, Parameter(name="*")] = LandscapeConfig(),
    look: LOOK = LookConfig(),
) -> None:
    """Draw the loss around the trained weights, in two filter-normalised random directions.

    Examples:
    unetseg lab landscape checkpoints/cells photos/ --images-used 8 --window 256
    unetseg lab landscape checkpoints/with photos/ --beside checkpoints/without --reach 0.5

    Parameters
    ----------
    run
        Run folder of `unetseg train`.
    data
        Folder of pairs; images known from training keep their split.
    beside
        A second run, drawn on the same scale.
    config_file
        YAML file with settings.
    """
    from unetseg.skiplab.landscape import landscape as draw

    settings = _quickened(config, look.quick)
    work = partial(draw, config=settings)
    _look_at("landscape", [run, beside] if beside else [run], data, settings, look, work)


def gates(
    run: Path,
    data: Path,
    /,
    *,
    config_file: FILE = None,
    config: Annotated[SubjectConfig, Parameter(name="*")] = SubjectConfig(),
    look: LOOK = LookConfig(),
) -> None:
    """Show what learned skips settled on: α, gates, switches and attention maps.

    Examples:
    unetseg lab gates checkpoints/cells photos/

    Parameters
    ----------
    run
        Run folder of `unetseg train`, with skips or shortcuts that learn.
    data
        Folder of pairs; images known from training keep their split.
    config_file
        YAML file with settings.
    """
    from unetseg.skiplab.gates import gates as read

    _look_at("gates", [run], data, _quickened(config, look.quick), look, read)


def _look_at(
    name: str,
    runs: list[Path],
    data: Path,
    config: SubjectConfig,
    look: LookConfig,
    work: Callable[..., "Result"],
) -> None:
    """Open the runs on the images that `config` chooses, and let `work` look at them."""
    from unetseg.skiplab.look import open_subject

    output = look.output or _home(name, runs[0])
    refuse_read_only(output)  # before the work

    def opened(progress: Progress) -> "Result":
        subjects = [
            open_subject(run, data, config, look.data, look.device, progress=progress)
            for run in runs
        ]
        return work(*subjects, output=output, progress=progress)

    _show(opened)


def _show(work: Callable[[Progress], "Result"]) -> None:
    """Do the work under a progress bar, and print the summary with the caption."""
    with observed() as progress:
        result = work(progress)
    columns = dict.fromkeys(column for row in result.summary for column in row)
    show_table({name: [_cell(row.get(name)) for row in result.summary] for name in columns})
    say(result.caption)
    say(f"table and pictures: {result.folder}")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else str(value)


def _quickened(config: C, quick: bool) -> C:
    """`config` with what `--quick` sets, where nothing else was asked for."""
    changes = QUICK[type(config)] if quick else {}
    asked = config.model_fields_set
    return config.model_copy(update={k: v for k, v in changes.items() if k not in asked})


def _home(name: str, source: Path | None) -> Path:
    """Where the files of a look go: into the run's folder, or beside the runs."""
    if source is None:
        return Path("checkpoints") / "lab" / name
    for run in (source, source.parent):
        if is_file(run / "model" / "model.json"):
            is_of_run = source.name == "model" and is_file(run / "splits.json")
            is_further = is_file(source / "model.json") and not is_of_run
            return (source if is_further else run) / "lab" / name  # RUN/pruned has its own
    whole = source.resolve()
    stem = whole.stem if is_file(whole) else whole.name
    return Path("checkpoints") / "lab" / f"{name}-{stem}"
