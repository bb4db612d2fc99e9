"""Several models' outputs for the same examples: mixed, and weights of the mixture fitted.

Probabilities are mixed, not logits; of scores the weighted mean is taken. Weights are fitted by what is convex in them:
the likelihood of the true labels (a mixture's weights by EM: Dempster, Laird and Rubin, 1977), and for scores Pearson's
correlation. Each is reported for rows that its weights were not fitted on (stacking: Wolpert, 1992; Breiman, 1996).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from multitask.tasks.chances import Chances
from multitask.tasks.labels import KINDS, LabelSpec

FOLDS = 5
SEED = 11711  # of the folds
STEPS = 1000
TOLERANCE = 1e-9  # of a weight, in a step

Weights = tuple[float, ...]  # one a model, none below 0, 1 in sum


def uniform(count: int) -> Weights:
    return (1 / count,) * count


def mixed(outputs: Sequence[Tensor], weights: Sequence[float], label: LabelSpec) -> Tensor:
    """(N, *shape) float64 outputs that say what the mixture of the models says.

    outputs: (N, *shape) a model, what its head puts out. weights: one a model, 1 in sum.
    """
    chances = KINDS[label.kind].chances
    if chances is None:
        return torch.stack([weight * some.double() for some, weight in zip(outputs, weights, strict=True)]).sum(dim=0)
    logs = torch.stack([chances.logs(some) for some in outputs])
    shares = torch.tensor(weights, dtype=torch.float64).log().reshape(-1, *[1] * (logs.ndim - 1))
    return chances.outputs((logs + shares).logsumexp(dim=0))


def fitted(outputs: Sequence[Tensor], labels: Tensor, label: LabelSpec) -> Weights:
    """The weights that suit the labels best; equal ones where none suit better than others. labels: (N,) or (N, W)."""
    if len(outputs) == 1:
        return (1.0,)
    chances = KINDS[label.kind].chances
    if chances is None:
        return _most_correlated(torch.stack([some.double() for some in outputs]), labels.double())
    return _most_likely(outputs, labels, chances)


def cross_fitted(outputs: Sequence[Tensor], labels: Tensor, label: LabelSpec, folds: int = FOLDS) -> Tensor:
    """The mixture's outputs, each row's by weights that were fitted on the rows of the other folds. folds: at most the
    number of rows."""
    found = torch.zeros_like(outputs[0], dtype=torch.float64)
    for outside, inside in outside_and_inside(len(labels), folds):
        weights = fitted([some[outside] for some in outputs], labels[outside], label)
        found[inside] = mixed([some[inside] for some in outputs], weights, label)
    return found


def outside_and_inside(count: int, folds: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For each fold of `count` rows, drawn by SEED: the rows that are not in it, what is fitted on, and those that
    are."""
    fold = np.random.default_rng(SEED).permutation(count) % folds
    for at in range(folds):
        outside, inside = (torch.from_numpy(np.flatnonzero(rows)) for rows in (fold != at, fold == at))
        yield outside, inside


def _most_likely(outputs: Sequence[Tensor], labels: Tensor, chances: Chances) -> Weights:
    """The mixture's weights that make the labels likeliest, by EM from equal ones; the likelihood is concave in them.
    A step takes each weight times the mean share that its model has in the probability of what is true."""
    logs = torch.stack([chances.logs(some) for some in outputs])
    truth = chances.truth(labels, logs.shape[-1]).flatten()
    there = truth > 0
    logs, truth = logs.flatten(start_dim=1)[:, there], truth[there]
    likelihoods = (logs - logs.amax(dim=0)).exp()
    weights = torch.full((len(outputs),), 1 / len(outputs), dtype=torch.float64)
    for _ in range(STEPS):
        ratios = likelihoods * (truth / (weights @ likelihoods))
        new = weights * ratios.sum(dim=1) / truth.sum()
        done = float((new - weights).abs().max()) < TOLERANCE
        weights = new / new.sum()
        if done:
            break
    return tuple(weights.tolist())


def _most_correlated(outputs: Tensor, labels: Tensor) -> Weights:
    """Weights, none below 0, whose sum of outputs (M, N) has the greatest correlation with the labels (N,).

    Correlation knows no scale, so that is least squares of centred outputs, with coefficients that are not negative:
    one after the other is put where the others want it, until none moves.
    """
    centred = outputs - outputs.mean(dim=1, keepdim=True)
    inner, wanted = (centred @ centred.T).tolist(), (centred @ (labels - labels.mean())).tolist()
    count, found = len(outputs), [0.0] * len(outputs)
    for _ in range(STEPS):
        before = list(found)
        for at in range(count):
            others = sum(inner[at][other] * found[other] for other in range(count) if other != at)
            found[at] = max(0.0, (wanted[at] - others) / inner[at][at]) if inner[at][at] > 0 else 0.0
        if max(abs(new - old) for new, old in zip(found, before, strict=True)) < TOLERANCE:
            break
    total = sum(found)
    return tuple(value / total for value in found) if total > 0 else uniform(count)
