"""Laws of the manifest: what was noted is known again, whatever ended the process."""

import json
import multiprocessing
import os
import time
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from tests.builders import bundle_info
from tests.test_locks import refuse_locks
from unetseg.errors import ImageError, MachineError
from unetseg.prediction.manifest import NAME, Manifest, identity_of, is_predicted
from unetseg.prediction.outputs import Job
from unetseg.prediction.predict import _aside

SETTINGS = {"model": "abc", "tile": 64}


def job(folder: Path, name: str) -> Job:
    (folder / name).write_bytes(b"image")
    return Job(folder / name, folder / "out" / "sub" / f"{name}.png")


def noted(folder: Path) -> Manifest:
    """One mask is done, one failed, one put aside, one in work."""
    manifest = Manifest(folder / "out", SETTINGS, "run", {"tile": 64})
    jobs = [job(folder, name) for name in ("done", "failed \udcff", "aside", "begun")]
    with manifest.held():
        for one in jobs:
            manifest.begin(one, alone=one is jobs[3])
        beside = jobs[0].mask.with_name("done_overlay.png")
        manifest.end(jobs[0], [jobs[0].mask, beside])
        manifest.fail(jobs[1], ImageError("it is cut", ["at 7"], "Save it anew.", code="cut"))
        manifest.fail(jobs[2], ImageError("it kills"), aside=True)
    return manifest


def test_what_was_noted_is_known_again(tmp_path: Path) -> None:
    first = noted(tmp_path)
    again = Manifest(tmp_path / "out", SETTINGS)
    record = again.done["sub/done.png"]
    assert (record.by, record.image) == (first.key, str(tmp_path / "done"))
    assert record.identity[0] == 5
    assert record.files == {"sub/done.png", "sub/done_overlay.png"}
    assert again.owners["sub/done_overlay.png"] == "sub/done.png"
    assert again.begun == {"sub/begun.png": [True]}
    row = again.failed["sub/failed \udcff.png"]
    assert (row["message"], row["offenders"], row["fix"]) == (
        "it is cut",
        ["at 7"],
        "Save it anew.",
    )
    assert (row["code"], again.differences(first.key)) == ("cut", [])
    again.begin(job(tmp_path, "done"))  # a mask that is made again is in work
    again.read()
    assert "sub/done.png" not in again.done


def test_an_image_is_put_aside_until_it_changes(tmp_path: Path) -> None:
    noted(tmp_path)
    again = Manifest(tmp_path / "out", SETTINGS)
    aside = Job(tmp_path / "aside", tmp_path / "out" / "sub" / "aside.png")
    failed = Job(tmp_path / "failed \udcff", tmp_path / "out" / "sub" / "failed \udcff.png")
    error = again.put_aside(aside)
    assert error is not None
    assert (error.summary, error.code) == ("it kills", "image")
    assert again.put_aside(failed) is None
    aside.image.write_bytes(b"changed")
    assert again.put_aside(aside) is None


def test_an_image_is_another_one_with_other_files_beside_it(tmp_path: Path) -> None:
    image = tmp_path / "a.tif"
    image.write_bytes(b"image")
    seen = [identity_of(image)]
    for name in ("a.tif.msk", "a.tfw", "a.prj", "a.tif.aux.xml", "a.hdr", "b.tif.msk", "b.tfw"):
        (tmp_path / name).write_bytes(b"more")
        os.utime(tmp_path, (len(seen), len(seen)))  # or all might be of one moment
        seen.append(identity_of(image))
    assert len(set(seen)) == 6
    assert seen[5] == seen[6] == seen[7]  # what is of others does not count
    assert identity_of(tmp_path / "c.tif") == (0, 0)


NOTED = """<PAMDataset><PAMRasterBand band="1"><Histograms><HistItem><HistMin>0</HistMin></HistItem>
</Histograms><Metadata><MDI key="STATISTICS_MAXIMUM">9</MDI></Metadata>
</PAMRasterBand></PAMDataset>"""


@pytest.mark.parametrize(
    ("more", "is_other"),
    [
        ("", False),
        ("<NoDataValue>0</NoDataValue>", True),
        ("<Metadata><MDI key='LINE_OFF'>1</MDI></Metadata>", True),
    ],
)
def test_what_a_viewer_notes_beside_an_image_makes_no_other_of_it(
    tmp_path: Path, more: str, is_other: bool
) -> None:
    image = tmp_path / "a.tif"
    image.write_bytes(b"image")
    before = identity_of(image)
    (tmp_path / "a.tif.aux.xml").write_text(NOTED.replace("<Histograms>", f"{more}<Histograms>"))
    assert (identity_of(image) != before) is is_other


