"""TensorBoard's events: whole at the end, and never what ends a training."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules import tensorboard
from lightning_modules.summary import tell_curves
from lightning_modules.tensorboard import EventLog
from multitask.measure.metrics import Predicted
from multitask.storage.storage import Storage
from ray_jobs.stopping import StopRequest
from tests.helpers import full_disk, small_driver
from tests.s3 import S3


def steps(folder: Path) -> list[int]:
    found = EventAccumulator(str(folder))
    found.Reload()
    return [point.step for point in found.Scalars("loss")]


def test_close_copies_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "COPY_SECONDS", 0.01)
    log = EventLog(Storage(str(tmp_path)), purge=0)
    for step in range(300):
        log.scalars({"loss": 1.0, "absent": None}, step)
    log.close()
    assert steps(tmp_path) == list(range(300))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the writer's own thread
def test_a_full_disk_ends_the_events_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tensorboard, "COPY_SECONDS", 0.01)
    log = EventLog(Storage(str(tmp_path)), purge=0)
    with caplog.at_level(logging.WARNING), full_disk(5_000):
        for step in range(1000):
            log.scalars({"loss": 1.0}, step)
        log.close()
    assert "TensorBoard events end here" in caplog.text
    kept = steps(tmp_path)
    assert kept == list(range(len(kept))) and kept


@pytest.mark.slow
def test_a_stage_tells_its_settings_results_curves_and_sentences(tmp_path: Path) -> None:
    """As TensorBoard's own reader finds them, in a folder of the trainer's that says which run it is."""
    results = small_driver(tmp_path, tasks=["quora", "sst"], epochs=1).run(StopRequest("again"))
    home = tmp_path / "small" / results["stages"][-1]["trainer"] / "para seed=11711"
    found = EventAccumulator(str(home))
    found.Reload()
    tensors = found.Tags()["tensors"]
    said = {name: found.Tensors(f"stage/{name}/text_summary")[0].tensor_proto for name in ("settings", "results")}
    texts = {name: proto.string_val[0].decode() for name, proto in said.items()}
    assert "| tasks | ['quora', 'sst'] |" in texts["settings"] and "| seed | 11711 |" in texts["settings"]
    assert f"| quora/accuracy | {results['stages'][-1]['metrics']['quora/accuracy']:.3f} |" in texts["results"]
    assert [name for name in tensors if "precision_recall" in name] == ["quora/precision_recall"]
    curve = found.Tensors("quora/precision_recall")[-1].tensor_proto
    assert tuple(dim.size for dim in curve.tensor_shape.dim) == (6, 127)
    assert {"train/loss_quora", "train/loss_sst", "dev/quora/accuracy"} <= set(found.Tags()["scalars"])
    (metadata,) = home.glob("*/dev/metadata.tsv")
    lines = metadata.read_text().splitlines()
    assert lines[0] == "task\tlabel\ttext" and len(lines) == 1 + 200 + 100  # both sentences of a pair
    assert len((metadata.parent / "tensors.tsv").read_text().splitlines()) == 300
    assert "metadata_path" in (home / "projector_config.pbtxt").read_text()


def test_folders_are_copied_to_a_storage_elsewhere(s3: S3) -> None:
    log = EventLog(Storage(f"{s3.uri}/run"), purge=0)
    log.projector([torch.zeros(2, 3)], [["a"], ["b"]], ["text"], 7)
    log.close()
    assert Storage(f"{s3.uri}/run/00007/dev").list() == ["metadata.tsv", "tensors.tsv"]
    assert "projector_config.pbtxt" in Storage(f"{s3.uri}/run").list()


def test_the_curve_is_of_what_the_measurement_rests_on() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5, -3.0], dtype=torch.float64)
    table = SimpleNamespace(labels=torch.tensor([1.0, 0.0, 0.0, 1.0]))
    seen = Mock()
    predicted = {"quora": Predicted((logits > 0).double(), logits), "sts": Predicted(logits)}
    tell_curves(seen, predicted, {"quora": table}, 9)  # type: ignore[dict-item]
    name, labels, probabilities, step = seen.curve.call_args.args
    assert (name, step) == ("quora/precision_recall", 9) and labels is table.labels
    assert torch.equal(probabilities > 0.5, logits > 0)
