"""Heads: what turns encodings into a task's prediction. A new head is one class and one line of HEADS.

Shapes: B examples, H the encoder's hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multitask.errors import UserError
from multitask.model.bert import Encoding
from multitask.tasks import LabelKind, LabelSpec, TaskSpec


class DenseHead(nn.Module):
    """Linear layers of the given sizes with ReLU between them, on [u], or on [u, v] for a pair.

    forward: (B, outputs) for label kind `classes`, (B,) for `binary` (a logit) and `score`.
    """

    uses_tokens = False

    def __init__(self, sizes: Sequence[int], label: LabelSpec) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for inputs, outputs in pairwise(sizes):
            if len(self.layers):
                self.layers.append(nn.ReLU())
            self.layers.append(nn.Linear(inputs, outputs))
        self.one_output = label.kind != "classes"

    def forward(self, first: Encoding, second: Encoding | None = None) -> Tensor:
        u = first.sentence
        outputs: Tensor = self.layers(u if second is None else torch.cat((u, second.sentence), dim=1))
        return outputs.squeeze(-1) if self.one_output else outputs


class CosineHead(nn.Module):
    """high * ReLU(cos(u, v)), (B,), in the label's unit; no parameters (bertaar.txt, 4.3; Sentence-BERT)."""

    uses_tokens = False

    def __init__(self, label: LabelSpec) -> None:
        super().__init__()
        self.high = label.high

    def forward(self, first: Encoding, second: Encoding | None = None) -> Tensor:
        assert second is not None, "HEADS lets no one-sentence task use this head"
        return self.high * F.relu(F.cosine_similarity(first.sentence, second.sentence, dim=1))


def _linear(hidden_size: int, spec: TaskSpec) -> nn.Module:
    return DenseHead((hidden_size * len(spec.columns), spec.label.outputs), spec.label)


def _mlp(hidden_size: int, spec: TaskSpec) -> nn.Module:
    width = hidden_size * len(spec.columns)
    return DenseHead((width, width // 2, spec.label.outputs), spec.label)


@dataclass(frozen=True)
class HeadSpec:
    """How to build a head, and what it can serve.

    build: (hidden size, task) -> module with `forward(first, second)` and `uses_tokens`, whether it reads
        Encoding.tokens.
    sentences: how many sentences the tasks it serves may have.
    losses: for each label kind it serves, the names of its losses, the default first.
    trainable: whether it has weights of its own.
    """

    build: Callable[[int, TaskSpec], nn.Module]
    sentences: frozenset[int]
    losses: Mapping[LabelKind, tuple[str, ...]]
    trainable: bool = True

    def serves(self, spec: TaskSpec) -> bool:
        return len(spec.columns) in self.sentences and spec.label.kind in self.losses


ANY_LABEL: Mapping[LabelKind, tuple[str, ...]] = {
    "classes": ("cross_entropy",),
    "binary": ("bce",),
    "score": ("mse", "cosine_mse"),
}

HEADS: dict[str, HeadSpec] = {
    "linear": HeadSpec(_linear, frozenset({1, 2}), ANY_LABEL),
    "mlp": HeadSpec(_mlp, frozenset({1, 2}), ANY_LABEL),  # bertaar.txt, 5.1
    "cosine": HeadSpec(
        lambda hidden_size, spec: CosineHead(spec.label),
        frozenset({2}),
        {"score": ("cosine_mse", "mse")},
        trainable=False,
    ),
}


def head_spec(name: str, spec: TaskSpec, where: str) -> HeadSpec:
    """The entry of that name. Raises UserError where there is none or it cannot serve the task."""
    if name in HEADS and HEADS[name].serves(spec):
        return HEADS[name]
    fitting = ", ".join(key for key, head in HEADS.items() if head.serves(spec))
    fault = f"cannot serve task '{spec.name}'" if name in HEADS else "is unknown"
    raise UserError(f"{where}: head '{name}' {fault}; heads that serve '{spec.name}': {fitting}")


@torch.no_grad()
def build_head(
    name: str, hidden_size: int, spec: TaskSpec, generator: torch.Generator, where: str = "tasks"
) -> nn.Module:
    """A head for the task; its linear layers start uniform in +-1/sqrt(inputs), from the generator alone.

    Raises UserError where the head is unknown or cannot serve the task, naming those that can.
    """
    head = head_spec(name, spec, where).build(hidden_size, spec)
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for parameter in layer.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
    return head


def loss_for(head_name: str, spec: TaskSpec, override: str | None, where: str) -> str:
    """The name of the loss that trains this head on this task: the override, or the head's default.

    Raises UserError where the override does not fit, naming those that do.
    """
    valid = head_spec(head_name, spec, where).losses[spec.label.kind]
    if override is not None and override not in valid:
        raise UserError(
            f"{where}: loss '{override}' does not fit head '{head_name}' on task '{spec.name}'; "
            f"valid: {', '.join(valid)}"
        )
    return override or valid[0]


PREDICTIONS: dict[LabelKind, Callable[[Tensor], Tensor]] = {
    "classes": lambda outputs: outputs.argmax(dim=-1).float(),
    "binary": lambda outputs: (outputs > 0).float(),
    "score": lambda outputs: outputs.to(torch.promote_types(outputs.dtype, torch.float32)),
}


def predict(outputs: Tensor, label: LabelSpec) -> Tensor:
    """A head's outputs -> predicted labels (B,), float: the best class, logit > 0, or the value itself."""
    return PREDICTIONS[label.kind](outputs)
