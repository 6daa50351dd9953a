"""Laws of the model card: in every bundle, true to its scores, whatever names it holds."""

import json
from pathlib import Path

from tests.builders import bundle_info, random_segmenter
from tests.report.runs import CLASSES, made_run
from unetseg.bundle import load_bundle, save_bundle
from unetseg.report.card import model_card
from unetseg.report.facts import Facts
from unetseg.report.page import save_page


def test_the_card_tells_the_scores_of_the_evaluation(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    save_page([run])
    card = (run / "model" / "README.md").read_text()
    scores = json.loads((run / "eval/all/scores.json").read_text())
    assert f"Mean Dice of the foreground {scores['foreground_dice']:.3f}" in card
    assert "5 images" in card
    assert "holes filled" in card
    assert "<script>" not in card.replace("\\<script\\>", "")
    assert "\u202e" not in card
    assert "unetseg predict" in card
    load_bundle(run)  # a card is no trouble to whoever loads the bundle


def test_a_bundle_is_saved_with_its_card(tmp_path: Path) -> None:
    info = bundle_info(classes=CLASSES)
    weights = random_segmenter(info).state_dict()
    save_bundle(tmp_path / "m", weights, info, lambda told: model_card(told, Facts(tmp_path)))
    content = json.loads((tmp_path / "m" / "model.json").read_text())
    assert content["weights_sha256"] in (tmp_path / "m" / "README.md").read_text()
    assert {p.name for p in (tmp_path / "m").iterdir()} == {
        "README.md",
        "model.json",
        "model.safetensors",
    }


def test_a_card_of_damaged_facts_says_so(tmp_path: Path) -> None:
    assert "more could not be told" in model_card({"class_map": 3}, Facts(tmp_path))
