"""Losses: pure functions of tensors that return sums, so that ranks and batches can be added up.

Those of LOSSES, (outputs, labels, weights, settings of the loss by name) -> (sum, count):
- outputs: a head's, (B, classes) logits for cross_entropy and ordinal, (B,) for the others; (B, W) too for bce; either
  for focal; for losses of pairs (B,) similarities
- labels: (B,) float, in the label's own unit (a class's index where there are classes), or as the outputs (B, W)
- weights: (B,) float; 0 leaves an example out
- returns: the weighted sum of the examples' losses, and the weights' sum, both ()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from multitask.errors import UserError, near, short_list
from multitask.tasks.imported import Table
from multitask.tasks.labels import KINDS, LabelSpec, word_or_number
from multitask.tasks.table import TaskSpec

Sums = tuple[Tensor, Tensor]

# Similarity labels run 0..5 and the cosine 0..1; Sentence-BERT compares them on the cosine's scale.
COSINE_SCALE = 5.0


def class_weighted(labels: Tensor, weights: Tensor, class_weights: Tensor | None) -> Tensor:
    """(B,) the examples' weights, each times its class's; one without a label, NaN, has its own. class_weights:
    (classes,), None where all are 1."""
    if class_weights is None:
        return weights
    by_class = class_weights.to(weights, non_blocking=True)
    return torch.where(labels.isnan(), weights, weights * by_class[labels.nan_to_num().long()])


def _total(losses_B: Tensor, weights_B: Tensor) -> Sums:
    return (losses_B * weights_B).sum(), weights_B.sum()


def _wide(outputs: Tensor) -> Tensor:
    """At least float32: a half-precision sum over a batch would lose digits."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def cross_entropy(
    outputs: Tensor,
    labels: Tensor,
    weights: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Sums:
    """-log softmax(outputs)[label], nats.

    label_smoothing: the share of the target that all classes get evenly (Szegedy et al., 2016, section 7).
    class_weights: (classes,), the factors on the classes' terms; a label's own counts as its example's weight. Sum over
        count is then torch's mean for `cross_entropy(weight=, label_smoothing=)`.
    """
    logits = _wide(outputs)
    weigh = None if class_weights is None else class_weights.to(logits, non_blocking=True)
    losses = F.cross_entropy(logits, labels.long(), weight=weigh, label_smoothing=label_smoothing, reduction="none")
    return (losses * weights).sum(), class_weighted(labels, weights, class_weights).sum()


