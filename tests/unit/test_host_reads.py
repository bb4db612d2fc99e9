"""On a GPU the host runs ahead of the device but where it reads a number from it, which a step does once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_modules import run as stage_runs
from lightning_modules.data import StageData
from multitask.data.batches import Batch
from multitask.model.bert import MiniBert
from multitask.model.dropout import Draws
from multitask.objectives.base import Place
from tests.helpers import run, small_job
from tests.unit.test_micro_batch import KINDS, made

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim"}
MASKED = {"index", "index_put", "index_put_", "_index_put_impl_"}  # which look for the true places of a mask first
# SMART's first noise is drawn for each example on the host, which needs its rows and lengths.
READ = {"smart": ["tolist", "cpu", "tolist"]}


class Reads(TorchDispatchMode):
    """Counts what would wait for a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.found: list[str] = []
        for name in ("tolist", "numpy", "cpu"):  # the dispatcher is not asked for them on a CPU
            monkeypatch.setattr(Tensor, name, self._counted(name, getattr(Tensor, name)))
        # A look at the mask that the model takes on a CPU alone.
        monkeypatch.setattr(MiniBert, "skips_full_mask", property(lambda self: False), raising=False)

    def _counted(self, name: str, method: Any) -> Any:
        def read(*given: Any, **named: Any) -> Any:
            self.found.append(name)
            return method(*given, **named)

        return read

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        masks = name in MASKED and any(mask is not None and mask.dtype == torch.bool for mask in args[1])
        if name in WAITING or masks:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_an_objective_reads_nothing_from_the_device(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, batch = made(kind)

    def begin() -> None:
        objective.model.draws = Draws(5)

    begin()
    with Reads(monkeypatch) as reads:
        objective.loss(batch, Place(reseed=begin))[0].backward()
    assert reads.found == READ.get(kind, [])


@pytest.mark.parametrize("settings", [{"clip": 1.0}, {"precision": "bf16-mixed"}, {"average": {"ema": 0.9}}])
def test_a_step_reads_its_losses_once_and_after_backward(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[str]] = []

    class Counting(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            self.reads = Reads(monkeypatch)
            self.reads.__enter__()

        def on_after_backward(self, *_: Any) -> None:
            assert self.reads.found == []

        def on_train_batch_end(self, *_: Any) -> None:
            self.reads.__exit__(None, None, None)
            found.append(self.reads.found)
            monkeypatch.undo()

    # The project's own AdamW counts its steps on the CPU, where reading them waits for nothing.
    job = small_job(tmp_path, epochs=1, fused=True, **settings)
    monkeypatch.setattr(stage_runs, "trace_callbacks", lambda: [Counting()])
    run(job)
    assert len(found) > 1 and all(reads == ["tolist"] for reads in found), found


@pytest.mark.parametrize(("device", "early"), [("cuda", True), ("cpu", False), ("mps", False)])
def test_a_gpu_gets_its_batch_without_being_waited_for(
    device: str, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, batch = made("pairs")
    asked: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        Batch, "to", lambda batch, device, non_blocking=False: asked.append((device.type, non_blocking))
    )
    for given in (batch, [batch, batch]):
        StageData.transfer_batch_to_device(None, given, torch.device(device), 0)  # type: ignore[arg-type]
    assert asked == [(device, early)] * 3


def test_lightning_moves_batches_by_the_projects_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[int] = []
    own = StageData.transfer_batch_to_device
    monkeypatch.setattr(
        StageData,
        "transfer_batch_to_device",
        lambda data, batch, *more: moved.append(len(batch)) or own(data, batch, *more),
    )
    run(small_job(tmp_path, epochs=1, max_examples=32))
    assert moved == [16, 16]
