"""What is open in the app, who draws there, and what its page is told.

A folder is opened by one server alone, and drawn in by one browser at a time; others look.
"""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, RLock, Thread
from typing import Any

import numpy as np
from fastapi import Request

from unetseg.checks.check import check_folder, refuse_errors
from unetseg.checks.finding import Finding
from unetseg.config import TrainConfig, TrainingConfig
from unetseg.data.facts.survey import Survey, survey
from unetseg.data.masks.class_map import IGNORED, ClassMap
from unetseg.errors import UnetsegError
from unetseg.evaluation.confusion import confusion, dice, mean_over
from unetseg.serving.door import Refusal
from unetseg.serving.folder import UNPAIRED, Entry, Folder
from unetseg.serving.learning import Events, Learning
from unetseg.serving.pictures import Pyramid, forget, kept, mask_pyramid, state_of
from unetseg.serving.runs import Predicted, count_objects, plan_words
from unetseg.storage import is_folder

COOKIE = "unetseg_browser"
PATIENCE = 60.0
"""Seconds without a word of the browser that draws, after which another may."""
TRIED = "network: chosen by a few trial steps, for the time that you give"
OTHERS = "somebody else works in this folder"
NO_FOLDER: dict[str, Any] = {
    "folder": None,
    "name": "",
    "writer": False,
    "writer_note": "",
    "classes": [],
    "background": None,
    "images": 0,
    "masks": 0,
    "model": None,
    "training": None,
    "predicting": None,
    "resumable": False,
    "failed": None,
}
"""The state where no folder is open."""


