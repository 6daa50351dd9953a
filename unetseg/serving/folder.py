"""A folder in the app: its images, the mask of each, the classes, and who may write.

Everything is as `unetseg check` and `unetseg train` see the folder. One of bare images gets masks/
beside them and a dataset.yaml, with which both commands read the same classes and pairs. What the
app notes of itself lies in the hidden folder `.unetseg`.
"""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from threading import RLock
from typing import Literal

import yaml

from unetseg.config import DataConfig
from unetseg.data.facts.survey import Survey, class_names, survey
from unetseg.data.files.folders import below, find_images
from unetseg.data.files.image import WHOLE_PIXELS
from unetseg.data.files.pages import MaskPath, file_of
from unetseg.data.masks.class_list import ClassNames, NamedClass
from unetseg.data.masks.class_map import MAX_CLASSES, ClassMap, Colour
from unetseg.data.masks.listed_classes import background_by_name
from unetseg.data.pairs.affixes import common_beginning
from unetseg.data.pairs.content import size_of
from unetseg.data.pairs.dataset_yaml import FILE, described, write_description
from unetseg.data.pairs.match import NO_MASK
from unetseg.errors import DataError, ImageError, MachineError, UnetsegError
from unetseg.locks import locked
from unetseg.serving.classes import appended_classes, begun_classes
from unetseg.storage import atomic_path, read_json, write_bytes, write_json, write_text

NOTES = ".unetseg"
"""The app's own folder in the folder: notes, and given masks before they were corrected."""
MASKS = "masks"
WRITTEN = (".png", ".tif", ".tiff")
"""Suffixes of masks that are written; a corrected GIF, JPEG or the like becomes a PNG."""
BARE = ("no-pairs", "pairing")
"""Codes of a folder in which masks may be begun: none there, or only the empty folder for them."""
UNPAIRED = DataConfig(unpaired="skip")
Origin = Literal["none", "given", "drawn", "corrected"]


@dataclass(frozen=True)
class Entry:
    """An image of the folder and its mask, if it has one."""

    id: str
    image: Path
    name: str
    """Relative to the folder."""
    mask: MaskPath | None = None
    split: str | None = None
    size: tuple[int, int] = (0, 0)
    """Height and width, pixels; zeros of one that cannot be read."""
    uploaded: bool = False

    @property
    def is_large(self) -> bool:
        """Whether image and mask are read and written by windows."""
        return self.size[0] * self.size[1] > WHOLE_PIXELS

    @property
    def revision(self) -> str:
        """What changes whenever the mask's file does; 0 where there is none."""
        if not isinstance(self.mask, Path) or not file_of(self.mask).is_file():
            return "0"
        status = file_of(self.mask).stat()
        return f"{status.st_mtime_ns:x}-{status.st_size:x}"


