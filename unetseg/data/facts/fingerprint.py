"""What a folder is like: sizes, bands, intensities and class statistics, in one pass."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from unetseg.data.facts.image_values import ImageFacts, image_facts
from unetseg.data.files import image as image_file
from unetseg.data.files.pages import MaskPath, file_of, files_of, image_hash
from unetseg.data.files.rasters import read_with
from unetseg.data.files.readers import WINDOWED_FORMATS
from unetseg.data.masks.mask_file import whole_factor
from unetseg.data.masks.mask_values import MaskFacts, mask_facts
from unetseg.data.pairs.match import Pair
from unetseg.errors import DataError, ImageError, MachineError
from unetseg.progress import SILENT, Progress
from unetseg.resources import usable_cores
from unetseg.storage import write_bytes
from unetseg.text import plural, printable

CACHE_VERSION = "12"
STALE = 1000
"""Facts of other contents than those of the pairs that the cache of a folder keeps at least."""
NO_NUMBERS = "NaN or infinite pixels"
KIND_FIX = "Convert these images, or train on them apart."


class PairFacts(BaseModel):
    """One image/mask pair in numbers."""

    model_config = ConfigDict(frozen=True)

    hash: str
    image: ImageFacts
    mask: MaskFacts

    @property
    def fits(self) -> bool:
        """Whether the mask has the size of the image, or is brought to it by a whole factor."""
        image, mask = self.image.shape, self.mask.shape
        return image == mask or whole_factor(image, mask) is not None

    @property
    def has_large_mask(self) -> bool:
        """Whether the mask is as large as an image that is read by windows, see `ImageFile`."""
        return self.mask.pixels > image_file.WHOLE_PIXELS

    @property
    def is_windowed(self) -> bool:
        """Whether a file of the pair is read by windows, so that the pair is never kept decoded."""
        has_windows = self.mask.format in WINDOWED_FORMATS
        return self.image.is_windowed or (self.has_large_mask and has_windows)


_CACHE: TypeAdapter[dict[str, PairFacts]] = TypeAdapter(dict[str, PairFacts])


def describe_pairs(
    pairs: Sequence[Pair], progress: Progress = SILENT, max_pixels: int | None = None
) -> tuple[dict[Pair, PairFacts], dict[Pair, list[DataError]]]:
    """The facts of every pair that can be read, and what is wrong with the files of the others.

    Files are read in parallel; pairs seen before come from the cache by content.

    Args:
        pairs: What to describe.
        progress: Hears of every pair.
        max_pixels: The most pixels that are decoded at once.
    """
    # One file per image folder, so that none is read for the sake of others.
    folders = sorted({str(pair.image.resolve().parent) for pair in pairs})
    key = blake2b("\n".join(folders).encode(errors="surrogateescape"), digest_size=8).hexdigest()
    store = cache_folder() / f"fingerprint-{CACHE_VERSION}-{key}.json"
    cache: dict[str, PairFacts] = {}
    with suppress(OSError, ValidationError):
        cache = _CACHE.validate_json(store.read_bytes())
    cached = len(cache)
    facts: dict[Pair, PairFacts] = {}
    unreadable: dict[Pair, list[DataError]] = {}
    progress.start("reading", len(pairs))
    with ThreadPoolExecutor(usable_cores()) as pool:
        described = pool.map(lambda pair: _describe(pair, cache, max_pixels), pairs)
        for pair, fact in zip(pairs, described, strict=True):
            if isinstance(fact, PairFacts):
                facts[pair] = fact
            else:
                unreadable[pair] = fact
            progress.advance("reading", file=printable(pair.name))
    progress.finish("reading")
    if len(cache) > cached:
        if len(cache) > 2 * len(pairs) + STALE:
            used = {fact.hash for fact in facts.values()}
            cache = {digest: fact for digest, fact in cache.items() if fact.hash in used}
        with suppress(MachineError):  # a cache that cannot be written costs time, nothing else
            write_bytes(store, _CACHE.dump_json(cache))
    return facts, unreadable


def _describe(
    pair: Pair, cache: dict[str, PairFacts], max_pixels: int | None
) -> PairFacts | list[DataError]:
    """The facts of a pair, or what is wrong with its files."""
    if pair.mask is None:
        return _without_objects(pair, max_pixels)
    key, digest = None, ""
    with suppress(OSError):
        files = file_of(pair.image), *files_of(pair.mask)
        if all(file.is_file() for file in files):  # a pipe would keep us waiting
            beside = sorted(chain.from_iterable(map(_beside, files)))
            key = image_hash(pair.image, pair.mask)
            told = beside, max_pixels  # what one limit allows another refuses
            digest = f"{key} {told}" if any(told) else key
    if digest not in cache:
        image = _attempt(image_facts, pair.image, max_pixels)
        mask = _attempt(mask_facts, pair.mask, max_pixels)
        if isinstance(image, DataError) or isinstance(mask, DataError):
            faults = [image] if isinstance(image, DataError) else no_numbers(pair, image)
            return [*faults, *([mask] if isinstance(mask, DataError) else [])]
        if key is None:
            came = f"{pair.image} or {pair.mask} changes while it is read"
            return [DataError(came, paths=[pair.image, *files_of(pair.mask)])]
        placeless = mask.model_copy(update={"path": ""})  # names may be no text that JSON can hold
        cache[digest] = PairFacts(hash=key, image=image, mask=placeless)
    fact = cache[digest]
    return fact.model_copy(update={"mask": fact.mask.model_copy(update={"path": str(pair.mask)})})


def _beside(path: Path) -> list[tuple[int, int]]:
    """Size and time of the other files that tell of an image's pixels."""
    return [(stat.st_size, stat.st_mtime_ns) for stat in map(Path.stat, read_with(path))]


