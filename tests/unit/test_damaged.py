"""Files that this program writes, torn or altered: one line that names them, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from multitask import markdown
from multitask.errors import UserError
from multitask.experiment import Experiment, check_writer
from multitask.export.evidence import evidence_of
from multitask.finding import find_bundle
from multitask.metrics import goodness
from multitask.recipe_files import load_sweep
from multitask.records import read_records
from multitask.report.reading import read_evidence
from multitask.storage import Storage
from multitask.sweeps import SWEEPABLE
from ray_jobs.local import LocalRunner
from ray_jobs.recruit.folds import run_folds
from ray_jobs.screen import Screen
from ray_jobs.stopping import StopRequest
from tests.reports import FINISHED, trainer, write

TORN = ("{", '{"attempt": 1}', "[1]", "\udcff")


@pytest.mark.parametrize("content", TORN)
@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("first/experiment.json", lambda storage: Experiment(storage, "first")),
        ("first/experiment.json", lambda storage: find_bundle(f"{storage.uri}/first/sst")),
        ("first/metrics.jsonl", lambda storage: read_records(storage.at("first"))),
    ],
)
def test_an_experiments_own_files(tmp_path: Path, file: str, read: Callable[[Storage], object], content: str) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes(file, content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=f"{file}: damaged"):
        read(storage)


def test_the_fence_names_what_it_cannot_read(tmp_path: Path) -> None:
    Storage(str(tmp_path)).write_bytes("experiment.json", b"{")
    with pytest.raises(UserError, match=r"experiment\.json: damaged"):
        check_writer(Storage(str(tmp_path)), 1, "writer")


@pytest.mark.parametrize("content", ["stages:\n- 1\n", "stages: [{}]", "tables: 3", "stages: \udcff"])
def test_a_reports_recipe(tmp_path: Path, content: str) -> None:
    home = write(tmp_path, FINISHED)
    home.write_bytes("recipe.yaml", content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        read_evidence(home)


def test_the_results_behind_a_model_card(tmp_path: Path) -> None:
    home = write(tmp_path, FINISHED)
    bundle = f"{trainer('sst')}/bundle"
    home.write_bytes(f"{bundle}/model.json", b"{}")
    home.write_json(f"{trainer('sst')}/outcome.json", {})
    home.write_json("results.json", {"stages": [{}]})
    with pytest.raises(UserError, match=r"results\.json: damaged"):
        evidence_of(f"{home.uri}/{bundle}")


def test_a_stage_that_the_recipe_has_not(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--stage 'nope': the recipe has the stages search"):
        run_folds("recruiter/search", "none.csv", "nope", 2, str(tmp_path), "0", [], Screen())


def test_a_gpu_that_is_not_there_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with (
        pytest.raises(UserError, match="--device gpu: this machine has none"),
        LocalRunner("gpu", Screen(), StopRequest("")),
    ):
        pass


def test_a_sweep_of_the_command_line_goes_before_the_recipes_short_one(tmp_path: Path) -> None:
    text = "name: x\nencoder: tiny\ntasks: {sst: {}}\nstages:\n"
    text += "- {name: sst, tasks: [sst], train: full-model, lr: {sweep: [1.0e-3, 1.0e-4], by: sst/accuracy}}\n"
    (tmp_path / "x.yaml").write_text(text)
    sweep = {"grid": {"epochs": ["1", "2"]}, "by": "sst/accuracy"}
    recipe, stage = load_sweep(str(tmp_path / "x.yaml"), [], "sst", sweep)
    found = recipe.stage(stage)
    assert found.lr == 1e-3 and found.sweep and found.sweep.grid == {"epochs": [1, 2]}


def test_what_makes_no_stage_another_one_cannot_be_swept() -> None:
    assert "profile" not in SWEEPABLE and {"lr", "epochs", "batch_size"} <= set(SWEEPABLE)


def test_no_value_is_worse_than_any() -> None:
    assert goodness("sst/accuracy", None) == goodness("sst/accuracy", float("nan")) < goodness("sst/accuracy", 0.0)
    assert goodness("mlm/perplexity", 2.0) > goodness("mlm/perplexity", 3.0)


def test_a_line_break_stays_in_its_cell() -> None:
    assert markdown.table(("a",), [("one\n| two",)]).splitlines()[-1] == "| one \\| two |"
