"""Which image a task of Label Studio means.

Label Studio keeps uploaded files under a changed name (`0a1b2c3d-my_photo.jpg` for `my photo.jpg`),
and tells places as paths of its own server or as URLs. Images are looked up by what these names
have in common with those of the files.
"""

import base64
import binascii
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from unetseg.data.files.images import IMAGE_SUFFIXES
from unetseg.importers.annotations import Problem
from unetseg.importers.image_files import ImageFiles

_UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")
_USUAL_KEYS = ("image", "img")


class TaskImages:
    """The images that tasks may name, all below one folder."""

    def __init__(self, files: ImageFiles) -> None:
        self._files = files

    def find(self, place: str) -> Path | Problem:
        """The file that `place`, a path or URL, means; or why there is none."""
        names = list(image_names(place))
        for name in names:
            path = self._files.find(name)
            if isinstance(path, Path):
                return path
        changed = {path for name in names for path in self._uploads.get(_changed(name), ())}
        if len(changed) > 1:
            shown = ", ".join(sorted(self.name_of(path) for path in changed))
            return Problem("several files fit", f"{place}: {shown}")
        return next(iter(changed), self._files.find(names[-1]))

    def name_of(self, path: Path) -> str:
        """What the pair of an image is to be called."""
        return self._files.name_of(path)

    @cached_property
    def _uploads(self) -> Mapping[str, list[Path]]:
        """The files by the names that they have after an upload."""
        names: dict[str, list[Path]] = defaultdict(list)
        for path in self._files.paths:
            names[_changed(path.name)].append(path)
        return names


def place_of(data: Mapping[str, Any]) -> str | Problem:
    """The path or URL of the image among the data of a task; or why there is not one.

    >>> place_of({"image": "/data/upload/1/a.png", "text": "a cat"})
    '/data/upload/1/a.png'
    """
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    places = {key: text for key, text in texts.items() if _looks_like_image(text)}
    usual = [texts[key] for key in _USUAL_KEYS if key in texts]
    if len(places) > 1 and not usual:
        return Problem("several images in one task", ", ".join(sorted(places)))
    found = [*usual, *places.values()]
    return found[0] if found else Problem("no image in a task", f"its data are {sorted(data)}")


def image_names(place: str) -> Iterator[str]:
    """The names that the file of `place` may have, the most certain first.

    >>> list(image_names("/data/upload/1/0a1b2c3d-cat.jpg"))
    ['/data/upload/1/0a1b2c3d-cat.jpg', 'cat.jpg']
    >>> list(image_names("/data/local-files/?d=set%201/cat.jpg"))
    ['set 1/cat.jpg']
    """
    name = _path_in(place)
    yield name
    uploaded = _UPLOADED.fullmatch(_last(name))
    if uploaded:
        yield uploaded[1]


def _path_in(place: str) -> str:
    """The path that is meant: `d` of local files, `fileuri` of storages, or that of the URL."""
    parts = urlsplit(place.replace("\\", "/"))
    query = parse_qs(parts.query)
    if "d" in query and parts.path.startswith("/data/"):
        return query["d"][0]
    if "fileuri" in query:
        return _decoded(query["fileuri"][0])
    is_url = len(parts.scheme) > 1 or parts.path.startswith("/data/")
    return unquote(parts.path) if is_url else place


def _decoded(uri: str) -> str:
    """The path of a URL that is written in base 64."""
    try:
        text = base64.urlsafe_b64decode(uri + "=" * (-len(uri) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return uri
    return unquote(urlsplit(text).path)


def _changed(name: str) -> str:
    """The last part of a name as an upload changes it: Django's `get_valid_filename`."""
    return re.sub(r"[^-\w.]", "", _last(name).strip().replace(" ", "_"))


def _last(name: str) -> str:
    return re.split(r"[/\\]", name)[-1]


def _looks_like_image(text: str) -> bool:
    suffixes: Iterable[str] = (Path(name).suffix.lower() for name in image_names(text))
    return len(text) < 4096 and any(suffix in IMAGE_SUFFIXES for suffix in suffixes)