def _without_objects(pair: Pair, max_pixels: int | None) -> PairFacts | list[DataError]:
    """The facts of an image that stands for itself as one without objects; its mask has no path."""
    image = _attempt(image_facts, pair.image, max_pixels)
    if isinstance(image, DataError):
        return [image]
    if image.is_windowed:
        fix = "Write a mask that shows nothing, or cut the image into smaller ones."
        what = f"{pair.image} is read by windows, which needs a mask file"
        return [DataError(what, fix=fix, paths=(pair.image,))]
    blank = MaskFacts(path="", shape=image.shape, coding="integer", dtype="uint8", counts=())
    return PairFacts(hash=image_hash(pair.image, pair.image), image=image, mask=blank)


_Facts = TypeVar("_Facts", ImageFacts, MaskFacts)
_Where = TypeVar("_Where", bound=MaskPath)


def _attempt(
    describe: Callable[[_Where, int | None], _Facts], path: _Where, max_pixels: int | None
) -> _Facts | DataError:
    """The facts of a file, or what is wrong with it."""
    try:
        return describe(path, max_pixels)
    except DataError as error:
        error.paths = error.paths or files_of(path)
        return error


def no_numbers(pair: Pair, image: ImageFacts) -> list[DataError]:
    """What is wrong with an image of which pixels are no numbers; nothing if they all are."""
    if not image.bad:
        return []
    summary, fix = f"{pair.image} has {NO_NUMBERS}", "Replace them by a number."
    return [ImageError(summary, fix=fix, code="nan-pixels", paths=[pair.image])]


# What cannot be trained on

MOST_BAD = 0.1
"""Share of the pairs that may be left out because they cannot be read."""


def refuse_unusable(
    facts: Mapping[Pair, PairFacts],
    unreadable: Mapping[Pair, Sequence[DataError]],
    progress: Progress = SILENT,
    *,
    skip: bool = False,
) -> dict[Pair, PairFacts]:
    """The facts of the pairs that can be trained on, as long as the others are few.

    Args:
        facts: Of every pair that could be read.
        unreadable: What is wrong with the others.
        progress: Hears what is left out.
        skip: Leave out the others, up to `MOST_BAD` of all; else there must be none.

    Raises:
        DataError: more files cannot be read, or they do not fit together; all of them.
    """
    bad: dict[Pair, Sequence[DataError]] = {
        pair: no_numbers(pair, fact.image) for pair, fact in facts.items() if fact.image.bad
    }
    bad |= unreadable
    faults = list(chain.from_iterable(bad[pair] for pair in sorted(bad, key=lambda p: p.name)))
    count = len(facts) + len(unreadable)
    if bad and not (skip and len(bad) <= MOST_BAD * count):
        raise _too_many(faults, len(bad), count, skip=skip)
    for fault in faults:
        progress.say(f"left out: {printable(fault.summary)}")
    usable = {pair: fact for pair, fact in facts.items() if pair not in bad}
    wrong = [
        f"{pair.image} is {size_text(fact.image.shape)}, "
        f"{pair.mask} is {size_text(fact.mask.shape)}"
        for pair, fact in usable.items()
        if not fact.fits
    ]
    if wrong:
        is_one = len(wrong) == 1
        raise DataError(
            f"{plural(len(wrong), 'mask')} {'differs' if is_one else 'differ'} in size "
            f"from {'its' if is_one else 'their'} image (width×height)",
            [*map(printable, wrong)],
            _size_fix([fact for fact in usable.values() if not fact.fits]),
        )
    most, strangers = find_strangers(usable)
    if strangers:
        raise DataError(
            f"the images differ in kind: most are {most}, these are not",
            [printable(f"{pair.image} is {kind}") for pair, kind in strangers.items()],
            KIND_FIX,
        )
    if not any(fact.image.with_data for fact in usable.values()):
        raise DataError(
            "no pixel of any image has data: alpha is 0, or they hold the declared no-data value",
            [printable(pair.image) for pair in usable],
            "Save the images without alpha, or without declaring that value.",
        )
    return usable


