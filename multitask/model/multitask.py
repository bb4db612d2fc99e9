"""One encoder, a head for each task: the model that every stage trains and every bundle holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from multitask.data.batches import Batch
from multitask.data.samplers import derive_seed
from multitask.model.bert import BertConfig, Encoding, MiniBert, encode
from multitask.model.heads import build_head
from multitask.tasks import TASKS


class MultitaskModel(nn.Module):
    """miniBERT with dropout over its sentence encodings and the tasks' heads (bertaar.txt 5.1).

    heads: task -> head name. dropout: of the sentence encodings. seed: of the heads' first weights; a head's
    weights depend on the seed, its task and its name alone, not on which other heads there are.
    """

    def __init__(
        self,
        config: BertConfig,
        pooling: str,
        heads: Mapping[str, str],
        *,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.pooling, self.head_names = config, pooling, dict(heads)
        self.encoder = MiniBert(config)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict()
        for task, name in heads.items():
            generator = torch.Generator().manual_seed(derive_seed(seed, "head", task, name))
            self.heads[task] = build_head(name, config.hidden_size, TASKS[task], generator)
        self.encoder_frozen = False

    def train(self, mode: bool = True) -> MultitaskModel:
        """A frozen encoder stays in evaluation mode: it is a fixed function, without dropout of its own."""
        super().train(mode)
        if self.encoder_frozen:
            self.encoder.eval()
        return self

    def set_trainable(self, tasks: list[str], full_model: bool) -> None:
        """Leaves gradients on for what a stage trains and uses, and nothing else.

        Nothing is unused then, so DDP needs no find_unused_parameters.
        """
        self.encoder_frozen = not full_model
        self.requires_grad_(False)
        self.encoder.requires_grad_(full_model)
        if self.pooling != "pooler":
            self.encoder.pooler.requires_grad_(False)
        for task in tasks:
            self.heads[task].requires_grad_(True)
        self.train(self.training)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without dropout and gradients, then back to the mode before."""
        before = self.training
        self.eval()
        try:
            with torch.no_grad():  # not inference_mode: features made here are trained on later
                yield
        finally:
            self.train(before)

    def uses_tokens(self, task: str) -> bool:
        """Whether the task's head reads token states, not just the sentence encoding."""
        return bool(self.heads[task].uses_tokens)

    def encode(self, batch: Batch) -> Encoding:
        """All sentences of the batch, (S, H), in one forward; features computed before stand in for it."""
        if batch.features is not None:
            return Encoding(sentence=batch.features, tokens=batch.features.new_empty(0), mask=batch.mask)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
            return encode(self.encoder, self.pooling, batch.input_ids, batch.mask)

    def forward(self, batch: Batch) -> Tensor:
        """The head's outputs for the batch's task: (B, classes) logits or (B,) values."""
        encoding = self.encode(batch)
        encoding = Encoding(self.dropout(encoding.sentence), encoding.tokens, encoding.mask)
        first, second = split(encoding, len(batch))
        outputs: Tensor = self.heads[batch.task](first, second)
        return outputs


def split(encoding: Encoding, size: int) -> tuple[Encoding, Encoding | None]:
    """The first sentences of a batch and, for pairs, the second ones."""
    if len(encoding.sentence) == size:
        return encoding, None
    halves = [
        Encoding(encoding.sentence[part], encoding.tokens[part], encoding.mask[part])
        for part in (slice(None, size), slice(size, None))
    ]
    return halves[0], halves[1]
