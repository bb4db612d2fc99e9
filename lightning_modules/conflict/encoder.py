"""The encoder's weights as one row of numbers, part by part, and several tasks' gradients in them as a matrix.

Shapes: K tasks, P numbers of the encoder's trained weights, Q of the other trained weights (heads), V rows of the word
embeddings of H numbers each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_modules.gradients import average_rows
from multitask.errors import UserError
from multitask.model.multitask import MultitaskModel
from multitask.model.parts import part_of

ENCODER = "encoder."  # how the names of the encoder's weights begin
WORDS = "encoder.embeddings.word_embeddings.weight"


class EncoderWeights:
    """The weights of a model's encoder that are trained, in the order of its parts.

    weights: the P numbers, the word embeddings first where they are among them. parts: a part's name -> its columns.
    words: the shape (V, H) of the word embeddings; (0, 1) where they are not trained.
    """

    def __init__(self, model: MultitaskModel, stage: str) -> None:
        """Raises UserError where nothing of the encoder is trained that tasks share. stage: what an error names."""
        trained = [(n, w) for n, w in model.named_parameters() if n.startswith(ENCODER) and w.requires_grad]
        trained.sort(key=lambda pair: pair[0] != WORDS)  # a stable sort: the others keep their order
        if not trained:
            raise UserError(
                f"stages.{stage}: surgery and log.conflict are between tasks that share a trained layer; what is "
                f"frozen, and what its tasks own, leaves none; a smaller freeze or copy_top"
            )
        self.weights: list[nn.Parameter] = [weight for _, weight in trained]
        self.parts: dict[str, slice] = {}
        at = 0
        for name, weight in trained:
            part = part_of(name)
            start = self.parts[part].start if part in self.parts else at
            at += weight.numel()
            self.parts[part] = slice(start, at)
        self.words = trained[0][1].shape if trained and trained[0][0] == WORDS else torch.Size((0, 1))

    def products(self, gradients: Tensor) -> dict[str, Tensor]:
        """A part's name -> the (K, K) inner products of the tasks' gradients (K, P) in it, float64 on the CPU."""
        found = {part: gradients[:, columns] for part, columns in self.parts.items()}
        return {part: (rows @ rows.T).double().cpu() for part, rows in found.items()}


def row_of(gradients: Sequence[Tensor | None], weights: Sequence[Tensor]) -> Tensor:
    """Gradients end to end, at least float32; zeros where a loss does not reach a weight (None)."""
    wide = torch.promote_types(weights[0].dtype, torch.float32) if weights else torch.float32
    found = [
        (torch.zeros_like(weight) if gradient is None else gradient).flatten().to(wide)
        for gradient, weight in zip(gradients, weights, strict=True)
    ]
    return torch.cat(found) if found else torch.zeros(0)


def average_over_ranks(shared: Tensor, own: Tensor, words: torch.Size, world: int, sent: torch.dtype | None) -> None:
    """Averages tasks' gradients over all ranks, in place: of the word embeddings the rows in use, the rest at once.

    shared: (K, P), whose first columns are the word embeddings' of shape `words`. own: (Q,). sent: the type in which
    they travel, None for their own.
    """
    if world == 1:
        return
    count = words.numel()
    rows = shared[:, :count].reshape(-1, words[1])
    average_rows(rows, world, sent)
    shared[:, :count] = rows.view(len(shared), count)
    rest = torch.cat((shared[:, count:].flatten(), own.to(shared.dtype)))
    some = (rest / world).to(sent or rest.dtype)
    dist.all_reduce(some)
    rest = some.to(rest.dtype)
    shared[:, count:] = rest[: len(rest) - len(own)].view(len(shared), -1)
    own.copy_(rest[len(rest) - len(own) :])
