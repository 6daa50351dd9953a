"""Facts of runs → report.html: one self-contained file, nothing is loaded from elsewhere."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from unetseg.bundle import find_bundle, read_info
from unetseg.data.masks.overlay import ERROR_COLOURS
from unetseg.errors import BundleError
from unetseg.progress import Progress
from unetseg.report.card import number, write_card
from unetseg.report.charts import Line, line_chart
from unetseg.report.facts import SPLITS, Facts, Json
from unetseg.runtime import versions
from unetseg.storage import write_text
from unetseg.text import duration, printable, quoted

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent
NAME = "report.html"
LARGEST_SIDE = 1400
"""Pixels of a figure or sheet; larger ones are made smaller."""
LARGEST_PICTURE = 300_000
"""Bytes; what is larger becomes a JPEG."""
COLOURS = 7
"""Lines of a chart that differ in colour."""
SECTIONS = {
    "classes": "Classes",
    "objects": "Objects",
    "errors": "Errors",
    "images": "Images",
    "confusion": "Confusion",
    "calibration": "Calibration",
    "suspects": "Suspect labels",
    "curves": "Training",
    "growth": "More data",
    "data": "Data",
    "plan": "Plan",
    "human": "Human level",
    "skips": "Skips",
    "repeat": "How to repeat it",
    "next": "Next",
    "versions": "Made with",
}
WORDS = {
    "boundary": "at an outline",
    "false alarm": "false alarms",
    "miss": "misses",
    "class swap": "class swaps",
}
VERDICTS = {
    "finished": "The training is finished: more time would bring little.",
    "not finished": "The training is not finished: it was still getting better.",
    "overfitted": "The training is overfitted: the Dice has fallen since its best.",
}
PROPERTIES = {
    "brightness": "brightness (mean of its values)",
    "contrast": "contrast (deviation of its values)",
    "sharpness": "sharpness (fine detail, as a share of the contrast)",
    "size": "size (pixels)",
    "foreground": "share of the foreground",
}


def write_report(run: Path, progress: Progress, evaluation: Path | None = None) -> Path | None:
    """Write the page of a run and its model card; what goes wrong becomes one line.

    Args:
        run: Run folder or bundle folder.
        progress: Hears what went wrong.
        evaluation: Where its scores are; if that is not RUN/eval/SPLIT, the page is written there.

    Returns:
        The page; None if it could not be written.
    """
    try:
        home = home_of(run)
        own = [home.absolute() / "eval" / split for split in SPLITS]
        if evaluation is None or evaluation.absolute() in own:
            return save_page([home])
        write_text(evaluation / NAME, run_page(Facts(home, evaluation)))
    except Exception as error:  # noqa: BLE001 (a page is never worth a training)
        progress.say(f"warning: no {NAME}: {printable(' '.join(str(error).split()))}")
        return None
    return evaluation / NAME


def save_page(runs: Sequence[Path], output: Path | None = None) -> Path:
    """Write the page of a run; or the one that sets several side by side.

    In the run folder a page comes with the model card; elsewhere the run stays as it is.

    Args:
        runs: Run folders or bundle folders, at least one.
        output: The page; default: report.html in the run folder, of several beside the first.

    Raises:
        BundleError: there is no trained U-Net in one of them.
        MachineError: the page cannot be written.
    """
    every, wrong = list[Facts](), list[BundleError]()
    for run in [run for run in runs if run.name != NAME] or runs:  # not what was written before
        try:
            every.append(Facts(home_of(run)))
        except BundleError as error:
            wrong.append(error)
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        told = f"{len(wrong)} of {len(runs)} folders hold no trained U-Net that can be read"
        raise BundleError(told, [one.summary for one in wrong], "Leave these out.")
    home = every[0].run
    if len(every) == 1:
        write_text(path := output or home / NAME, run_page(every[0]))
        if output is None:
            write_card(every[0])
    else:
        write_text(path := output or home.parent / NAME, runs_page(every))
    return path


def home_of(run: Path) -> Path:
    """The run folder of RUN or RUN/model; of another bundle its own folder.

    Raises:
        BundleError: there is no trained U-Net, or it is damaged.
    """
    bundle = find_bundle(run)
    read_info(bundle / "model.json")
    is_of_run = bundle != run or (bundle.parent / "splits.json").is_file()
    return bundle.parent if bundle.name == "model" and is_of_run else bundle


def run_page(facts: Facts) -> str:
    """The page of one run."""
    template = environment(facts.scored).get_template("run.html")
    return template.render(
        facts=facts,
        sections=SECTIONS,
        preview=picture(facts.preview) if facts.preview else None,
        figures=[(picture(path), caption) for path, caption in facts.figures],
        charts=training_charts(facts),
        probability_charts=probability_charts(facts.scores),
    )


def runs_page(runs: Sequence[Facts]) -> str:
    """The page that sets several runs side by side."""
    lines = [
        Line(points, f"run{at % COLOURS}")
        for at, facts in enumerate(runs)
        if len(points := facts.curve("val_dice")) > 1
    ]
    title = "Validation Dice over minutes"
    words = [quoted(one.run) for one in runs]
    chosen = [facts.settings | facts.choices for facts in runs]
    keys = dict.fromkeys(key for one in chosen for key in one)
    values = {key: [str(one.get(key, "–")) for one in chosen] for key in keys}
    template = environment().get_template("runs.html")
    return template.render(
        runs=runs,
        compare=" ".join(["unetseg compare", *words, runs[0].given()]),
        alike=len({(one.scores.get("split"), one.scores.get("images")) for one in runs}) == 1,
        classes=list(dict.fromkeys(name for one in runs for name in one.scores.get("classes", {}))),
        chart=line_chart(title, lines, "minutes", unit=60) if lines else None,
        settings={key: row for key, row in values.items() if len(set(row)) > 1},
    )


def training_charts(facts: Facts) -> list[tuple[str, Markup]]:
    """The curves of a training, each with its caption."""
    dice, fitted = Line(facts.curve("val_dice"), dots=True), facts.outlook.fitted
    charts = {
        "Validation Dice over minutes; dashed: the fitted curve, and how it may go on": (
            [dice, Line(fitted, "fit")] if fitted else [dice]
        ),
        "Training loss over minutes": [Line(facts.curve("train_loss"), "loss")],
    }
    return [
        (title, line_chart(title, lines, "minutes", unit=60))
        for title, lines in charts.items()
        if len(lines[0].points) > 1
    ]


def probability_charts(scores: Json) -> list[tuple[str, Markup]]:
    """Reliability, and Dice over the threshold, where they were measured."""
    bins, sweep = scores.get("calibration", {}).get("bins", []), scores.get("threshold_sweep", [])
    reliable = [(row["confidence"], row["accuracy"]) for row in bins]
    ideal = [(share, share) for share in (reliable[0][0], 1)] if reliable else []
    dice = [(row["threshold"], row["dice"]) for row in sweep if row["dice"] is not None]
    charts = (
        (
            "Share that is right over the confidence told; dashed: as it should be",
            [Line(reliable, dots=True), Line(ideal, "fit")],
            "confidence",
        ),
        ("Dice over the threshold", [Line(dice)], "threshold"),
    )
    return [
        (title, line_chart(title, lines, x_label))
        for title, lines, x_label in charts
        if len(lines[0].points) > 1
    ]


# ---------------------------------------------------------------------------------- templates


def environment(pictures: Path | None = None) -> "Environment":
    """The templates, with everything that is not theirs escaped.

    Args:
        pictures: The folder of an evaluation, whose `gallery/` is shown.
    """
    from jinja2 import ChainableUndefined, Environment, FileSystemLoader  # no need of it to train

    found = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
    )
    script = (HERE / "slider.js").read_text(encoding="utf-8")
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    found.globals |= {
        "css": Markup((HERE / "page.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": Markup(f"sha256-{digest}"),
        "version": versions()["unetseg"],
        "words": WORDS,
        "verdicts": VERDICTS,
        "properties": PROPERTIES,
        "error_colours": ERROR_COLOURS,
    }
    filters: dict[str, Callable[..., Any]] = {
        "score": number,
        "signed": lambda value: number(value, "{:+.3f}").replace("-", "−"),
        "decimal": lambda value: number(value, "{:.1f}"),
        "percent": percent,
        "count": lambda value: number(value, "{:,.0f}"),
        "duration": duration,
        "name": lambda value: printable(str(value)),
        "picture": lambda name: picture(Path(pictures or ".") / "gallery" / Path(str(name)).name),
    }
    found.filters |= filters
    return found


def percent(value: object) -> str:
    """A share as people say it.

    >>> percent(0.213), percent(0.0042), percent(0.00001), percent(None)
    ('21%', '0.4%', '<0.1%', '–')
    """
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    if 0 < value < 0.001:
        return "<0.1%"
    return f"{100 * value:.1f}%" if value < 0.0995 and value else f"{100 * value:.0f}%"


def picture(path: Path) -> str:
    """A picture file as an address that holds it; "data:," where it cannot be read."""
    from PIL import Image

    try:
        content, kind = path.read_bytes(), path.suffix[1:].replace("jpg", "jpeg")
        if len(content) > LARGEST_PICTURE:
            with Image.open(io.BytesIO(content)) as image:
                image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
                smaller = io.BytesIO()
                image.convert("RGB").save(smaller, "JPEG", quality=82)
            content, kind = smaller.getvalue(), "jpeg"
    except OSError:
        return "data:,"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
