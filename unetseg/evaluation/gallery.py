"""The worst, median, best and suspect images of a split as small pictures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from unetseg.data.masks.class_map import ClassMap
from unetseg.data.masks.overlay import error_overlay, overlay, scaled
from unetseg.storage import replace_folder, write_bytes

PART = 12
"""Images that each of the three parts shows, at most."""
CHOICE = 4 * PART
"""Images that the `PART` of them are chosen from."""
KEPT = 256
"""Images whose pictures are kept in memory; beyond that, every second of the middling ones goes."""
SIDE = 480
"""Longer side of the pictures at most, pixels."""
QUALITY = 80
"""Of JPEG, 0–100."""
PICTURES = ("truth", "prediction", "errors")


@dataclass
class Gallery:
    """Pictures of the images of a split that may be shown, collected in any order.

    Attributes:
        class_map: The classes, with their colours.
    """

    class_map: ClassMap
    _pictures: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    _dice: dict[str, float] = field(default_factory=dict)

    def add(
        self,
        name: str,
        dice: float,
        image: NDArray[Any],
        truth: NDArray[np.uint8],
        prediction: NDArray[np.uint8],
    ) -> None:
        """Draw an image H×W×C, its class indexes H×W and where these are wrong."""
        if math.isnan(dice):
            return
        background = self.class_map.background
        drawn = [
            overlay(image, index, self.class_map.colours, background=background)
            for index in (truth, prediction)
        ]
        drawn.append(error_overlay(image, truth, prediction, background))
        self._pictures[name] = tuple(_jpeg(scaled(one, min(SIDE, max(one.shape)))) for one in drawn)
        self._dice[name] = dice
        if len(self._pictures) > KEPT:
            for thrown in self._in_order(self._pictures)[CHOICE:-CHOICE:2]:
                del self._pictures[thrown]

    def write(
        self,
        folder: Path,
        facts: Mapping[str, Mapping[str, Any]],
        suspects: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """Write the pictures of the three parts, in the place of those that were there.

        Args:
            folder: Where they go.
            facts: What else is told of each image.
            suspects: Names of images, those whose masks are most suspect first: a fourth part.

        Returns:
            Part, image, Dice and files of each, the worst image of all first.
        """
        suspect = [name for name in suspects if name in self._pictures][:PART]
        parts = {**self.parts(), "suspect": suspect}
        names = dict.fromkeys(name for chosen in parts.values() for name in chosen)
        files = {
            name: {one: f"{number:02d}-{one}.jpg" for one in PICTURES}
            for number, name in enumerate(names)
        }
        with replace_folder(folder) as temporary:
            for name, called in files.items():
                for file, content in zip(called.values(), self._pictures[name], strict=True):
                    write_bytes(temporary / file, content)
        return [
            {"part": part, "image": name, "dice": self._dice[name]}
            | dict(facts.get(name, {}))
            | files[name]
            for part, chosen in parts.items()
            for name in chosen
        ]

    def parts(self) -> dict[str, list[str]]:
        """The names of the worst images, of the median and of the best ones; each in one part.

        Images that follow one another in the order of names, like frames of a film, show the same:
        of those one is taken, as long as there are others.
        """
        order = self._in_order(self._dice)
        number = min(PART, -(-len(order) // 3))
        middle = float(np.median(list(self._dice.values()))) if order else 0.0
        wanted = {
            "worst": order,
            "best": order[::-1],
            "median": sorted(order, key=lambda name: abs(self._dice[name] - middle)),
        }
        taken: dict[str, list[str]] = {}
        for part, candidates in wanted.items():
            used = {name for names in taken.values() for name in names}
            free = [name for name in candidates if name in self._pictures and name not in used]
            taken[part] = sorted(spread(free[:CHOICE], number, sorted(self._dice)), key=order.index)
        return {part: taken[part] for part in ("worst", "median", "best")}

    def _in_order(self, names: Mapping[str, object]) -> list[str]:
        """From the worst to the best."""
        return sorted(names, key=lambda name: (self._dice[name], name))


def spread(candidates: Sequence[str], number: int, order: Sequence[str]) -> list[str]:
    """The first of `candidates` that are no neighbours in `order`; then others, if need be.

    >>> spread(["a", "b", "d"], 2, order=list("abcdefgh"))
    ['a', 'd']
    """
    place = {name: at for at, name in enumerate(order)}
    apart = len(order) // (2 * number) if number else 0
    chosen: list[str] = []
    for name in candidates:
        if len(chosen) < number and all(abs(place[name] - place[c]) >= apart for c in chosen):
            chosen.append(name)
    rest = [name for name in candidates if name not in chosen]
    return [*chosen, *rest][:number]


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return content.tobytes()
