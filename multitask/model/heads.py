"""Heads: what turns encodings into a task's prediction. A new head is one class and one line of HEADS.

Shapes: B examples, H the encoder's hidden size, D = H / 2 the hidden size of one of an LSTM's directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from multitask.errors import UserError, near
from multitask.model.encoding import Encoding
from multitask.tasks.imported import Table, is_path
from multitask.tasks.labels import KINDS, KindName, LabelSpec
from multitask.tasks.table import TaskSpec


def concatenation(u: Tensor, v: Tensor | None = None) -> Tensor:
    """[u], or [u, v] for a pair: (B, H) each -> (B, H) or (B, 2H) (bertaar.txt 5.1; mlm-mnrl.txt 4.1)."""
    return u if v is None else torch.cat((u, v), dim=1)


def interaction(u: Tensor, v: Tensor) -> Tensor:
    """[u, v, |u - v|, u * v]: (B, H) each -> (B, 4H) (InferSent: Conneau et al., 2017, section 3.1)."""
    return torch.cat((u, v, (u - v).abs(), u * v), dim=1)


class DenseHead(nn.Module):
    """Linear layers of the given sizes with ReLU between them, on the sentence encodings, joined.

    join: (u) for a task of one sentence, (u, v) for a pair -> (B, sizes[0]).
    forward: (B, *shape) with the label's shape, (B,) where one number is an example's output.
    """

    uses_tokens = False

    def __init__(self, sizes: Sequence[int], label: LabelSpec, join: Callable[..., Tensor] = concatenation) -> None:
        super().__init__()
        self.join = join
        self.layers = nn.Sequential()
        for inputs, outputs in pairwise(sizes):
            if len(self.layers):
                self.layers.append(nn.ReLU())
            self.layers.append(nn.Linear(inputs, outputs))
        self.one_output = not label.shape

    def forward(self, first: Encoding, second: Encoding | None = None) -> Tensor:
        return self.dense(self.join(*(side.sentence for side in (first, second) if side is not None)))

    def dense(self, vectors: Tensor) -> Tensor:
        """The sentence encodings joined, (B, sizes[0]) -> what `forward` gives."""
        outputs: Tensor = self.layers(vectors)
        return outputs.squeeze(-1) if self.one_output else outputs


class BiLstmHead(DenseHead):
    """A bidirectional LSTM over the token states; its two final states -> 50 units -> ReLU -> outputs.

    bertaar.txt 5.2. Its sketch puts the dense layers on every token's state and pads to the longest sentence: the
    final states are the one vector a sentence needs, and packing keeps them free of padding.
    hidden_size: H, of which each direction gets half. Token states are padded on the right.
    """

    uses_tokens = True

    def __init__(self, hidden_size: int, label: LabelSpec) -> None:
        half = hidden_size // 2
        super().__init__((2 * half, 50, label.outputs), label)
        self.lstm = nn.LSTM(hidden_size, half, batch_first=True, bidirectional=True)

    def forward(self, first: Encoding, second: Encoding | None = None) -> Tensor:
        assert second is None, "HEADS lets no pair task use this head"
        lengths = first.mask.sum(dim=1).clamp(min=1).cpu()  # an LSTM must read something
        packed = pack_padded_sequence(first.tokens, lengths, batch_first=True, enforce_sorted=False)
        _, (final_2BD, _) = self.lstm(packed)
        return self.dense(torch.cat((final_2BD[0], final_2BD[1]), dim=1))


def only_layer(head: nn.Module) -> nn.Linear | None:
    """The linear layer that is all of the head; None of a head that is more than that, or another thing."""
    layers = list(head.layers) if isinstance(head, DenseHead) and not head.uses_tokens else []
    return layers[0] if len(layers) == 1 and isinstance(layers[0], nn.Linear) else None


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
    return DenseHead((hidden_size * spec.sides, spec.label.outputs), spec.label)


def _mlp(hidden_size: int, spec: TaskSpec) -> nn.Module:
    width = hidden_size * spec.sides
    return DenseHead((width, width // 2, spec.label.outputs), spec.label)


def _interaction(hidden_size: int, spec: TaskSpec) -> nn.Module:
    return DenseHead((4 * hidden_size, hidden_size, spec.label.outputs), spec.label, interaction)


@dataclass(frozen=True)
class HeadSpec:
    """How to build a head, and what it can serve.

    build: (hidden size, task) -> module with `forward(first, second)` and `uses_tokens`, whether it reads
        Encoding.tokens.
    sides: how many vectors of an example the tasks it serves may give it.
    losses: for each label kind it serves, the names of its losses, the default first.
    trainable: whether it has weights of its own.
    """

    build: Callable[[int, TaskSpec], nn.Module]
    sides: frozenset[int]
    losses: Mapping[KindName, tuple[str, ...]]
    trainable: bool = True

    def serves(self, spec: TaskSpec) -> bool:
        return spec.sides in self.sides and spec.label.kind in self.losses


ANY_LABEL: Mapping[KindName, tuple[str, ...]] = {name: kind.losses for name, kind in KINDS.items()}

BUILT_IN = {
    "linear": HeadSpec(_linear, frozenset({1, 2}), ANY_LABEL),
    "mlp": HeadSpec(_mlp, frozenset({1, 2}), ANY_LABEL),  # bertaar.txt, 5.1
    "interaction": HeadSpec(_interaction, frozenset({2}), ANY_LABEL),
    "bilstm": HeadSpec(lambda hidden_size, spec: BiLstmHead(hidden_size, spec.label), frozenset({1}), ANY_LABEL),
    "cosine": HeadSpec(
        lambda hidden_size, spec: CosineHead(spec.label),
        frozenset({2}),
        {"score": ("cosine_mse", "mse", "cosent", "angle")},
        trainable=False,
    ),
}


def _adopted(found: Any, name: str) -> HeadSpec:
    """A user's own HeadSpec, or a module that serves every task: it is called with the encoder's hidden size and the
    task, and says by `uses_tokens` whether it reads token states."""
    if isinstance(found, HeadSpec):
        return found
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise TypeError(f"it is {type(found).__name__}; valid: a torch.nn.Module's class, or a HeadSpec")
    if not isinstance(getattr(found, "uses_tokens", None), bool):
        raise TypeError(f"{found.__name__}.uses_tokens is missing; valid: True where it reads token states, else False")
    return HeadSpec(found, frozenset({1, 2}), ANY_LABEL)


HEADS: Table[HeadSpec] = Table(BUILT_IN, _adopted)


def heads_for(spec: TaskSpec) -> list[str]:
    """The names of the heads that can serve the task."""
    return [name for name, head in HEADS.items() if head.serves(spec)]


def head_spec(name: str, spec: TaskSpec, where: str) -> HeadSpec:
    """The entry of HEADS of that name. Raises UserError where there is none or it cannot serve the task."""
    if name in HEADS and HEADS[name].serves(spec):
        return HEADS[name]
    fitting = ", ".join(heads_for(spec))
    meant = "" if name in HEADS else near(name, HEADS)
    pairs = ", whose pairs are joined" if spec.segments else ""
    fault = f"cannot serve task '{spec.name}'{pairs}" if name in HEADS else "is unknown"
    raise UserError(f"{where}: head '{name}' {fault}; heads that serve '{spec.name}': {fitting}{meant}")


# The layers with weights, and the size n of theirs that bounds the first ones to +-1/sqrt(n), as PyTorch's own do.
BOUND_BY: dict[type[nn.Module], str] = {nn.Linear: "in_features", nn.LSTM: "hidden_size"}


@torch.no_grad()
def build_head(
    name: str, hidden_size: int, spec: TaskSpec, generator: torch.Generator, where: str = "tasks"
) -> nn.Module:
    """A head for the task; its weights start uniform within the bounds of BOUND_BY, from the generator alone.

    Raises UserError where the head is unknown or cannot serve the task, naming those that can.
    """
    found = head_spec(name, spec, where)
    if is_path(name):  # layers of its own draw from torch's generator
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(1 << 31, (), generator=generator)))
            head = found.build(hidden_size, spec)
    else:
        head = found.build(hidden_size, spec)
    for layer in head.modules():
        if type(layer) in BOUND_BY:
            bound = getattr(layer, BOUND_BY[type(layer)]) ** -0.5
            for parameter in layer.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
    return head


def loss_for(head_name: str, spec: TaskSpec, override: str | None, where: str) -> str:
    """The name of the loss that trains this head on this task: the override, or the head's default.

    Raises UserError where the override does not fit, naming those that do.
    """
    valid = head_spec(head_name, spec, where).losses[spec.label.kind]
    if override is not None and override not in valid and not is_path(override):
        raise UserError(
            f"{where}: loss '{override}' does not fit head '{head_name}' on task '{spec.name}'; "
            f"valid: {', '.join(valid)}{near(override, valid)}"
        )
    return override or valid[0]
