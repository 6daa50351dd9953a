"""Fixtures of the whole suite."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real data sets; the test is skipped where there is none."""
    folder = os.environ.get("UNETSEG_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("UNETSEG_REAL_DATA names no folder with the real data sets")
    return Path(folder)
