"""Which series are the images, which the masks, and which take no part, or the question.

1. Masks are the series whose names say so, else those that look so: of each the plain ones before
   numbered objects, colours and the like, and pictures last; the first of these ranks that pairs
   with any images is taken (`_ranked_masks`).
2. Their images are the plain series that pairs by more than numbers, with the most of the masks, by
   the strictest key, whose folders share the most words with the masks', whose name says image, and
   of which the most pair, in this order (`_worth`); names that differ are believed where they
   differ in words for image and mask only, or where the masks explain their own images better than
   others (`Reading.credible`).
3. Of masks that share images those count that pair with half as many as the most or more, are no
   copy in colours of others, and are called masks if just one of them is (`_leader`).
4. Where several images or masks are as good in all of this, the answer is a question with a ready
   command for each.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from unetseg.data.files.folders import without_image_suffix
from unetseg.data.pairs.content import explains, is_recoloured, stored_bands
from unetseg.data.pairs.keys import ENOUGH, LOOSE, UNLIKE, Matching, begun, is_worded, match
from unetseg.data.pairs.naming import (
    DEPTH,
    FIELD_OF_VIEW,
    OTHER_BAND,
    PART,
    SECOND_OBSERVER,
    Role,
    read_name,
    says_role,
    tokens,
)
from unetseg.data.pairs.questions import nothing_pairs, question, several_bands, several_masks
from unetseg.data.pairs.series import Entry, Series, by_ends, by_words
from unetseg.errors import PairingError

_NOT_ALWAYS: dict[str, Role | None] = {DEPTH: "image", PART: None, FIELD_OF_VIEW: None}
NO_MASK = "image without mask"
NO_IMAGE = "mask without image"
SEVERAL = "image with several masks"
OTHER_MASK = "another mask of an image"
_EXPLAINED = 0.1  # edges, as multiples of an image's mean: more on its own outlines than on others'
_PLACES = 8  # whose contents are looked at, each by itself
_LEAST = 0.3  # of the masks that must have an image, or of the images a mask


@dataclass(frozen=True)
class Reading:
    """A series of images with one of masks."""

    images: Series
    masks: Series
    matching: Matching

    @property
    def mask_share(self) -> float:
        """Masks that have an image, 0–1."""
        return len(self.matching.couples) / len(self.masks)

    @property
    def image_share(self) -> float:
        """Images that have a mask, 0–1."""
        return len(self.matching.couples) / len(self.images)

    @cached_property
    def taken(self) -> frozenset[Path]:
        """The images that have a mask."""
        return frozenset(image.path for image, _ in self.matching.couples)

    @cached_property
    def touched(self) -> frozenset[Path]:
        """The images that have a mask, or several."""
        crowds = (images for images, _ in self.matching.crowds)
        return self.taken.union(entry.path for images in crowds for entry in images)

    @property
    def credible(self) -> "Reading":
        """The same of what names or contents say to belong together.

        Names do where stems are equal, or where all masks, or all images, pair and names differ in
        words for image and mask only. Else masks must explain their own images better than others;
        in each of a few places, for one does not vouch for another.
        """
        if self.matching.rule < UNLIKE:
            return self
        couples, names = self.matching.couples, self.matching.names
        places: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, (image, _) in enumerate(couples):
            places[image.place].append(number)
        groups = [*places.values()] if len(places) <= _PLACES else [[*range(len(couples))]]
        kept = [number for group in groups if self._belong(group) for number in group]
        matching = self.matching._replace(
            couples=tuple(couples[n] for n in kept), names=tuple(names[n] for n in kept)
        )
        return replace(self, matching=matching)

    def _belong(self, numbers: Sequence[int]) -> bool:
        """Whether some of the couples belong together."""
        couples = [self.matching.couples[number] for number in numbers]
        if max(self.mask_share, self.image_share) == 1 and all(
            is_worded(*couple) for couple in couples[:20]
        ):
            return True
        better = explains(*([e.path for e in side] for side in zip(*couples, strict=True)))
        return better is None or better > _EXPLAINED


@dataclass
class Choice:
    """What is taken, and why the rest is not."""

    readings: list[Reading] = field(default_factory=list)
    losers: list[Reading] = field(default_factory=list)
    regions: dict[Path, Path] = field(default_factory=dict)
    """Image → its field of view."""
    seconds: dict[Path, Path] = field(default_factory=dict)
    """Image → the mask of a second observer."""
    left_out: dict[Path, str] = field(default_factory=dict)


def choose(root: Path, series: Sequence[Series]) -> Choice:
    """The readings that together hold every image and mask once.

    Raises:
        PairingError: several readings are as good, or there is none.
    """
    choice = Choice()
    series = [part for one in series for part in _told_apart(one, series)]
    part = [one for one in series if not one.aside]
    kinds = {f"{one.kind}#" for one in part if one.kind}
    masks = _ranked_masks([one for one in part if one.kind not in kinds])  # x_mask_1: see below
    for rank in sorted({rank for rank, _ in masks}):
        if not choice.readings:
            options = [_options(one, part) for r, one in masks if r == rank]
            _refuse_several_images(root, options, series)
            best = [readings[0] for readings in options if readings]
            choice.readings = list(_without_rivals(root, best, series))
            choice.losers = [reading for reading in best if reading not in choice.readings]
    if not choice.readings and any(one.aside in _NOT_ALWAYS for one in series):
        return choose(root, [_taken_in(one) for one in series])
    _ask_for_plainer(root, choice, masks, part, series)
    _refuse_crowds(root, choice.readings)
    _refuse_parts(root, choice.readings, series)
    choice.readings = [reading for reading in choice.readings if reading.matching.couples]
    if not choice.readings:
        raise nothing_pairs(root, series)
    if len(choice.readings) > 1:  # stacks lie beside their pages
        readable = [r for r in choice.readings if r.images.look.readable and r.masks.look.readable]
        choice.readings = readable or choice.readings
    _find_beside(choice, series)
    _tell_rest(choice, series)
    return choice


def _find_beside(choice: Choice, series: Sequence[Series]) -> None:
    """The fields of view of the images that were chosen, and their masks by a second observer."""
    taken = {id(one) for reading in choice.readings for one in (reading.images, reading.masks)}
    for one in series:
        if id(one) in taken:
            continue
        is_mask = one.said.role == "mask"
        if one.aside == FIELD_OF_VIEW or (is_mask and one.look.disc):
            found = choice.regions
        elif one.said.second == SECOND_OBSERVER and (is_mask or _may_be_masks(one)):
            found = choice.seconds
        else:
            continue
        for reading in choice.readings:
            couples = match(reading.images.entries, one.entries).couples
            found |= {image.path: mask.path for image, mask in couples}


def _taken_in(one: Series) -> Series:
    """The series without the reason that it takes no part, where there is nothing else.

    Depth is an image then; a part of the masks is the mask; outputs and pictures stay aside.
    """
    if one.aside not in _NOT_ALWAYS:
        return one
    role = _NOT_ALWAYS[one.aside] or one.said.role
    return replace(one, said=one.said._replace(aside="", role=role))


def _ask_for_plainer(
    root: Path,
    choice: Choice,
    masks: Sequence[tuple[int, Series]],
    part: Sequence[Series],
    series: Sequence[Series],
) -> None:
    """Ask where the masks that were chosen number objects, and others show classes.

    Raises:
        PairingError: so it is.
    """
    chosen = [reading.masks for reading in choice.readings]
    others = [one for _, one in masks if one not in chosen]
    if not others or not any(one.look.numbered for one in chosen):
        return
    others = [one for one in others if not one.look.numbered]
    readings = [reading for one in others for reading in _options(one, part)[:1]]
    if any(reading.matching.couples for reading in readings):
        raise _question(
            root, [*choice.readings, *readings], series, "masks that number objects, and others"
        )


def _told_apart(masks: Series, series: Sequence[Series]) -> list[Series]:
    """The masks by their words, where images would have several: `um_road_0`, `um_lane_0`."""
    if masks.said.role != "mask":
        return [masks]
    images = [one for one in series if one.said.role != "mask" and not one.aside]
    stems = {entry.stem for one in images for entry in one.entries}
    if sum(entry.stem in stems for entry in masks.entries) >= ENOUGH * len(masks):
        return [masks]
    parts = by_ends(masks, stems)
    parts = by_words(masks) if len(parts) == 1 else parts
    if len(parts) == 1:
        return [masks]
    most = max((len(match(one.entries, masks.entries).couples) for one in images), default=0)
    return parts if most < ENOUGH * len(masks) else [masks]


def choose_between(
    root: Path, images: Sequence[Entry], masks: Sequence[Entry], home: Path | None = None
) -> Choice:
    """The reading of two sides that the user names; annotations are looked for in `home`.

    Raises:
        PairingError: they do not go together, or an image has several masks.
    """
    sides = [Series(tuple(side), "", read_name("")) for side in (images, masks)]
    choice = Choice([Reading(sides[0], sides[1], match(images, masks))])
    _refuse_crowds(root, choice.readings)
    if not choice.readings[0].matching.couples:
        raise nothing_pairs(root, sides, home)
    _tell_rest(choice, sides)
    return choice


def _ranked_masks(series: Sequence[Series]) -> list[tuple[int, Series]]:
    """Series that may be masks, with their ranks: 0 for the plainest, 4 for pictures."""
    said = [one for one in series if one.said.role == "mask"]
    shown = [one for one in series if one.said.role != "mask" and _may_be_masks(one)]
    ranked = [(1 if one.said.second else 0, one) for one in said]
    ranked += [(3 if one.said.second else 2, one) for one in shown]
    several = len(ranked) > 1
    return [(4 if several and _is_no_truth(one) else rank, one) for rank, one in ranked]


def _is_no_truth(one: Series) -> bool:
    """Whether masks that others compete with are fields of view, or pictures."""
    return one.look.disc or (one.look.readable > 1 and one.look.masks < 0.4)


def _may_be_masks(one: Series) -> bool:
    """Whether a series without the word looks like masks."""
    if one.said.role == "image" and not one.kind:
        return False
    return one.look.readable > 0 and one.look.masks > 0.8 and not one.look.blank


def _options(masks: Series, part: Sequence[Series]) -> list[Reading]:
    """The masks with the images that go with them best: several where nobody could know which."""
    candidates = [
        Reading(one, masks, match(one.entries, masks.entries))
        for one in part
        if one is not masks and one.said.role != "mask"
    ]
    candidates = [r for r in candidates if r.matching.couples or r.matching.crowds]
    if not candidates:
        return []
    ranked = sorted(candidates, key=_worth, reverse=True)
    best = _united(ranked)
    if not best.matching.couples or max(best.mask_share, best.image_share) < _LEAST:
        return [best] if best.matching.crowds else []
    if best.image_share < ENOUGH and (channels := _channels(best)):
        return channels
    best = best.credible
    if not best.matching.couples:
        return []
    return [best, *(reading for reading in ranked[1:] if _competes(reading, best))]


def _refuse_several_images(
    root: Path, options: Sequence[Sequence[Reading]], series: Sequence[Series]
) -> None:
    """Ask where several images go with masks, with an answer for each of them and each mask.

    Raises:
        PairingError: so it is.
    """
    if most := max((readings for readings in options if len(readings) > 1), key=len, default=()):
        every = [reading for readings in options for reading in readings]
        error = _question(root, every, series, "several images for each mask")
        if all(stored_bands(reading.images.entries[0].path) == 1 for reading in most):
            error = several_bands(error, most[0].masks.entries[0].path.parent)
        raise error


def _channels(best: Reading) -> list[Reading]:
    """The readings by what the images' names end with, where all masks have one of each."""
    parts = by_ends(best.images, {entry.stem for entry in best.masks.entries})
    readings = [Reading(p, best.masks, match(p.entries, best.masks.entries)) for p in parts]
    return readings if len(parts) > 1 and all(r.mask_share == 1 for r in readings) else []


