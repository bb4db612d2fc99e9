"""SMART: fine-tuning that keeps the model smooth and near to where it was (Jiang et al., 2020).

The smoothness term (section 3.1) asks for like outputs under the worst small change of the embeddings; the proximal
term (Bregman proximal point, section 3.2) for outputs like those of the model's own running average:

    loss(theta) + lambda_s * mean of max over |noise|_inf <= epsilon of divergence(f(x + noise; theta), f(x; theta))
                + mu       * mean of divergence(f(x; theta), f(x; average of theta))

Shapes: B examples, S their sentences, T tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from multitask.tasks.labels import KINDS, LabelSpec
from multitask.tasks.schema import Above0, AtLeast0, Positive, Rate, Strict


class Smart(Strict):
    """SMART, regularised fine-tuning (Jiang et al., 2020), its letters in brackets."""

    weight: AtLeast0 = 1.0
    """The weight of the smoothness term (lambda_s)."""
    radius: Above0 = 1e-2
    """The largest change of an embedding by the adversary (epsilon). Published: 1e-5, with step 1e-3 and noise 1e-5,
    which change MiniLM's outputs by 1e-9 (docs/log.md); ours do by 1e-3."""
    step: Above0 = 1e-1
    """The adversary's step size (eta)."""
    noise: Above0 = 1e-3
    """The standard deviation of the noise that the adversary starts from (sigma)."""
    iterations: Positive = 1
    """The adversary's steps (T)."""
    proximal: AtLeast0 = 1.0
    """The weight of the Bregman proximal term (mu)."""
    tasks: Annotated[list[str], Field(min_length=1)] | None = None
    """The tasks that are regularised; null is all of the stage's."""
    momentum: Rate = 0.99
    """How much the proximal term's running average of the weights keeps from step to step (beta)."""


def divergence(outputs: Tensor, reference: Tensor, label: LabelSpec) -> Tensor:
    """How far two outputs of a head for the same examples lie apart, (B,), >= 0, at least float32.

    outputs, reference: (B, *shape) with the label's shape. Its kind says how they are compared: probabilities by the
    symmetric KL(p || q) + KL(q || p), nats, scores by the squared difference (Jiang et al., 2020, section 3.1).
    Gradients flow to both: the caller detaches what is fixed.
    """
    wide = torch.promote_types(outputs.dtype, torch.float32)
    return KINDS[label.kind].divergence(outputs.to(wide), reference.to(wide), label)


def draw_noise(lengths: Tensor, width: int, hidden: int, scale: float, seeds: Sequence[int]) -> Tensor:
    """Where the search for the worst noise starts: N(0, scale^2) at tokens, 0 at padding; (S, width, hidden).

    lengths: (S,) tokens. seeds: one a sentence, from which alone its noise comes: neither the other sentences of
    its batch nor the padding nor the rank change it. float32, on the CPU. Raises ValueError where the number
    of seeds is not S.
    """
    noise = torch.zeros(len(lengths), width, hidden)
    for row, length, seed in zip(noise, lengths.tolist(), seeds, strict=True):
        row[:length].normal_(0.0, scale, generator=torch.Generator().manual_seed(seed))
    return noise


def adversarial_noise(
    forward: Callable[[Tensor], Tensor],
    reference: Tensor,
    noise: Tensor,
    label: LabelSpec,
    *,
    step: float,
    radius: float,
    iterations: int,
    mask: Tensor,
) -> Tensor:
    """The noise within the radius that moves the outputs most, by projected gradient ascent; (S, T, H), detached.

    Jiang et al., 2020, Algorithm 1, lines 5 to 9, with the infinity norm. No gradient reaches the model's parameters.

    forward: noise (S, T, H) -> the head's outputs for these sentences, with gradient.
    reference: the outputs without noise. noise: (S, T, H), where to start; not zero, for there the gradient is.
    step: the largest change of one number in an iteration. radius: of a number in all. mask: (S, T), true at tokens.
    """
    padding_ST1 = ~mask.bool().unsqueeze(-1)
    reference = reference.detach()
    noise = noise.detach().masked_fill(padding_ST1, 0.0)
    for _ in range(iterations):
        noise.requires_grad_()
        loss = divergence(forward(noise), reference, label).sum()
        gradient = torch.autograd.grad(loss, noise)[0].masked_fill(padding_ST1, 0.0)
        largest_S11 = gradient.abs().amax(dim=(1, 2), keepdim=True)
        direction = gradient / largest_S11.clamp(min=torch.finfo(gradient.dtype).tiny)  # a zero gradient stays zero
        noise = (noise.detach() + step * direction).clamp(-radius, radius)
    return noise


class WeightAverage:
    """theta~, the running average of the weights that the proximal term pulls to (Jiang et al., 2020, section 3.2).

    average <- momentum * average + (1 - momentum) * weight. `state` goes into torch.func.functional_call as it is.
    """

    def __init__(self, named_parameters: Mapping[str, Tensor], momentum: float) -> None:
        self.momentum = momentum
        self.state = {name: weight.detach().clone() for name, weight in named_parameters.items()}

    @torch.no_grad()
    def update(self, named_parameters: Mapping[str, Tensor]) -> None:
        """Moves the average towards the weights, after an optimizer's step."""
        weights = [named_parameters[name] for name in self.state]
        torch._foreach_lerp_(list(self.state.values()), weights, 1 - self.momentum)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The average of a checkpoint, put in place. Raises ValueError where its names or shapes are others."""
        ours, theirs = ({(name, tuple(t.shape)) for name, t in s.items()} for s in (self.state, state))
        if ours != theirs:
            raise ValueError(f"the averaged weights differ from the model's: {sorted(ours ^ theirs)}")
        for name, average in self.state.items():
            average.copy_(state[name])
