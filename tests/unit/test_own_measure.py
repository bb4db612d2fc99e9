"""A measure of one's own, by import path: how it is computed, told, decided by and refused."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from multitask.errors import UserError
from multitask.experiment.differences import differences
from multitask.experiment.stage_job import StageJob, read_outcome
from multitask.measure.bootstrap import interval
from multitask.measure.evaluate import metrics_of
from multitask.measure.metrics import Predicted, goodness, lower_is_better, normalised, overall, score
from multitask.recipe.checks import build_recipe
from multitask.recipe.own_check import check_own
from multitask.storage.storage import Storage
from multitask.tasks import imported
from multitask.tasks.imported import trust
from multitask.tasks.table import TASKS
from ray_jobs.driver.driver import Driver
from ray_jobs.driver.jobs import job_of
from ray_jobs.driver.request import TrainingRequest
from ray_jobs.options import Workers
from ray_jobs.screen import Screen
from tests.helpers import difference, newest, only_trains, recipe_tree, run, stop_at
from tests.integration.test_experiment import minibert
from tests.own_modules import own_modules

MEASURES = '''
import numpy as np
from multitask.measure.metrics import Undefined

def far(predictions, labels):
    """The share of predictions that are a point or more off."""
    return (np.abs(predictions - labels) >= 1).mean()

far.lower_is_better = True

def share(predictions, labels):
    """How many of the least labels are found, of labels that have any."""
    least = labels == 0
    if not least.any():
        raise Undefined("no label is 0")
    return float((predictions[least] < 0.5).mean())

share.lower_is_better = False

def sureness(logits, labels):
    return float(np.exp(logits).max(axis=-1).mean()) if logits.ndim > 1 else float(np.abs(logits).mean())

sureness.lower_is_better, sureness.of_logits, sureness.correlation = False, True, True

def untold(predictions, labels):
    return 1.0

def endless(predictions, labels):
    return np.inf if len(labels) > 1 else np.nan

endless.lower_is_better = True

def words(predictions, labels):
    return "good"

words.lower_is_better = False

def changing(predictions, labels):
    predictions += 1
    return predictions.mean()

changing.lower_is_better = False

def drifting(predictions, labels, at=[0]):
    at[0] += 1
    return at[0]

class Accuracy:
    lower_is_better = False

drifting.lower_is_better = False
'''
STS = TASKS["sts"]
GIVEN, WANTED = torch.tensor([0.0, 2.0, 3.5, 5.0, 0.2]).double(), np.array([0.0, 3.0, 3.4, 4.0, 0.0])


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module measures_own in the working directory, that nothing has named yet."""
    with own_modules(tmp_path, monkeypatch, measures_own=MEASURES) as folder:
        yield folder


def test_it_is_computed_of_what_was_predicted_with_an_interval_of_resamples() -> None:
    trust(["measures_own:far"])
    found = score("measures_own:far", Predicted(GIVEN), WANTED)
    assert found.value == pytest.approx(2 / 5) and found.why is None
    given = GIVEN.numpy()
    one_by_one = interval(lambda picks: np.array([(np.abs(given[at] - WANTED[at]) >= 1).mean() for at in picks]), 5)
    assert found.interval == pytest.approx(one_by_one)


def test_labels_of_several_numbers_and_logits_of_classes_come_whole() -> None:
    trust(["measures_own:far"])
    several = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    assert score("measures_own:far", Predicted(torch.ones(3, 2).double()), several).value == pytest.approx(0.5)
    logits = torch.tensor([[0.0, 1.0, 0.5], [2.0, 0.0, 0.0]]).double()
    found = score("measures_own:sureness", Predicted(logits.argmax(dim=1).double(), logits), [1.0, 0.0])
    assert found.value == pytest.approx((np.e + np.e**2) / 2)