def bce(
    outputs: Tensor,
    labels: Tensor,
    weights: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Sums:
    """-log sigmoid(+-output), nats; labels in 0..1. An example of W outputs has their mean.

    label_smoothing: the share of the target that yes and no get evenly. class_weights: (2,), the factors on examples
        whose label is 0 and 1.
    """
    logits = _wide(outputs)
    targets = labels.to(logits.dtype)
    if label_smoothing:
        targets = targets.lerp(torch.full_like(targets, 0.5), label_smoothing)
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    losses = losses if losses.ndim == 1 else losses.mean(dim=-1)
    return _total(losses, class_weighted(labels, weights, class_weights))


def focal(
    outputs: Tensor, labels: Tensor, weights: Tensor, *, gamma: float = 2.0, class_weights: Tensor | None = None
) -> Sums:
    """-(1 - p)^gamma log p, nats, with p the probability of what the label says (Lin et al., 2017, equation 4).

    One class of several has its softmax's p. A yes or no has its sigmoid's; an example of W of them has their mean.
    gamma: how little an example counts that is right already; 0 is the cross-entropy. class_weights: alpha there.
    """
    logits = _wide(outputs)
    if logits.ndim > labels.ndim:
        log_p = -F.cross_entropy(logits, labels.long(), reduction="none")
    else:
        log_p = F.logsigmoid(torch.where(labels > 0.5, logits, -logits))
    # 1 - p as -expm1(log p) keeps its digits near 0; the clamp keeps the root's slope finite there, for gamma below 1.
    missing = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    losses = -(missing**gamma) * log_p
    losses = losses if losses.ndim == 1 else losses.mean(dim=-1)
    return _total(losses, class_weighted(labels, weights, class_weights))


def ordinal(outputs: Tensor, labels: Tensor, weights: Tensor, *, class_weights: Tensor | None = None) -> Sums:
    """The mean, over the classes - 1 steps between neighbours, of -log P(label is on its side of the step), nats.

    These are the binary cross-entropies of CORAL (Cao, Mirjalili and Raschka, 2020, section 3.3), each asking whether
    the label is above class k. Their probabilities are sums of the softmax here, so that logits keep their meaning: a
    mistake costs the more the more classes lie between. Two classes make it cross_entropy.
    """
    logits = _wide(outputs)
    below = logits.logcumsumexp(dim=-1)[:, :-1]  # of classes 0..k
    above = logits.flip(-1).logcumsumexp(dim=-1).flip(-1)[:, 1:]  # of classes k + 1..
    steps = torch.arange(below.shape[1], device=labels.device)
    right = torch.where(labels[:, None] > steps, above, below)
    losses = (logits.logsumexp(dim=-1, keepdim=True) - right).mean(dim=-1)
    return _total(losses, class_weighted(labels, weights, class_weights))


def mse(outputs: Tensor, labels: Tensor, weights: Tensor) -> Sums:
    """(output - label)^2, in the label's unit squared."""
    return _total((_wide(outputs) - labels).square(), weights)


def cosine_mse(outputs: Tensor, labels: Tensor, weights: Tensor) -> Sums:
    """((output - label) / 5)^2, on the cosine's scale (Reimers and Gurevych, 2019, section 3)."""
    return _total(((_wide(outputs) - labels) / COSINE_SCALE).square(), weights)


def cosent(outputs: Tensor, labels: Tensor, weights: Tensor, *, scale: float = 20.0) -> Sums:
    """log(1 + sum of exp(scale * (s_j - s_i)) over all i, j with label_i > label_j), of similarities s (CoSENT: Huang
    et al., 2024): it asks for the labels' order alone.

    A batch has one such value, and each of its examples counts as having it: the sum is the value times the weights'
    sum. So it is a mean over examples like any other loss, to which terms of examples can be added. An example takes
    part in pairs, or with weight 0 in none.
    """
    similar, used = _wide(outputs), weights > 0
    ordered = (labels[:, None] > labels[None, :]) & used[:, None] & used[None, :]
    exponents = (scale * (similar[None, :] - similar[:, None])).masked_fill(~ordered, -torch.inf)
    value = torch.cat((similar.new_zeros(1), exponents.flatten())).logsumexp(dim=0)
    return value * weights.sum(), weights.sum()


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosines of (B, H) encodings, (B,)."""
    return F.cosine_similarity(first, second, dim=1)


def angle(first: Tensor, second: Tensor) -> Tensor:
    """How near the angles of (B, H) encodings lie as complex numbers, (B,) (AnglE: Li and Li, 2023, section 3.4).

    An encoding's first half are the real parts, its second half the imaginary ones. With both normalised, z * conj(w)
    has the cosine as its real part; the absolute value of real and imaginary part together is compared.
    """
    odd = first.shape[1] % 2
    (a, b), (c, d) = (F.normalize(F.pad(side, (0, odd)), dim=1).chunk(2, dim=1) for side in (first, second))
    return (a * c + b * d + b * c - a * d).sum(dim=1).abs()


@dataclass(frozen=True)
class Loss:
    """What a task can learn by."""

    sums: Callable[..., Sums]
    """(outputs, labels, weights, settings by name) -> (sum, count)."""
    takes: tuple[str, ...] = ()
    """The settings of a task that it has."""
    similarity: Callable[[Tensor, Tensor], Tensor] | None = None
    """How alike two (B, H) encodings are, (B,), for a loss that compares pairs with each other, those of all ranks,
    where the head compares encodings as they are. None of a loss that is a sum over examples."""


BUILT_IN = {
    "cross_entropy": Loss(cross_entropy, ("label_smoothing", "class_weights")),
    "ordinal": Loss(ordinal, ("class_weights",)),
    "focal": Loss(focal, ("gamma", "class_weights")),
    "bce": Loss(bce, ("label_smoothing", "class_weights")),
    "mse": Loss(mse),
    "cosine_mse": Loss(cosine_mse),
    "cosent": Loss(cosent, ("scale",), cosine),
    "angle": Loss(cosent, ("scale",), angle),
}


def _adopted(found: Any, name: str) -> Loss:
    """A user's own Loss, or a function that is a loss without settings."""
    if isinstance(found, Loss):
        return found
    if isinstance(found, type) or not callable(found):
        raise TypeError(f"it is {type(found).__name__}; valid: a function (outputs, labels, weights) -> (sum, count)")
    return Loss(_of_two(found, name))


def _of_two(function: Callable[..., Any], name: str) -> Callable[..., Sums]:
    """A user's function, of which a mean alone is refused: ranks add up sums and counts."""

    @wraps(function)
    def sums(*given: Any, **settings: Any) -> Sums:
        found = function(*given, **settings)
        if isinstance(found, tuple | list) and len(found) == 2:
            return found[0], found[1]
        shape = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise UserError(f"'{name}': it gives {shape}; valid: (sum, count), which ranks add up, and not their mean")

    return sums


LOSSES: Table[Loss] = Table(BUILT_IN, _adopted)
OF_CLASSES = ("label_smoothing", "class_weights")  # settings for labels that are one class of several


def check_settings(name: str, settings: Mapping[str, Any], spec: TaskSpec, where: str) -> None:
    """Raises UserError unless the loss of that name has those settings on that task. where: the task's key."""
    kind = spec.label.kind
    for key in settings:
        if key not in LOSSES[name].takes:
            taking = ", ".join(other for other, loss in LOSSES.items() if key in loss.takes)
            raise UserError(
                f"{where}.{key}: the loss '{name}' of task '{spec.name}' has none; losses that have: {taking}"
            )
        if key in OF_CLASSES and not KINDS[kind].one_class:
            valid = ", ".join(other for other, found in KINDS.items() if found.one_class)
            raise UserError(f"{where}.{key}: a {kind} label is not one class of several; valid for {valid}")
    weighed = settings.get("class_weights")
    if isinstance(weighed, Mapping) and (strange := [word for word in weighed if word not in _classes(spec.label)]):
        known = _classes(spec.label)
        raise UserError(
            f"{where}.class_weights: '{strange[0]}' is no class of task '{spec.name}': "
            f"{short_list(known)}{near(strange[0], known)}"
        )


def _classes(label: LabelSpec) -> list[str]:
    return [word_or_number(at, label) for at in range(int(label.high) + 1)]


def settings_of(settings: Mapping[str, Any], label: LabelSpec, labels: Tensor) -> dict[str, Any]:
    """A task's settings as its loss takes them: class weights become a tensor. labels: (N,) of all training rows."""
    said = settings.get("class_weights")
    if said is None:
        return dict(settings)
    if isinstance(said, Mapping):
        weights = torch.tensor([float(said.get(name, 1.0)) for name in _classes(label)], dtype=torch.float64)
    else:
        weights = balanced(labels, len(_classes(label)))
    return {**settings, "class_weights": weights}


def balanced(labels: Tensor, classes: int) -> Tensor:
    """(classes,) float64 weights n / (k * n_c): each of the k classes that there are has an equal share in all n
    examples, whose mean weight is 1 (King and Zeng, 2001). 0 of a class that no label has."""
    counts = torch.bincount(labels.long(), minlength=classes).double()
    there = counts > 0
    return torch.where(there, counts.sum() / (there.sum() * counts.clamp(min=1)), 0.0)


SQUARED = frozenset({"mse", "cosine_mse"})  # those of squared differences; the others are of log-probabilities


def multiple_negatives(scores: Tensor, own: Tensor, allowed: Tensor, anchors: Tensor) -> Tensor:
    """Sum over anchors of -(S(x, y) - log sum_j exp S(x, y_j)) (mlm-mnrl.txt, 4.3; Henderson et al., 2017), ().

    scores: (B, C) of each example with every candidate. own: (B,) the column of its similar one. allowed: (B, C) bool,
    which candidates count as negatives; its own always does. anchors: (B,) bool, the examples whose losses count; none
    of them gives 0.
    """
    allowed = allowed.scatter(1, own[:, None], True)
    columns = scores.masked_fill(~allowed, -torch.inf)
    losses = columns.logsumexp(dim=1) - scores.gather(1, own[:, None]).squeeze(1)
    return torch.where(anchors, losses, 0.0).sum()