class Folder:
    """The images of a folder with their masks; close it, so that others may write.

    Args:
        root: The folder.

    Attributes:
        known: The survey, as far as the folder is understood.
        classes: What mask values mean; None where the masks there make no sense.
        entries: The images by id, in order.
        notes: Drawn or corrected, by the path of the mask in the folder.
        note: Why nothing can be written here; "" where it can.

    Raises:
        DataError: there is no such folder, or it cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.lock = RLock()
        self._held = ExitStack()
        try:
            self._held.enter_context(locked(self.root))
            self.note = ""
        except MachineError as error:
            self.note = error.summary
        try:
            self.read()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others write here."""
        self._held.close()

    def read(self) -> None:
        """Look at the folder anew."""
        with self.lock:
            self.notes: dict[str, Origin] = read_json(self.root / NOTES / "masks.json")
            known = survey(self.root, UNPAIRED, strict=False)
            fault = known.faults.pairing
            self.is_bare = fault is not None and fault.code in BARE
            paths = {pair.image: pair for pair in known.paired}
            found = self._bare() if fault else [*paths, *_without_mask(known)]
            splits = {pair.image: pair.split for pair in known.pairs.pairs}
            sizes = {
                pair.image: known.facts[pair.name].image.shape[:2] for pair in known.pairs.pairs
            }
            self.entries = {}
            for path in sorted(set(found)):
                name = below(path, self.root).as_posix()
                mask = paths[path].mask if path in paths else None
                size = sizes.get(path) or size_of(path) or (0, 0)
                key = blake2b(os.fsencode(path), digest_size=8).hexdigest()
                self.entries[key] = Entry(key, path, name, mask, splits.get(path), size)
            self.known = known
            self.classes = known.classes if known.paired else self._begun_classes()
            if not self.note and fault and not self.is_bare:
                self.note = fault.summary
            elif not self.note and self.classes is None:
                self.note = str(known.faults.masks or "the masks make no sense")

    def _bare(self) -> list[Path]:
        """All images of a folder without pairs, those in folders for masks left out."""
        try:
            found = [path for path, _ in find_images([self.root])]
        except ImageError:
            return []
        return [path for path in found if path.parent.name != MASKS]

    # Classes

    def _begun_classes(self) -> ClassMap:
        """The classes of masks that are still to be drawn: those of a class list, or one object."""
        config, description = described(self.root, DataConfig())
        names = class_names(self.root, config, description)
        names = names or ClassNames((NamedClass("background"), NamedClass("object")))
        return begun_classes(names.entries, config.background)

    def set_classes(self, classes: Sequence[tuple[str, Colour]]) -> None:
        """Name and colour the classes anew while no mask exists; afterwards only append some.

        The first is the background, unless dataset.yaml or a name says otherwise.

        Raises:
            DataError: masks exist that a change would contradict, or names are no names.
        """
        names = [name.strip() for name, _ in classes]
        if not 0 < len(set(names)) == len(names) <= MAX_CLASSES or not all(
            name and name.isprintable() for name in names
        ):
            raise DataError("each class needs a name of its own, of one line", code="classes")
        entries = [
            NamedClass(name, None, colour) for name, (_, colour) in zip(names, classes, strict=True)
        ]
        with self.lock:
            has_masks = any(entry.mask for entry in self.entries.values())
            before = self.classes
            self.classes = (
                appended_classes(before, entries) if has_masks else self._begun_anew(entries)
            )
            try:
                self._describe()
            except DataError:
                self.classes = before
                raise

    def _begun_anew(self, entries: Sequence[NamedClass]) -> ClassMap:
        """The classes of masks that are still to be drawn, as somebody names them."""
        names, stated = [entry.name for entry in entries], self.known.config.background
        if stated not in {*names, *map(str, range(len(names))), "none"}:  # or of earlier classes
            stated = names[background_by_name(names) or 0]
        return begun_classes(entries, stated)

    def _describe(self) -> None:
        """Write what the folder is, so that every command reads the same.

        Raises:
            DataError: they would not: the file is as it was.
        """
        assert self.classes is not None
        file = self.root / FILE
        before = file.read_bytes() if file.is_file() else None
        settings = UNPAIRED
        if home := self._home():
            (self.root / MASKS).mkdir(exist_ok=True)
            settings = DataConfig(images=home, masks=self.root / MASKS, unpaired="skip")
        write_description(file, self.classes, settings=settings)
        if before is not None:
            fresh = yaml.load(file.read_bytes(), yaml.BaseLoader)
            said = yaml.load(before, yaml.BaseLoader) or {}  # 001 stays a name
            said |= {key: fresh[key] for key in ("classes", "background") if key in fresh}
            if "background" not in fresh and said.get("background") != "none":  # names tell it
                said.pop("background", None)
            write_text(file, yaml.safe_dump(said, sort_keys=False, allow_unicode=True))
        if any(entry.mask for entry in self.entries.values()):
            read = survey(self.root, UNPAIRED, strict=False).classes
            if read is None or read.classes != self.classes.classes:
                if before is None:
                    file.unlink()
                else:
                    write_bytes(file, before)
                raise DataError(f"{FILE} does not hold these classes", fix="Write them there.")

    # Masks

    def _home(self) -> Path | None:
        """The one folder of all images, where masks/ belongs beside it or into it."""
        homes = {e.image.parent for e in self.entries.values() if not e.uploaded}
        home = next(iter(homes)) if len(homes) == 1 else None
        return home if self.is_bare and home in {self.root, self.root / "images"} else None

    def new_mask(self, entry: Entry) -> Path:
        """The file for the first mask of an image: where, and named as, the other masks are.

        Raises:
            DataError: another image's mask would have that name.
        """
        path = self._like_others(entry) or self._beside(entry)
        if path.exists() or path.with_suffix(".tif").exists():
            raise DataError(f"{below(path, self.root)} is there already", fix="Rename the image.")
        return path

    def _beside(self, entry: Entry) -> Path:
        assert self.classes is not None
        suffix = ".tif" if entry.is_large else self.classes.suffix
        folder = self.root if self._home() else entry.image.parent
        return folder / MASKS / f"{entry.image.stem}{suffix}"

    def _like_others(self, entry: Entry) -> Path | None:
        """The name by the rule of the pairs there are; of several rules that of most."""
        votes: dict[Path, int] = {}
        for pair in self.known.paired:
            if not isinstance(pair.mask, Path) or pair.image.parent != entry.image.parent:
                continue
            if name := renamed(pair.image.stem, pair.mask.stem, entry.image.stem):
                suffix = pair.mask.suffix if pair.mask.suffix.lower() in WRITTEN else ".png"
                path = pair.mask.with_name(name + suffix)
                votes[path] = votes.get(path, 0) + 1
        best = max(votes, key=votes.__getitem__, default=None)
        return best.with_suffix(".tif") if best and entry.is_large else best

    def begin_mask(self) -> None:
        """Say what the folder is, before it gets its first mask."""
        if self.is_bare and not (self.root / FILE).is_file():
            self._describe()

    def saved(self, entry: Entry, path: Path) -> Entry:
        """Note that a mask was written."""
        self._note(path, "drawn" if entry.mask is None else "corrected")
        self.entries[entry.id] = replace(entry, mask=path)
        return self.entries[entry.id]

    @contextmanager
    def keeping_given(self, entry: Entry) -> Iterator[None]:
        """Copy a given mask aside before what corrects it for the first time."""
        if not isinstance(entry.mask, Path) or self.origin(entry) != "given":
            yield
            return
        with atomic_path(self._kept(entry.mask)) as copy:
            shutil.copy2(entry.mask, copy)
        self._note(entry.mask, "corrected")  # before it is, so that no copy is made again
        try:
            yield
        except UnetsegError:  # the mask is as it was
            self._note(entry.mask, None)
            raise

    def _kept(self, mask: Path) -> Path:
        """Where a copy of a given mask is kept; those from elsewhere apart."""
        place = Path(os.path.normpath(mask))  # without ".."
        if self.root in place.parents:
            return self.root / NOTES / "given" / place.relative_to(self.root)
        return self.root / NOTES / "elsewhere" / place.relative_to(place.anchor)

    def remove_mask(self, entry: Entry) -> None:
        """Take away a mask that was drawn here, or bring back the one that was given.

        Raises:
            DataError: it was not changed here, or its copy is not there any more.
        """
        origin, mask = self.origin(entry), entry.mask
        if origin == "given" or not isinstance(mask, Path):
            raise DataError("only what was drawn here is taken away", code="given")
        with self.lock:
            given: Path | None = None
            if origin == "corrected":
                place = self._kept(mask)
                kept = next((p for p in place.parent.glob("*") if p.stem == place.stem), None)
                if kept is None:
                    raise DataError("the mask that was given is not kept any more", code="given")
                given = mask.with_name(kept.name)
                write_bytes(given, kept.read_bytes())
            if given != mask:
                mask.unlink(missing_ok=True)
            self._note(mask, None)
            if given is not None:
                self._note(given, None)
            self.entries[entry.id] = replace(entry, mask=given)

    def origin(self, entry: Entry) -> Origin:
        """Where the mask of an image comes from."""
        if entry.mask is None:
            return "none"
        if not isinstance(entry.mask, Path):
            return "given"
        return self.notes.get(below(entry.mask, self.root).as_posix(), "given")

    def _note(self, path: Path, origin: Origin | None) -> None:
        """Keep in mind where a mask comes from."""
        name = below(path, self.root).as_posix()
        if origin is None:
            self.notes.pop(name, None)
        else:
            self.notes.setdefault(name, origin)
        write_json(self.root / NOTES / "masks.json", self.notes)


def _without_mask(known: Survey) -> list[Path]:
    """The images that wait for a mask."""
    left_out = known.pairs.left_out
    return [path for path, why in left_out if why == NO_MASK or why.endswith("without masks")]


def renamed(image: str, mask: str, other: str) -> str | None:
    """What `mask` is called for the image `other`, if its name is the one of `image` changed.

    >>> renamed("a", "a_mask", "b"), renamed("a_rgb", "a", "b_rgb"), renamed("1_im", "1_gt", "2_im")
    ('b_mask', 'b', '2_gt')
    """
    if image in mask:
        word = rf"(?<![^\W_]){re.escape(image)}(?![^\W_])"  # not the a of mask_a's first word
        named, found = re.subn(word, lambda _: other, mask, count=1)
        return named if found else mask.replace(image, other, 1)
    shared = len(common_beginning([image, mask]))
    old, new = image[shared:], mask[shared:]
    if not shared or not other.endswith(old):
        return None
    return other[: len(other) - len(old)] + new
