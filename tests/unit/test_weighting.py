"""`loss_weights: uncertainty`: learned log-variances, against autograd and torch's AdamW on the paper's objective."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules import callbacks
from multitask.bundle.bundle import read_bundle
from multitask.objectives.weighting import RATE, Uncertainty
from tests.helpers import module_of, newest, run, small_job
from tests.unit.test_conflict import tables

SQUARED = {"sst": False, "sts": True}


def losses(step: int) -> dict[str, float]:
    """Mean losses of a step, of one task or of both."""
    found = {"sst": 1.6 - 0.1 * step, "sts": 0.05 * (step + 1)}
    return found if step % 3 == 0 else {task: found[task] for task in ([*found][step % 2],)}


def test_log_variances_go_where_autograd_and_torchs_adamw_take_them() -> None:
    ours = Uncertainty(SQUARED)
    logs = {task: torch.nn.Parameter(torch.zeros((), dtype=torch.float64)) for task in SQUARED}
    optimizer = torch.optim.AdamW(logs.values(), lr=RATE, weight_decay=0.0)
    for step in range(10):
        optimizer.zero_grad()
        for task, loss in losses(step).items():
            ((0.5 if SQUARED[task] else 1.0) * torch.exp(-logs[task]) * loss + logs[task] / 2).backward()
        optimizer.param_groups[0]["lr"] = RATE / (1 + step)
        optimizer.step()
        ours.step(losses(step), 1 / (1 + step))
        for task, log in logs.items():
            assert float(ours.logs[task].detach()) == pytest.approx(float(log.detach()), abs=1e-12)
            share = 0.5 if SQUARED[task] else 1.0
            assert ours.factor(task) == pytest.approx(share * math.exp(-float(log.detach())), abs=1e-12)


def test_a_steady_losss_variance_is_the_loss() -> None:
    weights = Uncertainty(SQUARED)
    for _ in range(2000):
        weights.step({"sst": 0.25, "sts": 0.25}, 1.0)
    assert float(weights.logs["sst"].detach()) == pytest.approx(math.log(2 * 0.25), abs=1e-3)
    assert float(weights.logs["sts"].detach()) == pytest.approx(math.log(0.25), abs=1e-3)


def test_what_is_restored_goes_on_to_the_bit() -> None:
    one, two = Uncertainty(SQUARED), Uncertainty(SQUARED)
    for step in range(4):
        one.step(losses(step), 1.0)
    two.restore(one.state())
    for step in range(4, 8):
        one.step(losses(step), 1.0)
        two.step(losses(step), 1.0)
    assert all(torch.equal(one.state()[task], two.state()[task]) for task in SQUARED)
    assert Uncertainty(SQUARED).state()["sst"].tolist() == [0.0] * 4


def test_the_loss_that_is_learned_from_is_weighted_and_the_one_that_is_told_is_not() -> None:
    plain, weighted = (module_of(tables(), **more) for more in ({}, {"loss_weights": "uncertainty"}))
    assert weighted.uncertainty
    for task, share in {"sst": 1.0, "quora": 1.0, "sts": 0.5}.items():
        weighted.uncertainty.logs[task].data.fill_(-1.0)
        rows = plain.objective.setup.rows[task]
        pair = [it.training_step(it.objective.batch(task, rows, ones(len(rows)), "now"), 0) for it in (plain, weighted)]
        assert float(pair[1].detach() / pair[0].detach()) == pytest.approx(share * math.e)
        for module in (plain, weighted):
            module.read_losses()
        assert weighted.loss == pytest.approx(plain.loss)


def ones(count: int) -> Any:
    return torch.ones(count).numpy()


@pytest.mark.slow
def test_it_is_told_and_checkpointed_and_no_part_of_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "LOG_STEPS", 2)
    job = small_job(tmp_path, tasks=["sst", "sts"], loss_weights="uncertainty", max_examples=17, epochs=1)
    assert run(job)
    kept = newest(job).extra
    assert set(kept) == {"uncertainty/sst", "uncertainty/sts"}
    events = EventAccumulator(job.events.uri)
    events.Reload()
    for task in ("sst", "sts"):
        told = [point.value for point in events.Scalars(f"train/log_variance_{task}")]
        assert len(told) == 2 and told[-1] != 0
        assert told[-1] == pytest.approx(float(kept[f"uncertainty/{task}"][0]))
    plain = small_job(tmp_path, "plain", tasks=["sst", "sts"], max_examples=17, epochs=1)
    assert run(plain)
    bundles = [read_bundle(it.folder, "bundle").tensors for it in (job, plain)]
    assert bundles[0].keys() == bundles[1].keys()
