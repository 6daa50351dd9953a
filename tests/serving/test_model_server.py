"""The command: what it tells, and what it refuses."""

import socket
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.builders import save_run
from tests.serving.models import LOCAL
from unetseg.cli.app import run
from unetseg.serving import server

WORDS = ["--port", "0", "--device", "cpu", "--precision", "float32"]


@pytest.fixture
def apps(monkeypatch: pytest.MonkeyPatch) -> list[FastAPI]:
    """The applications that would be run."""
    apps = list[FastAPI]()

    def note(app: FastAPI, listener: socket.socket) -> None:
        assert listener.getsockname()[1]
        apps.append(app)

    monkeypatch.setattr(server, "run", note)
    return apps


def test_where_it_listens_and_the_token_are_told(
    tmp_path: Path, apps: list[FastAPI], capsys: pytest.CaptureFixture[str]
) -> None:
    cells = str(save_run(tmp_path / "cells"))
    assert run(["serve", cells, *WORDS]) == 0
    told = capsys.readouterr().out
    assert "cells on CPU" in told
    assert "listening at http://127.0.0.1:" in told
    assert "token" not in told
    assert run(["serve", cells, *WORDS, "--host", "0.0.0.0", "--name", "mine"]) == 0
    token = capsys.readouterr().out.partition("token: ")[2].split()[0]
    here, everywhere = (TestClient(app, base_url=LOCAL) for app in apps)
    assert here.get("/v2/models/cells").status_code == 200
    assert everywhere.get("/v2/models/mine").status_code == 401
    headers = {"authorization": f"Bearer {token}"}
    assert everywhere.get("/v2/models/mine", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["no-run"], 8, "no-run"),
        (["cells", "--host", "no.such.host.invalid"], 3, "cannot listen"),
        (["cells", "--port", "65536"], 2, "--port"),
        (["cells", "--token", "short"], 2, "--token"),
        (["cells", "--name", "a/b"], 2, "--name"),
        (["cells", "--label-studio-pairs", "out"], 2, "needs --label-studio-files"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path,
    apps: list[FastAPI],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    told: str,
) -> None:
    save_run(tmp_path / "cells")
    monkeypatch.chdir(tmp_path)
    flags = [] if "--port" in words else ["--port", "0"]
    assert run(["serve", *words, *flags]) == code
    assert told in capsys.readouterr().err
    assert not apps


@pytest.mark.parametrize("flags", [["--host", "0.0.0.0"], ["--token", "a long token"]])
def test_the_command_that_is_told_next_brings_the_token(
    flags: list[str], tmp_path: Path, apps: list[FastAPI], capsys: pytest.CaptureFixture[str]
) -> None:
    cells = str(save_run(tmp_path / "cells"))
    assert run(["serve", cells, *WORDS]) == 0
    assert "next: curl -F file=@IMAGE http" in capsys.readouterr().out
    assert run(["serve", cells, *WORDS, *flags]) == 0
    told = capsys.readouterr().out
    assert 'next: curl -H "Authorization: Bearer TOKEN" -F file=@IMAGE http' in told
    assert "a long token" not in told
