"""Outlines and objects of every class of the foreground, image by image and over a split."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from unetseg.data.masks.class_map import IGNORED, ClassMap
from unetseg.evaluation.objects import Objects, ObjectScores, match_objects, object_scores
from unetseg.evaluation.outlines import TOLERANCE, OutlineScores, mean_scores, outline_scores
from unetseg.storage import json_object

S = TypeVar("S")
T = TypeVar("T")


@dataclass
class Shapes:
    """What the images of a split show, collected in any order.

    Attributes:
        class_map: The classes; the background has no outlines of its own.
        tolerance: Pixels that an outline may be aside.
    """

    class_map: ClassMap
    tolerance: float = TOLERANCE
    _outlines: dict[str, list[OutlineScores]] = field(default_factory=dict)
    _objects: dict[str, list[Objects]] = field(default_factory=dict)

    def add(self, image: str, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Compare the class indexes H×W of an image; where one of both is 255, nothing is."""
        counted = (truth != IGNORED) & (prediction != IGNORED)
        masks = [
            ((truth == k) & counted, (prediction == k) & counted) for k in self.class_map.foreground
        ]
        self._outlines[image] = [outline_scores(*both, self.tolerance) for both in masks]
        self._objects[image] = [match_objects(*both) for both in masks]

    @property
    def outlines(self) -> dict[str, OutlineScores]:
        """The means of each class of the foreground over the images that have it; or nothing."""
        return self._of_classes(mean_scores, self._outlines)

    @property
    def objects(self) -> dict[str, ObjectScores]:
        """Those of each class of the foreground, in all images together; or nothing."""
        return self._of_classes(object_scores, self._objects)

    def of_image(self, image: str) -> dict[str, float]:
        """The row of an image: means over its classes, and its objects; nan if not compared."""
        if not self._outlines:
            return {}
        objects = object_scores(self._objects.get(image, []))
        counts = {name: getattr(objects, name) for name in ("objects", "found", "made_up")}
        counts = counts if image in self._objects else dict.fromkeys(counts, math.nan)
        return asdict(mean_scores(self._outlines.get(image, []))) | counts

    def to_json(self) -> dict[str, Any]:
        """Class → scores, null for nan; empty where no image was compared."""
        if not self._outlines:
            return {}
        return json_object(
            {
                "tolerance": self.tolerance,
                "outlines": {name: asdict(one) for name, one in self.outlines.items()},
                "objects": {name: asdict(one) for name, one in self.objects.items()},
            }
        )

    def _of_classes(
        self, scores: Callable[[Sequence[T]], S], rows: dict[str, list[T]]
    ) -> dict[str, S]:
        """The scores of each class, from its rows in the order of the images' names."""
        columns = zip(*(rows[name] for name in sorted(rows)), strict=True)
        names = [self.class_map.names[k] for k in self.class_map.foreground]
        return dict(zip(names, map(scores, columns), strict=True)) if rows else {}
