"""README and docs: links lead somewhere, commands parse, the reference is current."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from docs import make_layouts
from unetseg.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "data/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "docs/images/README.md",
]
LINES_OF_README = 130
BYTES_OF_IMAGES = 900_000


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= LINES_OF_README


def test_images_are_small_and_all_are_shown() -> None:
    images = {path for path in (ROOT / "docs/images").iterdir() if path.suffix != ".md"}
    assert images
    assert sum(path.stat().st_size for path in images) < BYTES_OF_IMAGES
    assert images == images & {target for page in PAGES for target, _ in _links(page)}


# ---------------------------------------------------------------------------------- links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in _links(page):
        assert target.exists(), f"{target} is not there"
        if anchor:
            assert anchor in _anchors(target), f"{target.name} has no heading #{anchor}"


def _links(page: Path) -> Iterator[tuple[Path, str]]:
    """The local targets of a page's links and images, with their anchors."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if not link.startswith(("https:", "mailto:")):
            path, _, anchor = link.partition("#")
            yield ((page.parent / path).resolve() if path else page), anchor


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


# ------------------------------------------------------------------------------- commands


def _commands() -> list[str]:
    """Every command line of unetseg in the code blocks of the pages, once."""
    lines = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S):
            lines += re.findall(r"^ *(?:\$ |\.venv/bin/)?(unetseg .+)$", block, re.M)
    lines = [re.split(r"\s#|\s{3,}(?!-)", line)[0] for line in lines]
    return list(dict.fromkeys(re.sub(r"\s+", " ", line).strip() for line in lines))


@pytest.mark.parametrize("line", _commands())
def test_every_command_line_parses(line: str) -> None:
    _parse(line)


def test_a_wrong_flag_would_be_seen() -> None:
    with pytest.raises(CycloptsError):
        _parse("unetseg train photos/ --bugdet 10m")
    assert len(_commands()) > 20


def _parse(line: str) -> None:
    app.parse_args(shlex.split(line)[1:], exit_on_error=False, print_error=False)


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        named = re.findall(r"(?:^ *|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.M)
        assert set(named) <= targets, page.name


# ------------------------------------------------------------------------------ reference


@pytest.mark.long
def test_reference_of_the_command_line_is_current() -> None:
    spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs/make_cli.py")
    assert spec
    assert spec.loader
    make_cli = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_cli)
    assert make_cli.PAGE.read_text(encoding="utf-8") == make_cli.page(), "run `make docs`"


def test_table_of_layouts_is_current() -> None:
    assert make_layouts.PAGE.read_text(encoding="utf-8") == make_layouts.page(), "run `make docs`"


def test_readme_names_every_room() -> None:
    rooms = {path.parent.name for path in (ROOT / "unetseg").glob("*/__init__.py")}
    table = re.findall(r"^\| `(\w+)/?", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert rooms <= set(table)


def test_every_check_is_explained() -> None:
    """What is written with hyphens in quotes where checks are is one, and stands in the tables."""
    source = "".join(path.read_text("utf-8") for path in (ROOT / "unetseg/checks").glob("*.py"))
    checks = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', source)) | {
        "saturated",
        "decompression-bomb",
    }
    page = (ROOT / "docs/check.md").read_text(encoding="utf-8")
    rows = "".join(re.findall(r"^\| (`.+`) \|", page, re.M))
    assert set(re.findall(r"`([a-z-]+)`", rows)) == checks
