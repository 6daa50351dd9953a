"""unetseg import."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from unetseg.cli.console import observed, say
from unetseg.config import ReadingConfig
from unetseg.errors import ConfigError
from unetseg.text import plural, quoted

if TYPE_CHECKING:
    from unetseg.importers.importing import Imported

SHOWN = 10
"""Problems that are shown; import.json holds all."""
Format = Literal[
    "coco",
    "voc",
    "labelme",
    "cvat",
    "labelstudio",
    "cityscapes",
    "instances",
    "yolo",
    "rle",
    "via",
    "supervisely",
    "roboflow",
    "nnunet",
    "coco-panoptic",
    "classes",
]


def import_(
    kind: Annotated[Format | Path | None, Parameter(name="FORMAT")] = None,
    source: Annotated[Path | None, Parameter(name="SRC")] = None,
    out: Path | None = None,
    /,
    *,
    images: Path | None = None,
    on_bad: Literal["error", "skip"] = "error",
    config: Annotated[ReadingConfig, Parameter(name="*")] = ReadingConfig(),
) -> None:
    """Turn the annotations of another program into plain pairs: images/, masks/, classes.txt.

    Image files are copied as they are. OUT is written whole or not at all.
    Without FORMAT the annotations are recognised by their contents.

    Examples:
    unetseg import export.zip cells/
    unetseg import coco annotations/instances_val2017.json coco/ --images val2017/
    unetseg import labelme photos/ pairs/ --on-bad skip
    unetseg import instances stage1_train/ nuclei/

    Parameters
    ----------
    kind
        coco: JSON of instances; voc: SegmentationClass, by VOC's palette or labelmap.txt;
        labelme: a JSON for each image; cvat: "Segmentation mask 1.1" or "CVAT for images 1.1";
        labelstudio: JSON, or PNG of brushes; cityscapes: leftImg8bit and gtFine or gtCoarse;
        instances: a mask file for each object, or masks that number them;
        yolo: texts of polygons, and data.yaml with the names;
        rle: CSV of run lengths, as on Kaggle; via: JSON of VGG Image Annotator 1 or 2;
        supervisely: meta.json and ann/; roboflow: masks with _classes.csv;
        nnunet: dataset.json, imagesTr/, labelsTr/, of images or NIfTI volumes;
        coco-panoptic: JSON of segments and their PNGs;
        classes: a mask file for each class, x_cat.png or cat/x.png.
    source
        Folder, file, or archive (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz) with the annotations.
    out
        Folder to write; not there yet, or empty.
    images
        Folder of the images, when they are not beside the annotations.
    on_bad
        error: refuse what is wrong; skip: leave such images out, all listed in import.json.
    """
    from unetseg.importers.importing import import_dataset

    name, source, target = _arguments(kind, source, out)
    with observed() as progress:
        done = import_dataset(
            name,
            source,
            target,
            images=images,
            on_bad=on_bad,
            max_pixels=config.max_pixels,
            progress=progress,
        )
    _show(done, target)
    say(f"next: unetseg check {quoted(target)}")


def _arguments(
    first: Path | str | None, second: Path | None, third: Path | None
) -> tuple[str | None, Path, Path]:
    """FORMAT, SRC and OUT, the first of which may be left out.

    Raises:
        ConfigError: SRC or OUT seems to be missing.
    """
    from unetseg.importers.importing import FORMATS

    if first is None or second is None:
        is_source = first is not None and str(first) not in FORMATS
        words = [*([] if first is None else [quoted(first)]), *([] if is_source else ["SRC"])]
        what = "OUT is missing" if is_source else "SRC and OUT are missing"
        raise ConfigError(what, fix=f"unetseg import {' '.join(words)} OUT")
    if third is not None:
        return str(first), second, third
    if str(first) in FORMATS and not Path(first).exists():
        raise ConfigError("OUT is missing", fix=f"unetseg import {first} {quoted(second)} OUT")
    return None, Path(first), second


def _show(done: "Imported", out: Path) -> None:
    """What was written, what was concluded, and what was left out."""
    counts = done.counts
    say(f"{plural(counts.pairs, 'pair')} in {out}")
    if counts.splits:
        say(f"splits: {', '.join(f'{count} {name}' for name, count in counts.splits.items())}")
    classes = (f"{name} ({counts.shown[code]})" for code, name in enumerate(done.classes))
    say(f"classes, with the masks that show them: {', '.join(classes)}")
    if counts.ignored:
        say(f"255 is ignored: {plural(counts.ignored, 'mask')} with such pixels")
    for note in done.notes:
        say(note)
    if done.skipped:
        say(f"left out, {plural(len(done.skipped), 'problem')}, all of them in import.json:")
        for problem in done.skipped[:SHOWN]:
            say(f"  {problem}")
