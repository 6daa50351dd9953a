"""What a folder is like: sizes, bands, intensities and class statistics, in one pass."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from unetseg.data.coding import MaskFacts, mask_facts
from unetseg.data.folders import number, show
from unetseg.data.images import effective_bands, match_bands, read_image
from unetseg.data.pairs import Pair
from unetseg.errors import DataError, ImageError, MachineError
from unetseg.progress import SILENT, Progress
from unetseg.storage import content_hash, write_bytes

CACHE_VERSION = "1"


class ImageFacts(BaseModel):
    """One image in numbers; one entry per band in the tuples, raw pixel values."""

    model_config = ConfigDict(frozen=True)

    shape: tuple[int, int]
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def pixels(self) -> int:
        """Height × width."""
        return self.shape[0] * self.shape[1]

    @property
    def bands(self) -> int:
        """Number of bands, an opaque alpha not counted."""
        return len(self.mean)


class PairFacts(BaseModel):
    """One image/mask pair in numbers."""

    model_config = ConfigDict(frozen=True)

    hash: str
    image: ImageFacts
    mask: MaskFacts


def image_facts(path: Path) -> ImageFacts:
    """Read an image and describe it.

    Raises:
        ImageError: it cannot be read, or holds NaN or infinite pixels.
    """
    image = read_image(path)
    image = match_bands(image, effective_bands(image), path)
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ImageError(f"{path} has NaN or infinite pixels", mend="Replace them by a number.")
    # Band by band: numpy reduces contiguous pixels twenty times faster than interleaved ones.
    rows = [_statistics(np.ascontiguousarray(band)) for band in np.moveaxis(image, -1, 0)]
    mean, std, low, high = zip(*rows, strict=True)
    return ImageFacts(
        shape=(image.shape[0], image.shape[1]),
        dtype=str(image.dtype),
        mean=mean,
        std=std,
        low=low,
        high=high,
    )


def _statistics(band: NDArray[Any]) -> tuple[float, float, float, float]:
    """Mean, deviation, lowest and highest value of one band, H×W."""
    mean, std = band.mean(dtype=np.float64), band.std(dtype=np.float64)
    return float(mean), float(std), float(band.min()), float(band.max())


def take_fingerprint(pairs: Iterable[Pair], progress: Progress = SILENT) -> list[PairFacts]:
    """Describe every pair, in parallel; pairs seen before come from the cache by content.

    Raises:
        DataError: files that cannot be read or do not fit together, all of them.
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
            progress.advance("reading", file=pair.name)
    progress.finish("reading")
    if len(cache) > known:
        _write_cache(store, cache)
    whole = _without_failures(facts)
    _check_sizes(pairs, whole)
    _check_kinds(pairs, whole)
    return whole


def _describe(pair: Pair, cache: dict[str, PairFacts]) -> PairFacts | list[DataError]:
    """The facts of a pair, or what is wrong with its files."""
    if pair.mask is None:
        return [DataError(f"{pair.image} has no mask")]
    try:
        key = content_hash(pair.image, pair.mask)
    except OSError as error:
        return [DataError(f"{error.filename} cannot be read: {error.strerror}")]
    if key not in cache:
        image = _attempt(image_facts, pair.image)
        mask = _attempt(mask_facts, pair.mask)
        if isinstance(image, DataError) or isinstance(mask, DataError):
            return [fact for fact in (image, mask) if isinstance(fact, DataError)]
        cache[key] = PairFacts(hash=key, image=image, mask=mask)
    fact = cache[key]
    return fact.model_copy(update={"mask": fact.mask.model_copy(update={"path": str(pair.mask)})})


_Facts = TypeVar("_Facts", ImageFacts, MaskFacts)


def _attempt(describe: Callable[[Path], _Facts], path: Path) -> _Facts | DataError:
    try:
        return describe(path)
    except DataError as error:
        return error


def _without_failures(facts: list[PairFacts | list[DataError]]) -> list[PairFacts]:
    failures = [fact for fact in facts if isinstance(fact, list)]
    faults = [fault for failure in failures for fault in failure]
    if faults:
        mends = dict.fromkeys(fault.mend for fault in faults if fault.mend)
        raise DataError(
            f"{len(failures)} of {number(len(facts), 'pair')} cannot be read",
            [show(fault.summary) for fault in faults],
            " ".join(mends) or "Replace or remove these files.",
        )
    return [fact for fact in facts if isinstance(fact, PairFacts)]


def _check_sizes(pairs: list[Pair], facts: list[PairFacts]) -> None:
    wrong = [
        show(f"{pair.image} is {_size(fact.image.shape)}, {pair.mask} is {_size(fact.mask.shape)}")
        for pair, fact in zip(pairs, facts, strict=True)
        if fact.image.shape != fact.mask.shape
    ]
    if wrong:
        raise DataError(
            f"{number(len(wrong), 'mask')} {'differs' if len(wrong) == 1 else 'differ'} in size "
            f"from {'its' if len(wrong) == 1 else 'their'} image (width×height)",
            wrong,
            "Resize these masks with nearest-neighbour interpolation, or remove the pairs.",
        )


def _check_kinds(pairs: list[Pair], facts: list[PairFacts]) -> None:
    """Grey and RGB images may mix (grey is repeated); other band counts or depths may not."""
    kinds = [(fact.image.dtype, 3 if fact.image.bands == 1 else fact.image.bands) for fact in facts]
    ((dtype, bands), _), *others = Counter(kinds).most_common()
    if others:
        raise DataError(
            f"the images differ in kind: most are {_kind(dtype, bands)}, these are not",
            [
                show(f"{pair.image} is {_kind(fact.image.dtype, fact.image.bands)}")
                for pair, fact, kind in zip(pairs, facts, kinds, strict=True)
                if kind != (dtype, bands)
            ],
            "Convert these images, or train on them apart.",
        )


def per_band(images: Iterable[ImageFacts], name: str, bands: int) -> NDArray[np.float64]:
    """N×C: "mean", "std", "low" or "high" of every image; grey among RGB is repeated."""
    rows = (getattr(image, name) for image in images)
    return np.array([row * (bands // len(row)) for row in rows], np.float64)


def pooled(images: list[ImageFacts], bands: int) -> dict[str, NDArray[np.float64]]:
    """Mean, deviation, lowest and highest value per band over all pixels of `images`."""
    means, deviations, lows, highs = (
        per_band(images, name, bands) for name in ("mean", "std", "low", "high")
    )
    pixels = np.array([image.pixels for image in images], np.float64)
    share = (pixels / pixels.sum())[:, None]  # N, 1
    mean = (share * means).sum(0)
    variance = (share * (deviations**2 + (means - mean) ** 2)).sum(0)
    return {"mean": mean, "std": np.sqrt(variance), "low": lows.min(0), "high": highs.max(0)}


def cache_folder() -> Path:
    """Where fingerprints are kept: UNETSEG_CACHE, XDG_CACHE_HOME/unetseg or ~/.cache/unetseg."""
    if "UNETSEG_CACHE" in os.environ:
        return Path(os.environ["UNETSEG_CACHE"])
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
    return f"{dtype} with {number(bands, 'band')}"


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[1]}×{shape[0]}"
