"""One small model behind HTTP, which all tests of this room may ask."""

from collections.abc import Iterator

import pytest

from tests.serving.models import Cells, asked, model


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cells]:
    """A model of two classes and its server."""
    run, predictor = model(tmp_path_factory.mktemp("model"))
    with asked(run) as client:
        yield Cells(run, predictor, client)