def _united(ranked: Sequence[Reading]) -> Reading:
    """The best reading, with the images of those like it that go with other masks."""
    best = ranked[0]
    masks = {couple[1].path for couple in best.matching.couples}
    parts = [best.images]
    for other in ranked[1:]:
        theirs = {couple[1].path for couple in other.matching.couples}
        alike = other.images.said.role == best.images.said.role and not other.images.said.second
        if theirs and alike and not masks & theirs and other.images.kind == best.images.kind:
            parts.append(other.images)
            masks |= theirs
        elif alike and theirs - masks and _differ_in_suffix(other.images, best.images):
            new = {image.path for image, mask in other.matching.couples if mask.path not in masks}
            own = tuple(entry for entry in other.images.entries if entry.path in new)
            parts.append(replace(other.images, entries=own))
            masks |= theirs
    if len(parts) == 1:
        return best
    images = replace(best.images, entries=tuple(e for part in parts for e in part.entries))
    return Reading(images, best.masks, match(images.entries, best.masks.entries))


def _differ_in_suffix(one: Series, other: Series) -> bool:
    """Whether they are images of one folder in two formats, of which some are in both."""
    kinds = {one.kind, other.kind}
    alike = len({*map(without_image_suffix, kinds)}) == 1 < len(kinds)
    return alike and one.entries[0].folder == other.entries[0].folder and not _may_be_masks(one)


