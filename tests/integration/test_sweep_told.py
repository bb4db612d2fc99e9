"""What is told of a sweep: one story, in the table, at the end of a run, in results.json; and how to go on from it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from jsonschema import validate
from rich.console import Console

from lightning_modules.progress import Interrupted
from multitask.errors import UserError
from multitask.experiment.results import sweep_lines, table_rows
from multitask.recipe.loading import load_recipe
from multitask.storage.storage import Storage
from ray_jobs.driver.driver import Driver
from ray_jobs.driver.ray_job import after_sweep
from ray_jobs.driver.telling import tell_results
from ray_jobs.screen import Screen
from tests.helpers import tree_driver
from tests.integration.test_sweep_plan import LAST, SCHEMA, SWEPT, Trials, execute, swept

VALUES: dict[str, Any] = {"0.001": 0.3, "0.0001": 0.5, "1e-05": 0.4}
STORY = "sst: lr=0.0001 is the best of 3 trials by sst/accuracy, .500"
SETTLED = {"name": "sst", "tasks": ["sst"], "lr": 1e-4}


def by_name(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in results["stages"]}


def refused(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> str:
    with pytest.raises(UserError) as caught:
        execute(monkeypatch, driver, Trials({}))
    return str(caught.value)


def test_the_table_has_what_was_tried_and_a_star_where_it_was_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, results = execute(monkeypatch, swept(tmp_path), Trials(VALUES))
    header, rows = table_rows(results)
    assert header[:4] == ["stage", "lr", "train", "sst/accuracy"]
    assert [row[:2] + row[3:4] for row in rows] == [
        ["encoder", "", ".300"], ["sst@lr=0.001", "0.001", ".300"], ["sst@lr=0.0001", "0.0001", ".500*"],
        ["sst@lr=1e-05", "1e-05", ".400"], ["sst", "0.0001", ".500"], ["last", "", ".900"],
    ]  # fmt: skip
    assert sweep_lines(results["stages"]) == [STORY]


def test_results_say_which_trial_won_and_by_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, results = execute(monkeypatch, swept(tmp_path), Trials(VALUES))
    validate(results, SCHEMA)
    rows = by_name(results)
    names = ["sst@lr=0.001", "sst@lr=0.0001", "sst@lr=1e-05"]
    sweep = {"stage": "sst", "by": "sst/accuracy", "trials": names, "best": "sst@lr=0.0001"}
    assert all(rows[name]["sweep"] == sweep for name in [*names, "sst"])
    assert rows["last"]["sweep"] is None and rows["encoder"]["sweep"] is None


def test_trials_without_a_score_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = Trials({"0.001": "failed", "0.0001": 0.5, "1e-05": "stopped"})
    _, results = execute(monkeypatch, swept(tmp_path), trials)
    (line,) = sweep_lines(results["stages"])
    assert line == "sst: lr=0.0001 is the best of 3 trials (1 failed, 1 stopped) by sst/accuracy, .500"


def test_each_seed_has_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, results = execute(monkeypatch, swept(tmp_path, seeds=2), Trials(VALUES))
    lines = sweep_lines(results["stages"])
    assert [line.partition(": ")[0] for line in lines] == ["sst (seed 11711)", "sst (seed 11712)"]


def said(storage: Path, results: dict[str, Any], quiet: bool = True) -> str:
    screen = Screen(Console(file=io.StringIO(), width=200), quiet=quiet)
    tell_results(screen, Storage(str(storage)), results)
    file = screen.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_the_end_tells_it_quietly_too_and_where_all_was_finished_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, results = execute(monkeypatch, swept(tmp_path / "runs"), Trials(VALUES))
    _, again = execute(monkeypatch, swept(tmp_path / "runs"), Trials({}))
    first, second = said(tmp_path / "runs", results), said(tmp_path / "runs", again)
    assert f"* {STORY}\n" in first and first == second


def test_the_end_names_what_is_typed_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, results = execute(monkeypatch, swept(tmp_path / "runs", seeds=2), Trials(VALUES))
    output, last = said(tmp_path / "runs", results), [row for row in results["stages"] if row["name"] == "last"]
    for key, row in zip(("last", "last#1"), last, strict=True):
        assert f"runs/tree/{key} (seed {row['seed']}): {row['trainer']}\n" in output
        assert f"bundle:      runs/tree/{key} (seed {row['seed']}), in {row['trainer']}/bundle\n" in output
    assert "evaluate:    minibert evaluate runs/tree/last\n" in output
    assert "report:      minibert report runs/tree\n" in output
    assert output.count("bundle:") == 2, "trials and inner stages are no ends"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert f"minibert evaluate {tmp_path}/runs/tree/last\n" in said(tmp_path / "runs", results)


# Going on


def test_the_best_settings_go_on_from_the_best_trials_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, before = execute(monkeypatch, swept(tmp_path, SWEPT), Trials(VALUES))
    (last,), results = execute(monkeypatch, tree_driver(tmp_path, [SETTLED, LAST]), Trials({}))
    trainer = by_name(before)["sst@lr=0.0001"]["trainer"]
    assert last.model.start == f"tree/{trainer}/bundle"
    validate(results, SCHEMA)
    sst = by_name(results)["sst"]
    assert (sst["trainer"], sst["status"], sst["settings"]) == (trainer, "finished", {"lr": 1e-4})
    assert sst["sweep"] == by_name(before)["sst"]["sweep"] and sweep_lines(results["stages"]) == [STORY]
    assert table_rows(results)[1][1][:2] == ["sst", "0.0001"]
    ordinary, _ = execute(monkeypatch, swept(tmp_path), Trials({}))
    assert ordinary == [], "and the sweep in the recipe finds what came after"


def test_what_was_trained_from_the_swept_stage_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(monkeypatch, swept(tmp_path), Trials(VALUES))
    ordinary, _ = execute(monkeypatch, tree_driver(tmp_path, [SETTLED, LAST]), Trials({}))
    assert ordinary == []


def test_other_settings_than_the_best_are_refused_with_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, before = execute(monkeypatch, swept(tmp_path, SWEPT), Trials(VALUES))
    message = refused(monkeypatch, tree_driver(tmp_path, [{**SETTLED, "lr": 1e-3}, LAST]))
    trainer = by_name(before)["sst"]["trainer"]
    assert (
        f"stage 'sst' ({trainer}, sst@lr=0.0001, the best by sst/accuracy): stages.sst.lr: 0.0001 -> 0.001. " in message
    )
    message = refused(monkeypatch, tree_driver(tmp_path, [{**SETTLED, "epochs": 3}, LAST]))
    assert ": stages.sst.epochs: 1 -> 3. " in message


def test_a_sweep_that_has_not_ended_has_no_best_to_go_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted):
        execute(monkeypatch, swept(tmp_path, SWEPT), Trials({**VALUES, "1e-05": "interrupted"}))
    message = refused(monkeypatch, tree_driver(tmp_path, [SETTLED]))
    assert (
        "stage 'sst' (a sweep that has not ended): stages.sst.sweep: lr=0.001 | lr=0.0001 | lr=1e-05 -> absent"
        in message
    )


def rows(*settings: dict[str, Any], stages: tuple[str, ...] = ("para", "sts")) -> list[dict[str, Any]]:
    others = [{"name": name, "settings": None} for name in stages if name != "sts"]
    return [*others, *({"name": "sts", "settings": one} for one in settings)]


WORDS = ["train", "demo", "--experiment", "my sweep"]


def test_after_a_sweep_the_command_is_named_that_trains_what_is_left() -> None:
    demo = load_recipe("demo")
    command = after_sweep(
        demo, "sts", rows({"lr": 3e-5, "clip": None, "schedule": "cosine"}), by_recipe=False, words=WORDS
    )
    assert command == (
        "minibert train demo --experiment 'my sweep' --set stages.sts.lr=3e-05 --set stages.sts.clip=null "
        "--set stages.sts.schedule=cosine"
    )
    settled = load_recipe("demo", ["stages.sts.lr=3e-05", "stages.sts.clip=null", "stages.sts.schedule=cosine"])
    assert (settled.stage("sts").lr, settled.stage("sts").clip, settled.stage("sts").schedule) == (3e-5, None, "cosine")


def test_a_recipes_own_sweep_goes_on_by_the_recipe() -> None:
    demo = load_recipe("demo", ["stages.sts.lr={sweep: [1e-3, 1e-4], by: sts/pearson}"])
    assert after_sweep(demo, "sts", rows({"lr": 1e-3}), by_recipe=True, words=WORDS) == (
        "minibert train demo --experiment 'my sweep'"
    )
    assert after_sweep(demo, "sts", rows({"epochs": 3}), by_recipe=False, words=WORDS) is None


def test_nothing_is_named_where_nothing_is_left_or_seeds_disagree() -> None:
    demo = load_recipe("demo")
    whole = rows({"lr": 1e-3}, stages=("para", "sst"))
    assert after_sweep(demo, "sts", whole, by_recipe=False, words=WORDS) is None
    assert after_sweep(demo, "sts", rows({"lr": 1e-3}, {"lr": 1e-4}), by_recipe=False, words=WORDS) is None
    assert after_sweep(demo, "sts", rows({"lr": 1e-3}, {"lr": 1e-3}), by_recipe=False, words=WORDS) is not None
