"""Archives unpack to what was packed; whatever could do harm is refused with nothing written."""

import io
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetseg.errors import DataError, MachineError
from unetseg.importers import archives
from unetseg.importers.archives import SUFFIXES, archive_suffix, unpacked

CONTENT = {"a.json": b"{}", "images/one.png": b"1" * 5000, "images/deep/two.png": b""}
MODES = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}


def pack(path: Path, content: dict[str, bytes]) -> Path:
    """An archive of the kind that the name of `path` says."""
    suffix = next(suffix for suffix in SUFFIXES if path.name.endswith(suffix))
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, MODES[suffix]) as tar:  # type: ignore[call-overload]
        for name, data in content.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def files_in(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def refused(path: Path) -> str:
    """The text of the refusal, after which there is nothing but the archive."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(DataError) as caught, unpacked(path, path.parent / "out"):
        pass
    assert sorted(path.parent.rglob("*")) == before
    return str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_packed_comes_out_and_is_gone_afterwards(tmp_path: Path, suffix: str) -> None:
    path = pack(tmp_path / f"set{suffix}", CONTENT)
    with unpacked(path, tmp_path / "out") as folder:
        assert files_in(folder) == CONTENT
        assert folder.parent == tmp_path
    assert list(tmp_path.iterdir()) == [path]


def test_it_is_gone_after_an_error_too_and_the_error_is_the_callers(tmp_path: Path) -> None:
    path = pack(tmp_path / "set.zip", CONTENT)
    with pytest.raises(KeyError, match="mine"), unpacked(path, tmp_path / "out"):
        raise KeyError("mine")
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_archive_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "a.json").write_text("{}")
    for path in (tmp_path / "folder.zip", tmp_path / "a.json"):
        with unpacked(path, tmp_path / "out") as found:
            assert found == path
    assert archive_suffix(pack(tmp_path / "A.TAR.GZ.tar.gz", {})) == ".tar.gz"


# What leaves the folder

NAMES = (
    "../evil.png",
    "images/../../evil.png",
    "/evil.png",
    "\\evil.png",
    "C:\\evil.png",
    "c:evil.png",
    "..\\evil.png",
)


@pytest.mark.row(44)
@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize("name", NAMES)
def test_members_that_leave_the_folder(tmp_path: Path, suffix: str, name: str) -> None:
    path = pack(tmp_path / f"set{suffix}", CONTENT | {name: b"x"})
    assert f"{name}: leads out of the folder" in refused(path)


def test_all_offenders_are_listed(tmp_path: Path) -> None:
    text = refused(pack(tmp_path / "set.tar", dict.fromkeys(NAMES, b"x")))
    assert all(name in text for name in NAMES)
    assert "unpack it yourself" in text


@pytest.mark.row(44)
@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
)
def test_links_and_devices_in_a_tar(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as tar:
        header = tarfile.TarInfo("images")
        header.type, header.linkname = kind, "/etc"
        tar.addfile(header)
        inner = tarfile.TarInfo("images/passwd")
        tar.addfile(inner, io.BytesIO())
    assert "images: is a link or no ordinary file" in refused(path)


@pytest.mark.row(44)
@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_in_a_zip(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        header = zipfile.ZipInfo("images")
        header.create_system = 3  # Unix
        header.external_attr = (mode | 0o777) << 16
        archive.writestr(header, "/etc")
    assert "images: is " in refused(path)


# Names that clash


@pytest.mark.filterwarnings("ignore:Duplicate name")  # zipfile's own, while the test packs
@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["a.png", "./a.png"], "a.png: is there twice"),
        (["x/a.png", "x\\a.png"], "x/a.png: is there twice"),
        (["a.png", "A.png"], "A.png: differs only in case from a.png"),
        (["Straße.png", "STRASSE.png"], "differs only in case"),
        ([unicodedata.normalize(form, "ä.png") for form in ("NFC", "NFD")], "differs only"),
        (["a", "a/b.png"], "a/b.png: a is a file"),
    ],
)
def test_names_that_would_overwrite_each_other(
    tmp_path: Path, suffix: str, names: list[str], text: str
) -> None:
    assert text in refused(pack(tmp_path / f"set{suffix}", dict.fromkeys(names, b"")))


def test_a_name_that_is_there_twice_to_the_letter(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    assert "a.png: is there twice" in refused(tmp_path / "set.tar")


def test_shadows_of_macos_are_left_out(tmp_path: Path) -> None:
    shadows = {"__MACOSX/._a.json": b"x", "images/._one.png": b"x"}
    with unpacked(pack(tmp_path / "set.zip", CONTENT | shadows), tmp_path / "out") as folder:
        assert files_in(folder) == CONTENT


# Bombs


@pytest.mark.row(44)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_more_than_a_hundredfold_is_a_bomb(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "HARMLESS_BYTES", 2**20)
    monkeypatch.setattr(archives, "MOST_EXPANSION", 0.5 if suffix == ".tar" else 100)
    path = pack(tmp_path / f"set{suffix}", {"a.png": b"", "b.png": bytes(2**22)})
    assert "decompression bomb" in refused(path)


def test_a_small_archive_may_expand_far(tmp_path: Path) -> None:
    with unpacked(pack(tmp_path / "set.zip", {"a": bytes(2**22)}), tmp_path / "out") as folder:
        assert (folder / "a").stat().st_size == 2**22


@pytest.mark.row(44)
def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_FILES", 10)
    many = {f"{i}.png": b"" for i in range(11)}
    assert "the first 11 members" in refused(pack(tmp_path / "set.zip", many))


def test_the_scan_of_a_tar_stops_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "HARMLESS_BYTES", 2**20)
    path = tmp_path / "set.tar"
    header = tarfile.TarInfo("a.png")
    header.size = 2**50  # announced; nothing follows
    path.write_bytes(header.tobuf())
    assert "decompression bomb" in refused(path)


@pytest.mark.row(44)
def test_a_header_that_would_fill_the_memory(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 2**40
    (tmp_path / "set.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))
    assert "a header of" in refused(tmp_path / "set.tar")


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int = 4999

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage())
    path = pack(tmp_path / "set.zip", CONTENT)
    with pytest.raises(MachineError, match="4999 bytes left; 5002"), unpacked(path, tmp_path / "o"):
        pass
    assert list(tmp_path.iterdir()) == [path]


# Damage and lies


def flip(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def entry(offset: int, value: int) -> Callable[[bytes], bytes]:
    """A change of one byte of the last entry in a zip's list of contents."""

    def change(data: bytes) -> bytes:
        at = data.rfind(b"PK\1\2") + offset
        return data[:at] + bytes([value]) + data[at + 1 :]

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (entry(8, 1), "is encrypted"),
        (entry(10, 99), "a.png cannot be unpacked: That compression method"),
        (entry(24, 10), "cannot be unpacked"),  # it holds more than it says
        (lambda data: data.replace(b"pixels", b"pixelz", 1), "cannot be unpacked"),
    ],
)
def test_damaged_zips(tmp_path: Path, change: Callable[[bytes], bytes], text: str) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.png", b"pixels" * 3)
    answer = refused(flip(path, change))
    assert text in answer
    assert "unpack it yourself" in answer


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated_archives(tmp_path: Path, suffix: str) -> None:
    noise = bytes(zlib.crc32(bytes([i % 256, i // 256])) % 256 for i in range(20_000))
    path = pack(tmp_path / f"set{suffix}", {"a.png": noise, "b.png": noise})
    flip(path, lambda data: data[: len(data) // 2])
    assert "cannot be unpacked" in refused(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"no archive at all " * 99])
def test_what_only_has_the_name_of_an_archive(tmp_path: Path, suffix: str, content: bytes) -> None:
    (tmp_path / f"set{suffix}").write_bytes(content)
    assert "cannot be unpacked" in refused(tmp_path / f"set{suffix}")


def test_a_damaged_header_in_the_middle_loses_nothing_silently(tmp_path: Path) -> None:
    path = pack(tmp_path / "set.tar", {"a": b"", "b": b"", "c": b""})
    flip(path, lambda data: data[:600] + b"?" + data[601:])
    assert "no header at byte 512" in refused(path)


# Whatever the names are

PARTS = st.sampled_from(["..", ".", "", "a", "A", "b.png", "C:", "~", "x y", "ä", "con", "a" * 300])
PATHS = st.tuples(PARTS, PARTS, PARTS, st.sampled_from("/\\")).map(lambda p: p[3].join(p[:3]))


@pytest.mark.row(44)
@given(st.lists(PATHS, max_size=4), st.sampled_from([".zip", ".tar"]))
def test_nothing_is_ever_written_outside(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], suffix: str
) -> None:
    outer = tmp_path_factory.mktemp("outer")
    inner = outer / "inner"
    inner.mkdir()
    path = pack(inner / f"set{suffix}", dict.fromkeys(names, b"x"))
    try:
        with unpacked(path, inner / "out") as folder:
            written = [one for one in outer.rglob("*") if one.is_file() and one != path]
            assert all(folder in one.parents for one in written)
    except (DataError, MachineError):
        pass
    assert sorted(outer.rglob("*")) == [inner, path]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_empty_folders_are_kept(tmp_path: Path, kind: str) -> None:
    """An empty folder of masks says that there are no objects."""
    (tmp_path / "set/a/masks").mkdir(parents=True)
    source = Path(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path / "set"))
    with unpacked(source, tmp_path / "out") as folder:
        assert (folder / "a/masks").is_dir()


def test_a_file_and_a_folder_of_one_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("A", b"x")
        archive.writestr("a/", b"")
    assert "a: A is a file" in refused(tmp_path / "set.zip")


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_names_without_end(tmp_path: Path, suffix: str) -> None:
    """Each of the 20,000 folders above the file would be written, and looked up."""
    name = "d/" * 20_000 + "x.png"
    assert "has a name of 40005 characters" in refused(
        pack(tmp_path / f"set{suffix}", {name: b"", "a.png": b""})
    )


def test_names_in_utf_8_without_a_flag_as_macos_packs_them(tmp_path: Path) -> None:
    path = pack(tmp_path / "set.zip", {"QQ.png": b"x"})
    flip(path, lambda data: data.replace(b"QQ", "\u00e4".encode()))
    with unpacked(path, tmp_path / "out") as folder:
        assert files_in(folder) == {"\u00e4.png": b"x"}
