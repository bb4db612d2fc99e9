"""`loss_weights: uncertainty`: tasks' losses weighted by a learned variance each (Kendall et al., 2018, 3.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from multitask.optim import AdamW

RATE = 1e-2  # the peak learning rate of the log-variances: an encoder's would not move them within a stage


class Uncertainty:
    """A log-variance s a task, 0 at first, learned beside the model from what it minimises with it:

        L(model, s) = sum over tasks of c * exp(-s) * mean loss + s / 2

    with c = 1/2 for a loss of squared differences (equation 7) and 1 for one of log-probabilities (equation 10).

    The gradient in s, 1/2 - c * exp(-s) * mean loss, follows from the global batch's mean loss, which every rank knows
    to the last bit: so s is equal on all ranks, and neither DDP nor clipping has to do with it. AdamW steps it without
    decay, at a rate of its own that follows the stage's schedule.

    squared: task -> whether its loss is of squared differences.
    """

    def __init__(self, squared: Mapping[str, bool]) -> None:
        self.shares = {task: 0.5 if found else 1.0 for task, found in squared.items()}
        self.logs = {task: nn.Parameter(torch.zeros((), dtype=torch.float64)) for task in squared}
        self._optimizer = AdamW(list(self.logs.values()), lr=RATE, weight_decay=0.0)

    def factor(self, task: str) -> float:
        """What the task's loss is multiplied by in this step."""
        return self.shares[task] * math.exp(-float(self.logs[task].detach()))

    def step(self, means: Mapping[str, float], rate: float) -> None:
        """One step of the log-variances of the tasks that the model's step was of.

        means: task -> the mean loss of its global batch. rate: the factor on the learning rate.
        """
        for task, log in self.logs.items():
            gradient = 0.5 - self.factor(task) * means[task] if task in means else None
            log.grad = None if gradient is None else torch.tensor(gradient, dtype=torch.float64)
        self._optimizer.param_groups[0]["lr"] = RATE * rate
        self._optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Task -> its log-variance and AdamW's state of it, (4,)."""
        found = {}
        for task, log in self.logs.items():
            kept = self._optimizer.state.get(log) or {}
            moments = [kept.get(key, torch.tensor(0.0)).double() for key in ("step", "exp_avg", "exp_avg_sq")]
            found[task] = torch.stack([log.detach(), *moments])
        return found

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `state` gave."""
        for task, kept in tensors.items():
            self.logs[task].copy_(kept[0])
            if kept[1] > 0:
                moments = {"step": kept[1].float(), "exp_avg": kept[2].clone(), "exp_avg_sq": kept[3].clone()}
                self._optimizer.state[self.logs[task]] = moments
