"""A folder understood: its pairs, their splits, their facts and what the mask values mean."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unetseg.config import DataConfig
from unetseg.data.facts.fingerprint import PairFacts, describe_pairs, per_band, refuse_unusable
from unetseg.data.facts.orientation import is_upright
from unetseg.data.masks.class_list import (
    ClassNames,
    NamedClass,
    find_class_file,
    guess_class_names,
    read_class_names,
)
from unetseg.data.masks.class_map import IGNORED, ClassMap
from unetseg.data.masks.infer_classes import infer_class_map
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.masks.mask_values import as_colours
from unetseg.data.masks.numbered_objects import FEW
from unetseg.data.pairs.dataset_yaml import Description, described, split_as_described
from unetseg.data.pairs.match import Pair, PairSet, find_pairs
from unetseg.data.pairs.naming import SPLIT_NAMES
from unetseg.data.pairs.splits import assign_splits, keep_share
from unetseg.errors import ConfigError, DataError, MaskError, PairingError
from unetseg.progress import SILENT, Progress


@dataclass(frozen=True)
class Faults:
    """What is wrong with a folder, as far as a survey meets it; training refuses each of these.

    Attributes:
        pairing: Why nothing can be said about its pairs.
        unreadable: What is wrong with each file that cannot be read; `paths` names it.
        masks: Why the mask values make no sense.
        splits: Why the pairs cannot be split.
    """

    pairing: PairingError | None = None
    unreadable: tuple[DataError, ...] = ()
    masks: MaskError | None = None
    splits: PairingError | ConfigError | None = None


_MASKS_LOOKED_AT = 40
"""Masks read to tell whether up is up."""


@dataclass(frozen=True)
class Survey:
    """What is known about a folder.

    Attributes:
        data: The folder, or the CSV file of its pairs.
        pairs: The pairs that could be read, with their splits.
        facts: By pair name.
        classes: What the mask values mean; None where they make no sense, see `class_map`.
        names: The class list, where there is one.
        rules: What was concluded, one sentence each.
        own_splits: Whether the splits of the pairs are those of the folder, and not drawn by us.
        paired: Everything that pairs, readable or not, with none but the folder's own splits.
        config: The settings, with what dataset.yaml says.
        faults: What is wrong; nothing after a strict survey.
    """

    data: Path
    pairs: PairSet
    facts: dict[str, PairFacts]
    classes: ClassMap | None = None
    names: ClassNames | None = None
    rules: tuple[str, ...] = ()
    own_splits: bool = False
    paired: tuple[Pair, ...] = ()
    config: DataConfig = DataConfig()  # noqa: RUF009 (frozen)
    faults: Faults = Faults()

    @property
    def class_map(self) -> ClassMap:
        """What the mask values mean.

        Raises:
            MaskError: they make no sense.
        """
        if self.classes is None:
            raise self.faults.masks or MaskError("there is no mask that can be read")
        return self.classes

    @property
    def bands(self) -> int:
        """Bands of every image; grey images among RGB ones count as RGB."""
        return max(fact.image.bands for fact in self.facts.values())

    @property
    def dtype(self) -> str:
        """Pixel type of every image (numpy name)."""
        return next(iter(self.facts.values())).image.dtype

    def items(self) -> list[tuple[Pair, PairFacts]]:
        """Every pair with its facts, in order."""
        return [(pair, self.facts[pair.name]) for pair in self.pairs.pairs]

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

    @cached_property
    def upright(self) -> bool:
        """Whether up is up, as some training masks tell; they are read once."""
        train, limit = self.select("train"), self.config.max_pixels
        some = train[:: max(1, len(train) // _MASKS_LOOKED_AT)]
        small = (pair for pair in some if not self.facts[pair.name].image.is_large)
        raw = ((pair.mask, read_mask(pair.mask, limit)) for pair in small if pair.mask)
        masks = (self.class_map.encode(mask.pixels, path, mask.palette) for path, mask in raw)
        return is_upright(masks, range(len(self.class_map.classes)))


def survey(
    data: Path,
    config: DataConfig | None = None,
    progress: Progress = SILENT,
    *,
    strict: bool = True,
) -> Survey:
    """Find, read and understand the pairs in `data`.

    Args:
        data: The folder, or a CSV file of pairs.
        config: Where and what the pairs are, and how they are split.
        progress: Hears what was concluded.
        strict: Refuse the first kind of fault; else go on past all of them and hold them.

    Raises:
        DataError: there is no such folder or, if `strict`, something in it does not fit; every
            offender is listed.
        ConfigError: a setting or dataset.yaml is wrong.
    """
    config, description = described(data, config or DataConfig())
    rules = [f"dataset.yaml: {', '.join(description.keys)}"] if description.keys else []
    try:
        matched = find_pairs(data, config, lenient=not strict)
        found = split_as_described(matched, description)
    except PairingError as error:
        if strict or not data.exists():
            raise
        return Survey(data, PairSet(data, (), ""), {}, config=config, faults=Faults(error))
    for rule in (*rules, f"pairs: {found.rule}"):
        progress.say(rule)
    facts, unreadable = describe_pairs(found.pairs, progress, config.max_pixels)
    if strict:
        facts = refuse_unusable(facts, unreadable, progress, skip=config.on_bad == "skip")
        unreadable = {}
    if inverted := sum(fact.image.white_is_zero for fact in facts.values()):
        told = f"{inverted} of {len(facts)} store white as 0: read as viewers show them"
        rules.append(f"images: {told}")
        progress.say(rules[-1])
    folder = Survey(
        data,
        replace(found, pairs=tuple(facts)),
        {pair.name: fact for pair, fact in facts.items()},
        names=class_names(data, config, description, found.classes, progress) if facts else None,
        rules=(*rules, found.rule),
        own_splits=any(pair.split for pair in facts),
        paired=found.pairs,
        config=config,
        faults=Faults(unreadable=tuple(chain(*unreadable.values()))),
    )
    return _understand(folder, progress, strict=strict) if facts else folder


def _understand(folder: Survey, progress: Progress, *, strict: bool) -> Survey:
    """The survey with what the masks mean and with the split of every pair."""
    try:
        class_map, sentence = conclude(folder, snap=folder.config.snap)
    except MaskError as error:
        if folder.names and folder.names.guessed:
            rule = f"{folder.names.source} is not used: {error.summary}"
            progress.say(rule)
            folder = replace(folder, names=None, rules=(*folder.rules, rule))
            return _understand(folder, progress, strict=strict)
        if strict:
            raise
        return replace(folder, faults=replace(folder.faults, masks=error))
    progress.say(sentence)
    folder = replace(folder, classes=class_map, rules=(*folder.rules, sentence))
    folder = replace(folder, facts=_blank_as_background(folder, class_map))
    hashes, presence = _contents(folder)
    try:
        config = folder.config
        given = hashes, presence, config.val_fraction, config.fold
        pairs = keep_share(assign_splits(folder.pairs, *given), hashes, presence, config.share)
    except (PairingError, ConfigError) as error:
        if strict:
            raise
        return replace(folder, faults=replace(folder.faults, splits=error))
    counts = Counter(pair.split for pair in pairs.pairs)
    told = (f"{counts[split]} {split}" for split in SPLIT_NAMES if counts[split])
    sentence = f"splits: {', '.join(told)}"
    progress.say(sentence)
    return replace(folder, pairs=pairs, rules=(*folder.rules, sentence))


def _blank_as_background(folder: Survey, class_map: ClassMap) -> dict[str, PairFacts]:
    """The facts, those of images without mask as if theirs were there: background throughout."""
    code = class_map.classes[class_map.background or 0].code
    like = next((fact.mask for fact in folder.facts.values() if fact.mask.path), None)
    facts = dict(folder.facts)
    for pair, fact in folder.items():
        if pair.mask is None and like is not None:
            blank: dict[str, object] = {
                "path": str(pair.image),
                "counts": ((code, fact.image.pixels),),
                "coding": class_map.coding,
                "palette": class_map.palette,
                "shape": fact.image.shape,
                "format": "",
                "inner": (),
                "pixel_hash": "",
            }
            facts[pair.name] = fact.model_copy(update={"mask": like.model_copy(update=blank)})
    return facts


def conclude(survey: Survey, *, snap: bool) -> tuple[ClassMap, str]:
    """What the mask values mean, and the sentence that says so.

    Raises:
        MaskError: they make no sense.
    """
    masks = [fact.mask for _, fact in survey.items()]
    return infer_class_map(
        [mask for mask in masks if mask.path],
        names=survey.names,
        ignore=survey.config.ignore,
        snap=snap,
        background=survey.config.background,
        objects=any(len(m.counts) > FEW for m in masks) and survey.pairs.numbered,
    )


def class_names(
    data: Path,
    config: DataConfig,
    description: Description,
    told: Sequence[str] = (),
    progress: Progress = SILENT,
) -> ClassNames | None:
    """The class list of the user, of dataset.yaml, of the folder, or what looks like one in it.

    Where the names of mask files tell the classes, no list of the folder is looked for.

    Args:
        data: The folder, or a CSV file of pairs.
        config: The settings of the user.
        description: What dataset.yaml says.
        told: The classes that the names of mask files tell, with the codes 1, 2, ….
        progress: Hears of a list that cannot be used.

    Raises:
        MaskError: the file is no class list.
    """
    if config.classes is None and description.classes is not None:
        return description.classes
    if config.classes is None and told:
        entries = (NamedClass(name, code) for code, name in enumerate(("background", *told)))
        return ClassNames(tuple(entries), "the names of the masks")
    path = config.classes or (find_class_file(data) if data.is_dir() else None)
    if path is not None or not data.is_dir():
        return read_class_names(path) if path else None
    return guess_class_names(data, progress)


def with_share(folder: Survey, share: float) -> Survey:
    """`folder` as `DataConfig.share` would leave it: with a share of its training pairs."""
    return replace(folder, pairs=keep_share(folder.pairs, *_contents(folder), share))


def _contents(folder: Survey) -> tuple[list[str], list[frozenset[int]]]:
    """Of each pair the content hash, and the classes that its mask shows."""
    facts = [fact for _, fact in folder.items()]
    presence = [frozenset(i for i, _ in class_counts(f, folder.class_map)) for f in facts]
    return [fact.hash for fact in facts], presence


def with_splits(folder: Survey, splits: dict[str, str]) -> Survey:
    """`folder` with the split of each pair taken from `splits` (pair name → split)."""
    pairs = tuple(replace(pair, split=splits.get(pair.name)) for pair in folder.pairs.pairs)
    return replace(folder, pairs=replace(folder.pairs, pairs=pairs))


def class_counts(fact: PairFacts, class_map: ClassMap) -> Iterator[tuple[int, int]]:
    """(class index, pixels) for the classes that one mask holds; ignored codes are left out."""
    mask = as_colours(fact.mask) if class_map.coding == "rgb" else fact.mask
    indexes = class_map.indexes_of([code for code, _ in mask.counts])
    for index, (_, pixels) in zip(indexes, mask.counts, strict=True):
        if index != IGNORED:
            yield index, pixels
