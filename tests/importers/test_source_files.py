"""Names in foreign files find the image they mean, and nothing outside of the folder."""

import time
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetseg.data.pairs.naming import split_of
from unetseg.errors import ImageError
from unetseg.importers.annotations import Problem
from unetseg.importers.source_files import ImageFiles, split_path


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


@pytest.fixture
def files(tmp_path: Path) -> ImageFiles:
    root = tree(tmp_path / "src", "photos/n/a.jpg", "photos/s/a.jpg", "photos/s/b.jpg", "c.png")
    tree(root, "masks/c.png", "text.txt", "labels/x.json")
    tree(tmp_path, "outside.jpg")
    return ImageFiles(root)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("photos/n/a.jpg", "photos/n/a.jpg"),
        ("n/a.jpg", "photos/n/a.jpg"),
        ("b.jpg", "photos/s/b.jpg"),
        ("b", "photos/s/b.jpg"),  # CVAT and VOC leave the suffix out
        ("/data/set/s/a.jpg", "photos/s/a.jpg"),
        ("D:\\set\\n\\a.jpg", "photos/n/a.jpg"),
        ("https://host/n/a.jpg?token=1", "photos/n/a.jpg"),
        ("c.png", "c.png"),
    ],
)
def test_names_mean_files(files: ImageFiles, name: str, expected: str) -> None:
    assert files.find(name) == files.root / expected


def test_names_count_from_the_file_that_says_them(files: ImageFiles) -> None:
    labels = files.root / "labels"
    assert files.find("../photos/n/a.jpg", labels) == files.root / "photos/n/a.jpg"
    assert files.find("a.jpg", files.root / "photos/s") == files.root / "photos/s/a.jpg"


def test_names_count_from_a_file_that_is_given_by_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, "labels/x.json", "labels/a.jpg", "photos/a.jpg")
    monkeypatch.chdir(tmp_path)
    files = ImageFiles(Path("labels/x.json"))
    assert files.find("a.jpg", Path("labels")) == tmp_path / "labels/a.jpg"


@pytest.mark.parametrize(
    "name",
    [
        *("../outside.jpg", "/outside.jpg", "photos/../../outside.jpg", "text.txt", "", "..", "/"),
        *("x" * 5000 + ".jpg", "nothing.jpg", "photos", "photos/n", "\0"),
    ],
)
def test_what_is_not_there_or_outside_is_a_problem(files: ImageFiles, name: str) -> None:
    found = files.find(name, files.root / "labels")
    assert isinstance(found, Problem)
    assert found.kind == "no such image"


def test_several_that_fit_are_named(files: ImageFiles) -> None:
    found = files.find("a.jpg")
    assert isinstance(found, Problem)
    assert str(found) == "several files fit: a.jpg: photos/n/a.jpg, photos/s/a.jpg"


def test_an_image_is_taken_before_its_mask(tmp_path: Path) -> None:
    files = ImageFiles(tree(tmp_path, "x/c.png", "masks/c.png"))
    assert files.find("c.png") == tmp_path / "x/c.png"


@given(st.text(alphabet="./\\ab:~%", max_size=30), st.sampled_from(["in", "in/a"]))
def test_nothing_leads_outside(
    tmp_path_factory: pytest.TempPathFactory, name: str, near: str
) -> None:
    root = tmp_path_factory.getbasetemp() / "shared"
    if not root.is_dir():
        tree(root, "a", "b", "a.jpg", "b.png", "in/a/a.jpg", "in/b.png", "in/a/b.png")
    files = ImageFiles(root / "in")
    for text in (name, f"{name}/a.jpg", f"{name}b.png"):
        found = files.find(text, root / near)
        if isinstance(found, Path):
            assert files.root.resolve() in found.resolve().parents
            assert ".." not in found.parts


