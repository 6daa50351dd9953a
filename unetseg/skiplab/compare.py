"""Kinds of skips trained alike, on the same data, and held against each other.

Every kind is trained with the same settings, the same budget and the same seeds, and of the same
width and depth, chosen once for concatenation; then scored on images held out, clean and spoilt;
then timed.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from unetseg import __version__
from unetseg.bundle import BundleInfo
from unetseg.config import CompareConfig, NetworkConfig, TrainConfig
from unetseg.data.facts.survey import Survey, survey
from unetseg.errors import ConfigError
from unetseg.locks import locked
from unetseg.progress import SILENT, Progress
from unetseg.runtime import Machine, start, versions
from unetseg.skiplab.cost import Cost, network_cost
from unetseg.skiplab.look import Result, publish
from unetseg.skiplab.seeds import CONFIDENCE, Arm, draw, rank
from unetseg.skiplab.skip_trainings import RUNS, SEVERITY, Trainings, of_kind
from unetseg.storage import parse_json, write_json, writing
from unetseg.text import plural
from unetseg.training.checkpoint import STATE
from unetseg.training.plan import bundle_info, make_plan
from unetseg.training.run import data_hash, flat_settings
from unetseg.training.trainings import STARTED
from unetseg.training.tuning import tried_plan
from unetseg.unet.build import WITH_ALPHA

CONTENT = "content of the data"
FREE = {"workers"}
"""Settings that may change when a comparison is gone on with."""
SUMMARY = ("skip", "seeds", "dice_mean", "dice_sd", "gflop", "predict_ms", "verdict")
CAPTION = (
    "Foreground Dice on images held out, mean and deviation over the seeds. Best is the highest "
    f"mean; equal is what the seeds cannot tell from it with {CONFIDENCE:.0%} confidence in all "
    "pairs together, as a single seed never can; worse is what they can."
)


def compare(
    data: Path,
    config: CompareConfig,
    base: TrainConfig,
    *,
    output: Path,
    progress: Progress = SILENT,
) -> Result:
    """Train every kind of skip with every seed, and tell which is best, by how much, at what cost.

    Writes compare.csv, compare.json and compare.png, and compare_seeds.csv with a row for each
    training, whose run folders are in `output`/runs. The trainings take turns, all kinds with one
    seed before the next seed. Called again it goes on with what is not complete; kinds and seeds
    may be added. A training that diverges is left out, and so is a kind of which all do.

    Args:
        data: The folder of pairs. Scores are taken on its test images, else on those held out for
            validation (which also chose the weights that were kept), else on all.
        config: Kinds and number of seeds.
        base: All other settings; its skip and its seed do not count, and its α only for those
            kinds that have one.
        output: The folder to write to.
        progress: Hears what is done.

    Raises:
        ConfigError: `output` holds another comparison, or these settings make no network.
        DataError: the folder cannot be used.
        DivergedError: fewer than two kinds are left.
        StoppedError: a signal stopped a training; its state is saved.
    """
    skips, machine = _comparable(config.skips, base.network), start(base.runtime)
    images = survey(data, base.data, progress)
    chosen = partial(_chosen, images, of_kind(base, "concat"), machine, progress)
    base, started = _started(output, base, data_hash(images), machine, chosen)
    plan = make_plan(images, of_kind(base, "concat"), machine)
    info = bundle_info(plan, images, started["identity"][CONTENT])
    costs = {skip: _cost(info, skip, plan.patch) for skip in skips}
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    with locked(output):
        write_json(output / STARTED, started)
        runs = Trainings(data, base, output, progress)
        trainings, diverged = runs.all(skips, range(config.seeds))
        times, shape = runs.predict_times(trainings)
    arms = [
        Arm(skip, costs[skip], times[skip], tuple(each for each in trainings if each.skip == skip))
        for skip in times
    ]
    return _publish(
        output,
        arms,
        data=str(data),
        data_hash=info.data_hash,
        gflop_of=[plan.patch, plan.patch],
        settings=_common_settings(base),
        diverged=diverged,
        predict_ms_of=shape,
        machine=str(machine),
    )


def _publish(output: Path, arms: Sequence[Arm], **facts: object) -> Result:
    """Write the table of all trainings, and that of the kinds with its picture."""
    split, images = arms[0].trainings[0].split, arms[0].trainings[0].images
    standing = rank(arms)
    verdicts = {arm.skip: verdict for arm, verdict in standing}
    rows = [arm.row() | {"verdict": verdicts[arm.skip]} for arm in arms]
    summary = [{name: row[name] for name in SUMMARY} for row in rows]
    seeds = [training.row() for arm in arms for training in arm.trainings]
    publish(Result(output, seeds, summary, CAPTION), "compare_seeds", {})
    where = {"all": "", "val": "validation "}.get(split, f"{split} ") + "image"
    figures = {"compare": draw(standing, plural(images, where))}
    facts |= {
        "versions": versions(),
        "split": split,
        "images": images,
        "severity": SEVERITY,
        "confidence": CONFIDENCE,
    }
    return publish(Result(output, rows, summary, CAPTION), "compare", figures, **facts)


def _comparable(skips: Sequence[str], network: NetworkConfig) -> tuple[str, ...]:
    """The kinds, each once; refuses fewer than two, fixed skips, and an α that none has."""
    distinct = tuple(dict.fromkeys(skips))
    if len(distinct) < 2:
        fix = "Give two kinds at least: --skips concat,none."
        raise ConfigError(f"--skips {','.join(skips)} leaves nothing to compare", fix=fix)
    if network.preset == "classic":
        fix = "Leave --preset classic out; --depth 4 --width 64 make a network of its size."
        raise ConfigError("preset classic has fixed skips, which nothing compares with", fix=fix)
    if network.alpha is not None and not WITH_ALPHA & {network.shortcut, *distinct}:
        fix = "Leave --alpha out, or compare learned too."
        raise ConfigError(f"alpha is {network.alpha:g}, but none of these kinds has an α", fix=fix)
    return distinct


def _common_settings(base: TrainConfig) -> dict[str, Any]:
    settings = flat_settings(base)
    return {name: value for name, value in settings.items() if name not in {"skip", "seed"}}


def _cost(info: BundleInfo, skip: str, patch: int) -> Cost:
    """Parameters and GFLOP of the network with one kind of skip."""
    network = info.network.model_copy(update={"skip": (skip,)})
    return network_cost(info.model_copy(update={"network": network}), patch)


def _chosen(
    images: Survey, config: TrainConfig, machine: Machine, progress: Progress
) -> dict[str, Any]:
    """The network and the crops that all kinds share: what is left open is chosen for one kind."""
    plan = make_plan(images, config, machine, progress)
    training = config.training.model_copy(update={"batch": plan.batch})
    config = config.model_copy(update={"training": training})
    plan = tried_plan(plan, images, config, machine)
    crops = plan.model_dump(include={"batch", "patch", "augment"})
    crops |= {"normalisation": plan.normalisation.kind}
    return {"network": plan.network.model_dump(mode="json"), "crops": crops}


def _started(
    output: Path,
    base: TrainConfig,
    content: str,
    machine: Machine,
    chosen: Callable[[], dict[str, Any]],
) -> tuple[TrainConfig, dict[str, Any]]:
    """The settings of all trainings, and what is to be remembered of them in `output`.

    A comparison that is gone on with keeps the network and the crops that it was started with.

    Raises:
        ConfigError: `output` holds another comparison.
    """
    identity = {name: v for name, v in _common_settings(base).items() if name not in FREE}
    identity |= {CONTENT: content, "severity of the corruptions": SEVERITY}
    identity |= {"machine": f"{machine.device.type}, {machine.dtype}", "unetseg": __version__}
    started = _before(output, identity) or chosen()
    network = NetworkConfig.model_validate(started["network"])
    network = network.model_copy(update=base.network.model_dump(include={"skip", "alpha"}))
    training = base.training.model_copy(update=started["crops"])
    base = base.model_copy(update={"network": network, "training": training})
    return base, {"identity": identity} | started


def _before(output: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """What the comparison in `output` was started with; nothing where no training has begun.

    Raises:
        ConfigError: it is another one, or the folder is of other trainings.
    """
    has_begun = any((output / RUNS).glob("*"))
    if not has_begun and not any((output / name).exists() for name in (STARTED, STATE)):
        return {}
    fix = "Choose another --output, or go back to what it was started with."
    try:
        saved = dict(parse_json((output / STARTED).read_bytes()))
        before = dict(saved["identity"])
        NetworkConfig.model_validate(saved["network"]), dict(saved["crops"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{output} is of no known comparison", [error], fix) from error
    if not has_begun:
        return {}
    differences = [
        f"{name}: {before.get(name)} → {identity.get(name)}"
        for name in before | identity
        if name not in FREE and before.get(name) != identity.get(name)
    ]
    if differences:
        raise ConfigError(f"{output} holds another comparison; these differ", differences, fix)
    return saved
