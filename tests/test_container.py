"""The image's recipe is pinned and complete; `make container-test` builds it and runs inside."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import unetseg
from tests import container

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
WINDOWS = pytest.mark.skipif(sys.platform == "win32", reason="has no make, and other paths")
DEVELOPMENT = (ROOT / ".devcontainer/Dockerfile").read_text(encoding="utf-8")


def instructions(text: str) -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile with its words, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.M).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line]


def test_the_base_is_pinned_to_a_release_and_the_same_for_development() -> None:
    base = dict(instructions(DEVELOPMENT))["FROM"]
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+", base)
    assert instructions(DOCKERFILE)[0] == ("ARG", f"BASE_IMAGE={base}")
    assert dict(instructions(DOCKERFILE))["FROM"] == "${BASE_IMAGE}"


def test_every_installation_is_constrained_and_leaves_no_cache() -> None:
    runs = [words for name, words in instructions(DOCKERFILE) if name == "RUN"]
    steps = [step for words in runs for step in words.split("&&") if "pip install" in step]
    assert len(steps) == 4
    for step in steps:
        assert re.search(r"--(build-)?constraints? constraints\.txt", step), step
        assert re.search(r"--no-cache(-dir)? ", step), step
    assert all("rm -rf /var/lib/apt/lists" in words for words in runs if "apt-get" in words)


def test_all_that_the_build_reads_is_there_and_not_ignored() -> None:
    kept = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.M)
    copies = [words.split()[:-1] for name, words in instructions(DOCKERFILE) if name == "COPY"]
    assert set(kept) == {source for sources in copies for source in sources}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {project["readme"], *project["license-files"], "unetseg"} <= set(kept)
    assert all((ROOT / name).exists() for name in kept)


def test_labels_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="(.*?)"', DOCKERFILE))
    assert labels == {
        "title": project["name"],
        "description": project["description"],
        "version": unetseg.__version__,
        "licenses": project["license"],
        "vendor": project["authors"][0]["name"],
        "revision": "$REVISION",
    }


def test_it_runs_as_an_ordinary_user() -> None:
    last = dict(instructions(DOCKERFILE))  # of each instruction
    assert last["USER"] == "unetseg"
    assert json.loads(last["ENTRYPOINT"]) == ["unetseg"]
    assert dict(instructions(DEVELOPMENT))["USER"] == "developer"


def test_compose_reserves_the_gpu_for_the_one_and_has_the_other_without() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    gpu, cpu = compose["services"]["gpu"], compose["services"]["cpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert "deploy" not in cpu
    assert set(cpu["build"]["args"]) <= set(re.findall(r"^ARG (\w+)=", DOCKERFILE, re.M))
    assert all(service["read_only"] and service["user"] for service in (gpu, cpu))


@WINDOWS
def test_the_development_container_leaves_the_environment_of_its_host_alone() -> None:
    folder = ROOT / ".devcontainer"
    told = json.loads((folder / "devcontainer.json").read_text(encoding="utf-8"))
    assert (folder / told["build"]["dockerfile"]).exists()
    assert told["remoteUser"] in DEVELOPMENT
    command = [*told["postCreateCommand"].split(), "--dry-run", "--always-make"]
    done = subprocess.run(
        command, cwd=ROOT, env=told["containerEnv"] | {"PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "/home/developer/venv" in done.stdout
    assert ".venv" not in done.stdout


def test_the_command_says_what_it_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.container", "--help"], cwd=ROOT, capture_output=True
    )
    assert not done.returncode
    assert b"--torch" in done.stdout


@WINDOWS
def test_files_that_settings_of_pip_and_uv_name_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wheels", "index", "simple"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(container, "SETTINGS", [str(tmp_path / "pip.conf")])
    (tmp_path / "pip.conf").write_text(f"[global]\nfind-links = {tmp_path}/wheels\n")
    monkeypatch.setenv(
        "PIP_EXTRA_INDEX_URL", f"file://{tmp_path}/index https://host{tmp_path}/simple"
    )
    found = set(container.local_paths())
    assert {f"{tmp_path}/wheels", f"{tmp_path}/index"} <= found
    assert f"{tmp_path}/simple" not in found