def test_it_says_itself_which_way_is_better_and_what_scale_it_has() -> None:
    trust(["measures_own:far"])
    assert lower_is_better("sts/measures_own:far") and not lower_is_better("sts/measures_own:share")
    assert goodness("sts/measures_own:far", 0.1) > goodness("sts/measures_own:far", 0.2)
    assert normalised("sst/measures_own:sureness", 0.0) == 0.5 and normalised("sts/measures_own:share", 0.0) == 0.0
    assert overall(
        {"sts/measures_own:share": 0.5, "sst/accuracy": 0.7}, ["sts/measures_own:share", "sst/accuracy"]
    ) == {
        "overall/mean": pytest.approx(0.6),
        "overall/normalised": pytest.approx(0.6),
    }


@pytest.mark.parametrize(
    ("name", "wanted", "why"),
    [
        ("share", [1.0, 2.0, 3.0, 4.0, 5.0], "measures_own:share: no label is 0"),
        ("endless", [1.0, 2.0, 3.0, 4.0, 5.0], "measures_own:endless gives inf"),
    ],
)  # fmt: skip
def test_no_value_is_null_and_why_with_the_measures_module(name: str, wanted: list[float], why: str) -> None:
    trust([f"measures_own:{name}"])
    found = score(f"measures_own:{name}", Predicted(GIVEN), wanted)
    assert (found.value, found.why, found.interval) == (None, why, None)


def test_a_resample_without_a_value_is_left_out() -> None:
    trust(["measures_own:share"])
    found = score("measures_own:share", Predicted(GIVEN), WANTED)  # 2 of 5 are 0: some resamples have none of them
    assert found.value == 1.0 and found.interval is None, "all that have a value have the same one"


def test_what_gives_no_number_is_one_line() -> None:
    trust(["measures_own:words"])
    with pytest.raises(UserError, match=r"^'measures_own:words': it gives 'good'; valid: a number, or raise Undefined"):
        score("measures_own:words", Predicted(GIVEN), WANTED)


def test_it_cannot_change_what_others_are_measured_by() -> None:
    trust(["measures_own:changing"])
    with pytest.raises(ValueError, match="read-only"):
        score("measures_own:changing", Predicted(GIVEN), WANTED)
    assert GIVEN[0] == 0.0


def test_check_tries_it_on_every_kind_of_label() -> None:
    found = check_own("measures_own:far")
    assert {one.of for one in found} == {"classes", "binary", "score", "probability", "multilabel"}
    assert all(one.kept for one in found), [one.line() for one in found]
    assert {one.of for one in check_own("measures_own:sureness")} == {"classes", "binary", "multilabel"}
    broken = {one.what for one in check_own("measures_own:endless") if not one.kept}
    assert "(predictions, labels) give a finite number" in broken
    assert "one example gives a number, or raises Undefined" in broken
    (why,) = {one.why for one in check_own("measures_own:changing") if one.of == "score" and "finite" in one.what}
    assert "read-only" in why
    with pytest.raises(UserError, match=r"untold.lower_is_better is missing; valid: True, False"):
        check_own("measures_own:untold")


def test_another_number_each_time_is_named(own: Path) -> None:
    text = MEASURES.replace(
        "labels, at=[0]):\n    at[0] += 1\n    return at[0]", "labels):\n    return np.random.rand()"
    )
    (own / "measures_own.py").write_text(text)
    broken = {one.what for one in check_own("measures_own:drifting") if not one.kept}
    assert broken == {"the same predictions give the same number"}


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        ("measures_own:nothing", "measures_own has no nothing"),
        ("measures_own:Accuracy", "it is type; valid: a function (predictions, labels) -> number"),
        ("measures_own:untold", "untold.lower_is_better is missing; valid: True, False"),
        ("measures_own:sureness", "is no metric of score; valid: pearson, spearman, kendall, mae, mse, r2, mrr, "),
    ],
)  # fmt: skip
def test_what_is_no_measure_of_a_task_is_one_line(measure: str, said: str) -> None:
    tree = recipe_tree()
    tree["tasks"]["sts"]["measures"] = [measure]
    with pytest.raises(UserError, match=rf"r.yaml: tasks.sts.measures: '{measure}'.*{re.escape(said)}") as caught:
        build_recipe(tree, "r.yaml")
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_better_low_is_no_part_of_a_mean() -> None:
    tree = recipe_tree(tasks=["sts"]) | {"overall": {"tasks": ["sts"], "measure": {"sts": "measures_own:far"}}}
    said = r"overall\.measure\.sts: 'measures_own:far': less of it is better, so it is no part of a mean"
    with pytest.raises(UserError, match=said):
        build_recipe(tree, "r.yaml")


