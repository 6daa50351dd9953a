"""One mask file for each class: united to one mask for each image.

The name of a mask goes on where that of its image ends, with the class (`x_class_cat.png`,
`x_CRACK.png`), or its folder is called so (`masks/cat/x.png`). Whatever is not 0 is of the class.
Classes are in the order of their names; where they overlap, the smaller area lies on top.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from unetseg.data.pairs.mask_sets import class_of, find_masks, show_background, tell_classes
from unetseg.importers.annotations import AnnotatedImage, Classes, Entry, Problem, Shape
from unetseg.importers.instances import object_patch
from unetseg.importers.source_files import name_in


def recognises(source: Path) -> bool:
    """Whether names or folders of masks say classes."""
    return source.is_dir() and bool(tell_classes(find_masks(source)))


def read(source: Path, images: Path | None = None) -> Iterator[Entry]:
    """Read the masks of classes below `source`, and find the image of each.

    Raises:
        DataError: a folder cannot be read.
    """
    sets = find_masks(source, images)
    classes = {mask.path: class_of(mask) for masks in sets.masks.values() for mask in masks}
    yield Classes(sorted({*classes.values()} - {""}))
    yield "where classes overlap, the one with the smaller area lies on top"
    if show_background(sets):
        yield "warning: the masks of an image share most of its pixels; 0 must be the background"
    yield from (Problem("several images of one name", key.name) for key in sets.twins)
    for path in sets.strays:
        yield Problem("no such image", name_in(source, path))
    for key, path in sorted(sets.photos.items()):
        masks = [mask.path for mask in sets.masks.get(key, ())]
        nameless = [mask for mask in masks if not classes[mask]]
        yield from (Problem("no class in the name", name_in(source, mask)) for mask in nameless)
        if not masks:
            yield Problem("no masks", key.name)
        elif not nameless and key not in sets.twins:
            shapes = [Shape(classes[mask], partial(object_patch, mask)) for mask in masks]
            yield AnnotatedImage(path, key.name, shapes, key.split, smallest_on_top=True)
