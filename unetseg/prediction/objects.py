"""Classes → objects: connected components, parted where they only touch, numbered and measured.

An object is of one class; pixels that touch at corners are connected. Large images pass twice, in
pieces of some rows: first their components are found, those of two pieces joined where they touch,
then every object gets its number. What crosses pieces is one object, numbered and parted as in an
image that is whole in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.data.files.georeference import Georeference
from unetseg.data.masks.class_map import ClassMap

LARGEST_PARTED = 2**24
"""Pixels of a box; a component that needs a larger one is not parted, as it never is in memory."""

Labels = NDArray[np.int32]
Rows = Callable[[int, int], NDArray[Any]]
"""What is known of the pixels of the rows `top` … `bottom`, rows×W."""
Spans = Sequence[tuple[int, int]]
"""First row, and first row below, of the pieces of an image that are worked on at once."""

COLUMNS = ("label", "class", "area", "x", "y", "left", "top", "right", "bottom", "probability")
"""Of tables of objects: pixels, but for the last, from the upper left corner of the image."""
MAP_COLUMNS = ("map_area", "map_x", "map_y")
"""In units of the CRS, where the image has one."""


def columns_of(georeference: Georeference | None) -> tuple[str, ...]:
    """The columns of the table of an image that lies there, or nowhere."""
    has_map = georeference is not None and georeference.has_transform
    return COLUMNS + MAP_COLUMNS if has_map else COLUMNS


def parted(mask: NDArray[np.bool_], watershed: float) -> Labels:
    """The components of a mask H×W, numbered from 1, parted at their necks.

    A watershed over the distance d to the outline parts two where d + 1 in the neck is less than
    `watershed` times that of the narrower of both; the 1 keeps the grid of pixels from parting
    small ones. 0 parts nothing.

    >>> mask = np.ones((9, 20), bool)
    >>> mask[[0, 1, 2, 6, 7, 8], 9:11] = False
    >>> int(parted(mask, 0.8).max()), int(parted(mask, 0).max())
    (2, 1)
    """
    from scipy.ndimage import distance_transform_edt
    from skimage.measure import label
    from skimage.morphology import local_maxima, reconstruction
    from skimage.segmentation import watershed as flood

    if not watershed or mask.all() or not mask.any():
        return np.asarray(label(mask, connectivity=2), np.int32)
    lower = np.log(watershed)
    height = np.where(mask, np.log1p(distance_transform_edt(mask)), 2 * lower)
    flat = reconstruction(height + lower, height)  # of a maximum in its own right, a bit is left
    markers = label(local_maxima(flat, connectivity=2) & mask, connectivity=2)
    depth, seeds = -height, markers > 0
    # Equal seeds would be taken in an order that the rest of the image has a say in.
    depth[seeds] = np.arange(-seeds.sum(), 0) + depth.min()
    return np.asarray(flood(depth, markers, connectivity=2, mask=mask), np.int32)


class Components:
    """The connected components of an image, numbered from 1 by their first pixels.

    Args:
        index: Its class indexes; 255 is none.
        spans: The pieces; together they are the image.
        classes: Those that have components.
        connectivity: 2: corners connect; 1: they do not.

    Attributes:
        boxes: N×4: the first row and column of each, and the first below and beside it.
        classes: That of each, N.
        areas: Pixels of each, N.
        width: Of the image, pixels.
    """

    def __init__(
        self, index: Rows, spans: Spans, classes: Sequence[int], connectivity: int = 2
    ) -> None:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        self._index, self._connectivity = index, connectivity
        self._wanted = np.isin(np.arange(256), classes)
        self._before = {0: 0}  # by the top of a piece: how many there are above, piece by piece
        found, links = [np.zeros((0, 6), np.int64)], [np.zeros((0, 2), np.int64)]
        last: tuple[NDArray[np.int64], NDArray[np.uint8]] | None = (
            None  # labels and classes of a row
        )
        for top, bottom in spans:
            labels, classes_there = self._label(top, bottom)
            found.append(_boxes(labels, classes_there, top))
            self._before[bottom] = self._before[top] + len(found[-1])
            edges = np.where(labels[[0, -1]] > 0, labels[[0, -1]] + self._before[top], 0)
            if last is not None:
                links.append(_links(last, (edges[0], classes_there[0]), connectivity))
            last = edges[1], classes_there[-1]
        parts, ends = np.concatenate(found), np.concatenate(links).T - 1
        joined = coo_array((np.ones(ends.shape[1]), ends), (len(parts),) * 2)
        _, joint = connected_components(joined, directed=False)
        _, first, group = np.unique(joint, return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))[group]
        self._numbers = np.concatenate([[0], rank + 1]).astype(np.int32)
        self.classes, self.width = parts[np.sort(first), 4], labels.shape[1]
        self.areas = np.zeros(len(first), np.int64)
        np.add.at(self.areas, rank, parts[:, 5])
        self.boxes = np.empty((len(first), 4), np.int64)
        for side, of_all in enumerate((np.minimum, np.minimum, np.maximum, np.maximum)):
            self.boxes[:, side] = parts[np.sort(first), side]
            of_all.at(self.boxes[:, side], rank, parts[:, side])

    def rows(self, top: int, bottom: int) -> Labels:
        """The number of the component of each pixel of a piece, 0 for none."""
        labels, _ = self._label(top, bottom)
        numbers: Labels = self._numbers[labels + np.int32(self._before[top]) * (labels > 0)]
        return numbers

    def _label(self, top: int, bottom: int) -> tuple[Labels, NDArray[np.uint8]]:
        """Those of a piece alone, and its class indexes."""
        from skimage.measure import label

        index = self._index(top, bottom)
        codes = np.where(self._wanted[index], index + np.uint8(1), np.uint8(0))
        labels = label(codes, connectivity=self._connectivity, background=0)
        return np.asarray(labels, np.int32), index


def _boxes(labels: Labels, index: NDArray[np.uint8], top: int) -> NDArray[np.int64]:
    """Box, class and area of every component of a piece, N×6; `top` is its first row."""
    from scipy.ndimage import find_objects

    boxes = [
        (rows.start + top, columns.start, rows.stop + top, columns.stop)
        for rows, columns in find_objects(labels)
    ]
    classes = np.zeros(len(boxes) + 1, np.int64)
    classes[labels] = index
    areas = np.bincount(labels.ravel())[1:]
    return np.column_stack([np.reshape(boxes, (-1, 4)), classes[1:], areas]).astype(np.int64)


def _links(
    above: tuple[NDArray[np.int64], NDArray[np.uint8]],
    below: tuple[NDArray[np.int64], NDArray[np.uint8]],
    connectivity: int,
) -> NDArray[np.int64]:
    """The components of two neighbouring rows that touch, M×2; of each row labels and classes."""
    (upper, upper_class), (lower, lower_class) = above, below
    pairs = []
    for shift in (-1, 0, 1) if connectivity == 2 else (0,):
        beside = np.roll(lower, shift)
        touch = (upper > 0) & (beside > 0) & (upper_class == np.roll(lower_class, shift))
        if shift:
            touch[0 if shift > 0 else -1] = False
        pairs.append(np.stack([upper[touch], beside[touch]], axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


@dataclass(frozen=True)
class Table:
    """What is measured of objects, N each, in their order; pixels, from the upper left corner."""

    classes: NDArray[np.int64]
    """Class indexes."""
    area: NDArray[np.int64]
    x: NDArray[np.float64]
    """Of the centroid; the middle of the first pixel is at 0.5."""
    y: NDArray[np.float64]
    boxes: NDArray[np.int64]
    """N×4: left, top, and where it ends on the right and below."""
    probability: NDArray[np.float64]
    """Mean over its pixels of how likely the class is that they have, 0–1."""

    def rows(
        self, class_map: ClassMap, georeference: Georeference | None = None
    ) -> Iterator[dict[str, Any]]:
        """What files say of each object, by `columns_of` them."""
        names = np.array(class_map.names)[self.classes]
        columns = [names, self.area, self.x.round(2), self.y.round(2), *self.boxes.T]
        columns.append(self.probability.round(4))
        if georeference is not None and georeference.has_transform:
            columns += [self.area * georeference.pixel_area, *georeference.at(self.x, self.y).T]
        for label, values in enumerate(zip(*(c.tolist() for c in columns), strict=True), 1):
            yield dict(zip(columns_of(georeference), (label, *values), strict=True))


class Objects:
    """The objects of an image: the components of its classes, parted.

    Args:
        index: Its class indexes; 255 is none.
        spans: The pieces; together they are the image.
        classes: Those that have objects.
        watershed: Where touching ones are parted; see `parted`.
    """

    def __init__(self, index: Rows, spans: Spans, classes: Sequence[int], watershed: float) -> None:
        self._components = Components(index, spans, classes)
        self._index, self._spans, self._watershed = index, spans, watershed
        self._classes: list[NDArray[np.int64]] = []  # of the objects that begin in each piece
        self._measured: list[NDArray[np.float64]] = []

    def labels(self, certainty: Rows) -> Iterator[Labels]:
        """The number of the object of each pixel from 1, 0 for none, piece by piece.

        Args:
            certainty: How likely the class of each pixel is, 0–1.
        """
        boxes, following = self._components.boxes, 1
        firsts = np.zeros(len(boxes) + 1, np.int32)  # of each component, the first of its objects
        crossing = dict[int, Labels]()  # the parts of those that end in a later piece
        for top, bottom in self._spans:
            numbers = self._components.rows(top, bottom)
            begin, end = map(int, np.searchsorted(boxes[:, 0], (top, bottom)))
            ranks, counts = self._part_within(numbers, (top, bottom), begin, end)
            for at in (begin + np.flatnonzero(boxes[begin:end, 2] > bottom)).tolist():
                parts = self._part_alone(at, numbers[boxes[at, 0] - top] == at + 1)
                if parts is not None:
                    crossing[at], counts[at - begin] = parts, parts.max()
            firsts[begin + 1 : end + 1] = following + np.cumsum(counts) - counts
            following += int(counts.sum())
            self._classes.append(np.repeat(self._components.classes[begin:end], counts))
            labels = firsts[numbers] + ranks
            for at in list(crossing):
                self._paste(at, crossing[at], labels, top)
                if boxes[at, 2] <= bottom:
                    del crossing[at]
            self._measured.append(_measured(labels, certainty(top, bottom), top))
            yield labels

    def _paste(self, at: int, parts: Labels, labels: Labels, top: int) -> None:
        """Number the parts of component `at` + 1 in a piece whose first row is `top`."""
        upper, left, lower, right = self._components.boxes[at]
        rows = slice(max(upper, top), min(lower, top + len(labels)))
        ranks = np.maximum(parts[rows.start - upper : rows.stop - upper] - 1, 0)
        labels[rows.start - top : rows.stop - top, left:right] += ranks

    def table(self) -> Table:
        """What was measured, once `labels` has come to its end."""
        rows = _by_number(np.concatenate(self._measured))
        _, area, x, y, likely, *box = rows.T
        return Table(
            classes=np.concatenate(self._classes),
            area=area.astype(np.int64),
            x=x / area,
            y=y / area,
            boxes=np.stack([*box[:2], -box[2], -box[3]], axis=1).astype(np.int64),
            probability=likely / area,
        )

    def _part_within(
        self, numbers: Labels, rows: tuple[int, int], begin: int, end: int
    ) -> tuple[Labels, NDArray[np.int64]]:
        """Part the components number `begin` + 1 … `end` that lie within a piece.

        Returns:
            Of each pixel, the rank of its part among those of its component, from 0; and how many
            parts each component has.
        """
        ranks, counts = np.zeros_like(numbers), np.ones(end - begin, np.int64)
        components = self._components
        within = np.r_[False, components.boxes[:, 2] <= rows[1]]
        within[: begin + 1] = within[end + 1 :] = False
        for kind in np.unique(components.classes[begin:end]) if self._watershed else ():
            is_wanted = within & np.r_[False, components.classes == kind]
            # The image ends at its own edges, not at those of the piece: there is something beyond.
            edges = rows[0] > 0, rows[1] < self._spans[-1][1]
            mask = np.pad(is_wanted[numbers], (edges, (0, 0)))
            parts = parted(mask, self._watershed)[edges[0] : edges[0] + len(numbers)]
            owners = np.zeros(parts.max() + 1, np.int64)
            owners[parts] = np.where(parts > 0, numbers, 0)
            order = np.argsort(owners, kind="stable")
            rank = np.empty(len(owners), np.int32)
            rank[order] = np.arange(len(owners)) - np.searchsorted(owners[order], owners[order])
            ranks += np.where(parts > 0, rank[parts], 0)
            several = np.bincount(owners, minlength=end + 1)[begin + 1 : end + 1]
            counts = np.maximum(counts, several)
        return ranks, counts

    def _part_alone(self, at: int, is_first: NDArray[np.bool_]) -> Labels | None:
        """Part a component by itself, h×w of its box; None where that is too large.

        Args:
            at: Its number − 1.
            is_first: Its pixels in its first row.
        """
        from skimage.measure import label

        upper, left, lower, right = self._components.boxes[at]
        height, width = self._spans[-1][1], len(is_first)
        if not self._watershed or (lower - upper) * (right - left) > LARGEST_PARTED:
            return None
        # With what is around it, for the image ends at its own edges alone.
        top, bottom = max(0, upper - 1), min(height, lower + 1)
        columns = slice(max(0, left - 1), min(width, right + 1))
        index = np.concatenate(
            [
                self._index(max(top, first), min(bottom, last))[:, columns]
                for first, last in self._spans
                if first < bottom and last > top
            ]
        )
        mask = label(index == self._components.classes[at], connectivity=2)
        mask = mask == mask[upper - top, is_first.argmax() - columns.start]
        parts = parted(mask, self._watershed)
        inside = slice(upper - top, lower - top), slice(left - columns.start, right - columns.start)
        return parts[inside]


def _measured(labels: Labels, certainty: NDArray[np.float32], top: int) -> NDArray[np.float64]:
    """What a piece has of each object; see `_by_number`. `top` is its first row."""
    flat, width = labels.ravel(), labels.shape[1]
    changes = flat[1:] != flat[:-1]
    changes[width - 1 :: width] = True
    starts = np.flatnonzero(np.r_[True, changes])  # of the runs of equal pixels in a row
    lengths = np.diff(np.r_[starts, flat.size])
    sums = np.add.reduceat(certainty.ravel(), starts, dtype=np.float64)
    y, x = np.divmod(starts, width)
    y += top
    rows = np.stack(
        [
            flat[starts],
            lengths,
            lengths * (x + lengths / 2),
            lengths * (y + 0.5),
            sums,
            *(x, y, -(x + lengths), -(y + 1)),
        ],
        axis=1,
    )
    return _by_number(rows[rows[:, 0] > 0])


def _by_number(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of one object made one.

    Each is number, area, sums of x, y and certainty; left, top and, negative, right and bottom.
    """
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    starts = np.flatnonzero(np.diff(rows[:, 0], prepend=0))
    if not len(starts):
        return rows
    sums = np.add.reduceat(rows[:, 1:5], starts)
    boxes = np.minimum.reduceat(rows[:, 5:], starts)
    return np.column_stack([rows[starts, 0], sums, boxes])