def test_a_single_file_has_its_images_beside_it_or_one_above(tmp_path: Path) -> None:
    tree(tmp_path, "set/annotations/instances.json", "set/train/a.jpg", "other/x.json", "b.jpg")
    files = ImageFiles(tmp_path / "set/annotations/instances.json")
    assert files.find("a.jpg") == tmp_path / "set/train/a.jpg"
    assert isinstance(ImageFiles(tmp_path / "other/x.json").find("b.jpg"), Problem)
    given_by_hand = ImageFiles(tmp_path / "other/x.json", tmp_path)
    assert given_by_hand.find("b.jpg") == tmp_path / "b.jpg"
    assert given_by_hand.name_of(tmp_path / "set/train/a.b.jpg") == "set/train/a.b"


def test_the_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="there is no folder"):
        ImageFiles(tmp_path, tmp_path / "nowhere")


def test_paths_of_any_system() -> None:
    assert split_path("\\\\server\\share\\a.jpg") == ["server", "share", "a.jpg"]
    assert split_path("file:///tmp/a%20b.jpg") == ["tmp", "a b.jpg"]
    assert split_path("100%.jpg") == ["100%.jpg"]


def test_files_kept_apart_are_never_found(tmp_path: Path) -> None:
    tree(tmp_path, "SegmentationClass/a.png", "x/SegmentationClass/b.png", "x/b.jpg")
    files = ImageFiles(tmp_path, apart=("SegmentationClass",))
    assert files.paths == (tmp_path / "x/b.jpg",)
    assert files.find("b") == tmp_path / "x/b.jpg"
    for name in ("a", "a.png", "SegmentationClass/a.png", "x/SegmentationClass/b.png"):
        assert files.find(name) in {Problem("no such image", name), tmp_path / "x/b.jpg"}


@given(st.lists(st.tuples(*[st.sampled_from("abc")] * 3), unique=True), st.text("abcd", min_size=1))
def test_the_longest_shared_end_counts(files: list[tuple[str, ...]], name: str) -> None:
    """As a comparison with every file says."""
    images = ImageFiles(Path("/nowhere"))
    images.paths = tuple(Path("/nowhere", *parts) for parts in sorted(files))

    def shared(path: Path) -> int:
        parts = path.parts[1:]
        lengths = range(1, min(len(parts), len(name)) + 1)
        return max((n for n in lengths if parts[-n:] == tuple(name[-n:])), default=0)

    most = max(map(shared, images.paths), default=0)
    fitting = [path for path in images.paths if most and shared(path) == most]
    answer = images.find("/".join(name))
    if len(fitting) == 1:
        assert answer == fitting[0]
    else:
        assert isinstance(answer, Problem)
        assert answer.kind == ("several files fit" if fitting else "no such image")


def test_thousands_of_files_of_one_name(tmp_path: Path) -> None:
    """Each search is a look into two tables; comparing all with all would take minutes."""
    names = [f"scene{i}/image.png" for i in range(5000)]
    files = ImageFiles(tmp_path)
    files.paths = tuple(tmp_path / name for name in names)
    assert [files.find(f"/elsewhere/{name}") for name in names] == [*files.paths]


def test_threads_wait_for_the_tables(tmp_path: Path) -> None:
    class Slow(tuple[Path, ...]):
        def __iter__(self) -> Iterator[Path]:
            time.sleep(0.1)
            return super().__iter__()

    files = ImageFiles(tmp_path)
    files.paths = Slow([tmp_path / "x/a.jpg"])
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(files.find, ["/elsewhere/a.jpg"] * 2))
    assert found == [tmp_path / "x/a.jpg"] * 2


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_val2017", "val"),
        ("train", "train"),
        ("validation", "val"),
        ("Testing", "test"),
        ("trainval", None),
        ("trainval2012", None),
        ("contest", None),
        ("_annotations.coco", None),
    ],
)
def test_splits_in_names(name: str, split: str | None) -> None:
    assert split_of(name) == split


Form = Literal["NFC", "NFD"]


@pytest.mark.parametrize(("stored", "said"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_both_unicode_forms_of_a_name_are_one(tmp_path: Path, stored: Form, said: Form) -> None:
    there = unicodedata.normalize(stored, "photos/\u00e4.jpg")
    files = ImageFiles(tree(tmp_path, there))
    assert files.find(unicodedata.normalize(said, "photos/\u00e4.jpg")) == tmp_path / there
