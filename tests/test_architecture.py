"""The tour, the layers contract, the README and the files on disk tell one story.

The tour is the docstring of `unetseg/__init__.py`, the contract the import-linter part of
`pyproject.toml`. A failure says what to fix.
"""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import unetseg

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "unetseg"
DOORS = {"__init__.py", "__main__.py", "py.typed"}  # every package has them: the lists may too
CLOSED = {"cli"}  # named by the lists, its files (one per verb) are not
FORBIDDEN = {"utils", "util", "helpers", "helper", "common", "misc"}

LINE = re.compile(r"(?P<margin>[\s│├└─]*)(?P<name>[\w.]+(?:\.py|/|\.typed))(?:\s.*)?$")


def read_tree(text: str) -> list[str]:
    """Paths below unetseg/ in a drawn tree, in order: `errors.py`, `data/`, `data/images.py`."""
    paths: list[str] = []
    above: list[tuple[int, str]] = []  # margin and path of the folders that a line may be in
    for line in text.splitlines():
        found = LINE.match(line)
        if not found:
            continue
        margin = len(found["margin"])
        while above and above[-1][0] >= margin:
            above.pop()
        path = (above[-1][1] if above else "") + found["name"]
        paths.append(path)
        if path.endswith("/"):
            above.append((margin, path))
    return below_package(paths)


def below_package(paths: list[str]) -> list[str]:
    """Those below `unetseg/` where the tree draws it, else all; without doors and closed rooms."""
    if any(path.startswith("unetseg/") for path in paths):
        paths = [path.removeprefix("unetseg/") for path in paths if path.startswith("unetseg/")]
    return [path for path in paths if path and is_listed(Path(path))]


def is_listed(path: Path) -> bool:
    return path.name not in DOORS and not (path.parts[0] in CLOSED and len(path.parts) > 1)


def tour() -> list[str]:
    return read_tree(unetseg.__doc__ or "")


def on_disk() -> set[str]:
    files = [path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts]
    relative = [path.relative_to(PACKAGE) for path in files]
    rooms = {f"{room.as_posix()}/" for path in relative for room in list(path.parents)[:-1]}
    return {path.as_posix() for path in relative if is_listed(path)} | rooms


def contracts() -> dict[str, list[str]]:
    """Layers of each contract by its container, lowest first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, list[str]] = {}
    for contract in settings["tool"]["importlinter"]["contracts"]:
        names = [name for layer in contract["layers"] for name in re.split(r"\s*[|:]\s*", layer)]
        for container in contract["containers"]:
            found[container] = names[::-1]
    return found


def modules(paths: list[str], folder: str) -> list[str]:
    """Names of the files and folders directly in `folder` ("" or "data/"), in order."""
    inside = [path.removeprefix(folder) for path in paths if path.startswith(folder)]
    return [Path(path).stem for path in inside if path and "/" not in path.rstrip("/")]


def test_the_tour_names_every_file() -> None:
    missing = sorted(on_disk() - set(tour()))
    assert not missing, f"add to the tour in unetseg/__init__.py a line for each of {missing}"


def test_every_file_of_the_tour_exists() -> None:
    gone = [path for path in tour() if path not in on_disk()]
    assert not gone, f"the tour in unetseg/__init__.py names files that do not exist: {gone}"


def test_the_tour_names_nothing_twice() -> None:
    assert len(set(tour())) == len(tour()), "the tour in unetseg/__init__.py names a file twice"


@pytest.mark.parametrize("container", sorted(contracts()))
def test_the_contract_has_the_order_of_the_tour(container: str) -> None:
    folder = f"{container.removeprefix('unetseg').replace('.', '/').lstrip('/')}/".lstrip("/")
    fix = f"the layers of {container} in pyproject.toml, read upwards, are not the tour's order"
    assert contracts()[container] == modules(tour(), folder), fix


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(file: Path) -> set[str]:
    """The files of the package, relative to it, that a file imports, now or late."""
    tree = ast.walk(parsed(file))
    froms = [node for node in tree if isinstance(node, ast.ImportFrom) and node.module]
    names = {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
    names |= {str(node.module) for node in froms}
    paths = {Path(*name.split(".")[1:]).with_suffix(".py") for name in names if "unetseg." in name}
    return {path.as_posix() for path in paths if (PACKAGE / path).is_file()}


def test_a_file_imports_only_what_the_tour_names_before_it() -> None:
    order = {path: place for place, path in enumerate(tour())}
    wrong = [
        f"{path} imports {other}"
        for path in order
        if path.endswith(".py")
        for other in sorted(imported(PACKAGE / path))
        if order.get(other, -1) >= order[path]
    ]
    assert not wrong, f"a file imports what stands above it in the tour, never below: {wrong}"


def test_no_optional_layers() -> None:
    soft = [name for layers in contracts().values() for name in layers if "(" in name]
    assert not soft, f"take the parentheses from these layers in pyproject.toml: {soft}"


def test_no_file_without_a_subject() -> None:
    named = [path for path in PACKAGE.rglob("*") if path.stem in FORBIDDEN]
    assert not named, f"name these after what they hold: {named}"


def sources() -> list[Path]:
    files = sorted(PACKAGE.rglob("*.py"))
    return [file for file in files if file.relative_to(PACKAGE).parts[0] not in CLOSED]


def speaks(node: ast.AST) -> bool:
    """Whether a syntax node prints or reaches for the terminal."""
    match node:
        case ast.Call(func=ast.Name(id="print" | "input")):
            return True
        case ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "stderr"):
            return True
        case ast.Import(names=names):
            return any(name.name.split(".")[0] == "rich" for name in names)
        case ast.ImportFrom(module=str(module)):
            return module.split(".")[0] == "rich"
        case _:
            return False


def test_only_cli_prints() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', '')}"
        for file in sources()
        for node in ast.walk(parsed(file))
        if speaks(node)
    ]
    assert not found, f"below cli/, tell a Progress instead of printing: {found}"


@pytest.mark.parametrize("module", ["unetseg", "unetseg.cli.app"])
def test_the_doors_import_nothing_heavy(module: str) -> None:
    script = (
        f"import sys, {module}\n"
        "print(*{'torch', 'torchvision', 'numpy', 'scipy', 'cv2', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split(), f"import {module} imports {done.stdout.split()}: import late"


def test_the_public_api() -> None:
    public = {"UNet", "__version__", "evaluate", "load", "predict", "score", "train"}
    assert set(unetseg.__all__) == public
    for name in unetseg.__all__:
        assert getattr(unetseg, name) is not None
        assert name in dir(unetseg)
    with pytest.raises(AttributeError, match="no attribute 'segment'"):
        _ = unetseg.segment


def test_the_version_is_the_one_of_the_citation() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {unetseg.__version__}\n" in citation, "write the version into CITATION.cff"


def test_a_tree_is_read_in_either_drawing() -> None:
    plain = "errors.py   what\ndata/   files\n  images.py  pixels\ncli/  verbs\n  app.py\n"
    boxes = (
        "pyproject.toml\nunetseg/\n├── __init__.py  tour\n├── errors.py\n├── data/\n"
        "│   └── images.py\n└── cli/\n    └── app.py\ntests/\n"
    )
    assert read_tree(plain) == read_tree(boxes) == ["errors.py", "data/", "data/images.py", "cli/"]


def test_no_function_is_longer_than_sixty_lines() -> None:
    long = [
        f"{file.relative_to(ROOT)}: {node.name}"
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert not long, f"shorten or split these functions: {long}"
