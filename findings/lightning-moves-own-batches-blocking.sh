#!/bin/sh
# Lightning moves a batch of tensors, or a dict or list of them, to a GPU without having the host wait: it passes
# non_blocking=True. A batch of a class of one's own with a `to` method, as its documentation asks of one, is moved by that
# method without the word, so that each tensor in it waits for all that the GPU was asked before.
# Exit status 0: it is so; 1: it is not any more; 2: could not be tried.
# What this project does: lightning_modules/data.py moves its batches itself.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.0 pytorch-lightning==2.6.6 || exit 2
venv/bin/python - <<'PYTHON'
import sys
from dataclasses import dataclass

import pytorch_lightning
import torch
from pytorch_lightning import LightningModule

told = []
plain_to = torch.Tensor.to


def noting(tensor, *given, **named):
    told.append(named.get("non_blocking", False))
    return plain_to(tensor, *given, **named)


@dataclass
class Batch:
    ids: torch.Tensor
    labels: torch.Tensor

    def to(self, device, non_blocking=False):
        return Batch(*(part.to(device, non_blocking=non_blocking) for part in (self.ids, self.labels)))


def moved(batch):
    """What each of the batch's tensors was told; `meta` stands for a device that is not the host."""
    told.clear()
    LightningModule().transfer_batch_to_device(batch, torch.device("meta"), 0)
    return list(told)


torch.Tensor.to = noting
print(f"pytorch-lightning {pytorch_lightning.__version__}, torch {torch.__version__}")
tensors = torch.ones(2, 3), torch.ones(2)
as_dict, as_class = moved(dict(zip(("ids", "labels"), tensors))), moved(Batch(*tensors))
print(f"non_blocking of a dict's tensors: {as_dict}; of a Batch's with `to`: {as_class}")
if as_dict == [True, True] and as_class == [False, False]:
    print("as described: a batch of one's own class has the host wait")
else:
    sys.exit("changed: batches of one's own class are moved as dicts are")
PYTHON
