"""What a folder is like: sizes, bands, intensities and class statistics, in one pass."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from unetseg.data.facts.image_values import ImageFacts as ImageFacts
from unetseg.data.facts.image_values import image_facts as image_facts
from unetseg.data.masks.infer_classes import MaskFacts, mask_facts
from unetseg.data.pairs.match import Pair
from unetseg.errors import DataError, ImageError, MachineError
from unetseg.progress import SILENT, Progress
from unetseg.storage import content_hash, write_bytes
from unetseg.text import plural, printable

CACHE_VERSION = "2"
NO_NUMBERS = "NaN or infinite pixels"
KIND_FIX = "Convert these images, or train on them apart."


class PairFacts(BaseModel):
    """One image/mask pair in numbers."""

    model_config = ConfigDict(frozen=True)

    hash: str
    image: ImageFacts
    mask: MaskFacts


def take_fingerprint(pairs: Iterable[Pair], progress: Progress = SILENT) -> list[PairFacts]:
    """Describe every pair, and refuse what cannot be trained on; see `describe_pairs`.

    Raises:
        DataError: files that cannot be read or do not fit together, all of them.
    """
    return list(take_readable(pairs, most_bad=0, progress=progress).values())


def take_readable(
    pairs: Iterable[Pair], most_bad: float, progress: Progress = SILENT
) -> dict[Pair, PairFacts]:
    """Describe every pair but those that cannot be read, as long as these are few.

    Args:
        pairs: What to describe.
        most_bad: Share of the pairs that may be left out, 0–1.
        progress: Hears what is left out.

    Raises:
        DataError: more files cannot be read, or they do not fit together; all of them.
    """
    pairs = list(pairs)
    described = describe_pairs(pairs, progress)
    checked = [_refused(*couple) for couple in zip(pairs, described, strict=True)]
    bad = [fact for fact in checked if isinstance(fact, list)]
    if len(bad) > most_bad * len(pairs):
        raise _unreadable(bad, len(pairs))
    for fault in chain.from_iterable(bad):
        progress.say(f"left out: {printable(fault.summary)}")
    facts = {p: f for p, f in zip(pairs, checked, strict=True) if isinstance(f, PairFacts)}
    _check_sizes(list(facts), list(facts.values()))
    _check_kinds(list(facts), list(facts.values()))
    return facts


def describe_pairs(
    pairs: Iterable[Pair], progress: Progress = SILENT
) -> list[PairFacts | list[DataError]]:
    """The facts of every pair, or all that is wrong with its files, in the order of the pairs.

    Files are read in parallel; pairs seen before come from the cache by content.
    """
    pairs = list(pairs)
    store = _cache_file(pairs)
    cache = _read_cache(store)
    known = len(cache)
    progress.start("reading", len(pairs))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        facts: list[PairFacts | list[DataError]] = []
        for pair, fact in zip(pairs, pool.map(lambda p: _describe(p, cache), pairs), strict=True):
            facts.append(fact)
            progress.advance("reading", file=printable(pair.name))
    progress.finish("reading")
    if len(cache) > known:
        _write_cache(store, cache)
    return facts


def _describe(pair: Pair, cache: dict[str, PairFacts]) -> PairFacts | list[DataError]:
    """The facts of a pair, or what is wrong with its files."""
    if pair.mask is None:
        return [DataError(f"{pair.image} has no mask")]
    key = _key(pair.image, pair.mask)
    if key not in cache:
        image = _attempt(image_facts, pair.image)
        mask = _attempt(mask_facts, pair.mask)
        if isinstance(image, DataError) or isinstance(mask, DataError):
            return [*_faults(pair.image, image), *([mask] if isinstance(mask, DataError) else [])]
        if key is None:
            return [DataError(f"{pair.image} or {pair.mask} changes while it is read")]
        placeless = mask.model_copy(update={"path": ""})  # names may be no text that JSON can hold
        cache[key] = PairFacts(hash=key, image=image, mask=placeless)
    fact = cache[key]
    return fact.model_copy(update={"mask": fact.mask.model_copy(update={"path": str(pair.mask)})})


def _key(image: Path, mask: Path) -> str | None:
    """The hash of both files; None where one is no file that can be read."""
    try:
        is_whole = image.is_file() and mask.is_file()  # a pipe would keep us waiting
        return content_hash(image, mask) if is_whole else None
    except OSError:
        return None


_Facts = TypeVar("_Facts", ImageFacts, MaskFacts)


def _attempt(describe: Callable[[Path], _Facts], path: Path) -> _Facts | DataError:
    try:
        return describe(path)
    except DataError as error:
        return error


def _refused(pair: Pair, fact: PairFacts | list[DataError]) -> PairFacts | list[DataError]:
    """What is wrong with a pair for training, or its facts."""
    faults = _faults(pair.image, fact.image) if isinstance(fact, PairFacts) else []
    return faults or fact


def _faults(path: Path, image: ImageFacts | DataError) -> list[DataError]:
    """What is wrong with an image for training."""
    if isinstance(image, DataError):
        return [image]
    if image.bad:
        fix = "Replace them by a number."
        return [ImageError(f"{path} has {NO_NUMBERS}", fix=fix, code="nan-pixels", paths=[path])]
    return []


def _unreadable(bad: list[list[DataError]], pairs: int) -> DataError:
    """All that is wrong with the bad ones of so many pairs."""
    faults = list(chain.from_iterable(bad))
    fixes = dict.fromkeys(fault.fix for fault in faults if fault.fix)
    return DataError(
        f"{len(bad)} of {plural(pairs, 'pair')} cannot be read",
        [printable(fault.summary) for fault in faults],
        " ".join(fixes) or "Replace or remove these files.",
    )


def _check_sizes(pairs: list[Pair], facts: list[PairFacts]) -> None:
    wrong = [
        printable(size_line(pair, fact))
        for pair, fact in zip(pairs, facts, strict=True)
        if fact.image.shape != fact.mask.shape
    ]
    if wrong:
        raise DataError(
            f"{plural(len(wrong), 'mask')} {'differs' if len(wrong) == 1 else 'differ'} in size "
            f"from {'its' if len(wrong) == 1 else 'their'} image (width×height)",
            wrong,
            "Resize these masks with nearest-neighbour interpolation, or remove the pairs.",
        )


def size_line(pair: Pair, fact: PairFacts) -> str:
    """The sizes of an image and its mask, width×height."""
    return f"{pair.image} is {_size(fact.image.shape)}, {pair.mask} is {_size(fact.mask.shape)}"


def _check_kinds(pairs: list[Pair], facts: list[PairFacts]) -> None:
    most, strangers = find_strangers(pairs, facts)
    if strangers:
        raise DataError(
            f"the images differ in kind: most are {most}, these are not",
            [printable(line) for line in strangers],
            KIND_FIX,
        )


def find_strangers(pairs: Sequence[Pair], facts: Sequence[PairFacts]) -> tuple[str, list[str]]:
    """The kind of most images in words, and a line for each image that cannot go with them.

    Grey and RGB images may mix (grey is repeated); other band counts or depths may not.
    """
    kinds = [(fact.image.dtype, 3 if fact.image.bands == 1 else fact.image.bands) for fact in facts]
    usual = Counter(kinds).most_common(1)[0][0]
    lines = [
        f"{pair.image} is {_kind(fact.image.dtype, fact.image.bands)}"
        for pair, fact, kind in zip(pairs, facts, kinds, strict=True)
        if kind != usual
    ]
    return _kind(*usual), lines


def per_band(images: Iterable[ImageFacts], name: str, bands: int) -> NDArray[np.float64]:
    """N×C: "mean", "std", "low" or "high" of every image; grey among RGB is repeated."""
    rows = (getattr(image, name) for image in images)
    return np.array([row * (bands // len(row)) for row in rows], np.float64)


def pooled(images: list[ImageFacts], bands: int) -> dict[str, NDArray[np.float64]]:
    """Mean, deviation, lowest and highest value per band over all pixels with data of `images`."""
    images = [image for image in images if image.with_data] or images
    means, deviations, lows, highs = (
        per_band(images, name, bands) for name in ("mean", "std", "low", "high")
    )
    pixels = np.array([image.with_data for image in images], np.float64)
    share = (pixels / max(pixels.sum(), 1))[:, None]  # N, 1
    mean = (share * means).sum(0)
    variance = (share * (deviations**2 + (means - mean) ** 2)).sum(0)
    return {"mean": mean, "std": np.sqrt(variance), "low": lows.min(0), "high": highs.max(0)}


def cache_folder() -> Path:
    """UNETSEG_CACHE_FOLDER, XDG_CACHE_HOME/unetseg or ~/.cache/unetseg."""
    if "UNETSEG_CACHE_FOLDER" in os.environ:
        return Path(os.environ["UNETSEG_CACHE_FOLDER"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "unetseg"


_CACHE: TypeAdapter[dict[str, PairFacts]] = TypeAdapter(dict[str, PairFacts])


def _cache_file(pairs: list[Pair]) -> Path:
    """One file per image folder, so that no cache grows beyond its data."""
    folders = sorted({str(pair.image.resolve().parent) for pair in pairs})
    key = blake2b("\n".join(folders).encode(), digest_size=8).hexdigest()
    return cache_folder() / f"fingerprint-{CACHE_VERSION}-{key}.json"


def _read_cache(store: Path) -> dict[str, PairFacts]:
    try:
        return _CACHE.validate_json(store.read_bytes())
    except (OSError, ValidationError):
        return {}


def _write_cache(store: Path, cache: dict[str, PairFacts]) -> None:
    try:
        write_bytes(store, _CACHE.dump_json(cache))
    except MachineError:
        return  # A cache that cannot be written costs time, nothing else.


def _kind(dtype: str, bands: int) -> str:
    return f"{dtype} with {plural(bands, 'band')}"


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[1]}×{shape[0]}"
