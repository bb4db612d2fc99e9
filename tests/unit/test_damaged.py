"""Files that this program writes, torn or altered: one line that names them, no traceback."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from multitask import markdown
from multitask.errors import UserError
from multitask.experiment.checkpoints import Checkpoint, CheckpointStore, Position, State
from multitask.experiment.experiment_file import Experiment
from multitask.experiment.fence import check_writer
from multitask.experiment.finding import find_bundle
from multitask.experiment.records import Record, read_records, resumed_records, write_records
from multitask.experiment.stage_job import read_outcome, write_outcome
from multitask.export.provenance import provenance_of
from multitask.measure.metrics import Score, goodness
from multitask.recipe.loading import load_sweep
from multitask.recipe.sweeps import SWEEPABLE
from multitask.report.reading import read_evidence
from multitask.storage.sealed import Damaged, read_document, write_document
from multitask.storage.storage import Storage
from ray_jobs.recruit.folds import FoldsRequest, run_folds
from ray_jobs.runners.local import LocalRunner
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
    ],
)
def test_an_experiments_own_files(tmp_path: Path, file: str, read: Callable[[Storage], object], content: str) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes(file, content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=f"{file}: damaged"):
        read(storage)


@pytest.mark.parametrize("content", [*TORN, ""])
def test_damaged_metrics_are_what_is_kept_a_second_time(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In the outcome of a finished stage, else in its newest checkpoint, else nowhere: then they are measured again."""
    folder = Storage(str(tmp_path / "TorchTrainer_1"))
    folder.write_bytes("metrics.jsonl", content.encode(errors="surrogateescape"))
    assert read_records(folder) == []
    records = [
        Record.of(0, 0, 1.0, {"sst/accuracy": 0.25}),
        Record.of(1, 8, 2.0, {"sst/accuracy": None}, {"sst/accuracy": "?"}),
    ]
    with CheckpointStore(folder.at("checkpoints")) as store:
        store.save(Checkpoint(State(Position(1, 0, 8)), {}, {}, {}, [record.to_json() for record in records[:1]]))
    assert read_records(folder) == records[:1]
    write_outcome(folder, {"epochs": 1, "records": [record.to_json() for record in records]})
    assert read_records(folder) == records
    assert read_records(folder, upto=0) == records[:1]
    assert f"{folder.uri}/metrics.jsonl: damaged" in caplog.text


def test_scores_stand_in_a_file_as_ever() -> None:
    """A dict a part: what reads the results of this build and of those before finds what it looks for."""
    scores = {"sst/accuracy": Score(0.5, None, (0.25, 0.75)), "sts/pearson": Score(None, "constant prediction 0.0")}
    record = Record(1, 8, 2.5, scores)
    assert json.dumps(record.to_json()) == (
        '{"epoch": 1, "steps": 8, "seconds": 2.5, "metrics": {"sst/accuracy": 0.5, "sts/pearson": null}, '
        '"why": {"sts/pearson": "constant prediction 0.0"}, "intervals": {"sst/accuracy": [0.25, 0.75]}}'
    )
    assert Record.of(**json.loads(json.dumps(record.to_json()))) == record
    assert Record.of(**{"epoch": 0, "steps": 0, "seconds": 1.0, "metrics": {"sst/accuracy": 1.0}}).scores == {
        "sst/accuracy": Score(1.0)
    }


def test_metrics_of_another_stage_are_none(tmp_path: Path) -> None:
    mine, other = (Storage(str(tmp_path / name)) for name in ("mine", "other"))
    write_records(mine, [Record.of(1, 8, 2.0, {"sst/accuracy": 0.5})])
    assert len(read_records(mine)) == 1
    other.write_bytes("metrics.jsonl", mine.read_bytes("metrics.jsonl"))
    assert read_records(other) == []


def test_an_older_builds_checkpoint_cannot_stand_for_damaged_metrics(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    folder.write_bytes("metrics.jsonl", b"{")
    with CheckpointStore(folder.at("checkpoints")) as store:
        store.save(Checkpoint(State(Position(1, 0, 8)), {}, {}))
    for read in (lambda: read_records(folder), lambda: resumed_records(folder, 8, None)):
        with pytest.raises(Damaged, match=r"metrics\.jsonl: damaged"):
            read()


def test_a_damaged_outcome_is_none_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Storage(str(tmp_path))
    write_outcome(folder, {"epochs": 3})
    assert read_outcome(folder) == {"epochs": 3}
    content = folder.read_bytes("outcome.json")
    folder.write_bytes("outcome.json", content.replace(b"3", b"4", 1))
    assert read_outcome(folder) is None and read_outcome(folder) is None
    assert caplog.text.count("outcome.json: damaged") == 1
    assert "its stage is taken for unfinished" in caplog.text


def test_a_model_card_is_of_its_own_experiment(tmp_path: Path) -> None:
    home = write(tmp_path, FINISHED)
    bundle = f"{trainer('sst')}/bundle"
    home.write_bytes(f"{bundle}/model.json", b"{}")
    write_outcome(home.at(trainer("sst")), {"epochs": 1})
    assert [row["name"] for row in provenance_of(f"{home.uri}/{bundle}").stages] == ["sts", "sst"]
    foreign = {**FINISHED[2], "trainer": trainer("para")}
    write_document(home, "results.json", {**read_document(home, "results.json"), "stages": [foreign]})
    with pytest.raises(Damaged, match=r"results\.json: another experiment's"):
        provenance_of(f"{home.uri}/{bundle}")


def test_another_experiments_file_is_refused_and_a_renamed_folder_is_not(tmp_path: Path) -> None:
    home = write(tmp_path / "demo", FINISHED)
    home.at(trainer("sst")).write_bytes("bundle/model.json", b"{}")
    (tmp_path / "demo").rename(tmp_path / "renamed")
    assert set(Experiment(Storage(str(tmp_path)), "renamed").trainers) == {trainer("sts"), trainer("sst")}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "experiment.json").write_bytes((tmp_path / "renamed" / "experiment.json").read_bytes())
    with pytest.raises(Damaged, match=r"other/experiment\.json: another experiment's, 'demo'"):
        Experiment(Storage(str(tmp_path)), "other")


def test_a_report_is_of_its_own_experiment(tmp_path: Path) -> None:
    home = write(tmp_path, FINISHED)
    made, recipe = home.read_json("experiment.json"), home.read_bytes("recipe.yaml")
    write_document(home, "experiment.json", {**made, "recipe": hashlib.sha256(recipe).hexdigest()})
    assert len(read_evidence(home).runs) == 3
    home.write_bytes("recipe.yaml", recipe + b"# another\n")
    with pytest.raises(Damaged, match=r"recipe\.yaml: damaged: not what this experiment's last run wrote"):
        read_evidence(home)
    foreign = {**FINISHED[1], "trainer": trainer("para")}
    write_document(home, "results.json", {**read_document(home, "results.json"), "stages": [foreign]})
    with pytest.raises(Damaged, match=rf"results\.json: another experiment's than .*: it has {trainer('para')}"):
        read_evidence(home)


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
    home.write_json(f"{trainer('sst')}/outcome.json", {"epochs": 1})
    home.write_json("results.json", {"schema": 1, "stages": [{}]})
    with pytest.raises(UserError, match=r"results\.json: damaged"):
        provenance_of(f"{home.uri}/{bundle}")


def test_a_stage_that_the_recipe_has_not(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--stage 'nope': the recipe has the stages search"):
        run_folds(FoldsRequest("recruiter/search", "none.csv", "nope", 2, str(tmp_path)), Screen())


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
