"""MLflow and Weights & Biases: one run a trainer, and no step twice, whatever was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from multitask.storage.storage import Storage
from ray_jobs.trackers.mirror import Mirror, facts_of, flat

RUN = "--set defaults.epochs=3 --set defaults.checkpoint_steps=20 --set defaults.max_examples=320 --experiment kept"
BLOCK, HEADER = 32768, 7  # of a .wandb file: LevelDB's log, behind 7 bytes of its own


def command(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    own = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "WANDB_MODE": "offline",
        "WANDB_DIR": f"{tmp_path}",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "ray_jobs", *words], cwd=tmp_path, env=os.environ | own,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def wandb_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of history in one file that W&B wrote offline, and which `wandb sync` would send."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole, rows = file.read_bytes(), HEADER, b"", []
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # what is too short for a header is filled up
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # whole, or the last part of one
            record = Record.FromString(whole)
            if record.HasField("history"):
                rows.append({item.key or "/".join(item.nested_key): item.value_json for item in record.history.item})
            whole = b""
    return rows


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a tracked training was killed in its second stage, and went on."""
    folder = tmp_path_factory.mktemp("tracked")
    words = ["train", "demo", *RUN.split(), "--track", "mlflow", "--track", "wandb"]
    first = command(folder, *words)
    while not list(folder.glob("runs/kept/*/outcome.json")):
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.02)
    time.sleep(0.5)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    ended(command(folder, *words))
    return folder


def told(folder: Path) -> dict[str, list[tuple[str, int, float]]]:
    """Trainer -> the (tag, step, value) that its stage has told."""
    trainers = [path.parent for path in folder.glob("runs/kept/*/outcome.json")]
    return {
        trainer.name: [(fact.tag, fact.steps, fact.value) for fact in facts_of(Storage(f"{trainer}"))]
        for trainer in trainers
    }


def test_mlflow_has_a_run_a_trainer_and_each_step_once(tracked: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tracked}/mlflow.db")
    experiment = client.get_experiment_by_name("kept")
    runs = client.search_runs([experiment.experiment_id])
    expected = told(tracked)
    assert len(expected) == 3 and sorted(run.data.tags["minibert.trainer"] for run in runs) == sorted(expected)
    for run in runs:
        there = [
            (tag, point.step, point.value)
            for tag in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, tag)
        ]
        assert sorted(there) == sorted(expected[run.data.tags["minibert.trainer"]])
        assert run.info.status == "FINISHED" and run.data.params["epochs"] == "3"
        assert {file.path for file in client.list_artifacts(run.info.run_id, "bundle")} >= {"bundle/model.json"}
    last = next(run for run in runs if run.info.run_name == "sst")
    assert {file.path for file in client.list_artifacts(last.info.run_id, "report")} == {
        "report/report.html", "report/report.md"
    }  # fmt: skip
    results = json.loads((tracked / "runs/kept/results.json").read_text())
    assert last.data.metrics["dev/sst/accuracy"] == results["stages"][-1]["metrics"]["sst/accuracy"]


def test_wandb_has_a_run_a_trainer_and_each_step_once(tracked: Path) -> None:
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(tracked.glob("wandb/offline-run-*/run-*.wandb")):
        found.setdefault(file.stem, []).extend(wandb_rows(file))
    expected = [sorted((tag, step) for tag, step, _ in facts) for facts in told(tracked).values()]
    there = []
    for rows in found.values():
        steps = Counter(int(row["_step"]) for row in rows)
        assert max(steps.values()) == 1 and list(steps) == sorted(steps)
        there.append(sorted((tag, int(row["_step"])) for row in rows for tag in row if not tag.startswith("_")))
    assert sorted(there) == sorted(expected)


def test_what_was_sent_is_not_sent_again(tracked: Path) -> None:
    from mlflow import MlflowClient

    before = len(list(tracked.glob("wandb/offline-run-*")))
    ended(command(tracked, "track", "runs/kept", "--to", "mlflow", "--to", "wandb"))
    assert len(list(tracked.glob("wandb/offline-run-*"))) == before
    client = MlflowClient(f"sqlite:///{tracked}/mlflow.db")
    assert len(client.search_runs([client.get_experiment_by_name("kept").experiment_id])) == 3


def test_a_file_store_of_mlflow_has_it_too(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow refuses file stores unless it is told otherwise, which the one line says."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{tracked}/files")
    arguments = [sys.executable, "-m", "ray_jobs", "track", "runs/kept", "--to", "mlflow"]
    refused = subprocess.run(arguments, cwd=tracked, capture_output=True, text=True)
    assert refused.returncode == 2 and refused.stderr.startswith("minibert: mlflow: ")
    assert "MLFLOW_ALLOW_FILE_STORE" in refused.stderr and len(refused.stderr.splitlines()) == 1
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for _ in range(2):
        subprocess.run(arguments, cwd=tracked, check=True)
    from mlflow import MlflowClient

    client = MlflowClient(f"{tracked}/files")
    for run in client.search_runs([client.get_experiment_by_name("kept").experiment_id]):
        there = [
            (tag, point.step, point.value)
            for tag in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, tag)
        ]
        assert sorted(there) == sorted(told(tracked)[run.data.tags["minibert.trainer"]])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "demo", "--track", "mlfow"], "tracker 'mlfow': valid: mlflow, wandb; did you mean mlflow?"),
        (["track", "nowhere", "--to", "mlflow"], "experiment '"),
    ],
)
def test_what_cannot_be_tracked_is_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    refused = subprocess.run([sys.executable, "-m", "ray_jobs", *words], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
    assert refused.stderr.startswith(f"minibert: {said}")


def test_parameters_are_named_by_their_paths() -> None:
    assert flat({"lr": 1e-3, "average": {"ema": 0.9}, "tasks": ["sst"]}) == {
        "lr": "0.001", "average.ema": "0.9", "tasks": "['sst']"
    }  # fmt: skip


class Failing:
    """A tracker whose every call fails."""

    name = "failing"

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def fail(*_: Any) -> None:
            self.calls.append(name)
            raise ConnectionError(f"{name}: no answer")

        return fail


def test_a_tracker_that_fails_costs_a_warning_and_not_the_others(
    tracked: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Noting(Failing):
        name = "noting"

        def __getattr__(self, name: str) -> Any:
            return lambda *_: self.calls.append(name)

    failing, noting = Failing(), Noting()
    with Mirror(Storage(f"{tracked}/runs/kept"), [failing, noting]):
        pass
    assert "close" in failing.calls and {"send", "attach", "close"} <= {*noting.calls}
    (said,) = [record.getMessage() for record in caplog.records if "failing" in record.getMessage()]
    assert "not all was sent: ConnectionError" in said and "`minibert track" in said and said.endswith("sends the rest")
