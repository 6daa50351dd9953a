"""Files are whole or not there, whatever goes wrong in between."""

import csv
import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import datetime
from hashlib import blake2b
from pathlib import Path

import pytest

from unetseg.errors import ConfigError, MachineError
from unetseg.storage import (
    atomic_path,
    content_hash,
    latest_run,
    new_run_folder,
    parse_json,
    read_csv,
    read_json,
    remove_leftovers,
    replace_folder,
    write_bytes,
    write_csv,
    write_json,
    write_text,
)

NOBODY = 65534


class CrashError(Exception):
    """Stands for whatever goes wrong."""


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that this process may not write to, root or not."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kept.txt").write_text("old")
        folder.chmod(0o555)
        if user == 0:
            os.seteuid(NOBODY)
        yield folder
        os.seteuid(user)
        folder.chmod(0o755)


def tree(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*.*")}


# ------------------------------------------------------------------ files


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "x.txt", "über")
    assert (tmp_path / "a" / "b" / "x.txt").read_bytes() == "über".encode()
    assert tree(tmp_path) == {"a/b/x.txt": "über"}


def test_the_temporary_file_has_the_suffix_and_the_folder(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.png") as temporary:
        assert (temporary.suffix, temporary.parent) == (".png", tmp_path)
        assert not (tmp_path / "x.png").exists()
        temporary.write_text("new")
    assert tree(tmp_path) == {"x.png": "new"}


@pytest.mark.parametrize("error", [CrashError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("there", [True, False])
def test_an_error_leaves_the_old_file_and_nothing_else(
    there: bool, error: type[BaseException], tmp_path: Path
) -> None:
    if there:
        (tmp_path / "x.txt").write_text("old")

    def write_half() -> None:
        with atomic_path(tmp_path / "x.txt") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert tree(tmp_path) == ({"x.txt": "old"} if there else {})


@pytest.mark.row(9)
def test_a_full_disk_is_a_machine_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("old")
    with (
        pytest.raises(MachineError, match=r"cannot write .*x\.txt: No space left"),
        atomic_path(tmp_path / "x.txt"),
    ):
        raise OSError(28, "No space left on device")
    assert tree(tmp_path) == {"x.txt": "old"}


@pytest.mark.row(10)
def test_a_read_only_folder_is_named(read_only: Path) -> None:
    with pytest.raises(MachineError, match=f"cannot write {read_only}/kept.txt: Permission denied"):
        write_text(read_only / "kept.txt", "new")
    with pytest.raises(MachineError, match=r"cannot write .*run: Permission denied"):
        new_run_folder(read_only, "run")
    assert tree(read_only) == {"kept.txt": "old"}


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="cannot write"):
        write_text(tmp_path / "file" / "x.txt", "new")
    with pytest.raises(MachineError, match="cannot write"):
        new_run_folder(tmp_path / "file", "run")
    with pytest.raises(MachineError, match="holds a run already"):
        new_run_folder(tmp_path, "file")


def test_files_have_the_rights_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "x.txt", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "x.txt").stat().st_mode & 0o777 == 0o640


def test_threads_that_write_at_once_leave_the_umask_alone(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with ThreadPoolExecutor(8) as writers:
            list(writers.map(lambda i: write_bytes(tmp_path / f"{i}.txt", b""), range(200)))
    finally:
        after = os.umask(before)
    assert after == 0o027
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
    assert len(tree(tmp_path)) == 200


def test_the_longest_names_can_be_written(tmp_path: Path) -> None:
    name = "x" * 251 + ".txt"
    write_text(tmp_path / name, "long")
    assert tree(tmp_path) == {name: "long"}


def test_a_link_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    (tmp_path / "target.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "target.txt")
    write_text(tmp_path / "link.txt", "new")
    assert tree(tmp_path) == {"target.txt": "old", "link.txt": "new"}


def test_json_is_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"größe": (1, 2), "path": Path("a")})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert '"größe"' in text
    assert text.endswith("}\n")


def test_names_of_files_that_are_no_text_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"z\xfcr.png")  # from an archive of a Windows machine
    write_json(tmp_path / "x.json", {"name": name})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"name": name}
    write_text(tmp_path / "x.csv", f"{name}\n")
    assert (tmp_path / "x.csv").read_bytes() == b"z\xfcr.png\n"
    assert new_run_folder(tmp_path, name) == tmp_path / name


