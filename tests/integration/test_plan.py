"""The tree of stages, planned without training: what starts where, what predicts, what is kept, several seeds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lightning_modules.progress import Interrupted
from lightning_modules.run import job_start
from multitask.bundle.bundle import bundle_of, read_bundle, save_bundle
from multitask.errors import UserError
from multitask.experiment.results import seeds_cell, table_rows
from multitask.experiment.stage_job import BUNDLE, StageJob, write_outcome
from multitask.storage.sealed import write_sealed
from multitask.storage.storage import Storage
from ray_jobs.driver.driver import Driver
from ray_jobs.stopping import StopRequest
from tests.helpers import tiny, tree_driver

# mlm -> (rank -> (last, full), joint), and a stage from the encoder.
TREE: list[dict[str, Any]] = [
    {"name": "mlm", "objective": "mlm", "tasks": ["sst", "quora"]},
    {"name": "rank", "objective": "ranking", "tasks": ["quora"]},
    {"name": "last", "tasks": ["sst"], "train": "last-linear-layer"},
    {"name": "full", "tasks": ["sst"], "from": "rank"},
    {"name": "joint", "tasks": ["sst", "quora"], "from": "mlm", "heads": {"sst": "bilstm"}},
    {"name": "base", "tasks": ["sts"], "from": "encoder"},
]
PARENTS = {"mlm": "encoder", "rank": "mlm", "last": "rank", "full": "rank", "joint": "mlm", "base": "encoder"}


class Pretend:
    """A runner that trains nothing: it notes the job and leaves an outcome, or stops where it is told to."""

    def __init__(self, stop_in: str = "") -> None:
        self.jobs: list[StageJob] = []
        self.stop_in = stop_in

    def __enter__(self) -> Pretend:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def run(self, job: StageJob) -> int:
        self.jobs.append(job)
        if job.stage["name"] == self.stop_in:
            raise Interrupted(self.stop_in)
        metrics = {"sst/accuracy": 0.5 + 0.1 * (job.seed - 11711)}
        measured: dict[str, Any] = {"metrics": metrics, "why": {}, "intervals": {}}
        start = measured if job.measure_start else None
        outcome = {"epochs": 1, "steps": 3, "seconds": 1.0, "examples_per_second": 9.0, **measured, "start": start}
        leave_bundle(job)
        write_outcome(job.folder, outcome)
        return 0


def leave_bundle(job: StageJob) -> None:
    """What stands for a bundle where no stage is trained."""
    write_sealed(job.folder, BUNDLE, {"model.json": b'{"about": {}}'}, {"schema": 1})


def execute(driver: Driver, stop_in: str = "") -> tuple[list[StageJob], dict[str, Any]]:
    """The jobs that the driver gives out, and its results."""
    runner, results = Pretend(stop_in), {}
    driver._runner = lambda stop: runner  # type: ignore[assignment, return-value, method-assign]
    with StopRequest("") as stop:
        results = driver.run(stop)
    return runner.jobs, results


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def jobs(storage: Path) -> dict[str, StageJob]:
    found, _ = execute(tree_driver(storage, TREE))
    assert [job.stage["name"] for job in found] == [stage["name"] for stage in TREE], "each stage once, in their order"
    return {job.stage["name"]: job for job in found}


def test_each_stage_starts_from_its_parents_bundle(jobs: dict[str, StageJob]) -> None:
    for name, parent in PARENTS.items():
        start = jobs[name].model.start
        if parent == "encoder":
            assert start.startswith("cache/encoders/")
        else:
            assert start == f"tree/{jobs[parent].owner.trainer}/bundle"
    assert len({job.owner.trainer for job in jobs.values()}) == len(TREE)


def test_leaves_predict_and_inner_stages_do_not(jobs: dict[str, StageJob]) -> None:
    leaves = {name for name, job in jobs.items() if job.data.predict}
    assert leaves == {"last", "full", "joint", "base"}
    for name in leaves:
        predicted = {(task, split) for task, splits in jobs[name].data.predict.items() for split in splits}
        assert predicted == set(product(("sst", "quora", "sts"), ("dev", "test")))


def test_features_are_kept_where_a_stage_that_freezes_comes_next(jobs: dict[str, StageJob]) -> None:
    assert [name for name, job in jobs.items() if job.keep_features] == ["rank"]


def test_the_encoder_is_measured_once_by_the_first_that_starts_from_it(jobs: dict[str, StageJob]) -> None:
    assert [name for name, job in jobs.items() if job.measure_start] == ["mlm"]


def test_a_job_has_its_stages_heads_losses_and_data(jobs: dict[str, StageJob]) -> None:
    assert jobs["mlm"].model.heads == jobs["last"].model.heads == {"sst": "mlp", "quora": "mlp", "sts": "cosine"}
    assert jobs["joint"].model.heads["sst"] == "bilstm"
    assert jobs["joint"].model.losses == {"sst": "cross_entropy", "quora": "bce", "sts": "cosine_mse"}
    assert {name: set(job.data.train) for name, job in jobs.items()} == {
        "mlm": {"sst", "quora"}, "rank": {"quora"}, "last": {"sst"}, "full": {"sst"}, "joint": {"sst", "quora"},
        "base": {"sts"},
    }  # fmt: skip
    assert all(set(job.data.dev) == {"sst", "quora", "sts"} for job in jobs.values())


def test_the_same_tree_again_runs_nothing(jobs: dict[str, StageJob], storage: Path) -> None:
    again, results = execute(tree_driver(storage, TREE))
    assert again == []
    assert [stage["trainer"] for stage in results["stages"][1:]] == [job.owner.trainer for job in jobs.values()]
    assert {stage["name"]: stage["from"] for stage in results["stages"][1:]} == PARENTS
    assert results["stages"][0]["metrics"] == {"sst/accuracy": 0.5}


def test_a_stage_whose_bundle_is_not_whole_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    driver = tree_driver(tmp_path, TREE)
    first, _ = execute(driver)
    torn = first[1]
    torn.folder.remove(f"{BUNDLE}/model.json")
    again, _ = execute(tree_driver(tmp_path, TREE))
    assert [(job.label, job.owner.trainer) for job in again] == [(torn.label, torn.owner.trainer)]
    assert f"{torn.label}: finished before, but its bundle is not whole; made again" in caplog.text


def test_a_changed_leaf_is_refused_and_touches_no_other(jobs: dict[str, StageJob], storage: Path) -> None:
    changed = [*TREE[:4], {**TREE[4], "loss_weights": {"sst": 2.0}}, TREE[5]]
    with pytest.raises(UserError, match=r"another stage 'joint'.*loss_weights\.sst: absent -> 2\.0"):
        execute(tree_driver(storage, changed))
    more = [*TREE, {"name": "more", "tasks": ["sts"], "from": "joint"}]
    found, _ = execute(tree_driver(storage, more))
    assert [job.stage["name"] for job in found] == ["more"]
    assert (
        found[0].model.heads["sst"] == "bilstm" and found[0].model.start == f"tree/{jobs['joint'].owner.trainer}/bundle"
    )


def test_stopped_in_the_third_stage_it_goes_on_there(tmp_path: Path) -> None:
    driver = tree_driver(tmp_path, TREE)
    with pytest.raises(Interrupted):
        execute(driver, stop_in="last")
    results = json.loads((tmp_path / "tree" / "results.json").read_text())
    assert {stage["name"]: stage["status"] for stage in results["stages"]} == {
        "encoder": "measured", "mlm": "finished", "rank": "finished", "last": "interrupted",
        "full": "pending", "joint": "pending", "base": "pending",
    }  # fmt: skip
    found, results = execute(tree_driver(tmp_path, TREE))
    assert [job.stage["name"] for job in found] == ["last", "full", "joint", "base"]
    assert not any(job.measure_start for job in found)
    assert {stage["status"] for stage in results["stages"]} == {"measured", "finished"}


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[StageJob], dict[str, Any]]:
    return execute(tree_driver(tmp_path_factory.mktemp("seeds"), TREE[:3], seeds=2))


def test_each_seed_trains_the_whole_tree(seeded: tuple[list[StageJob], dict[str, Any]]) -> None:
    jobs, _ = seeded
    assert [(job.seed, job.stage["name"]) for job in jobs] == [
        (seed, name) for seed in (11711, 11712) for name in ("mlm", "rank", "last")
    ]
    for at, job in enumerate(jobs):
        assert re.match(rf"TorchTrainer_[0-9a-f]{{5}}_00000_{at // 3}_", job.owner.trainer)
    assert jobs[4].model.start == f"tree/{jobs[3].owner.trainer}/bundle"  # its own seed's
    assert jobs[3].model.start == jobs[0].model.start  # the encoder
    assert [job.measure_start for job in jobs] == [True, False, False] * 2
    assert len({job.owner.trainer for job in jobs}) == 6


def test_results_of_several_seeds(seeded: tuple[list[StageJob], dict[str, Any]]) -> None:
    _, results = seeded
    jsonschema.validate(results, json.loads((resources.files("multitask") / "assets/results.schema.json").read_text()))
    names = ["encoder", "mlm", "rank", "last"]
    assert [(stage["name"], stage["variant"], stage["seed"]) for stage in results["stages"]] == [
        (name, at, 11711 + at) for at in range(2) for name in names
    ]
    header, rows = table_rows(results)
    assert header == ["stage", "train", "sst/accuracy", "seconds", "examples/s"]
    assert [row[0] for row in rows] == names
    assert {row[2] for row in rows} == {".550 ± .071"}
    assert rows[1][3] == "2"  # both seeds' seconds


def test_one_seed_more_trains_only_that_one(tmp_path: Path) -> None:
    first, _ = execute(tree_driver(tmp_path, TREE[:2]))
    more, results = execute(tree_driver(tmp_path, TREE[:2], seeds=2))
    assert [job.seed for job in more] == [11712, 11712]
    assert [stage["trainer"] for stage in results["stages"]] == [
        None, *[job.owner.trainer for job in first], None, *[job.owner.trainer for job in more],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0.5], ".500"),
        ([0.5, 0.7], ".600 ± .141"),  # the sample's deviation
        ([-0.25, -0.25, -0.25], "-.250 ± .000"),
        ([0.5, None], "-"),
        ([None], "-"),
        ([25.0, 27.0], "26.000 ± 1.414"),
        ([], "-"),
    ],
)
def test_a_spread_is_mean_and_sample_deviation(values: list[float | None], wanted: str) -> None:
    assert seeds_cell(values) == wanted


def test_a_null_says_why() -> None:
    assert seeds_cell([None], "constant prediction 1.0") == "- (constant prediction 1.0)"


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Driver]:
    """An experiment `other` in the same storage with a finished stage, its heads trained."""
    driver = tree_driver(tmp_path, TREE[:1], experiment="other")
    (job,), _ = execute(driver)
    model = tiny().model({"sst": "mlp", "quora": "linear"}, seed=99)
    save_bundle(job.folder, "bundle", bundle_of(model, tiny().tokenizer_json, {}))
    yield driver


def branch(folder: Path, start: str) -> Driver:
    return tree_driver(folder, [{"name": "sst", "tasks": ["sst"], "from": start}])


def test_a_stage_starts_from_another_experiments_stage_heads_included(other: Driver, tmp_path: Path) -> None:
    (job,), results = execute(branch(tmp_path, "other/mlm"))
    start = job_start(job)
    was = read_bundle(other.experiment.folder.at(other.plan.records["mlm"].trainer), "bundle")
    assert start.heads == was.heads == {"sst": "mlp", "quora": "linear"}
    model, before = start.model(job.model.heads, seed=job.seed), was.model()
    for name, value in before.state_dict().items():
        same = bool((model.state_dict()[name] == value).all()) if name in model.state_dict() else False
        assert same == (not name.startswith("heads.quora.")), name  # quora's head is an mlp here
    assert job.measure_start  # perhaps on other data than over there
    assert results["stages"][0]["metrics"] == {}  # which says nothing of the encoder


def test_a_task_that_names_no_head_takes_the_bundles(other: Driver, tmp_path: Path) -> None:
    tasks: dict[str, Any] = {"sst": {}, "quora": {}, "sts": {}}
    stages = [{"name": "one", "tasks": ["sst"], "from": "other/mlm"}, {"name": "two", "tasks": ["sst"]}]
    jobs, _ = execute(tree_driver(tmp_path, stages, tasks=tasks))
    assert [job.model.heads["sst"] for job in jobs] == ["mlp", "mlp"]
    fresh, _ = execute(tree_driver(tmp_path, [{**stages[1], "from": "encoder"}], tasks=tasks, experiment="fresh"))
    assert fresh[0].model.heads["sst"] == "linear"


def test_the_bundle_itself_is_the_same_start(other: Driver, tmp_path: Path) -> None:
    trainer = other.plan.records["mlm"].trainer
    (one,), _ = execute(branch(tmp_path, "other/mlm"))
    fingerprint = digest_of(branch(tmp_path, f"{tmp_path}/other/{trainer}/bundle"))
    assert fingerprint == digest_of(branch(tmp_path, "other/mlm"))
    assert one.model.start.startswith("cache/encoders/")


def digest_of(driver: Driver) -> str:
    driver.claim()
    return driver.plan.records["sst"].fingerprint


@pytest.mark.parametrize(
    ("start", "wanted"),
    [
        ("other/rank", ["other/rank': no stage 'rank'", "it has", "other/mlm (finished)"]),
        ("another/mlm", ["'another/mlm'", "no experiment 'another' in", "run the recipe that makes it first"]),
        ("/nowhere/bundle", ["/nowhere/bundle", "no bundle there"]),
    ],
)
def test_a_start_that_is_not_there_is_refused(other: Driver, tmp_path: Path, start: str, wanted: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        branch(tmp_path, start)
    for part in wanted:
        assert part in str(caught.value)


def test_a_bundle_of_another_tokenizer_is_refused(other: Driver, tmp_path: Path) -> None:
    folder = other.experiment.folder.at(other.plan.records["mlm"].trainer)
    bundle = read_bundle(folder, "bundle")
    edited = bundle.tokenizer_json.replace('"film"', '"filn"')
    assert edited != bundle.tokenizer_json
    save_bundle(Storage(str(tmp_path)), "edited", bundle_of(bundle.model(), edited, {}))
    with pytest.raises(UserError, match=r"edited': its tokenizer is not the recipe's encoder's"):
        branch(tmp_path, f"{tmp_path}/edited")


def test_ranking_data_without_a_similar_pair_is_refused_by_name(tmp_path: Path) -> None:
    header = "\tid\tsentence1\tsentence2\tis_duplicate\n"
    file = tmp_path / "apart.csv"
    file.write_text(header + "".join(f"{at}\tq{at}\tone {at}\tother {at}\t0.0\n" for at in range(4)))
    tasks = {"sst": {}, "quora": {"train": str(file)}, "sts": {}}
    rank = {"name": "rank", "objective": "ranking", "tasks": ["sts", "quora"]}
    with pytest.raises(UserError) as caught:
        tree_driver(tmp_path, [rank], tasks=tasks)
    for part in ("stages.rank.tasks", "'quora' has no similar pair", f"4 rows of {file}", "is_duplicate is 1 or more"):
        assert part in str(caught.value)
    tree_driver(tmp_path, [{**rank, "objective": "mlm"}], tasks=tasks)  # which needs none
