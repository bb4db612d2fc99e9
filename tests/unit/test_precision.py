"""Precision, fused optimizers, clipping and accumulated gradients together, against plain torch; and as stages."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules.run import Execution, build_trainer
from multitask.optim import build_optimizer
from multitask.recipe.stages import Stage
from tests.helpers import difference, newest, run, small_job, stop_at

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true")
CLIP = 0.05  # of gradients whose norms lie around 1, no two alike
DEVICES = ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)]
DATA = TensorDataset(torch.randn(32, 6, generator=torch.Generator().manual_seed(0)), torch.arange(32.0) / 8 - 2)
Steps = list[list[Tensor]]


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))


def loss_of(model: nn.Module, batch: list[Tensor]) -> Tensor:
    x, y = batch
    return F.mse_loss(model(x.to(next(model.parameters()).dtype)).squeeze(1).float(), y)


class Trained(pl.LightningModule):
    """Keeps the gradients that each update is made from."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.model, self.fused, self.gradients = network(), fused, Steps()

    def training_step(self, batch: list[Tensor], at: int) -> Tensor:
        return loss_of(self.model, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = build_optimizer(
            self.model.named_parameters(), lr=0.01, weight_decay=0.0, eps=1e-3, fused=self.fused
        )
        optimizer.register_step_post_hook(lambda *_: self.gradients.append(_gradients(self.model)))
        return optimizer


def _gradients(model: nn.Module) -> list[Tensor]:
    return [weight.grad.detach().cpu().double() for weight in model.parameters() if weight.grad is not None]


def in_plain_torch(device: str, precision: str, clip: float | None, accumulate: int) -> tuple[Steps, list[Tensor]]:
    """Updates by hand, scaled, unscaled and clipped by norm, with torch's own AdamW -> gradients of each, weights."""
    model = network().to(device, torch.bfloat16 if precision == "bf16-true" else torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, eps=1e-3, weight_decay=0.0, foreach=False)
    half = torch.float16 if precision == "16-mixed" and device == "cuda" else torch.bfloat16
    scaler = torch.amp.GradScaler(device, enabled=half == torch.float16 and "mixed" in precision)
    gradients = Steps()
    for at, batch in enumerate(DataLoader(DATA, batch_size=4), start=1):
        with torch.autocast(device, half, cache_enabled=False) if "mixed" in precision else nullcontext():
            loss = loss_of(model, [part.to(device) for part in batch])
        scaler.scale(loss / accumulate).backward()
        if at % accumulate == 0:
            scaler.unscale_(optimizer)
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            gradients.append(_gradients(model))
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    return gradients, [weight.detach().cpu().double() for weight in model.parameters()]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("precision", "fused", "clip", "accumulate"), [*product(PRECISIONS, [False, True], [None, CLIP], [1, 2])]
)
def test_updates_are_those_of_plain_torch(
    device: str, precision: str, fused: bool, clip: float | None, accumulate: int
) -> None:
    stage = Stage.model_validate(
        {"name": "s", "tasks": ["sst"], "train": "full-model", "lr": 0.01, "precision": precision, "clip": clip}
    )
    module = Trained(fused)
    trainer = build_trainer(stage, Execution(device), [], epochs=1)
    trainer.accumulate_grad_batches = accumulate
    trainer.fit(module, DataLoader(DATA, batch_size=4))
    gradients, weights = in_plain_torch("cuda" if device == "gpu" else "cpu", precision, clip, accumulate)
    close: dict[str, Any] = {"rtol": 2e-2, "atol": 1e-3} if precision == "bf16-true" else {"rtol": 1e-4, "atol": 1e-6}
    assert len(module.gradients) == 8 // accumulate == len(gradients)
    for ours, theirs in zip(module.gradients, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, **close)
        norm = float(torch.cat([part.flatten() for part in ours]).norm())
        assert norm == pytest.approx(CLIP, rel=2e-2) if clip else norm > 2 * CLIP
    torch.testing.assert_close([w.detach().cpu().double() for w in module.model.parameters()], weights, **close)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("precision", "objective"), [*product(PRECISIONS, ["supervised"]), ("bf16-true", "mlm")])
def test_a_stage_with_a_fused_optimizer_and_clipping_learns(
    tmp_path: Path, device: str, precision: str, objective: str
) -> None:
    losses = list[float]()
    job = small_job(tmp_path, objective=objective, precision=precision, fused=True, clip=1.0, epochs=4, dropout=0.0)
    assert run(job, lambda progress: losses.append(progress.loss or 0.0) or False, execution=Execution(device))
    stepped = [loss for loss in losses if loss]
    assert stepped[-1] < stepped[0] - 0.02
    assert {weight.dtype for weight in newest(job).weights.values()} == {
        torch.bfloat16 if precision == "bf16-true" else torch.float32
    }


@pytest.mark.slow
def test_sixteen_bit_weights_resume_as_if_never_stopped(tmp_path: Path) -> None:
    whole, parts = (small_job(tmp_path / name, precision="bf16-true", fused=True, clip=1.0) for name in ("a", "b"))
    assert run(whole)
    assert not run(parts, stop_at(7))
    assert run(parts)
    assert difference(newest(whole).weights, newest(parts).weights) == 0
    assert difference(newest(whole).optimizer, newest(parts).optimizer) == 0


def test_labels_and_counts_are_not_rounded_to_sixteen_bits() -> None:
    stage = Stage.model_validate(
        {"name": "s", "tasks": ["sst"], "train": "full-model", "lr": 0.01, "precision": "bf16-true"}
    )
    trainer = build_trainer(stage, Execution("cpu"), [], epochs=1)
    labels = torch.tensor([4.2, 257.0])
    assert torch.equal(trainer.precision_plugin.convert_input(labels), labels)


def test_sixteen_mixed_on_a_cpu_is_said(caplog: pytest.LogCaptureFixture) -> None:
    from lightning_modules.run import resolve_precision

    assert resolve_precision("16-mixed", "cpu") == "bf16-mixed"
    assert [record.getMessage() for record in caplog.records] == [
        "precision: 16-mixed: not on a CPU; bf16-mixed is taken"
    ]
