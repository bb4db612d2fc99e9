"""Early stopping: when a stage has run out of patience, and what it leaves then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multitask.errors import UserError
from multitask.experiment.records import Record, out_of_patience
from multitask.recipe.checks import build_recipe
from multitask.recipe.stages import Stage
from tests.helpers import recipe_tree, run, small_job

BEST = {"best": "sst/accuracy"}


def after(*scores: float | None, patience: int | None = 2, epochs: int = 9) -> bool:
    """Whether a stage stops when so many epochs have been measured; one measurement before training is the best."""
    settings: dict[str, Any] = {"name": "a", "tasks": ["sst"], "train": "full-model", "lr": 1.0, "keep": BEST}
    records = [Record.of(at, 10 * at, 0.0, {"sst/accuracy": score}) for at, score in enumerate((1.0, *scores))]
    return out_of_patience(records, Stage.model_validate({**settings, "patience": patience, "epochs": epochs}))


def test_epochs_without_a_better_metric_are_counted_from_the_first_of_the_best() -> None:
    assert not after() and not after(0.5) and not after(0.5, 0.4)
    assert after(0.5, 0.4, 0.3) and after(0.5, 0.5, 0.5)
    assert not after(0.5, 0.4, 0.6) and not after(0.5, 0.4, 0.6, 0.5) and after(0.5, 0.4, 0.6, 0.5, 0.6)
    assert after(0.5, 0.4, patience=1) and not after(0.5, 0.4, 0.3, patience=3)
    assert after(None, None, None), "what cannot be measured is no better"
    assert not after(0.5, 0.4, 0.3, patience=None)
    assert not after(0.5, 0.4, 0.3, epochs=3), "it has had all its epochs"


@pytest.mark.slow
def test_a_stage_that_stops_early_says_so_and_keeps_its_best_epoch(tmp_path: Path) -> None:
    stage = {"tasks": ["sst"], "max_examples": 16, "lr": 1e-7, "epochs": 6, "keep": BEST}
    outcomes = []
    for patience in (2, None):
        job = small_job(tmp_path, f"patience-{patience}", patience=patience, **stage)
        assert run(job)
        outcomes.append(job.folder.read_json("outcome.json"))
    assert [outcomes[0][key] for key in ("epochs", "kept_epoch", "steps", "stopped_early")] == [3, 1, 3, True]
    assert [outcomes[1][key] for key in ("epochs", "kept_epoch", "steps")] == [6, 1, 6]
    assert "stopped_early" not in outcomes[1]
    assert outcomes[0]["metrics"] == outcomes[1]["metrics"]


def test_patience_without_a_metric_is_refused() -> None:
    said = r"r.yaml: stages.para.patience: 3: of the metric that keep names: keep: \{best: METRIC\}"
    with pytest.raises(UserError, match=said):
        build_recipe(recipe_tree(patience=3), "r.yaml")
    with pytest.raises(UserError, match=said):
        build_recipe(recipe_tree(sweep={"grid": {"patience": [3]}, "by": "sst/accuracy"}), "r.yaml")
    with pytest.raises(UserError, match="patience: 0"):
        build_recipe(recipe_tree(patience=0, keep=BEST), "r.yaml")
    assert "patience" not in build_recipe(recipe_tree(keep=BEST), "r.yaml").stages[0].content()