def test_a_spreadsheet_computes_no_text_of_a_table(tmp_path: Path) -> None:
    names = ["=1+1", "+a", "-2+3|b", "@c", "\td", "'=e", "''-f", "a=b", "'", "", "-5.1e-3", "-inf"]
    rows = [{"=image": name, "number": -0.5} for name in names]
    write_csv(tmp_path / "x.csv", rows)
    with (tmp_path / "x.csv").open(newline="") as file:
        cells = [row[0] for row in csv.reader(file)]
    assert cells[:8] == ["'=image", "'=1+1", "'+a", "'-2+3|b", "'@c", "'\td", "''=e", "'''-f"]
    assert cells[8:] == names[7:]
    assert [row["=image"] for row in read_csv(tmp_path / "x.csv")] == names
    assert {row["number"] for row in read_csv(tmp_path / "x.csv")} == {"-0.5"}


# ------------------------------------------------------------------ folders


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for content in ("1", "2"):
        with replace_folder(folder) as fresh:
            (fresh / f"{content}.txt").write_text(content)
            assert not (folder / f"{content}.txt").exists()
    assert tree(tmp_path) == {"model/2.txt": "2"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_error_keeps_the_old_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "model" / "old.txt", "old")

    def write_half() -> None:
        with replace_folder(tmp_path / "model") as fresh:
            (fresh / "half.txt").write_text("half")
            raise CrashError

    with pytest.raises(CrashError):
        write_half()
    assert tree(tmp_path) == {"model/old.txt": "old"}


def test_a_crash_between_the_two_renames_is_fixed_by_the_next_call(tmp_path: Path) -> None:
    write_text(tmp_path / ".model-old" / "old.txt", "old")
    write_text(tmp_path / ".model-new" / "new.txt", "new")
    with pytest.raises(CrashError), replace_folder(tmp_path / "model"):
        raise CrashError
    assert tree(tmp_path) == {"model/old.txt": "old"}


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    write_text(tmp_path / ".model-old" / "old.txt", "old")
    write_text(tmp_path / ".hidden-file.txt", "mine")
    with atomic_path(tmp_path / "last.pt") as temporary:
        half = temporary.name
    (tmp_path / half).write_text("half")
    remove_leftovers(tmp_path, [tmp_path / "first.pt"])
    assert (tmp_path / half).exists()
    remove_leftovers(tmp_path, [tmp_path / "last.pt"])
    assert not (tmp_path / half).exists()
    (tmp_path / half).write_text("half")
    remove_leftovers(tmp_path)
    assert tree(tmp_path) == {".hidden-file.txt": "mine", "last.pt": "", "model/old.txt": "old"}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_folder_is_synced_after_a_rename_where_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    synced: list[bool] = []
    sync = os.fsync

    def note(handle: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        synced.append(is_folder)
        if is_folder:
            assert (tmp_path / "x.txt").read_text() == "new"
            raise OSError(number, os.strerror(number))
        sync(handle)

    monkeypatch.setattr(os, "fsync", note)
    is_fault = number == errno.EIO
    with pytest.raises(MachineError) if is_fault else nullcontext():
        write_text(tmp_path / "x.txt", "new")
    assert synced == [False, True]


def test_a_failed_second_rename_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "model" / "old.txt", "old")
    rename = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if path.name == ".model-new":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(MachineError, match="cannot write"), replace_folder(tmp_path / "model"):
            pass
    assert tree(tmp_path) == {"model/old.txt": "old"}


# ------------------------------------------------------------------ checksums


def test_a_content_hash_depends_on_content_and_order_alone(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"23"), ("c", b"1")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (tmp_path / name for name in "abc")
    assert content_hash(a, b) == content_hash(c, b) == blake2b(b"123", digest_size=16).hexdigest()
    assert content_hash(a, b) != content_hash(b, a)


# ------------------------------------------------------------------ run folders


@pytest.mark.row(22)
def test_two_runs_in_one_second_have_two_folders(tmp_path: Path) -> None:
    folders = {new_run_folder(tmp_path / "runs", None) for _ in range(5)}
    assert len(folders) == 5
    assert all(folder.is_dir() for folder in folders)


