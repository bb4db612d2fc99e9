"""Surroundings: what else is installed, where Ray is, what a machine can compute, what TensorBoard reads."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from lightning_modules.run import resolve_precision
from lightning_modules.tensorboard import EventLog
from multitask.objectives.mlm import perplexity
from multitask.optim import build_optimizer
from multitask.storage.storage import Storage
from ray_jobs.options import Workers
from ray_jobs.runners import cluster
from ray_jobs.screen import Screen
from tests.compat.table import Row
from tests.servers import server_that_says


def _another_lightning(folder: Path) -> None:
    (folder / "lightning" / "pytorch").mkdir(parents=True)
    (folder / "lightning" / "__init__.py").touch()
    (folder / "lightning" / "pytorch" / "__init__.py").write_text("raise RuntimeError('the other Lightning is used')\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.delitem(sys.modules, "ray_jobs.runners.strategy", raising=False)
        from pytorch_lightning.strategies import DDPStrategy

        from ray_jobs.runners.strategy import WorkerStrategy

        assert issubclass(WorkerStrategy, DDPStrategy)


def _joins(address: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", address)
        with cluster.Cluster(Workers(2, 2), Screen(quiet=True)):
            raise AssertionError(f"{address} was taken for a Ray")


def _dead_address(folder: Path) -> None:
    with server_that_says(None) as address:
        pass
    _joins(address)


def _web_server(folder: Path) -> None:
    with server_that_says(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        _joins(address)


def _long_temporary_folder(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("TMPDIR", "/" + "scratch/" * 40)
        patch.setattr(cluster, "SHORT_FOLDERS", ("/nowhere",))
        with cluster.Cluster(Workers(2, 2), Screen(quiet=True)):
            raise AssertionError("Ray has started there")


def _fused_and_clipped(folder: Path) -> None:
    from pytorch_lightning.plugins.precision import MixedPrecision

    layer = torch.nn.Linear(2, 1)
    optimizer = build_optimizer(layer.named_parameters(), lr=0.1, fused=True)
    layer(torch.tensor([[3.0, 4.0]])).sum().backward()
    MixedPrecision("bf16-mixed", "cpu").clip_gradients(optimizer, 0.5)
    found = [weight.grad for weight in layer.parameters() if weight.grad is not None]
    assert float(torch.nn.utils.get_total_norm(found)) == pytest.approx(0.5)


def _resumed_events(folder: Path) -> None:
    for purge, steps in ((0, (10, 20, 30)), (21, (30, 40))):
        log = EventLog(Storage(str(folder)), purge)
        for step in steps:
            log.scalars({"loss": 1.0}, step)
        log.close()
    found = EventAccumulator(str(folder))
    found.Reload()
    assert [point.step for point in found.Tensors("loss")] == [10, 20, 30, 40]


def _diverged(folder: Path) -> None:
    found = perplexity(7100.0, 10.0)
    assert found.value is None and found.why and found.why.startswith("the loss is 710 nats a hidden token")
    assert perplexity(10 * math.log(7.0), 10.0).value == pytest.approx(7.0)


def _half_on_a_cpu(folder: Path) -> None:
    assert resolve_precision("16-mixed", "cpu") == "bf16-mixed"


def _no_address(folder: Path) -> None:
    _joins("http://127.0.0.1:8265")


def _row(have: str, run: Callable[[Path], None], refused: str = "", noted: str = "") -> Row:
    return Row(have, "refused" if refused else "noted" if noted else "read", run, refused or noted)


ROWS: Sequence[Row] = (
    _row("the package lightning installed beside pytorch_lightning, for `--workers N`", _another_lightning),
    _row(
        "RAY_ADDRESS of a cluster that is gone",
        _dead_address,
        refused="RAY_ADDRESS=...: no connection to ...: is it up (ray status), is the port open?",
    ),
    _row("RAY_ADDRESS of a web server", _web_server, refused="RAY_ADDRESS=...: what answers at ... is no Ray"),
    _row(
        "RAY_ADDRESS with the dashboard's URL",
        _no_address,
        refused="RAY_ADDRESS=...: not an address; valid: HOST:PORT, auto, local",
    ),
    _row(
        "TMPDIR too long for Ray's sockets, and no short folder that can be written to (else one is taken)",
        _long_temporary_folder,
        refused="TMPDIR=...: too long a path for Ray's sockets, ... name a shorter one in RAY_TMPDIR",
    ),
    _row("a fused optimizer with clipping under bf16-mixed", _fused_and_clipped),
    _row("16-mixed on a CPU", _half_on_a_cpu, noted="precision: 16-mixed: not on a CPU; bf16-mixed is taken"),
    _row("TensorBoard's Python loader over the events of a stage that was killed and went on", _resumed_events),
    _row("a perplexity beyond what a number can hold (null, with the loss as its reason)", _diverged),
)
