"""The demo's recipe from start to predictions in this process, and what its storage holds then."""

from __future__ import annotations

import json
import re
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from multitask.data.sample import sample_uri
from ray_jobs.cli import main

STAGES = ("para", "sts", "sst")


def minibert(*words: str) -> int:
    """The command in this process; its exit status."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr("sys.argv", ["minibert", *words])
        main()
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert minibert("train", "demo", "--storage", str(folder), "--set", "defaults.epochs=2") == 0
    return folder


@pytest.fixture(scope="module")
def results(storage: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((storage / "demo" / "results.json").read_text())
    return found


def test_results_follow_their_schema(results: dict[str, Any]) -> None:
    schema = json.loads((resources.files("multitask") / "assets" / "results.schema.json").read_text())
    jsonschema.validate(results, schema)
    assert [stage["name"] for stage in results["stages"]] == ["encoder", *STAGES]
    assert [stage["status"] for stage in results["stages"]] == ["measured", "finished", "finished", "finished"]


def test_every_row_has_all_metrics_and_both_overall_scores(results: dict[str, Any]) -> None:
    for stage in results["stages"]:
        metrics = stage["metrics"]
        sst, quora, sts = (metrics[key] for key in ("sst/accuracy", "quora/accuracy", "sts/pearson"))
        assert metrics["overall/mean"] == pytest.approx((sst + quora + sts) / 3)
        assert metrics["overall/normalised"] == pytest.approx((sst + quora + (sts + 1) / 2) / 3)


def test_the_last_layer_stage_changes_no_other_task(results: dict[str, Any]) -> None:
    before, after = (stage["metrics"] for stage in results["stages"][-2:])
    assert before["quora/accuracy"] == after["quora/accuracy"]
    assert before["sts/pearson"] == after["sts/pearson"]
    assert before["sst/accuracy"] != after["sst/accuracy"]


def test_tensorboard_shows_a_run_a_trainer_name_with_stage_and_seed(storage: Path, results: dict[str, Any]) -> None:
    trainers = [stage["trainer"] for stage in results["stages"][1:]]
    found = EventMultiplexer().AddRunsFromDirectory(str(storage / "demo"))
    assert set(found.Runs()) == {f"{stage['trainer']}/{stage['name']} seed=11711" for stage in results["stages"][1:]}
    for trainer, stage in zip(trainers, results["stages"][1:], strict=True):
        assert re.fullmatch(r"TorchTrainer_[0-9a-f]{5}_00000_0_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", trainer)
        events = EventAccumulator(str(storage / "demo" / trainer / f"{stage['name']} seed=11711"))
        events.Reload()
        tags = set(events.Tags()["scalars"])
        wanted = {"train/loss", "train/lr", "train/gradient_norm", "train/examples_per_second"}
        assert wanted | {f"dev/{name}" for name in stage["metrics"]} <= tags
        assert events.Scalars("train/loss")[-1].step == 70  # of 76 steps, every tenth
        assert events.Scalars("dev/sts/pearson")[-1].value == pytest.approx(stage["metrics"]["sts/pearson"])


def test_predictions_are_the_handouts_files(storage: Path, results: dict[str, Any]) -> None:
    folder = storage / "demo" / results["stages"][-1]["trainer"]
    names = {f"predictions/{task}-{split}-output.csv" for task in ("sst", "para", "sts") for split in ("dev", "test")}
    (archive,) = folder.glob("*.zip")
    assert set(zipfile.ZipFile(archive).namelist()) == names
    lines = (folder / "predictions" / "sst-dev-output.csv").read_text().splitlines()
    assert len(lines) == 151
    right = [line.split(" , ")[1].strip() for line in lines[1:]]
    labels = [row.split("\t")[-1].strip() for row in (Path(sample_uri()) / "ids-sst-dev.csv").read_text().splitlines()]
    hits = sum(int(float(one)) == int(float(other)) for one, other in zip(right, labels[1:], strict=True))
    assert hits / 150 == pytest.approx(results["stages"][-1]["metrics"]["sst/accuracy"])


def test_evaluate_gives_the_results_metrics(
    storage: Path, results: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    last = results["stages"][-1]
    assert minibert("evaluate", str(storage / "demo" / last["bundle"]), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    for task in found["tasks"]:
        assert task["value"] == pytest.approx(last["metrics"][task["metric"]], abs=1e-6)
        assert task["interval"][0] < task["value"] < task["interval"][1]
    assert found["overall/mean"] == pytest.approx(last["metrics"]["overall/mean"], abs=1e-6)


def test_predict_writes_the_same_files(storage: Path, results: dict[str, Any], tmp_path: Path) -> None:
    folder = storage / "demo" / results["stages"][-1]["trainer"]
    assert minibert("predict", str(folder / "bundle"), "--output", str(tmp_path)) == 0
    for name in ("sst-test", "para-dev"):
        path = f"predictions/{name}-output.csv"
        assert (tmp_path / path).read_text() == (folder / path).read_text()


def test_the_same_command_again_skips_finished_stages(
    storage: Path, results: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert minibert("train", "demo", "--storage", str(storage), "--set", "defaults.epochs=2") == 0
    assert capsys.readouterr().out.count("finished before, skipped") == 3
    again = json.loads((storage / "demo" / "results.json").read_text())
    assert [stage["trainer"] for stage in again["stages"]] == [stage["trainer"] for stage in results["stages"]]


def test_another_stage_under_its_name_is_refused(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("train", "demo", "--storage", str(storage), "--set", "defaults.epochs=2", "--set", "stages.sts.lr=0.5")
    assert minibert(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert ": stages.sts.lr: 0.001 -> 0.5. " in line and "--fresh" in line


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("train", "nowhere.yaml"), "packaged recipes: "),
        (("train", "demo", "--set", "defaults.epoch=1"), "defaults.epoch: unknown key; known keys: "),
        (("train", "demo", "--data", "/nowhere"), "/nowhere"),
        (("train", "bertaar/baseline", "--set", "encoder=tiny"), "give --data URI"),
        (("train", "demo", "--set", "encoder=tiniest"), "encoder 'tiniest'"),
        (("evaluate", "/nowhere"), "no bundle there"),
        (("predict", "/nowhere", "--output", "/tmp/x"), "no bundle there"),
        (("data", "check", "/nowhere"), "/nowhere"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_2(
    words: tuple[str, ...], wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert minibert(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("minibert: ") and wanted in line


def test_a_non_finite_loss_names_task_step_and_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--set", "stages.para.lr=1e30", "--set", "defaults.epochs=1", "--storage", str(tmp_path))
    assert minibert("train", "demo", *words) == 1
    error = capsys.readouterr().err
    assert re.search(
        r"stage 'para', task 'quora', epoch 0, step \d+: the loss is (nan|inf); examples [0-9a-f]{25}", error
    )
    assert json.loads((tmp_path / "demo" / "results.json").read_text())["stages"][1]["status"] == "failed"
    (log,) = (tmp_path / "demo" / "logs").iterdir()
    assert "Traceback" in log.read_text()
