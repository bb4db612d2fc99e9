from __future__ import annotations

import math
from typing import Any

import pytest

from multitask.errors import UserError
from multitask.recipe.checks import build_recipe
from multitask.recipe.loading import load_sweep
from multitask.recipe.stages import Recipe, Stage
from multitask.recipe.sweeps import Trial, best, trials
from ray_jobs.options import Workers, sweep_settings, workers_span
from tests.helpers import recipe_tree

BY = "sts/pearson"


def recipe(**stage: Any) -> Recipe:
    return build_recipe(recipe_tree(**stage), "test")


def of(**stage: Any) -> list[Trial]:
    found = recipe(**stage)
    return trials(found.stages[0], found.seed, "test")


def test_a_grid_is_every_combination() -> None:
    found = of(sweep={"grid": {"lr": [1e-3, 1e-4], "batch_size": [8, 16, 32]}, "by": BY})
    assert [trial.number for trial in found] == list(range(6))
    assert found[0].label == "lr=0.001,batch_size=8" and found[-1].label == "lr=0.0001,batch_size=32"
    assert {(trial.stage.lr, trial.stage.batch_size) for trial in found} == {
        (lr, size) for lr in (1e-3, 1e-4) for size in (8, 16, 32)
    }
    assert all(trial.stage.sweep is None and trial.by == BY for trial in found)


def test_the_short_form_is_a_grid_of_learning_rates() -> None:
    short, long = of(lr={"sweep": [1e-3, 1e-4], "by": BY}), of(sweep={"grid": {"lr": [1e-3, 1e-4]}, "by": BY})
    assert [trial.stage for trial in short] == [trial.stage for trial in long]
    assert [trial.label for trial in short] == ["lr=0.001", "lr=0.0001"]


def test_a_trial_is_the_stage_that_a_recipe_with_its_setting_has() -> None:
    """So it has that stage's fingerprint: what is trained does not depend on how one came to it."""
    trial = of(lr={"sweep": [1e-3, 1e-4], "by": BY})[1]
    assert trial.stage.content() == recipe(lr=1e-4).stages[0].content()
    assert Stage.model_validate(trial.stage.model_dump(by_alias=True)) == trial.stage


def test_random_trials_are_drawn_the_same_each_time_and_spread_over_magnitudes() -> None:
    sweep = {"random": {"lr": {"low": 1e-6, "high": 1e-2}}, "grid": {"dropout": [0.0, 0.1]}, "samples": 400, "by": BY}
    found = of(sweep=sweep)
    assert [trial.label for trial in found] == [trial.label for trial in of(sweep=sweep)]
    rates = [trial.stage.lr for trial in found]
    assert min(rates) >= 1e-6 and max(rates) <= 1e-2
    below = sum(rate < 1e-4 for rate in rates) / len(rates)
    assert abs(below - 0.5) < 0.1  # 1e-4 lies in the middle of the logarithms
    assert {trial.stage.dropout for trial in found} == {0.0, 0.1}


def test_whole_settings_are_drawn_whole() -> None:
    sweep = {"random": {"epochs": {"low": 1, "high": 5, "log": False}}, "samples": 30, "by": BY}
    assert {trial.stage.epochs for trial in of(sweep=sweep)} == {1, 2, 3, 4, 5}


def test_an_objectives_options_are_swept_by_their_names() -> None:
    sweep = {"grid": {"contrastive.temperature": [0.05, 0.1], "lr": [1e-4]}, "by": "sts/pearson"}
    found = of(objective="contrastive", contrastive={"positives": "pairs"}, tasks=["quora"], sweep=sweep)
    assert [trial.label for trial in found] == [f"contrastive.temperature={t},lr=0.0001" for t in ("0.05", "0.1")]
    assert [trial.stage.options.temperature for trial in found] == [0.05, 0.1]
    assert {trial.stage.options.positives for trial in found} == {"pairs"} and {trial.stage.lr for trial in found} == {
        1e-4
    }


