"""Images and masks on object storage, such as s3://bucket/prefix, by fsspec; an extra.

Images are fetched a few at a time into a folder of this machine, predicted there as any others,
and the masks put where they belong: an object is whole or not there. Nothing can be appended to an
object, so the file of a block is put anew with every portion, and nothing can be locked: two
predictions with different settings into one place are not kept apart.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, TypeVar

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from unetseg.data.files.folders import IMAGE_SUFFIXES, is_hidden
from unetseg.errors import ConfigError, ImageError, MachineError, UnetsegError, imported
from unetseg.prediction.jobs import note_of
from unetseg.prediction.manifest import BLOCKS, Manifest, identity_of
from unetseg.prediction.outputs import Job
from unetseg.prediction.pipeline import PIXELS_AHEAD, read_ahead
from unetseg.prediction.predict import Work, manifest_of, predict_listed
from unetseg.progress import SILENT, Progress
from unetseg.scaling.blocks import Block, Blocks, Named, Shard
from unetseg.scaling.listing import list_images, unique_names
from unetseg.scaling.shards import Totals, counted, predict_blocks
from unetseg.storage import atomic_path, write_bytes
from unetseg.text import address_of

PORTION = 32
"""Images that are fetched and predicted together; the next portions are fetched meanwhile."""
REQUESTS = 16
"""That are under way at once."""

T = TypeVar("T")


class Place:
    """A folder on object storage; or one of this machine, whose files are whole or not there too.

    Args:
        address: Such as s3://bucket/prefix, or a path.

    Raises:
        MachineError: the package for such addresses is not installed, or there are none.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        if address.startswith(("s3:", "s3a:")):
            imported("s3fs", "s3")
        try:
            self.files, self.path = url_to_fs(address, use_listings_cache=False)
        except ImportError as error:
            summary = f"{address} needs a package that is not installed"
            raise MachineError(summary, [error], "Install what is named here.") from error
        except ValueError as error:
            fix = "Give a path, or an address such as s3://bucket/prefix."
            raise MachineError(f"{address} is no address", [error], fix) from error

    def images(self, masks: "Place") -> Iterator[Named]:
        """The images below it, but not those in `masks`, and their names without suffix."""
        has_masks, folders = Path(masks.path).is_relative_to(self.path), [self.path]
        while folders:
            folder, listing = folders.pop(), list[dict[str, Any]]()
            if has_masks and Path(folder).is_relative_to(masks.path):
                continue
            with suppress(FileNotFoundError):  # `walk` would pass over refusals too
                listing = self.files.ls(folder, detail=True)
            for entry in listing:
                name = entry["name"].rstrip("/")
                path = Path(name).relative_to(self.path)
                if is_hidden(path.parts):
                    continue
                if entry["type"] == "directory":
                    folders += {name} - {folder}
                elif path.suffix.lower() in IMAGE_SUFFIXES:
                    yield path, path.with_suffix("")

    def fetch(self, name: str | Path, to: Path) -> None:
        """Copy a file from here, with the time at which it was changed, if it is there."""
        to.parent.mkdir(parents=True, exist_ok=True)
        path = f"{self.path}/{name}"
        with suppress(FileNotFoundError):
            status = self.files.info(path)
            self.files.get_file(path, str(to))
            changed = self._identity(status)[1]
            os.utime(to, ns=(changed, changed))

    def put(self, file: Path, name: str) -> None:
        """Copy a file here, whole or not at all."""
        if isinstance(self.files, LocalFileSystem):
            with atomic_path(Path(self.path) / name) as temporary:
                shutil.copyfile(file, temporary)
        else:
            self.files.put_file(str(file), f"{self.path}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Write a small file here, whole or not at all."""
        if isinstance(self.files, LocalFileSystem):
            write_bytes(Path(self.path) / name, content)
        else:
            self.files.pipe_file(f"{self.path}/{name}", content)

    def remove(self, name: str) -> None:
        """Take a file away."""
        self.files.rm_file(f"{self.path}/{name}")

    def there(self, names: Iterable[str]) -> set[str]:
        """Those of the names that are here."""
        listed = list(names)
        found = self.each(lambda name: bool(self.files.exists(f"{self.path}/{name}")), listed)
        return {name for name, is_there in zip(listed, found, strict=True) if is_there}

    def identity(self, name: str | Path) -> tuple[int, int]:
        """Bytes of a file, and when it was changed; zeros where there is none."""
        try:
            return self._identity(self.files.info(f"{self.path}/{name}"))
        except FileNotFoundError:
            return 0, 0

    def earlier(self) -> list[str]:
        """The names of the files of blocks that are here."""
        return [name for name in self.names(BLOCKS) if name.endswith(".jsonl")]

    def names(self, folder: str = "") -> list[str]:
        """What is in a folder of this place."""
        with suppress(FileNotFoundError):
            files = self.files.ls(f"{self.path}/{folder}".rstrip("/"), detail=False)
            return [file.rstrip("/").rpartition("/")[2] for file in files]
        return []

    @contextmanager
    def totals(self, name: str) -> Iterator[Totals]:
        """Totals whose failures are put here at the end."""
        with TemporaryDirectory(prefix="unetseg-") as temporary:
            totals = Totals(Path(temporary) / name)
            totals.file.touch()
            yield totals
            if totals.failed:
                self.put(totals.file, name)
            elif name in self.names():
                self.remove(name)
        totals.file = Path(f"{self.address}/{name}")

    @staticmethod
    def _identity(status: dict[str, Any]) -> tuple[int, int]:
        changed = status.get("LastModified") or status.get("mtime") or 0
        seconds = changed.timestamp() if hasattr(changed, "timestamp") else changed
        return int(status["size"]), int(seconds) * 10**9

    @staticmethod
    def each(do: Callable[[T], Any], items: Iterable[T]) -> list[Any]:
        """What `do` gives for each, several at once."""
        with ThreadPoolExecutor(REQUESTS) as pool:
            return list(pool.map(do, items))


class Stored:
    """Predicts blocks of images of one place into another; `predict_block` of addresses.

    Args:
        work: The trained U-Net and its settings; its output is of no use.
        inputs: Where the images are, if not in local folders.
        output: Where the masks go.
    """

    def __init__(self, work: Work, inputs: Place | None, output: Place) -> None:
        self.work, self.inputs, self.output = work, inputs, output

    def predict_block(self, block: Block, progress: Progress = SILENT) -> dict[str, Any]:
        """Write the masks of a block that are not there yet, and count them.

        Raises:
            ConfigError: as `predict_folder`.
        """
        with TemporaryDirectory(prefix="unetseg-") as temporary:
            here = Path(temporary)
            addresses = {str(here / "masks"): self.output.address}
            if self.inputs:
                addresses[str(here / "images")] = self.inputs.address
            stage = Stage(self, replace(self.work, output=here / "masks"), block, addresses)
            try:
                with reaching():
                    counts = stage.predict(here / "images", progress)
            except UnetsegError as error:
                error.summary, error.fix = (stage.told(t) for t in (error.summary, error.fix))
                error.offenders = [stage.told(offender) for offender in error.offenders]
                error.commands = tuple(stage.told(command) for command in error.commands)
                raise
            return json.loads(stage.told(json.dumps(counts)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Stage:
    """A block in a folder of this machine.

    Attributes:
        stored: Where it comes from, and goes to.
        work: The trained U-Net, its settings, and the folder for masks.
        block: The images.
        addresses: What folders of this machine stand for.
    """

    stored: Stored
    work: Work
    block: Block
    addresses: dict[str, str]

    def told(self, text: str) -> str:
        """A text with addresses in the place of folders."""
        for folder, address in self.addresses.items():
            text = text.replace(folder, address)
        return text

    def predict(self, folder: Path, progress: Progress) -> dict[str, Any]:
        """Write the masks that are not there yet, and count them; images go through `folder`."""
        config = self.work.config
        self._fetch_journals()
        manifest = manifest_of(self.work, self.block.journal)
        finished = self._finished(manifest, folder) if config.existing == "skip" else set()
        progress.advance("predicting", len(finished))
        total = {"written": 0, "skipped": len(finished), "failures": []}
        left = iter([image for image in self.block.images if image not in finished])
        portions = iter(lambda: list(islice(left, PORTION)), [])
        fetch = partial(self._fetch, folder)
        for portion in read_ahead(portions, fetch, lambda _: PIXELS_AHEAD):
            there, noted = self._begin(manifest, portion), self._journal()
            try:
                try:
                    result = predict_listed(self.work, portion, progress, self.block.journal)
                finally:  # what was made is done once it is there
                    self._put_masks(there)
                    noted = self._journal()
            finally:  # not killed: what is noted as begun is not to blame
                self._put_journal(noted)
            progress.advance("predicting", len(result.skipped))
            total = {key: total[key] + value for key, value in counted(result).items()}
            if self.stored.inputs:
                for path, _ in portion:
                    path.unlink(missing_ok=True)
        return total

    def _fetch(self, folder: Path, portion: Sequence[Named]) -> list[Named]:
        """The images of a portion, on this machine."""
        inputs = self.stored.inputs
        if not inputs:
            return list(portion)
        inputs.each(lambda image: inputs.fetch(image[0], folder / image[0]), portion)
        return [(folder / path, name) for path, name in portion]

    def _fetch_journals(self) -> None:
        """The file of the block, and those that may tell of it, with folders for addresses."""
        inner_first = sorted(self.addresses.items(), key=lambda pair: -len(pair[1]))
        for name in (self.block.journal.file, *self.block.journal.others):
            file = self.work.output / name
            self.stored.output.fetch(name, file)
            if file.is_file():
                text, changed = file.read_text(encoding="utf-8"), file.stat().st_mtime_ns
                for folder, address in inner_first:
                    text = text.replace(address, folder)
                file.write_text(text, encoding="utf-8")
                os.utime(file, ns=(changed, changed))

    def _finished(self, manifest: Manifest, folder: Path) -> set[Named]:
        """The images that need not be fetched; of stacks of pages all are."""
        config, inputs, output = self.work.config, self.stored.inputs, self.stored.output
        wanted = len(Job(Path(), Path("mask")).files(config))
        records = {
            record.image: record
            for record in manifest.done.values()
            if record.by == manifest.key and len(record.files) >= wanted
        }
        noted = [
            (image, records[str(path)])
            for image in self.block.images
            if (path := (folder if inputs else Path()) / image[0]) and str(path) in records
        ]
        identity = inputs.identity if inputs else identity_of
        identities = output.each(lambda pair: identity(pair[0][0]), noted)
        there = output.there({file for _, record in noted for file in record.files})
        return {
            image
            for (image, record), now in zip(noted, identities, strict=True)
            if record.identity == now and record.files <= there
        }

    def _begin(self, manifest: Manifest, portion: Sequence[Named]) -> set[Path]:
        """Note, where it outlasts this process, which images are next; stand-ins for their masks.

        What is there already is not fetched to be looked at: a file of one byte stands for it.
        """
        work, output = self.work, self.stored.output
        suffixes = {work.predictor.info.class_map.suffix, ".tif"}
        masks = [f"{name.as_posix()}{suffix}" for _, name in portion for suffix in suffixes]
        begun = "".join(f"{json.dumps({'begun': mask, 'alone': False})}\n" for mask in masks)
        self._put_journal(self._journal() + begun)
        if not manifest.begun.keys().isdisjoint(masks):  # one may have a deadly header
            note_of(work.output, manifest.file.stem).touch()
        there = set()
        if work.config.existing != "overwrite":
            names = {name.as_posix() for _, name in portion}
            stems = {mask: mask.rpartition(".")[0] for mask in manifest.done}
            pages = [mask for mask, stem in stems.items() if stem.rpartition("_")[0] in names]
            there = {work.output / name for name in output.there([*masks, *pages])}
        for file in there:
            write_bytes(file, b"-")
        return there

    def _put_masks(self, stand_ins: set[Path]) -> None:
        """Put what was written, and clear it away here."""
        folder, output = self.work.output, self.stored.output
        files = [file for file in folder.rglob("*") if file.is_file() and file.suffix != ".jsonl"]
        files = [file for file in files if not is_hidden(file.relative_to(folder).parts)]
        made = [file for file in files if file not in stand_ins or file.stat().st_size > 1]
        output.each(lambda file: output.put(file, file.relative_to(folder).as_posix()), made)
        for file in files:
            file.unlink()

    def _journal(self) -> str:
        """What is in the file of the block on this machine."""
        file = self.work.output / self.block.journal.file
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    def _put_journal(self, text: str) -> None:
        """Put the file of the block."""
        self.stored.output.write(self.block.journal.file, self.told(text).encode())


def places(inputs: Sequence[Path], output: Path) -> tuple[Place | None, Place]:
    """Where the images are, if not in local folders, and where the masks go.

    Raises:
        ConfigError: there are several addresses, or masks would take the place of images.
    """
    addresses = [address for given in inputs if (address := address_of(given))]
    if addresses and len(inputs) > 1:
        fix = "Predict one after the other, or give the prefix above them."
        raise ConfigError("images are in several places", list(map(str, inputs)), fix)
    target = Place(address_of(output) or str(output.absolute()))
    if target.address in addresses:
        fix = "Choose another place with -o, such as one below it."
        raise ConfigError(f"masks would take the place of images in {target.address}", fix=fix)
    return (Place(addresses[0]) if addresses else None), target


def list_stored(
    source: Place | None, target: Place, inputs: Sequence[Path], shard: Shard, progress: Progress
) -> Blocks:
    """The images of a shard; see `list_images` for local ones.

    Raises:
        ImageError: there is no image.
    """
    if not source:
        return list_images([path.absolute() for path in inputs], Path(target.path), shard, progress)
    blocks = Blocks(source.images(target), shard, partial(unique_names, Path()))
    if not blocks.listed:
        raise ImageError(f"there is no image in {source.address}")
    return blocks


def predict_stored(
    shard: str | None, work: Work, inputs: Sequence[Path], output: Path, progress: Progress = SILENT
) -> Totals:
    """As `predict_shard`, where images or masks are on object storage.

    Args:
        shard: One of several, if not all.
        work: The trained U-Net and its settings; its own output is of no use.
        inputs: One address of a folder of images, or local ones.
        output: Where the masks go: an address, or a folder.
        progress: Hears of every image.

    Raises:
        ConfigError: as `predict_folder`; or there are several addresses.
        ImageError: there is no image.
        MachineError: the storage cannot be reached.
    """
    mine = Shard.of(shard)
    name = f"failures-{mine}.jsonl" if shard else "failures.jsonl"
    with reaching():
        source, target = places(inputs, output)
        blocks = list_stored(source, target, inputs, mine, progress)
        times = max(1, blocks.total // PORTION)
        stored = Stored(replace(work, times=times, given=inputs), source, target)
        with target.totals(name) as totals:
            predict_blocks(blocks, target.earlier(), stored.predict_block, totals, progress)
    return totals


@contextmanager
def reaching() -> Iterator[None]:
    """Turn what a storage says against a request into an answer.

    Raises:
        MachineError: it cannot be reached, or refuses.
    """
    faults: tuple[type[Exception], ...] = (OSError,)
    with suppress(ImportError):
        from botocore.exceptions import BotoCoreError, ClientError

        faults = OSError, BotoCoreError, ClientError
    try:
        yield
    except faults as error:
        if getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT}:  # of this machine
            told = f"no room in {gettempdir()}, where about a hundred images lie at once: {error}"
            raise MachineError(told, fix="Name a folder with more room by TMPDIR.") from error
        fix = "Check address, network and credentials, and go on with --existing skip."
        raise MachineError(f"a place cannot be reached: {error}", fix=fix) from error