def test_only_a_bundle_names_it_so_it_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    keys = ["sts/measures_own:far", "sst/accuracy", "sts/mae"]
    assert metrics_of(STS, keys) == ["pearson", "mae"]
    assert "'measures_own:far' is not measured: a bundle alone has no code imported; " in caplog.text
    assert "MINIBERT_OWN_CODE=measures_own" in caplog.text and "measures_own" not in sys.modules
    trust(["measures_own:far"])
    assert metrics_of(STS, keys) == ["pearson", "measures_own:far", "mae"]


def tree(**stage: Any) -> dict[str, Any]:
    found = recipe_tree(tasks=["sts"], **stage)
    found["tasks"]["sts"] |= {"measures": ["measures_own:far", "measures_own:share"]}
    return found


def claimed(folder: Path, experiment: str = "own", **stage: Any) -> Driver:
    recipe = build_recipe(tree(**stage), "own")
    driver = Driver(TrainingRequest(recipe, None, Storage(f"{folder}/runs"), experiment, Workers()), Screen())
    driver.claim()
    driver.experiment.begin_attempt()
    return driver


def test_its_file_is_part_of_what_a_stage_is_and_a_change_of_it_is_told(own: Path) -> None:
    before = claimed(own, "one").experiment.stages["para"].content
    assert before["code"].keys() == {"measures_own:far", "measures_own:share"}
    (own / "measures_own.py").write_text(MEASURES + "\n# another\n")
    after = claimed(own, "other").experiment.stages["para"].content
    told = differences("para", before, after, {})
    assert "the file of measures_own:far: another one, with other content than before" in told


def test_a_stopped_stage_that_keeps_the_best_by_it_ends_as_one_that_was_not(own: Path) -> None:
    def job(experiment: str) -> StageJob:
        driver = claimed(own, experiment, epochs=3, keep={"best": "sts/measures_own:far"}, patience=1)
        return only_trains(job_of(driver.plan, driver.plan.nodes[0]))

    stopped, whole = job("stopped"), job("whole")
    assert not run(stopped, stop_at(7)) and run(stopped) and run(whole)
    assert difference(newest(stopped).weights, newest(whole).weights) == 0.0
    one, other = (read_outcome(at.folder) for at in (stopped, whole))
    assert one and other and one["metrics"] == other["metrics"] and one["kept_epoch"] == other["kept_epoch"]
    far = [record["metrics"]["sts/measures_own:far"] for record in other["records"]]
    assert other["metrics"]["sts/measures_own:far"] == min(far)
    assert other["intervals"]["sts/measures_own:far"][0] <= min(far)


def test_every_command_shows_it_by_its_whole_name(
    own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    swept = {"lr": {"sweep": [1e-3, 1e-4], "by": "sts/measures_own:far"}}
    build_recipe(tree(**swept), "a sweep by it")
    (own / "recipe.yaml").write_text(yaml.safe_dump(tree(epochs=1)))
    assert minibert("train", "recipe.yaml", "--storage", "runs", "--quiet") == 0
    assert "sts/measures_own:far" in capsys.readouterr().out
    measured = json.loads((own / "runs/small/results.json").read_text())["stages"][-1]["metrics"]
    imported._trusted.clear()
    assert minibert("report", "runs/small") == 0 and "measures_own:far" in (own / "runs/small/report.md").read_text()
    capsys.readouterr()
    for trusted, shown in (("", False), ("measures_own", True)):
        monkeypatch.setenv(imported.TRUSTED, trusted)
        assert minibert("evaluate", "runs/small/para", "--json") == 0
        rows = {row["metric"]: row["value"] for row in json.loads(capsys.readouterr().out)["tasks"]}
        assert ("sts/measures_own:far" in rows) is shown
    assert rows["sts/measures_own:far"] == pytest.approx(measured["sts/measures_own:far"], abs=1e-6)
