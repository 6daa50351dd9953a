"""What is said: in any encoding, to readers that go away, to files on full disks, to nobody."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unetseg.cli.console import Output, patient

TINY = ["-e", "2", "--depth", "2", "--width", "4", "--patch", "32", "-b", "2", "--workers", "0"]
ENCODINGS = ["ascii", "cp1252", "cp932", "latin-1", "utf-8"]
UNETSEG = [sys.executable, "-m", "unetseg"]


def in_shell(script: str, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A script in which "$@" is the command line."""
    return subprocess.run(
        ["bash", "-c", script, "bash", *UNETSEG, *map(str, words)],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        timeout=120,
        env=os.environ | environment,
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_character_can_be_said_in_every_encoding(encoding: str) -> None:
    content = io.BytesIO()
    stream = patient(io.TextIOWrapper(content, encoding))
    stream.write("zür_写_\udcff.png ↔ masks, 256×256² …\n")
    stream.flush()
    said = content.getvalue().decode(encoding)
    assert "\\udcff.png" in said
    for character, plain in {"↔": "<->", "×": "6x", "²": "^2", "…": "...", "写": "\\u5199"}.items():
        assert (character in said) != (plain in said)


def test_what_is_no_stream_of_text_stays_as_it_is() -> None:
    text = io.StringIO()
    assert patient(text) is text
    assert patient(None) is None


def test_what_cannot_be_written_is_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    with Path("/dev/full").open("w") as full:
        stream = patient(full)
        for _ in range(3):
            stream.write("word " * 10_000)
            stream.flush()
    assert isinstance(stream, Output)
    lost = "what is said here is lost from now on: No space left on device\n"
    assert capsys.readouterr().err == lost


@pytest.mark.long
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_folder_is_checked_in_every_encoding(data: Path, encoding: str) -> None:
    for name in ("images", "masks"):
        first = sorted((data / name).iterdir())[0]
        first.rename(first.with_name(f"zür_写{first.suffix}"))
    done = in_shell('"$@"', "check", data, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.long
def test_a_training_needs_neither_an_encoding_nor_a_reader(data: Path, tmp_path: Path) -> None:
    words = ["train", data, *TINY, "--out", tmp_path, "--name", "zür"]
    done = in_shell('"$@" | head -1; exit ${PIPESTATUS[0]}', *words, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    assert (tmp_path / "zür" / "model" / "model.json").is_file()
    assert (tmp_path / "zür" / "log.jsonl").read_text().count('"validation"') == 2


@pytest.mark.long
@pytest.mark.parametrize(
    "script",
    ['"$@" | true; exit ${PIPESTATUS[0]}', '"$@" 2>&1 | true; exit ${PIPESTATUS[0]}'],
)
@pytest.mark.parametrize("words", [["check", "."], ["train", "--help"]])
def test_a_reader_that_is_gone_is_not_missed(script: str, words: list[str], data: Path) -> None:
    done = in_shell(f"cd '{data}'; {script}", *words)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.long
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_files_are_none_of_the_files_that_are_opened(closed: str, tmp_path: Path) -> None:
    done = in_shell(f'exec "$@" {closed}', "sample", tmp_path / "drawn", "-n", 4, "--size", 48)
    assert done.returncode == 0
    assert len(list((tmp_path / "drawn" / "images").iterdir())) == 4


@pytest.mark.long
def test_json_has_no_colours_where_these_are_forced(data: Path) -> None:
    done = in_shell('"$@"', "check", data, "--json", FORCE_COLOR="1", TERM="xterm")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["findings"] == []


@pytest.mark.long
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_json_that_is_not_whole_is_no_success(data: Path) -> None:
    done = in_shell('"$@" > /dev/full', "check", data, "--json")
    assert done.returncode == 3
    assert "the JSON is not whole" in done.stderr
