"""Spoilt inputs end in answers: a few of every target, and all finds that were mended."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.fuzz import Bench, Input
from tests.faults.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("os.fsync", lambda _: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries may warn of what they are given
        yield


@pytest.mark.row(25, 43)
@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
def test_spoilt_inputs_end_in_answers(bench: Bench, target: str) -> None:
    for file, content in bench.sound(target).items():
        bench.read(Input(target, file, content))
    for seed in range({"exports": 15}.get(target, 60)):
        bench.read(bench.draw(target, seed))


@pytest.mark.row(25, 43)
@pytest.mark.parametrize("find", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_finds_stay_mended(bench: Bench, find: Path) -> None:
    """A find is called TARGET--NAME--FILE: the one that it stands for, + between folders."""
    target, _, name = find.name.split("--")
    end = "/" + name.replace("+", "/")
    (file,) = (path for path in bench.sound(target) if path.as_posix().endswith(end))
    bench.read(Input(target, file, find.read_bytes()))