def _worth(reading: Reading) -> tuple[object, ...]:
    """How well images go with their masks; the first difference decides."""
    return (
        not reading.images.said.second,
        reading.matching.rule < LOOSE,
        round(reading.mask_share, 1),
        -min(reading.matching.rule, UNLIKE),
        _shared_words(reading),
        reading.images.said.role == "image",
        round(reading.image_share, 1),
    )


def _shared_words(reading: Reading) -> int:
    """Words that the folders of images and masks have alike: `cam1` and `cam1_masks`."""
    sides = (reading.images.entries[0], reading.masks.entries[0])
    images, masks = ({*tokens("_".join(entry.parent.parts))} for entry in sides)
    return sum(not says_role(word) for word in images & masks)


def _competes(rival: Reading, best: Reading) -> bool:
    """Whether nobody could know which of two series are the images."""
    if (
        rival.images.look.masks > 0.8
        and rival.images.look.readable
        and rival.images.said.role != "image"
    ):
        return False  # other masks
    bands = {rival.images.said.second, best.images.said.second} <= {OTHER_BAND, ""}
    if bands and best.images.said.role != "image":
        return _worth(rival)[1:] == _worth(best)[1:]
    return _worth(rival) == _worth(best)


def _without_rivals(
    root: Path, readings: list[Reading], series: Sequence[Series]
) -> Iterator[Reading]:
    """The readings that do not use the same images; of those that do, the one that leads.

    Raises:
        PairingError: two are as good.
    """
    left = sorted(readings, key=lambda r: (-r.mask_share, -len(r.matching.couples)))
    while left:
        first, *others = left
        group = [first, *(reading for reading in others if first.touched & reading.touched)]
        lead = _leader(group)
        if lead is None:
            raise _question(root, group, series, "several masks for each image")
        yield lead
        left = [r for r in others if r is not lead and not lead.taken & r.taken]