class Studio:
    """The folder that is open, and who draws in it.

    Args:
        root: The folder that all are below that may be opened.
        folder: The one to begin with.
        out: Folder of the run folders.
    """

    def __init__(self, root: Path, folder: Path | None = None, out: Path | None = None) -> None:
        self.root, self.out = root.resolve(), (out or Path("checkpoints")).resolve()
        self.lock = RLock()
        self.events = Events()
        self.folder: Folder | None = None
        self.learning: Learning | None = None
        self.uploads = TemporaryDirectory(prefix="unetseg-app-", ignore_cleanup_errors=True)
        self._checked: tuple[object, tuple[Finding, ...] | UnetsegError] | None = None
        self._checking, self._surveying = Lock(), Lock()
        self._surveyed: tuple[object, Survey] | None = None
        self._writer, self._seen = "", 0.0
        if folder is not None:
            self.open(folder)

    def open(self, path: Path) -> None:
        """Open another folder in the place of the one that is open.

        Raises:
            Refusal: work is under way.
        """
        with self.lock:
            if self.learning is not None and self.learning.is_busy:
                raise Refusal(409, "a training or prediction is under way", "Stop it first.")
            before = self.folder
            if before is not None and before.root == path.resolve():  # it is locked once
                before.close()
                self.folder = self.learning = before = None
            self.folder = Folder(path)
            if before is not None:
                before.close()
            self.learning = Learning(self.folder.root, self.out, self.events)
            self.events.failed = None

    def close(self) -> None:
        """End all work, and let others write."""
        if self.learning is not None:
            self.learning.close()
        if self.folder is not None:
            self.folder.close()
        self.uploads.cleanup()
        forget()

    def inside(self, relative: str) -> Path:
        """A folder below the root.

        Raises:
            Refusal: there is none, or it cannot be read.
        """
        path = self.root / relative
        if not is_folder(path) or not path.resolve().is_relative_to(self.root):
            raise Refusal(404, f"there is no folder {relative!r} here")
        if not os.access(path, os.R_OK | os.X_OK):
            raise Refusal(403, f"the folder {relative!r} cannot be read", "Choose another one.")
        return path.resolve()

    @property
    def opened(self) -> Folder:
        """The folder that is open.

        Raises:
            Refusal: none is.
        """
        if self.folder is None:
            raise Refusal(404, "no folder is open", "Choose one.")
        return self.folder

    @property
    def learner(self) -> Learning:
        """What trains and predicts for the open folder."""
        assert self.opened
        assert self.learning is not None
        return self.learning

    def entry(self, key: str) -> Entry:
        """An image by its id.

        Raises:
            Refusal: there is no such image.
        """
        entry = self.opened.entries.get(key)
        if entry is None:
            raise Refusal(404, "there is no such image here")
        return entry

    def mask_of(self, entry: Entry, of: str) -> partial[Pyramid] | None:
        """The mask of an image, or the one that was predicted, as indexes of the folder's classes.

        Returns:
            What opens it; None where there is none.
        """
        path, classes = entry.mask, self.opened.classes
        if not of or classes is None:
            return None
        if of == "own":
            return partial(mask_pyramid, path, classes, entry.size) if path else None
        model, predicted = self.learner.model(), self.learner.predictions().get(entry.id)
        if model is None or predicted is None:
            return None
        made = model.info.class_map
        return partial(mask_pyramid, predicted.mask, made, entry.size, meaning(made, classes))

    def may_write(self, browser: str) -> bool:
        """Whether a browser draws here: the first one, until it is silent for `PATIENCE`."""
        with self.lock:
            now = time.monotonic()
            if browser and (browser == self._writer or now - self._seen > PATIENCE):
                self._writer, self._seen = browser, now
            return bool(browser) and browser == self._writer and not self.opened.note

    @contextmanager
    def writing(self, request: Request) -> Iterator[Folder]:
        """The open folder, held for a change.

        Raises:
            Refusal: another browser or process works in it, or nothing can be written.
        """
        if not self.may_write(request.cookies.get(COOKIE, "")):
            note = self.opened.note or OTHERS
            raise Refusal(423, note, "Look on, or wait until it is free.")
        with self.opened.lock:
            yield self.opened

    def state(self, browser: str) -> dict[str, Any]:
        """What the page shows on every tab."""
        if self.folder is None:
            return NO_FOLDER
        folder, learner = self.folder, self.learner
        entries = [entry for entry in folder.entries.values() if not entry.uploaded]
        may_write = self.may_write(browser)
        note = folder.note or ("" if may_write else OTHERS)
        return {
            "folder": str(folder.root),
            "name": folder.root.name,
            "writer": may_write,
            "writer_note": note,
            "classes": told_classes(folder.classes),
            "background": folder.classes.background if folder.classes else None,
            "images": len(entries),
            "masks": sum(entry.mask is not None for entry in entries),
            "model": learner.told_model(),
            "training": learner.training,
            "predicting": learner.predicting,
            "resumable": learner.is_resumable,
            "failed": self.events.failed,
        }

    @property
    def version(self) -> object:
        """What changes with every mask."""
        folder = self.opened
        return folder.root, frozenset((e.id, e.revision) for e in folder.entries.values())

    def findings(self) -> list[dict[str, Any]] | None:
        """Those of `unetseg check`, of the masks as they are; None while they are looked for.

        Raises:
            UnetsegError: the folder cannot be checked; it is looked at anew the next time.
        """
        folder, now, checked = self.opened, self.version, self._checked
        if checked and checked[0] == now:
            found = checked[1]
            if isinstance(found, UnetsegError):
                self._checked = None
                raise found
            return [one.to_json(folder.root) for one in found]
        if self._checking.acquire(blocking=False):
            Thread(target=self._check, args=(folder, now), daemon=True).start()
        return None

    def _check(self, folder: Folder, now: object) -> None:
        try:
            is_begun = any(entry.mask for entry in folder.entries.values())
            found = check_folder(folder.root, UNPAIRED).findings if is_begun else ()
            self._checked = now, found
        except UnetsegError as error:  # such as a wrong dataset.yaml
            self._checked = now, error
        finally:
            self._checking.release()

    def survey(self) -> Survey:
        """The folder as a training would see it, looked at once for each version of its masks.

        Raises:
            DataError: it cannot be trained on.
        """
        with self._surveying:
            now = self.version
            if self._surveyed is None or self._surveyed[0] != now:
                self._surveyed = now, survey(self.opened.root, UNPAIRED)
            return self._surveyed[1]


