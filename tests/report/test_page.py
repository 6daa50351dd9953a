"""Laws of the page: whole, escaped, nothing from elsewhere, and never worth a training."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.builders import Heard, save_run
from tests.report.runs import HOSTILE, made_run
from unetseg.bundle import join_bundles
from unetseg.errors import BundleError
from unetseg.report.facts import Facts
from unetseg.report.page import SECTIONS, picture, run_page, save_page, write_report
from unetseg.storage import write_text


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(run, tmp_path / run.name))


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text beside them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="(\w+)"', page)


def test_a_page_has_every_section_whose_facts_are_there_in_order(run: Path) -> None:
    found = sections(run_page(Facts(run)))
    assert found == [name for name in SECTIONS if name in found]
    assert {"classes", "objects", "errors", "images", "confusion", "curves", "data"} <= {*found}
    assert {"calibration", "plan", "human", "next", "repeat"} <= {*found}
    assert not {"suspects", "growth", "skips"} & {*found}


@pytest.mark.parametrize(
    ("file", "section"),
    [
        ("metrics.csv", "curves"),
        ("plan.json", "plan"),
        ("eval/all/anatomy.json", "confusion"),
        ("data.json", "data"),
    ],
)
@pytest.mark.parametrize("damage", [None, "", "{", "[1]", "null", '{"a": 1}', "a,b\n1"])
def test_what_is_missing_or_damaged_is_left_out(
    own: Path, file: str, section: str, damage: str | None
) -> None:
    if damage is None:
        (own / file).unlink()
    else:
        (own / file).write_text(damage)
    page = run_page(Facts(own))
    assert damage == '{"a": 1}' or section not in sections(page)
    assert "classes" in sections(page)


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"a": 1}'])
def test_damaged_scores_are_none(own: Path, damage: str) -> None:
    (own / "eval/all/scores.json").write_text(damage)
    assert "Nothing was scored yet." in run_page(Facts(own))


def test_what_others_leave_in_the_folder_is_shown(own: Path) -> None:
    (own / "eval/all/suspects.csv").write_text(
        f'image,why\na.png,"{HOSTILE.replace(chr(34), "")}"\n'
    )
    points = [{"images": 10, "dice": 0.71}, {"images": 20, "dice": 0.8}]
    (own / "curve.json").write_text(json.dumps({"verdict": HOSTILE, "points": points}))
    (own / "lab").mkdir()
    shutil.copy(next((own / "eval/all/overlays").glob("*.png")), own / "lab" / "ablate.png")
    (own / "lab" / "ablate.json").write_text(json.dumps({"caption": HOSTILE}))
    page = run_page(Facts(own))
    assert {"suspects", "growth", "skips"} <= {*sections(page)}
    assert "0.710" in page
    assert "<script>alert" not in page


def test_each_picture_is_encoded_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = list[Path]()

    def counted(path: Path) -> str:
        encoded.append(path)
        return picture(path)

    monkeypatch.setattr("unetseg.report.page.picture", counted)
    page = run_page(Facts(run))
    assert 0 < len(encoded) == page.count('src="data:image/')
    named = re.findall(r'<a href="#(\w+)">([^<]+)</a>', page)
    assert named == [(name, SECTIONS[name]) for name in sections(page)]


def test_the_last_validation_is_that_of_the_most_steps(tmp_path: Path) -> None:
    (tmp_path / "previews").mkdir()
    for step in (999_999, 1_000_000):
        (tmp_path / "previews" / f"step_{step:06d}.png").touch()
    last = Facts(tmp_path).preview
    assert last
    assert last.name == "step_1000000.png"


def test_names_are_escaped_and_nothing_comes_from_elsewhere(run: Path) -> None:
    page = run_page(Facts(run))
    elements = Elements(page)
    assert [tag for tag, _ in elements.found].count("script") == 1
    assert all("onerror" not in attributes for _, attributes in elements.found)
    assert "<img src=x onerror=alert(1)>&'" in elements.text
    assert HOSTILE.replace("\u202e", "\\u202e") in elements.text
    assert "\u202e" not in page
    assert not re.search(r"https?:|//[a-z]|url\(|@import", re.sub(r"data:[^\"]*", "", page))
    targets = [a.get(key) for _, a in elements.found for key in ("src", "href") if a.get(key)]
    assert all(str(target).startswith(("data:", "#")) for target in targets)
    assert all(a.get("alt") for tag, a in elements.found if tag == "img")


def test_scores_of_other_weights_are_not_told(own: Path) -> None:
    file = own / "eval/all/anatomy.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"weights": "others"}))
    page = run_page(Facts(own))
    assert "images" not in sections(page)
    assert "Nothing was scored yet." in page
    assert "unetseg eval" in page


def test_a_bundle_alone_has_a_page(tmp_path: Path) -> None:
    page = run_page(Facts(save_run(tmp_path / "run") / "model"))
    assert sections(page) == ["next", "versions"]


def test_a_page_that_fails_is_one_line(
    own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(facts: Facts) -> str:
        raise RuntimeError("some\nbug")

    heard = Heard()
    monkeypatch.setattr("unetseg.report.page.run_page", broken)
    assert write_report(own, heard) is None
    assert heard.said == ["warning: no report.html: some bug"]
    monkeypatch.undo()
    (own / "report.html").mkdir()
    assert write_report(own, heard) is None
    assert write_report(tmp_path / "none", heard) is None
    assert len(heard.said) == 3


def test_scores_elsewhere_have_their_page_beside_them(own: Path, tmp_path: Path) -> None:
    elsewhere = shutil.move(own / "eval/all", tmp_path / "scores")
    heard = Heard()
    assert write_report(own, heard, Path(elsewhere)) == tmp_path / "scores" / "report.html"
    assert not heard.said
    assert "confusion" in sections((tmp_path / "scores" / "report.html").read_text())


def test_several_runs_stand_side_by_side(own: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(own, tmp_path / "other"))
    (other / "config.yaml").write_text("budget: 900s\nseed: 0\n")
    path = save_page([own, other])
    page = path.read_text()
    assert path == own.parent / "report.html"
    assert sections(page) == ["scores", "classes", "curves", "settings"]
    assert "900s" in page
    assert "seed" not in Elements(page).text
    assert "<b>&" not in page


def test_a_page_of_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        save_page([tmp_path / "none"])


def test_a_longer_training_has_more_epochs_where_these_were_set(own: Path) -> None:
    def longer() -> str:
        why, command = Facts(own).commands[0]
        assert why.startswith("train longer")
        return command

    assert longer().endswith("--budget 900s")
    write_text(own / "config.yaml", "epochs: 15\nseed: 0\n")
    assert longer().endswith("--budget 900s --epochs 30")


def test_a_bundle_called_model_is_no_part_of_the_folder_above(own: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(own / "model", tmp_path / "elsewhere" / "model"))
    shutil.move(own / "eval", bundle / "eval")
    assert save_page([bundle]) == bundle / "report.html"
    assert "confusion" in sections((bundle / "report.html").read_text())
    assert [path.name for path in bundle.parent.iterdir()] == ["model"]


def test_commands_pair_as_the_training_did(own: Path) -> None:
    write_text(own / "config.yaml", "budget: 450s\nimages: raw\nmasks: '*/gt/*.png'\nsnap: true\n")
    told = dict(Facts(own).commands)["what is wrong with the data"]
    assert told.endswith("--images raw --masks '*/gt/*.png' --snap")


def test_a_page_elsewhere_leaves_the_run_as_it_is(own: Path, tmp_path: Path) -> None:
    before = sorted(own.rglob("*"))
    assert save_page([own], tmp_path / "page.html") == tmp_path / "page.html"
    assert sorted(own.rglob("*")) == before
    save_page([own])
    assert (own / "model" / "README.md").exists()


def test_an_ensemble_is_not_offered_what_takes_single_networks(tmp_path: Path) -> None:
    folds = [save_run(tmp_path / f"fold_{number}") for number in range(2)]
    join_bundles(folds, tmp_path / "run" / "model")
    assert any("lab ablate" in command for _, command in Facts(folds[0]).commands)
    assert not any("lab ablate" in command for _, command in Facts(tmp_path / "run").commands)


def test_the_comparison_of_several_runs_pairs_as_the_training_did(
    own: Path, tmp_path: Path
) -> None:
    write_text(own / "config.yaml", "budget: 450s\nimages: raw\nsnap: true\n")
    other = Path(shutil.copytree(own, tmp_path / "other"))
    page = Elements(save_page([own, other]).read_text(encoding="utf-8")).text
    assert re.search(r"unetseg compare .*--images raw --snap", page)


def test_scores_of_another_name_in_the_run_have_their_page_beside_them(own: Path) -> None:
    folder = Path(shutil.move(own / "eval/all", own / "eval/tta"))
    heard = Heard()
    assert write_report(own, heard, folder) == folder / "report.html"
    assert not heard.said
    assert "confusion" in sections((folder / "report.html").read_text(encoding="utf-8"))


def test_all_that_are_no_runs_are_named_and_a_page_of_before_is_none(
    own: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="2 of 3 folders") as caught:
        save_page([own, tmp_path / "none", tmp_path / "lab"])
    for name in ("none", "lab"):
        assert str(tmp_path / name) in "\n".join(caught.value.offenders)
    other = Path(shutil.copytree(own, tmp_path / "other"))
    page = save_page([own, other])
    assert save_page([own, other, page]) == page


def test_the_check_on_the_page_reads_the_masks_as_the_training_did(own: Path) -> None:
    settings = "budget: 450s\nmasks: gt\nclasses: mine.txt\nignore: [255]\non_bad: error\n"
    write_text(own / "config.yaml", settings)
    told = dict(Facts(own).commands)["what is wrong with the data"]
    assert told.endswith("--masks gt --classes mine.txt --ignore 255")
    assert "--classes" not in Facts(own).given()  # eval has them from the model