def _size_fix(misfits: Sequence[PairFacts]) -> str:
    """What is to be done about masks of another size, by what is behind it."""
    swapped = [fact for fact in misfits if fact.mask.shape == fact.image.shape[::-1]]
    unturned = sum(fact.image.orientation > 4 for fact in swapped)
    fixes = {
        "Let `unetseg check DATA --fix OUT` turn masks drawn before EXIF turned theirs.": unturned,
        "Turn masks with swapped sides so that they lie on their image.": len(swapped) - unturned,
        "Resize masks of other sizes with nearest-neighbour interpolation, or remove the pairs.": (
            len(misfits) - len(swapped)
        ),
    }
    return " ".join(text for text, count in fixes.items() if count)


def _too_many(faults: Sequence[DataError], bad: int, count: int, *, skip: bool) -> DataError:
    """What is said of `bad` of `count` pairs that cannot be read and are not left out."""
    fixes = [*dict.fromkeys(fault.fix for fault in faults if fault.fix)]
    fixes = fixes or ["Replace or remove these files."]
    if bad <= MOST_BAD * count:
        fixes.append("Or leave them out: --on-bad skip")
    limit = f"; --on-bad skip leaves out at most {MOST_BAD:.0%}" if skip else ""
    return DataError(
        f"{bad} of {plural(count, 'pair')} cannot be read{limit}",
        [printable(fault.summary) for fault in faults],
        " ".join(fixes),
    )


def size_text(shape: tuple[int, int]) -> str:
    """A size as it is told, width×height."""
    return f"{shape[1]}×{shape[0]}"


def find_strangers(facts: Mapping[Pair, PairFacts]) -> tuple[str, dict[Pair, str]]:
    """The kind of most images in words, and that of each image that cannot go with them.

    Grey and RGB images may mix (grey is repeated), with alpha or without; other band counts or
    depths may not. Where most have a band more, one that looked like alpha is a band too.
    """
    kinds = {
        pair: (fact.image.dtype, 3 if fact.image.bands == 1 else fact.image.bands)
        for pair, fact in facts.items()
    }
    usual = Counter(kinds.values()).most_common(1)[0][0]
    strangers = {
        pair: image
        for pair, kind in kinds.items()
        if kind != usual
        and not ((image := facts[pair].image).alpha and (image.dtype, image.bands + 1) == usual)
    }
    return _kind(*usual), {p: _kind(image.dtype, image.bands) for p, image in strangers.items()}


def per_band(images: Iterable[ImageFacts], name: str, bands: int) -> NDArray[np.float64]:
    """N×C: "mean", "std", "low" or "high" of every image; grey among RGB is repeated.

    Alpha counts where it is a band among images of as many.
    """
    rows = [
        (*getattr(image, name), image.alpha[name])
        if image.alpha and image.bands + 1 == bands
        else getattr(image, name)
        for image in images
    ]
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
    try:
        home = Path.home()
    except RuntimeError:  # a user whom the system does not know, as in containers
        home = Path("/")  # as Docker tells them; mostly it cannot be written, and nothing is kept
    return Path(os.environ.get("XDG_CACHE_HOME", home / ".cache")) / "unetseg"


def _kind(dtype: str, bands: int) -> str:
    return f"{dtype} with {plural(bands, 'band')}"
