"""Laws of the settings: durations, lists with commas, frozen models without unknown names."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import unetseg
from unetseg.config import (
    SETTINGS,
    DataConfig,
    DeviceConfig,
    EvalConfig,
    NetworkConfig,
    PredictConfig,
    ReadingConfig,
    Settings,
    TrainConfig,
    TrainingConfig,
    parse_duration,
    split_commas,
    with_flags,
)
from unetseg.errors import ConfigError


@given(days=st.integers(0, 9), hours=st.integers(0, 99), minutes=st.integers(0, 99))
def test_a_duration_is_the_sum_of_its_parts(days: int, hours: int, minutes: int) -> None:
    text = f"{days}d{hours}h{minutes}m7s"
    assert parse_duration(text) == ((days * 24 + hours) * 60 + minutes) * 60 + 7
    assert parse_duration(text.upper().replace("H", "h ")) == parse_duration(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), (" 2h ", 7200), (90.5, 90.5)]
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10x", "m", "-5s", "1h30", "1:30", "10 10", "ten", "1e3s"])
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration: write 90s, 10m or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize(("budget", "kept"), [("10m", 600), (30, 30), ("45", 45)])
def test_a_budget_is_kept_in_seconds(budget: object, kept: float) -> None:
    assert TrainingConfig.model_validate({"budget": budget}).budget == kept


@pytest.mark.parametrize("text", ["3", "1.5", "29"])
def test_a_short_duration_without_a_unit_is_asked_about(text: str) -> None:
    for name in ("budget", "save_every"):
        with pytest.raises(ConfigError, match=f"'{text}' has no unit: {text}m or {text}s\\?"):
            with_flags({name: text}, TrainConfig())
    (config,) = with_flags({"budget": f"{text}s", "save_every": "0"}, TrainConfig())
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


@given(st.lists(st.text("abc-1", min_size=1), min_size=1))
def test_commas_and_repetition_are_the_same(words: list[str]) -> None:
    assert split_commas(",".join(words)) == tuple(words)
    assert split_commas(words) == split_commas([" , ".join(words)]) == tuple(words)


def test_what_is_no_text_passes_unchanged() -> None:
    assert split_commas((8, 16)) == (8, 16)
    assert split_commas(None) is None
    assert DataConfig.model_validate({"ignore": "255,-1"}).ignore == (255, -1)
    assert NetworkConfig.model_validate({"widths": [8, 16]}).widths == (8, 16)


@pytest.mark.parametrize("model", [TrainConfig, EvalConfig, PredictConfig, NetworkConfig])
def test_settings_are_frozen_and_know_their_names(model: type[Settings]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        model.model_validate({"epohs": 3})
    settings = model()
    name, _ = next(iter(settings))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, name, 1)


def test_settings_survive_json() -> None:
    config = TrainConfig(
        network=NetworkConfig(skip=("concat", "add"), depth=2),
        training=TrainingConfig.model_validate({"budget": "10m", "lr": 3e-4}),
    )
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_keywords_are_flags_of_any_group_and_leave_the_rest() -> None:
    config = TrainConfig(network=NetworkConfig(depth=2))
    flags = {"budget": "10m", "skip": "add,none", "ignore": 255, "depth": 3}
    (changed,) = with_flags(flags | {"device": "cpu"}, config)
    assert (changed.training.budget, changed.network.skip) == (600, ("add", "none"))
    assert changed.data.ignore == (255,)
    assert (changed.network.depth, changed.runtime.device) == (3, "cpu")
    assert changed.network.model_fields_set == {"depth", "skip"}
    assert with_flags({}, config) == (config,)
    assert with_flags({"overlay": True, "device": "cpu"}, PredictConfig(), DeviceConfig()) == (
        PredictConfig(overlay=True),
        DeviceConfig(device="cpu"),
    )
    with pytest.raises(ConfigError, match=r"^budget 'soon': 'soon' is no duration: write 90s"):
        with_flags({"budget": "soon"}, config)
    with pytest.raises(ConfigError, match=r"^precision 'bf-16': must be .*\(did you mean bf16\?\)"):
        with_flags({"precision": "bf-16"}, DeviceConfig())


@pytest.mark.parametrize(
    ("call", "wrong", "near"),
    [
        (lambda **flags: unetseg.train("photos", **flags), "epoch", "epochs"),
        (lambda **flags: unetseg.train("photos", **flags), "output", "out"),
        (lambda **flags: unetseg.evaluate("run", "photos", **flags), "splits", "split"),
        (lambda **flags: unetseg.evaluate("run", "photos", **flags), "out", "output"),
        (lambda **flags: unetseg.predict("run", "photos", "out", **flags), "overlays", "overlay"),
        (lambda **flags: unetseg.load("run", **flags), "presicion", "precision"),
    ],
)
def test_an_unknown_keyword_is_answered_with_the_nearest(
    call: Callable[..., Any], wrong: str, near: str
) -> None:
    with pytest.raises(ConfigError, match=f"no setting '{wrong}'\nDid you mean {near}?"):
        call(**{wrong: 1})


def test_every_unknown_keyword_is_named() -> None:
    told = "there is no setting 'epoch' and no 'x_y'\nDid you mean epochs?"
    with pytest.raises(ConfigError, match=re.escape(told)):
        with_flags({"epoch": 1, "depth": 3, "x_y": 1}, TrainConfig())


def test_every_setting_has_one_name_and_one_sentence() -> None:
    groups: list[type[Settings]] = [NetworkConfig, TrainingConfig, DataConfig, PredictConfig]
    shared = ReadingConfig.model_fields  # of whoever reads images
    fields = [
        *shared.items(),
        *((n, f) for group in groups for n, f in group.model_fields.items() if n not in shared),
    ]
    assert len({name for name, _ in fields}) == len(fields)
    assert {name for name, _ in fields} <= SETTINGS
    assert all((field.description or "").rstrip().endswith((".", ")")) for _, field in fields)
