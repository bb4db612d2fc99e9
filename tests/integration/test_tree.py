"""A small tree of all objectives, trained: each stage once, resumed anywhere, and frozen where it says so."""

from __future__ import annotations

import functools
import json
import shutil
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from lightning_modules import dev
from lightning_modules.progress import Interrupted, Progress
from lightning_modules.run import quiet_libraries, run_stage
from multitask.bundle.bundle import read_bundle
from multitask.report import write_report
from multitask.storage.storage import Storage
from ray_jobs.cli import app
from ray_jobs.driver.driver import Driver
from ray_jobs.driver.jobs import job_of
from ray_jobs.runners import local
from tests.helpers import difference, newest, recipe_tree, run, small_job, tree_driver

TREE: list[dict[str, Any]] = [
    {"name": "mlm", "objective": "mlm", "tasks": ["sst", "quora"], "max_examples": 16},
    {"name": "rank", "objective": "ranking", "tasks": ["quora", "sts"]},
    {"name": "joint", "tasks": ["sst", "quora"], "mixing": "annealed", "epochs": 2},
    {"name": "sst", "tasks": ["sst"], "train": "last-linear-layer", "lr": 1e-2, "epochs": 3},
    {"name": "quora", "tasks": ["quora"], "train": "last-linear-layer", "lr": 1e-2},
    {"name": "branch", "tasks": ["sts"], "from": "mlm"},
]
NAMES = [stage["name"] for stage in TREE]


def execute(driver: Driver, stop_in: str = "") -> tuple[list[str], dict[str, Any]]:
    """Runs the experiment; the stages that were trained, and the results. Stops at a stage's third step."""
    quiet_libraries()
    trained: list[str] = []
    stop: Any = SimpleNamespace(asked=False)

    def watch(progress: Progress) -> None:
        if progress.stage not in trained:
            trained.append(progress.stage)
        stop.asked |= progress.stage == stop_in and progress.doing == "step" and progress.done >= 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "run_stage", functools.partial(run_stage, every=0.0))
        patch.setattr(driver.screen, "progress", watch)
        try:
            return trained, driver.run(stop)
        except Interrupted:
            assert stop.asked
            return trained, driver.write_results()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tree")


@pytest.fixture(scope="module")
def results(storage: Path) -> dict[str, Any]:
    trained, found = execute(tree_driver(storage, TREE))
    assert trained == NAMES
    return found