def _question(
    root: Path, readings: Sequence[Reading], series: Sequence[Series], what: str
) -> PairingError:
    parts = [(r.images, r.masks, len(r.matching.couples)) for r in readings]
    return question(root, parts, series, what)


def arrays_asked_for(
    root: Path, readings: Sequence[Reading], series: Sequence[Series]
) -> PairingError:
    """The question whether arrays are meant, with the command that takes them."""
    return _question(root, readings, series, "arrays (.npy, .npz), which are taken when asked for")


def _refuse_parts(root: Path, readings: Sequence[Reading], series: Sequence[Series]) -> None:
    """Refuse further masks of some images, such as x_mask_1 beside x_mask.

    Raises:
        PairingError: so it is.
    """
    for reading in readings:
        crowds: dict[Entry, list[Entry]] = defaultdict(list)
        for one in series:
            if one.kind == f"{reading.masks.kind}#":
                for image, mask in begun(reading.images.entries, one.entries):
                    crowds[image].append(mask)
        if crowds:
            firsts = {image: [mask] for image, mask in reading.matching.couples}
            raise several_masks(root, {i: firsts.get(i, []) + more for i, more in crowds.items()})


def _leader(group: Sequence[Reading]) -> Reading | None:
    """The reading of most images, in numbers, whose masks say so; None where several do."""
    if len(group) == 1:
        return group[0]
    most = max(len(reading.taken) for reading in group)
    large = [reading for reading in group if len(reading.taken) >= max(1, most / 2)]
    plain = [reading for reading in large if not _is_picture_of_another(reading, large)]
    said = [reading for reading in plain if reading.masks.said.role == "mask"]
    plain = said if len(said) == 1 else plain
    return plain[0] if len(plain) == 1 else None