def test_a_named_run_takes_an_empty_folder_and_no_other(tmp_path: Path) -> None:
    assert new_run_folder(tmp_path, "cells") == tmp_path / "cells"
    assert new_run_folder(tmp_path, "cells") == tmp_path / "cells"
    write_text(tmp_path / "cells" / "last.pt", "state")
    with pytest.raises(MachineError, match="holds a run already") as caught:
        new_run_folder(tmp_path, "cells")
    assert "--resume" in caught.value.fix


def test_a_folder_with_nothing_but_files_of_the_user_is_not_taken(tmp_path: Path) -> None:
    write_text(tmp_path / "cells" / "config.yaml", "epochs: 3  # mine\n")
    with pytest.raises(MachineError, match="cells holds a run already"):
        new_run_folder(tmp_path, "cells")
    write_text(tmp_path / "cells" / ".lock", "1 on here")  # of a training that was killed
    assert new_run_folder(tmp_path, "cells") == tmp_path / "cells"


def test_a_folder_that_never_began_is_taken_again_and_no_other(tmp_path: Path) -> None:
    folder = new_run_folder(tmp_path, "cells")
    for name in ("config.yaml", "plan.json", "log.jsonl", ".lock", "previews/augmented.png"):
        write_text(folder / name, "left by a training that was killed at once")
    write_text(folder / f".last-{16 * 'a'}.pt", "half")
    assert new_run_folder(tmp_path, "cells") == folder
    for name in ("notes.txt", ".git", "last.pt", "model", "previous.pt"):
        write_text(folder / name, "of value")
        with pytest.raises(MachineError, match="holds a run already") as caught:
            new_run_folder(tmp_path, "cells")
        assert ("--resume" in caught.value.fix) == (name == "last.pt")
        (folder / name).unlink()


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/tmp", "-rf", "a\nb", "../x", "a\\b"])
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no name for a folder"):
        new_run_folder(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_the_latest_run_is_the_one_saved_last(tmp_path: Path) -> None:
    assert latest_run(tmp_path) is None
    for second, name in enumerate(("z", "a", "m")):
        write_text(tmp_path / name / "last.pt", "state")
        os.utime(tmp_path / name / "last.pt", (second, second))
    (tmp_path / "unsaved").mkdir()
    assert latest_run(tmp_path) == tmp_path / "m"
    assert latest_run(tmp_path, of_folds=True) is None
    for second, state in enumerate(("b/fold_0", "a/fold_1", "a/fold_0", "curve/share_1")):
        write_text(tmp_path / state / "last.pt", "state")
        os.utime(tmp_path / state / "last.pt", (9 - second, 9 - second))
    assert latest_run(tmp_path, of_folds=True) == tmp_path / "b"
    assert latest_run(tmp_path) == tmp_path / "m"


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a":' * 100_000])
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"Expecting|nested too deeply"):
        parse_json(text)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"null", b"\xff"])
def test_where_there_is_no_object_in_a_file_it_is_empty(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") == {}
    write_json(tmp_path / "a.json", {"a": 1})
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_a_mount_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fixed").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "fixed")
    with (
        pytest.raises(MachineError, match="fixed is a mount") as caught,
        replace_folder(tmp_path / "fixed"),
    ):
        pass
    assert str(tmp_path / "fixed" / "new") in caught.value.fix
    assert [path.name for path in tmp_path.iterdir()] == ["fixed"]


def test_a_run_folder_that_may_not_be_looked_into_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    (tmp_path / "cells").mkdir()
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(MachineError, match=r"cannot write .*cells: Permission denied"):
        new_run_folder(tmp_path, "cells")


def test_a_run_without_a_name_passes_by_a_folder_that_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noon:
        @staticmethod
        def now() -> datetime:
            return datetime(2026, 1, 1, 12)

    def refuse(folder: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr("unetseg.storage.datetime", Noon)
    theirs = new_run_folder(tmp_path, None)
    monkeypatch.setattr(Path, "iterdir", refuse)
    assert new_run_folder(tmp_path, None) == theirs.with_name(f"{theirs.name}-1")