def test_a_value_given_twice_is_one_trial() -> None:
    assert len(of(lr={"sweep": [1e-3, 0.001, 1e-4], "by": BY})) == 2


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"lr": {"sweep": [1e-3], "by": "sst/f1"}}, "stages.para.sweep.by: 'sst/f1' is not measured; valid: sst/acc"),
        ({"lr": {"sweep": [1e-3, -1], "by": BY}}, "stages.para.sweep: lr=-1: lr: Input should be greater than 0"),
        ({"sweep": {"grid": {"tasks": [["sst"]]}, "by": BY}}, "'tasks' cannot be swept; valid: batch_size, "),
        (
            {"sweep": {"grid": {"contrastive.temperature": [0.1]}, "by": BY}},
            "'contrastive.temperature' cannot be swept; valid: batch_size, ",
        ),
        ({"sweep": {"by": BY}}, "stages.para.sweep: neither grid nor random"),
        ({"sweep": {"grid": {"lr": []}, "by": BY}}, "stages.para.sweep.grid.lr: "),
        ({"sweep": {"gird": {"lr": [1]}, "by": BY}}, "stages.para.sweep.gird: unknown key; known keys: asha, by, grid"),
        ({"sweep": {"random": {"lr": {"low": 1.0, "high": 0.1}}, "by": BY}}, "1 to 0.1: low < high"),
        ({"sweep": {"random": {"lr": {"low": 0, "high": 0.1}}, "by": BY}}, "0 to 0.1: low < high, and above 0"),
        (
            {"lr": {"sweep": [1e-3], "by": BY}, "sweep": {"grid": {"lr": [1e-3]}, "by": BY}},
            "lr has a sweep, and the stage another one",
        ),
        (
            {"sweep": {"grid": {"lr": [1e-3]}, "by": BY, "asha": True}, "validate": "stage"},
            "stages.para.sweep.asha: it stops trials at epochs' ends, with validate: epoch",
        ),
    ],
)
def test_what_cannot_be_swept_is_refused(stage: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        recipe(**stage)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_the_best_trial() -> None:
    assert best({"a": 0.1, "b": 0.3, "c": None, "d": 0.3}, BY) == "b"
    assert best({"a": 210.0, "b": 203.0, "c": math.inf}, "mlm/perplexity") == "b"
    assert best({"a": None, "b": math.nan}, BY) is None and best({}, BY) is None


def test_a_swept_stage_is_cut_out_of_its_recipe_with_what_it_comes_from() -> None:
    settings = sweep_settings(["lr=1e-3,1e-4", "epochs=1,2"], [], 8, BY, False)
    found, name = load_sweep("bertaar/results", None, "cosine-sst-full", settings)
    assert name == "cosine-sst-full"
    assert [stage.name for stage in found.stages] == ["para", "cosine", "cosine-sst-full"]
    assert [found.parent(stage) for stage in found.stages] == ["encoder", "para", "cosine"]
    assert len(trials(found.stage(name), found.seed, "test")) == 4
    assert [stage.sweep is None for stage in found.stages] == [True, True, False]


def test_a_recipes_own_sweep_needs_no_words() -> None:
    found, name = load_sweep("sweeps/mlm", None, None, sweep_settings([], [], 8, None, False))
    assert name == "mlm"
    assert [trial.label for trial in trials(found.stage(name), found.seed, "test")] == [
        "lr=0.001", "lr=0.0001", "lr=1e-05",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "stage", "message"),
    [
        ((["lr=1e-3"], [], 8, None, False), "sts", "--by: missing"),
        (([], [], 8, BY, False), "sts", "--by and --asha: nothing to sweep"),
        ((["lr"], [], 8, BY, False), "sts", "--grid 'lr': expected key=values"),
        (([], ["lr=1e-3"], 8, BY, False), "sts", "--random 'lr=1e-3': expected LOW..HIGH"),
        ((["lr=1e-3"], [], 8, BY, False), "nope", "--stage 'nope': "),
        ((["lr=1e-3"], [], 8, BY, False), None, "--stage is missing: "),
        (([], [], 8, None, False), "sts", "stage 'sts' of "),
        ((["lr=fast"], [], 8, BY, False), "sts", "lr=fast: lr: Input should be a valid number"),
    ],
)
def test_a_sweeps_words_that_say_nothing_are_refused(words: Any, stage: str | None, message: str) -> None:
    with pytest.raises(UserError) as refused:
        load_sweep("demo", None, stage, sweep_settings(*words))
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_workers_are_a_number_or_a_span() -> None:
    spans = [workers_span(text) for text in ("0", "2", "2:6")]
    assert spans == [Workers(0, 0), Workers(2, 2), Workers(2, 6)]
    assert workers_span("2", "gpu") == Workers(2, 2, "gpu")


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(UserError, match="--device 'tpu': one of auto, cpu, gpu"):
        workers_span("2", "tpu")


@pytest.mark.parametrize("text", ["", "-1", "6:2", "0:2", "two", "1:", "1:2:3", "2.0"])
def test_other_workers_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="a number, or MIN:MAX with 1 <= MIN <= MAX"):
        workers_span(text)