def _is_picture_of_another(reading: Reading, group: Sequence[Reading]) -> bool:
    """Whether masks are others in colours: these are in RGB and the others in numbers."""
    own = {couple[0].path: couple[1].path for couple in reading.matching.couples}
    for other in group:
        if other is reading:
            continue
        theirs = {couple[0].path: couple[1].path for couple in other.matching.couples}
        shared = sorted(own.keys() & theirs.keys())[:3]
        if shared and all(is_recoloured(own[key], theirs[key]) for key in shared):
            return stored_bands(own[shared[0]]) > stored_bands(theirs[shared[0]])
    return False


def _tell_rest(choice: Choice, series: Sequence[Series]) -> None:
    """Why each of the other files takes no part."""
    couples = [couple for reading in choice.readings for couple in reading.matching.couples]
    used = {entry.path for couple in couples for entry in couple}
    views = {*choice.regions.values()}
    splits = {entry.split for couple in couples for entry in couple}
    images = {e.path for r in choice.readings for e in r.images.entries}
    masks = {e.path for r in choice.readings for e in r.masks.entries}
    lost = {e.path for r in choice.losers for _, e in r.matching.couples}
    crowds = [(i, m) for r in choice.readings for i, m in r.matching.crowds if len(m) > 1]
    crowded = {entry.path for sides in crowds for side in sides for entry in side}
    for one in series:
        for entry in one.entries:
            why = one.aside or one.said.second or "goes with no other file"
            if entry.path in images:
                is_bare = entry.split is not None and entry.split not in splits
                why = f"{entry.split} image without masks" if is_bare else NO_MASK
                why = SEVERAL if entry.path in crowded else why
            elif entry.path in masks:
                why = OTHER_MASK if entry.path in crowded else NO_IMAGE
            elif entry.path in lost and not (one.aside or one.said.second):
                why = OTHER_MASK
            if entry.path in views:
                why = FIELD_OF_VIEW
            if entry.path not in used:
                choice.left_out[entry.path] = why


def _refuse_crowds(root: Path, readings: Sequence[Reading]) -> None:
    """Refuse images with several masks, where most have.

    Raises:
        PairingError: so it is.
    """
    for reading in readings:
        crowds = {images[0]: masks for images, masks in reading.matching.crowds if len(masks) > 1}
        if len(crowds) > len(reading.matching.couples):
            raise several_masks(root, crowds)
