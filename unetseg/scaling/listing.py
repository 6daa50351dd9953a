"""The images of a prediction: looked through while they are few, streamed when they are many."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice, takewhile
from pathlib import Path

from unetseg.data.files.folders import output_names, stream_images
from unetseg.data.files.rasters import sources_of
from unetseg.errors import ImageError
from unetseg.prediction.jobs import find_inputs
from unetseg.prediction.manifest import is_predicted
from unetseg.progress import Progress
from unetseg.scaling.blocks import Blocks, Named, Shard
from unetseg.storage import is_folder
from unetseg.text import plural, printable

LOOKED_THROUGH = 100_000
"""Images of a folder up to which all names together tell masks and mosaics from images."""


def list_images(given: Sequence[Path], output: Path, shard: Shard, progress: Progress) -> Blocks:
    """The images of a shard, by the names that they have where all are predicted at once.

    One folder of more than `LOOKED_THROUGH` images is streamed, and masks are not looked for among
    them. Patterns and several inputs are held in memory while they are listed.

    Raises:
        ImageError: there is no image.
    """
    if len(given) != 1 or not is_folder(given[0]) or not _are_many(given[0]):
        return Blocks(find_inputs(given, output, progress), shard)
    (folder,) = given
    images = _Streamed(folder, output)
    blocks = Blocks(images, shard, partial(unique_names, folder))
    images.tell(progress)
    return blocks


def _are_many(folder: Path) -> bool:
    with suppress(ImageError):  # `find_inputs` tells all that is wrong, and the fix
        return any(islice(stream_images(folder), LOOKED_THROUGH, None))
    return False


def unique_names(folder: Path, images: Sequence[Named]) -> list[Named]:
    """Names that are unique among all, for those that could be alike are in one block."""
    sources = [(path, folder) for path, _ in images]
    return sorted(output_names(sources, folder.absolute()), key=lambda couple: couple[1])


class _Streamed:
    """The images of a folder, but earlier outputs and mosaics of images that are there."""

    def __init__(self, folder: Path, output: Path) -> None:
        self.folder, self.output = folder, output
        self.left_out = 0
        self.kinds: set[tuple[str, str]] = set()

    def __iter__(self) -> Iterator[Named]:
        parent, is_output = None, False
        for path in stream_images(self.folder):
            if path.parent != parent:
                parent, is_output = path.parent, self._is_output(path.parent)
            if is_output or (path.suffix.lower() == ".vrt" and self._shows_images(path)):
                self.left_out += 1
                continue
            if len(self.kinds) < 2:
                self.kinds.add((re.sub(r"\d+", "0", path.stem), path.suffix))
            yield path, path.relative_to(self.folder).with_suffix("")

    def _is_output(self, folder: Path) -> bool:
        home = self.output.resolve()
        inside = takewhile(lambda above: above != self.folder, (folder, *folder.parents))
        is_below = folder.resolve().is_relative_to(home)
        is_below &= not self.folder.resolve().is_relative_to(home)
        return is_below or any(map(is_predicted, inside))

    def _shows_images(self, vrt: Path) -> bool:
        home = self.folder.resolve()
        return any(source.is_relative_to(home) for source in sources_of(vrt))

    def tell(self, progress: Progress) -> None:
        if self.left_out:
            told = f"left out {plural(self.left_out, 'file')}: mosaics, and outputs of predictions"
            progress.say(told)
        if len(self.kinds) > 1:
            progress.say(
                f"{printable(self.folder)} holds more than {LOOKED_THROUGH:,} images with names of "
                "several kinds: none is taken for a mask; a pattern such as "
                f"'{printable(self.folder)}/**/*_rgb.png' leaves masks out"
            )
