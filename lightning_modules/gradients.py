"""How gradients travel between ranks: the word embeddings' by the rows in use, and all as bfloat16 on request."""

# No `from __future__ import annotations`: DDP looks at the hook's own.

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.module import StageModule


class EmbeddingRows(Callback):
    """Takes the word embeddings' gradient from DDP, and adds up only the rows that some rank's batch has tokens of.

    DDP would send all of them, half of MiniLM's weights, and last, when no computing is left to hide that. The sum is
    the same: other rows are zero on every rank. sent: the type in which they travel, None for the gradient's own.
    """

    def __init__(self, sent: torch.dtype | None = None) -> None:
        self.sent = sent

    def setup(self, trainer: pl.Trainer, module: StageModule, stage: str) -> None:  # type: ignore[override]
        """Takes the embeddings out of DDP's care, before the strategy wraps the module."""
        self.weight = module.model.encoder.embeddings.word_embeddings.weight
        self.needed = trainer.world_size > 1 and self.weight.requires_grad
        if self.needed:
            # By every name: an MLM head's decoder may be the same tensor.
            names = [name for name, other in module.named_parameters(remove_duplicate=False) if other is self.weight]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)

    def on_after_backward(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.needed:
            assert self.weight.grad is not None
            average_rows(self.weight.grad, trainer.world_size, self.sent)


def average_rows(gradient: torch.Tensor, world: int, sent: torch.dtype | None) -> None:
    """Averages a gradient (rows, width) over all ranks, in place."""
    touched = (gradient != 0).any(dim=1).to(torch.uint8)
    dist.all_reduce(touched, dist.ReduceOp.MAX)
    rows = touched.nonzero().squeeze(1)
    some = (gradient[rows] / world).to(sent or gradient.dtype)
    dist.all_reduce(some)
    gradient[rows] = some.to(gradient.dtype)


def in_bfloat16(group: dist.ProcessGroup | None, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """DDP's communication hook that sends gradients as bfloat16. torch's own hook for it refuses gloo, which can do it
    as well."""
    gradients = bucket.buffer()
    group = group or dist.group.WORLD
    assert group
    sent = (gradients / group.size()).to(torch.bfloat16)
    future: torch.futures.Future = dist.all_reduce(sent, group=group, async_op=True).get_future()
    return future.then(lambda done: gradients.copy_(done.value()[0]))


class Compression(Callback):
    """`compress: bf16`: sends half the bytes, for links that training waits for. It is registered before the first
    backward of every rank; a model that is alone sends nothing."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if isinstance(trainer.strategy.model, DistributedDataParallel):
            trainer.strategy.model.register_comm_hook(None, in_bfloat16)


# A stage's `compress` -> the type in which gradients travel; None is their own.
SENT: dict[str, torch.dtype | None] = {"none": None, "bf16": torch.bfloat16}


def gradient_callbacks(compress: str) -> list[Callback]:
    """The callbacks that a stage's `compress` asks for."""
    return [EmbeddingRows(torch.bfloat16), Compression()] if compress == "bf16" else [EmbeddingRows()]
