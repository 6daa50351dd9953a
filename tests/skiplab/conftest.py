"""The drawn sample that trainings of the lab's tests learn from."""

from pathlib import Path

import pytest

from unetseg.data.sample import draw_sample


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of 48×48 pixels, read by all and changed by none."""
    return draw_sample(tmp_path_factory.mktemp("data") / "cells", count=6, size=48)
