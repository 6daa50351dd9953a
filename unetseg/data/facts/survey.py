"""A folder understood: its pairs, their splits, their facts and what the mask values mean."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetseg.config import DataConfig
from unetseg.data.facts.fingerprint import PairFacts, per_band, take_readable
from unetseg.data.files.images import allow_pixels
from unetseg.data.masks.class_map import IGNORED, ClassMap
from unetseg.data.masks.infer_classes import (
    ClassNames,
    find_class_file,
    infer_class_map,
    read_class_names,
)
from unetseg.data.pairs.description import described, find_described, honoured, read_description
from unetseg.data.pairs.match import Pair, PairSet
from unetseg.data.pairs.splits import assign_splits
from unetseg.progress import SILENT, Progress

MOST_BAD = 0.1
"""Share of the pairs that `on_bad` "skip" may leave out."""


@dataclass(frozen=True)
class Survey:
    """Everything known about a folder before training."""

    pairs: PairSet
    facts: dict[str, PairFacts]
    """By pair name."""
    class_map: ClassMap
    rules: tuple[str, ...]
    """What was concluded, one sentence each."""
    own_splits: bool = False
    """Whether the splits of the pairs are those of the folder, and not drawn by us."""
    named: bool = False
    """Whether the classes come from a class list."""

    @property
    def bands(self) -> int:
        """Bands of every image; grey images among RGB ones count as RGB."""
        return max(fact.image.bands for fact in self.facts.values())

    @property
    def dtype(self) -> str:
        """Pixel type of every image (numpy name)."""
        return next(iter(self.facts.values())).image.dtype

    def select(self, split: str) -> tuple[Pair, ...]:
        """The pairs of "train", "val", "test" or "all"."""
        return self.pairs.select(split)

    def facts_of(self, split: str) -> list[PairFacts]:
        """The facts of the pairs of a split, in order."""
        return [self.facts[pair.name] for pair in self.select(split)]

    def class_pixels(self, split: str = "train") -> list[int]:
        """Pixels of each class in a split."""
        pixels = [0] * len(self.class_map.classes)
        for fact in self.facts_of(split):
            for index, count in class_counts(fact, self.class_map):
                pixels[index] += count
        return pixels

    def statistics(self, split: str) -> NDArray[np.float32]:
        """N×2×C mean and deviation of every image of a split; grey among RGB is repeated."""
        images = [fact.image for fact in self.facts_of(split)]
        tables = [per_band(images, name, self.bands) for name in ("mean", "std")]
        return np.stack(tables, axis=1).astype(np.float32)


def survey(data: Path, config: DataConfig | None = None, progress: Progress = SILENT) -> Survey:
    """Find, read and understand the pairs in `data`.

    Raises:
        DataError: something in the folder does not fit; every offender is listed.
    """
    config = described(data, config or DataConfig())
    allow_pixels(config.max_pixels)
    keys = honoured(data, config)
    told = [f"dataset.yaml: {', '.join(keys)}"] if keys else []
    found = find_described(data, config)
    for rule in (*told, f"pairs: {found.rule}"):
        progress.say(rule)
    readable = take_readable(found.pairs, MOST_BAD if config.on_bad == "skip" else 0, progress)
    found, facts = replace(found, pairs=tuple(readable)), list(readable.values())
    masks = [fact.mask for fact in facts]
    names = class_names(data, config)
    class_map, evidence = infer_class_map(
        masks, names=names, ignore=config.ignore, snap=config.snap
    )
    progress.say(evidence)
    pairs = split_facts(found, facts, class_map, config.val_fraction)
    progress.say(split_sentence(pairs))
    by_name = {pair.name: fact for pair, fact in zip(found.pairs, facts, strict=True)}
    rules = (*told, found.rule, evidence, split_sentence(pairs))
    own_splits = any(pair.split for pair in found.pairs)
    return Survey(pairs, by_name, class_map, rules, own_splits, bool(names))


def class_names(data: Path, config: DataConfig) -> ClassNames | None:
    """The class list of the user, of dataset.yaml, or of the folder, in this order.

    Raises:
        MaskError: the file is no class list.
        ConfigError: dataset.yaml is wrong.
    """
    description = read_description(data)
    if config.classes is None and description is not None and description.classes is not None:
        return description.classes
    path = config.classes or (find_class_file(data) if data.is_dir() else None)
    return read_class_names(path) if path else None


def split_facts(
    found: PairSet, facts: Sequence[PairFacts], class_map: ClassMap, val_fraction: float
) -> PairSet:
    """The pairs with the split of each, drawn by the content in `facts` where they have none.

    Raises:
        PairingError: some pairs have a split and some have none, or none is for training.
        ConfigError: all pairs are in one group.
    """
    presence = [frozenset(i for i, _ in class_counts(fact, class_map)) for fact in facts]
    return assign_splits(found, [fact.hash for fact in facts], presence, val_fraction)


def with_splits(known: Survey, splits: dict[str, str]) -> Survey:
    """`known` with the split of each pair taken from `splits` (pair name → split)."""
    pairs = tuple(replace(pair, split=splits.get(pair.name)) for pair in known.pairs.pairs)
    return replace(known, pairs=replace(known.pairs, pairs=pairs))


def split_sentence(pairs: PairSet) -> str:
    """How many pairs each split holds."""
    counts = {
        split: sum(pair.split == split for pair in pairs.pairs)
        for split in ("train", "val", "test")
    }
    return "splits: " + ", ".join(f"{count} {split}" for split, count in counts.items() if count)


def class_counts(fact: PairFacts, class_map: ClassMap) -> Iterator[tuple[int, int]]:
    """(class index, pixels) for the classes that one mask holds; ignored codes are left out."""
    for code, pixels in fact.mask.counts:
        index = class_map.index_of(code)
        if index != IGNORED:
            yield index, pixels
