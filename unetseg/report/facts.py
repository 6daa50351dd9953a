"""What a run folder tells of itself: the facts of its page and of its model card.

Whatever is missing or damaged is left out; nothing here raises for it.
"""

import csv
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from unetseg.bundle import Rule
from unetseg.checks.finding import given_words
from unetseg.config import DataConfig, PairsConfig
from unetseg.data.pairs.naming import SPLIT_NAMES
from unetseg.report.curves import Outlook, outlook
from unetseg.storage import read_csv, read_json
from unetseg.text import quoted

SPLITS = ("test", "val", "all", "train")
"""Of the splits that were scored, the first is told of."""
MOST_SUSPECTS = 20
MOST_FIGURES = 8
LONGEST = 40
"""Characters of a choice that is shown."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """The files of a run.

    Attributes:
        run: Run folder or bundle folder.
        evaluation: The folder that `unetseg eval` wrote, if it is not in the run folder.
    """

    run: Path
    evaluation: Path | None = None

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.run.absolute().name

    @cached_property
    def bundle(self) -> Path:
        """The folder of the bundle."""
        return self.run / "model" if (self.run / "model").is_dir() else self.run

    @cached_property
    def info(self) -> Json:
        """model.json."""
        return read_json(self.bundle / "model.json")

    @cached_property
    def evaluations(self) -> list[Path]:
        """The folders with scores of these weights; a training that goes on makes others."""
        folders = [self.evaluation] if self.evaluation else [self.run / "eval" / s for s in SPLITS]
        weights = self.info.get("weights_sha256")
        return [
            folder
            for folder in folders
            if (folder / "scores.json").is_file()
            and read_json(folder / "anatomy.json").get("weights", weights) == weights
        ]

    @cached_property
    def scored(self) -> Path | None:
        """The folder of the scores that are told of."""
        return next(iter(self.evaluations), None)

    @cached_property
    def scores(self) -> Json:
        """scores.json; without any evaluation, those that validated the bundle."""
        found = read_json(self.scored / "scores.json") if self.scored else {}
        if not {"images", "classes", "split"} <= found.keys():
            found = self.info.get("scores", {})
        return found

    @cached_property
    def anatomy(self) -> Json:
        """anatomy.json."""
        return read_json(self.scored / "anatomy.json") if self.scored else {}

    @cached_property
    def all_scores(self) -> list[Json]:
        """The scores of every split that was evaluated."""
        return [read_json(folder / "scores.json") for folder in self.evaluations]

    @cached_property
    def plan(self) -> Json:
        """plan.json."""
        return read_json(self.run / "plan.json")

    @cached_property
    def environment(self) -> Json:
        """env.json."""
        return read_json(self.run / "env.json")

    @cached_property
    def data(self) -> Json:
        """data.json: what the folder holds, and what was found wrong with it."""
        return read_json(self.run / "data.json")

    @cached_property
    def growth(self) -> Json:
        """curve.json: what more data would give."""
        return read_json(self.run / "curve.json")

    @cached_property
    def settings(self) -> Json:
        """config.yaml."""
        try:
            content = yaml.safe_load((self.run / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return content if isinstance(content, dict) else {}

    @cached_property
    def split_images(self) -> dict[str, int]:
        """How many images each split has."""
        pairs = read_json(self.run / "splits.json").get("pairs", [])
        counts = Counter(str(pair.get("split")) for pair in pairs)
        return {split: counts[split] for split in SPLIT_NAMES if counts[split]}

    @cached_property
    def metrics(self) -> list[dict[str, float]]:
        """metrics.csv; nan where a cell holds no number."""
        return [
            {k: _number(v) for k, v in row.items()} for row in read_rows(self.run / "metrics.csv")
        ]

    @cached_property
    def outlook(self) -> Outlook:
        """What the curve of the training tells."""
        columns = ("seconds", "val_dice", "train_loss")
        rows = [[row.get(name, math.nan) for row in self.metrics] for name in columns]
        return outlook(*rows)

    def curve(self, column: str) -> list[tuple[float, float]]:
        """Seconds and the values of a column of metrics.csv, where both are numbers."""
        points = [(row.get("seconds", math.nan), row.get(column, math.nan)) for row in self.metrics]
        return [point for point in points if all(map(math.isfinite, point))]

    @cached_property
    def colours(self) -> dict[str, str]:
        """The colour of each class, as CSS says it."""
        classes = self.info.get("class_map", {}).get("classes", [])
        return {str(one["name"]): "#{:02x}{:02x}{:02x}".format(*one["colour"]) for one in classes}

    @property
    def postprocess(self) -> list[str]:
        """What is done to each class after a prediction, in words."""
        return after_prediction(self.info)

    @property
    def human(self) -> float | None:
        """The Dice of a second observer, where there is one."""
        found = self.scores.get("human")
        return found.get("foreground_dice") if isinstance(found, dict) else None

    @property
    def repeat(self) -> str:
        """The command that trains the same again; "" where nobody knows the data."""
        return self._train_again("again")

    def _train_again(self, suffix: str) -> str:
        data, config = self.environment.get("data"), quoted(self.run / "config.yaml")
        name = quoted(f"{self.name}-{suffix}")
        if not data or not self.settings:
            return ""
        folds = f" --folds {len(members)}" if (members := self.info.get("members")) else ""
        return f"unetseg train {quoted(data)} --config {config}{folds} --name {name}"

    @cached_property
    def suspects(self) -> list[dict[str, str]]:
        """The first rows of suspects.csv, without the paths of the masks."""
        rows = read_rows((self.scored or self.run) / "suspects.csv")[:MOST_SUSPECTS]
        shown = ("rank", "disagreement", "dice", "image")
        return [{key: row[key] for key in shown if key in row} for row in rows]

    @cached_property
    def figures(self) -> list[tuple[Path, str]]:
        """The figures of the lab, each with its caption."""
        files = sorted((self.run / "lab").glob("**/*.png"))[:MOST_FIGURES]
        captions = {path.parent: read_json(path) for path in (self.run / "lab").glob("**/*.json")}
        return [(file, str(captions.get(file.parent, {}).get("caption", ""))) for file in files]

    @cached_property
    def preview(self) -> Path | None:
        """The pictures of the last validation."""
        found = (self.run / "previews").glob("step_*.png")
        return max(found, key=lambda path: (len(path.name), path.name), default=None)

    @property
    def choices(self) -> dict[str, str]:
        """What the plan chose, those with a reason, as a table shows it."""
        network, normalisation = (self.plan.get(key, {}) for key in ("network", "normalisation"))
        known = network | self.plan | {"normalisation": normalisation.get("kind")}
        values = {key: known.get(key) for key in self.plan.get("reasons", {})}
        shown = {k: f"{v:.3g}" if isinstance(v, float) else str(v) for k, v in values.items()}
        return {k: "" if values[k] is None or len(v) > LONGEST else v for k, v in shown.items()}

    @property
    def seconds(self) -> float:
        """How long the training took; nan where nobody knows."""
        return self.metrics[-1].get("seconds", math.nan) if self.metrics else math.nan

    def given(self, data: Path | None = None, kind: type[PairsConfig] = PairsConfig) -> str:
        """The folder of the training, or `data`, and its flags of a kind, as a shell takes them."""
        said = {name: self.settings.get(name) for name in kind.model_fields}
        try:
            config = kind(**{name: value for name, value in said.items() if value})
        except ValidationError:  # damaged
            config = kind()
        return " ".join(given_words(data or Path(self.environment.get("data", "DATA")), config))

    @property
    def commands(self) -> list[tuple[str, str]]:
        """What to do next: why, and the command."""
        run, data = quoted(self.run), self.given()
        look = self.outlook
        longer = f"{self._train_again('longer')} --budget {2 * look.seconds:.0f}s"
        epochs = self.metrics[-1].get("epoch", math.nan) if self.metrics else math.nan
        if "epochs" in self.settings and math.isfinite(epochs):  # they would end it as early again
            longer += f" --epochs {math.ceil(2 * epochs)}"
        wanted = {
            "scores, errors and pictures of them": (
                not self.scored,
                f"unetseg eval {run} {data}",
            ),
            f"train longer: about {look.gain:+.3f} Dice": (
                look.verdict == "not finished" and bool(self.repeat),
                longer,
            ),
            "what is wrong with the data": (
                any(f.get("severity") == "warning" for f in self.data.get("findings", [])),
                f"unetseg check {self.given(kind=DataConfig)}",
            ),
            "masks of new images": (True, f"unetseg predict {run} IMAGES -o masks"),
            "what each skip connection carries": (
                not (self.figures or self.info.get("members")),  # no look takes an ensemble
                f"unetseg lab ablate {run} {data} --quick",
            ),
            "this training again": (bool(self.repeat), self.repeat),
        }
        return [(why, command) for why, (holds, command) in wanted.items() if holds][:3]


def after_prediction(info: Mapping[str, Any]) -> list[str]:
    """The post-processing in a model.json, in words: "cell: holes filled"."""
    names = [one["name"] for one in info.get("class_map", {}).get("classes", [])]
    rules = [Rule.model_validate(rule) for rule in info.get("postprocess", [])]
    return [f"{names[rule.class_index]}: {rule.words}" for rule in rules]


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; empty where there is none."""
    try:
        return list(read_csv(path))
    except (OSError, csv.Error):
        return []


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
