"""`compress: bf16`: gradients travel between ranks as bfloat16, half the bytes, for links that training waits for."""

# No `from __future__ import annotations`: DDP looks at the hook's own.

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel


def in_bfloat16(group: dist.ProcessGroup | None, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """DDP's communication hook. torch's own of this kind refuses gloo, which can do it as well."""
    gradients = bucket.buffer()
    group = group or dist.group.WORLD
    assert group
    sent = (gradients / group.size()).to(torch.bfloat16)
    future: torch.futures.Future = dist.all_reduce(sent, group=group, async_op=True).get_future()
    return future.then(lambda done: gradients.copy_(done.value()[0]))


class Compression(Callback):
    """Before the first backward of every rank; a model that is alone sends nothing."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if isinstance(trainer.strategy.model, DistributedDataParallel):
            trainer.strategy.model.register_comm_hook(None, in_bfloat16)