def test_any_end_of_a_line_costs_that_line_alone(tmp_path: Path) -> None:
    noted(tmp_path)
    file = tmp_path / "out" / NAME
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        Manifest(tmp_path / "out", SETTINGS)
    file.write_bytes(whole[: -len(lines[-1]) // 2])
    manifest = Manifest(tmp_path / "out", SETTINGS)
    assert "sub/aside.png" in manifest.begun  # its end is lost
    with manifest.held():
        manifest.begin(job(tmp_path, "next"))
    again = Manifest(tmp_path / "out", SETTINGS)
    assert {"sub/aside.png", "sub/next.png"} <= set(again.begun)
    read = [line for line in file.read_bytes().splitlines() if line.startswith(b'{"by"')]
    assert len(read) == 2
    assert json.loads(read[0])["settings"] == SETTINGS


@pytest.mark.parametrize(
    "line", ["[]", "null", '{"done": 3}', '{"done": "x"}', '{"begun": {}}', "[" * 100_000]
)
def test_lines_of_no_meaning_are_passed_over(tmp_path: Path, line: str) -> None:
    (tmp_path / NAME).write_text(f"{line}\n")
    manifest = Manifest(tmp_path, SETTINGS)
    assert (manifest.done, manifest.begun, manifest.failed) == ({}, {}, {})


def test_a_folder_that_may_not_be_entered_holds_no_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    assert not is_predicted(tmp_path)


def test_differences_name_what_was_otherwise(tmp_path: Path) -> None:
    before = noted(tmp_path)
    now = Manifest(tmp_path / "out", {"model": "def", "tile": 32}, "other")
    assert now.differences(before.key) == [
        "model: run (abc) there, other (def) here",
        "tile: 64 there, 32 here",
    ]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(MachineError, match="cannot write"),
        Manifest(tmp_path / "file", SETTINGS).held(),
    ):
        pass


def test_a_manifest_that_may_not_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(MachineError, match=r"cannot read .*predictions\.jsonl.*Permission denied"):
        Manifest(tmp_path / "out", SETTINGS)


# ------------------------------------------------------------------ several processes


def test_equal_settings_work_in_a_folder_together_and_others_wait(tmp_path: Path) -> None:
    first, second = (Manifest(tmp_path / "out", SETTINGS) for _ in range(2))
    other = Manifest(tmp_path / "out", {"model": "abc", "tile": 32})
    with first.held() as has_changed:
        assert (has_changed, first.is_alone) == (False, True)
        with second.held() as has_changed:  # the line that tells of the first is new
            assert (has_changed, second.is_alone) == (True, False)
            first.begin(job(tmp_path, "x"))
            with (
                pytest.raises(MachineError, match="another prediction is at work in") as caught,
                other.held(),
            ):
                pass
            assert caught.value.offenders == ["tile: 64 there, 32 here"]
    with other.held():
        assert other.is_alone
        assert other.begun == {"sub/x.png": [False]}


def test_without_locks_nobody_is_kept_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_locks(monkeypatch, 37)
    with (
        Manifest(tmp_path, SETTINGS).held(),
        Manifest(tmp_path, {"model": "def"}).held(),
    ):
        pass


def hold(folder: Path, key: int, start: Barrier, told: "SimpleQueue[object]") -> None:
    """Hold the folder for a while, and tell when; or that another one does."""
    manifest = Manifest(folder, {"model": key})
    start.wait()
    try:
        with manifest.held():
            begun = time.monotonic()
            time.sleep(0.1)
            told.put((key, begun, time.monotonic()))
    except MachineError:
        told.put(None)


def test_of_processes_that_start_at_once_only_equal_ones_go_on(tmp_path: Path) -> None:
    context, count = multiprocessing.get_context("fork"), 12
    held = 0
    for turn in range(10):
        start, told = context.Barrier(count), context.SimpleQueue()
        processes = [
            context.Process(target=hold, args=(tmp_path / str(turn), number % 2, start, told))
            for number in range(count)
        ]
        for process in processes:
            process.start()
        answers = [told.get() for _ in processes]
        for process in processes:
            process.join()
        spans = [answer for answer in answers if answer]
        held += len(spans)
        for one, begun, ended in spans:
            assert not [s for s in spans if s[0] != one and s[1] < ended and begun < s[2]]
    assert held >= 10 * count // 4


def test_fields_that_are_new_and_empty_make_no_other_model() -> None:
    """Masks of an earlier version are gone on with."""
    assert {"members", "postprocess"} <= _aside(bundle_info())
    member = bundle_info().normalisation
    assert "members" not in _aside(bundle_info(members=[member]))


def test_differences_name_what_is_set_there_alone(tmp_path: Path) -> None:
    with (before := Manifest(tmp_path, SETTINGS | {"threshold": 0.3})).held():
        pass
    now = Manifest(tmp_path, SETTINGS)
    assert now.differences(before.key) == ["threshold: 0.3 there, the default here"]
