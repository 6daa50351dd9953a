"""Fixtures of the whole suite."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["tests.faults.rows"]

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
if hasattr(signal, "SIGHUP"):  # which is ignored where the tests run under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: more threads would only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("unetseg", deadline=None)  # machines that run tests are shared and slow
settings.load_profile("unetseg")


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """What a test lets signals do ends with it: a fork of a later one must die when it is told."""
    numbers = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")]
    before = {number: signal.getsignal(number) for number in numbers if number}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real data sets; the test is skipped where there is none."""
    folder = os.environ.get("UNETSEG_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("UNETSEG_REAL_DATA names no folder with the real data sets")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fingerprints of the tests stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNETSEG_CACHE_FOLDER", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def eight_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight drawn pairs of 96×96 pixels, to be copied before they are spoilt."""
    from unetseg.data.sample import draw_sample  # after the environment above is set

    return draw_sample(tmp_path_factory.mktemp("data") / "sample", count=8, size=96)


@pytest.fixture
def data(eight_pairs: Path, tmp_path: Path) -> Path:
    """A good folder of eight pairs, to be spoilt."""
    return Path(shutil.copytree(eight_pairs, tmp_path / "my photos"))
