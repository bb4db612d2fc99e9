"""Rows that count for more or less: what a loss makes of them, on one rank and several, and what is no weight."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from multitask.data.batches import collate
from multitask.data.shards import read_examples
from multitask.data.tokens import cache_tokens, load_tokens
from multitask.errors import UserError
from multitask.experiment.stage_job import stage_content
from multitask.objectives.base import Place
from multitask.objectives.step_losses import StepLosses
from multitask.recipe.checks import build_recipe
from multitask.recipe.data_check import check_data
from multitask.recipe.stages import Recipe
from multitask.storage.storage import Storage
from multitask.tasks.table import TASKS
from ray_jobs.driver.driver import Driver
from ray_jobs.driver.request import TrainingRequest
from ray_jobs.options import Workers
from ray_jobs.screen import Screen
from tests.helpers import objective_of, recipe_tree, tiny

WEIGHTS = [0.5, 2.0, 0.0, 1.0, 4.0, 0.25]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with open(tmp_path / "weighed.csv", "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["sentence", "sentiment", "worth"])
        writer.writerows([f"text {at}", at % 5, weight] for at, weight in enumerate(WEIGHTS))
    return tmp_path / "weighed.csv"


def tables(file: Path, weight: str | None) -> Any:
    storage = Storage(str(file.parent / "cache"))
    given = {"labelled": True, "max_length": 32, "weight": weight}
    return load_tokens(storage, cache_tokens(storage, str(file), TASKS["sst"], tiny().tokenizer, **given))


def test_a_loss_is_the_weighted_mean_whatever_ranks_there_are(file: Path) -> None:
    weighed, plain = tables(file, "worth"), tables(file, None)
    assert weighed.weights.tolist() == WEIGHTS and plain.weights is None
    learning = objective_of({"sst": weighed}, tasks=["sst"], dropout=0.0)
    ones = np.ones(1, np.float32)
    each = []
    for row in range(len(WEIGHTS)):
        total, count = learning.loss(collate("sst", plain, np.array([row]), ones), Place())
        each.append(float(total / count))
    whole = np.arange(len(WEIGHTS))
    total, count = learning.loss(collate("sst", weighed, whole, np.ones(len(WEIGHTS), np.float32)), Place())
    assert float(total / count) == pytest.approx(np.average(each, weights=WEIGHTS), rel=1e-6)

    last = np.array([1, 1, 0, 0], np.float32)  # a slice of two, filled up
    filled = [(np.array([0, 1, 2, 3]), np.ones(4, np.float32)), (np.array([4, 5, 4, 4]), last)]
    parts = [learning.loss(collate("sst", weighed, rows, weights), Place()) for rows, weights in filled]
    assert float(sum(part for part, _ in parts)) == pytest.approx(float(total), rel=1e-9)
    assert float(sum(part for _, part in parts)) == pytest.approx(sum(WEIGHTS))


@pytest.mark.parametrize("cell", ["-1", "many", "", "inf"])
def test_what_is_no_weight_is_quarantined_with_its_line(file: Path, cell: str) -> None:
    with open(file, "a") as out:
        out.write(f"one more,1,{cell}\n")
    storage = Storage(str(file.parent / "cache"))
    with pytest.raises(UserError, match=r"line 8: worth: weight .* is no number from 0 on"):
        cache_tokens(storage, str(file), TASKS["sst"], tiny().tokenizer, labelled=True, max_length=9, weight="worth")
    assert len(read_examples(str(file), TASKS["sst"], labelled=True).examples) == 7, "dev needs no weights"


def test_a_column_that_is_not_there_is_one_line(file: Path) -> None:
    with pytest.raises(UserError, match=r"no column wroth; columns found: .*; did you mean worth\?"):
        tables(file, "wroth")


def with_weight(task: str, weight: str | None, **stage: Any) -> Recipe:
    tree = recipe_tree(tasks=[task], **stage)
    tree["tasks"][task]["weight"] = weight
    return build_recipe(tree, "r.yaml")


def test_a_stage_whose_weights_are_others_is_another_stage() -> None:
    def content(weight: str | None) -> dict[str, Any]:
        recipe = with_weight("sst", weight)
        return stage_content(recipe, recipe.stages[0], {"sst": "mlp", "quora": "mlp", "sts": "cosine"}, {}, "", 1)

    assert content("worth")["weights"] == {"sst": "worth"} and "weights" not in content(None)


def test_an_objective_without_a_head_takes_none() -> None:
    with pytest.raises(UserError, match=r"stages.para.objective: ranking takes no rows' weights, and tasks.quora has"):
        with_weight("quora", "worth", objective="ranking")


def test_losses_of_pairs_of_rows_take_none() -> None:
    tree = recipe_tree(tasks=["sts"])
    tree["tasks"]["sts"] = {"head": "cosine", "loss": "cosent", "weight": "worth"}
    with pytest.raises(UserError, match=r"tasks.sts.weight: the loss 'cosent' is of pairs of rows"):
        build_recipe(tree, "r.yaml")


def test_examples_are_counted_and_not_weighed(file: Path) -> None:
    batch = collate("sst", tables(file, "worth"), np.array([1, 4, 4]), np.array([1, 1, 0], np.float32))
    (found,) = StepLosses([batch], [torch.ones(())], [batch.weights.sum()], False).read()
    assert (found.examples, found.counted) == (2.0, 6.0)


def test_a_file_whose_rows_all_count_0_is_refused(file: Path, tmp_path: Path) -> None:
    text = file.read_text().splitlines()
    file.write_text("\n".join([text[0], *(f"{line.rsplit(',', 1)[0]},0" for line in text[1:])]) + "\n")
    tree = recipe_tree(tasks=["sst"])
    tree["tasks"]["sst"] |= {"weight": "worth", "train": str(file), "dev": str(file)}
    request = TrainingRequest(build_recipe(tree, "r.yaml"), None, Storage(str(tmp_path)), "none", Workers())
    with pytest.raises(UserError, match=r"tasks.sst.weight: worth: all 6 rows of .*weighed.csv count 0"):
        Driver(request, Screen())


def test_data_check_tells_how_much_rows_weigh(file: Path, tmp_path: Path) -> None:
    data_map = tmp_path / "map.yaml"
    data_map.write_text(f"tasks: {{sst: {{train: {file}, dev: {file}, weight: worth}}}}")
    notes = {report.split: report.note for report in check_data(str(data_map))}
    assert notes == {"train": "rows weigh 0 to 4, 1.29 on average", "dev": ""}