def told_classes(classes: ClassMap | None) -> list[dict[str, Any]]:
    """The classes as the page takes them."""
    infos = classes.classes if classes else ()
    return [{"index": index, **info.model_dump(mode="json")} for index, info in enumerate(infos)]


def told_image(folder: Folder, entry: Entry, since: int) -> dict[str, Any]:
    """An image as the page lists it; fresh is a mask that was saved after `since`."""
    origin = folder.origin(entry)
    saved = max((when for when, _ in state_of(entry.mask)), default=0) if entry.mask else 0
    height, width = entry.size
    return {
        "id": entry.id,
        "name": entry.name,
        "width": width,
        "height": height,
        "split": entry.split,
        "mask": origin,
        "fresh": origin in {"drawn", "corrected"} and saved > since,
        "uploaded": entry.uploaded,
        "revision": entry.revision,
    }


def meaning(made: ClassMap, classes: ClassMap) -> bytes:
    """The index that each class of a trained U-Net has in a folder, by code, else by name."""
    alike = made.coding == classes.coding
    codes = {info.code: index for index, info in enumerate(classes.classes)} if alike else {}
    names = {info.name: index for index, info in enumerate(classes.classes)}
    own = [codes.get(info.code, names.get(info.name, IGNORED)) for info in made.classes]
    return bytes([*own, *[IGNORED] * (256 - len(own))])


def told_prediction(studio: Studio, entry: Entry, predicted: Predicted | None) -> dict[str, Any]:
    """What a trained U-Net makes of an image, beside the image's own mask where it has one."""
    told: dict[str, Any] = {"predicted": predicted is not None, "dice": None}
    if predicted is None:
        return told | {"uncertainty": None, "objects": None}
    told |= {"uncertainty": predicted.doubt, "objects": count_objects(predicted.objects)}
    classes = studio.opened.classes
    if entry.mask is None or entry.is_large or classes is None:
        return told

    def measured() -> bytes:
        opened = [studio.mask_of(entry, of) for of in ("own", "predicted")]
        truth, index = (one().window(0, 0, 0, *entry.size) for one in opened if one)
        known = np.where(index == IGNORED, IGNORED, truth).astype(np.uint8)
        count = len(classes.classes)
        counts = confusion(known, np.where(index < count, index, 0).astype(np.uint8), count)
        return str(mean_over(dice(counts), classes.foreground)).encode()

    with suppress(UnetsegError, ValueError, IndexError):
        states = entry.revision, predicted.mask, state_of(predicted.mask), classes
        value = float(kept(("dice", entry.image, states), measured))
        told["dice"] = value if math.isfinite(value) else None
    return told


def told_plan(known: Survey, budget: float) -> dict[str, Any]:
    """How a training of so many seconds would go, in words.

    With a budget a CPU tries networks first: then `tried` is true, and what it takes is not known.
    """
    from unetseg.runtime import start
    from unetseg.training.plan import make_plan
    from unetseg.unet.build import build_unet

    config = TrainConfig(data=UNPAIRED, training=TrainingConfig(budget=budget))
    machine = start(config.runtime)
    plan = make_plan(known, config, machine)
    network = build_unet(plan.network, plan.bands, len(known.class_map.classes))
    words = plan_words(plan.model_dump(mode="json"))
    if machine.is_cpu:
        open_yet = ("network:", "depth:", "width:", "augment:")
        words = [TRIED, *(word for word in words if not word.startswith(open_yet))]
    return {
        "words": words,
        "tried": machine.is_cpu,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "crops": plan.patch,
        "batch": plan.batch,
        "warnings": [one.summary for one in refuse_errors(known) if one.severity == "warning"],
    }