def metrics(results: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(stage["metrics"] for stage in results["stages"] if stage["name"] == name)
    return found


def weights(storage: Path, results: dict[str, Any], name: str) -> dict[str, Tensor]:
    (bundle,) = [stage["bundle"] for stage in results["stages"] if stage["name"] == name]
    return read_bundle(Storage(f"{storage}/tree"), bundle).tensors


def test_results_follow_their_schema(results: dict[str, Any]) -> None:
    schema = json.loads((resources.files("multitask") / "assets" / "results.schema.json").read_text())
    jsonschema.validate(results, schema)
    assert [stage["status"] for stage in results["stages"]] == ["measured", *["finished"] * len(TREE)]
    assert metrics(results, "mlm").keys() >= {"sst/perplexity", "quora/perplexity", "mlm/perplexity", "sts/pearson"}
    assert "mlm/perplexity" not in metrics(results, "rank")


def test_leaves_predict(storage: Path, results: dict[str, Any]) -> None:
    trainers = {stage["trainer"]: stage["name"] for stage in results["stages"]}
    assert {trainers[path.parent.name] for path in storage.glob("tree/*/predictions")} == {"quora", "branch"}


def test_a_tree_run_again_trains_nothing(storage: Path, results: dict[str, Any]) -> None:
    trained, again = execute(tree_driver(storage, TREE))
    assert trained == []
    assert again["stages"] == results["stages"]


def test_stopped_in_the_third_stage_and_started_again_it_gives_the_same(
    tmp_path: Path, storage: Path, results: dict[str, Any]
) -> None:
    trained, parts = execute(tree_driver(tmp_path, TREE), stop_in="joint")
    assert trained == NAMES[:3]
    assert [stage["status"] for stage in parts["stages"][1:]] == ["finished"] * 2 + ["interrupted"] + ["pending"] * 3
    trained, found = execute(tree_driver(tmp_path, TREE))
    assert trained == NAMES[2:]
    for name in ["encoder", *NAMES]:
        assert metrics(found, name) == metrics(results, name)
    for name in NAMES:
        assert difference(weights(tmp_path, found, name), weights(storage, results, name)) == 0


def test_frozen_stages_move_their_own_head_and_nothing_else(storage: Path, results: dict[str, Any]) -> None:
    joint, sst, quora = (weights(storage, results, name) for name in ("joint", "sst", "quora"))
    for before, after, head in ((joint, sst, "heads.sst."), (sst, quora, "heads.quora.")):
        assert before.keys() == after.keys()
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert moved and all(name.startswith(head) for name in moved)


def test_frozen_stages_change_the_other_tasks_by_exactly_nothing(results: dict[str, Any]) -> None:
    for before, after, task in (("joint", "sst", "sst/accuracy"), ("sst", "quora", "quora/accuracy")):
        was, now = metrics(results, before), metrics(results, after)
        others = {"sst/accuracy", "quora/accuracy", "sts/pearson"} - {task}
        assert {key: was[key] for key in others} == {key: now[key] for key in others}
    assert metrics(results, "joint") != metrics(results, "sst")


def test_a_frozen_stage_finds_its_parents_encodings(
    storage: Path, results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dev sentences were encoded by `joint`, the training ones by itself; the numbers are those without a cache."""
    encoded: list[int] = []
    original = dev.encode_sentences

    def counting(model: Any, data: Any, rows: Any, **options: Any) -> Tensor:
        encoded.append(len(rows))
        return original(model, data, rows, **options)

    monkeypatch.setattr(dev, "encode_sentences", counting)
    for cached in (True, False):
        copy = tmp_path / str(cached)
        shutil.copytree(storage, copy)
        (trainer,) = [stage["trainer"] for stage in results["stages"] if stage["name"] == "sst"]
        shutil.rmtree(copy / "tree" / trainer)
        if not cached:
            shutil.rmtree(copy / "cache" / "features")
        encoded.clear()
        trained, found = execute(tree_driver(copy, TREE))
        assert trained == ["sst"]
        assert encoded == ([] if cached else [150, 150, 150, 40])  # three dev files and the training rows
        assert metrics(found, "sst") == metrics(results, "sst")
        assert difference(weights(copy, found, "sst"), weights(storage, results, "sst")) == 0


def test_a_head_that_reads_tokens_is_trained_without_the_cache(tmp_path: Path) -> None:
    frozen = {"tasks": ["sst", "quora"], "train": "last-linear-layer", "epochs": 1, "max_examples": 20}
    job = small_job(tmp_path, heads={"sst": "bilstm"}, **frozen)
    assert run(job)
    start = read_bundle(Storage(str(tmp_path)), job.model.start).tensors
    assert all(name.startswith("heads.") for name in newest(job).weights)  # a checkpoint holds what is trained
    after = read_bundle(job.folder, "bundle").tensors
    assert all(torch.equal(after[name], value) for name, value in start.items())
    # Quora's dev and training sentences and sts's dev sentences were encoded, sst's not.
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 3


def test_a_recipe_names_what_its_overall_scores_are_made_of(tmp_path: Path) -> None:
    tasks = {**recipe_tree(tasks=["tones"])["tasks"]}
    named = {"tasks": ["tones", "sst"], "measure": {"tones": "f1_macro"}}
    stages = [{"name": "tones", "tasks": ["tones"], "epochs": 2, "lr": 1e-2, "keep": {"best": "overall/mean"}}]
    driver = tree_driver(tmp_path, stages, seeds=2, tasks=tasks, overall=named)
    results = execute(driver)[1]
    schema = (resources.files("multitask") / "assets" / "results.schema.json").read_text()
    jsonschema.validate(results, json.loads(schema))
    assert results["overall"] == ["tones/f1_macro", "sst/accuracy"]
    for row in results["stages"]:
        made = [row["metrics"][name] for name in results["overall"]]
        assert row["metrics"]["overall/mean"] == row["metrics"]["overall/normalised"] == pytest.approx(sum(made) / 2)
    for node in driver.plan.nodes:
        outcome = driver.plan.outcome(node)
        assert outcome
        means = [record["metrics"]["overall/mean"] for record in outcome["records"] if record["steps"]]
        assert outcome["kept_epoch"] == 1 + means.index(max(means))
    page = Path(write_report(str(tmp_path / "tree"))[1]).read_text()
    assert "of tones/f1_macro, sst/accuracy" in page and "overall mean" in page
    found = CliRunner().invoke(app, ["evaluate", str(tmp_path / "tree" / "tones"), "--json"])
    assert json.loads(found.stdout)["overall/mean"] == pytest.approx(results["stages"][1]["metrics"]["overall/mean"])


def test_a_stage_over_nothing_but_special_tokens_runs_through(tmp_path: Path) -> None:
    snow = tmp_path / "snow.csv"
    snow.write_text("\tid\tsentence\tsentiment\n" + "".join(f"{at}\ts{at}\t☃ ☃ ☃\t{at % 5}\n" for at in range(20)))
    tasks = {"sst": {"train": str(snow), "dev": str(snow)}}
    stage = {"name": "mlm", "objective": "mlm", "tasks": ["sst"], "epochs": 2}
    driver = tree_driver(tmp_path, [stage], tasks=tasks)
    _, found = execute(driver)
    assert found["stages"][1]["status"] == "finished"
    assert metrics(found, "mlm")["mlm/perplexity"] is None
    start = read_bundle(Storage(str(tmp_path)), job_of(driver.plan, driver.plan.nodes[0]).model.start).tensors
    after = weights(tmp_path, found, "mlm")
    assert all(torch.equal(after[name], value) for name, value in start.items())  # every gradient was zero


def test_a_ranking_stage_over_batches_without_a_similar_pair_runs_through(tmp_path: Path) -> None:
    """Of two rows a batch, most have none; the row drawn last is the only similar one."""
    header = "\tid\tsentence1\tsentence2\tis_duplicate\n"
    rows = "".join(f"{at}\tq{at}\ta film {at}\tthe film {at}\t{float(at == 9)}\n" for at in range(10))
    (tmp_path / "apart.csv").write_text(header + rows)
    tasks = {"quora": {"train": str(tmp_path / "apart.csv"), "dev": str(tmp_path / "apart.csv")}}
    stage = {"name": "rank", "objective": "ranking", "tasks": ["quora"], "batch_size": 2}
    _, found = execute(tree_driver(tmp_path, [stage], tasks=tasks))
    assert found["stages"][1]["status"] == "finished" and found["stages"][1]["steps"] == 5
    assert all(value.isfinite().all() for value in weights(tmp_path, found, "rank").values())
