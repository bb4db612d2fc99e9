"""Gradient surgery: tasks' gradients changed where they conflict, before the optimizer steps with their mean.

All of it is computed on the inner products of K tasks' gradients, g_i . g_j, (K, K): whatever a projection makes of a
gradient is a sum of the tasks' gradients, and is held as its K coefficients. So the long vectors are read twice a
step, for their products and for the sum, and not once a projection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multitask.data.samplers import derive_seed

Products = NDArray[np.float64]  # (K, K)
Orders = list[list[int]]  # of each task, the others in the order in which it meets them
BETA = 1e-2  # how fast GradVac's targets follow what is seen (Wang et al., 2021, appendix)
ALL = "all"  # the one part of whoever sees no parts


def orders(tasks: int, *seed: object) -> Orders:
    """For each task, the others in an order that is drawn from the seed alone, equal on all ranks."""
    random = np.random.default_rng(derive_seed("surgery", *seed))
    return [[int(j) for j in random.permutation(tasks) if j != i] for i in range(tasks)]


class Surgery:
    """A way to change tasks' gradients. by_part: whether each part of the encoder is changed by itself."""

    by_part = False

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = list(tasks)

    def coefficients(self, part: str, products: Products, order: Orders) -> Products:
        """(K, K): row i says what the changed gradient of task i is, as a sum of the tasks' gradients."""
        found = np.eye(len(self.tasks))
        for i, others in enumerate(order):
            for j in others:
                found[i, j] += self._pull(part, i, j, found[i], products)
        return found

    def weights(self, products: Mapping[str, Tensor], order: Orders) -> dict[str, Tensor]:
        """A part's name -> (K,) what the mean over the changed gradients takes of each task's gradient.

        products: a part's name -> the inner products of the tasks' gradients in it, float64. Where any of them is not
        finite, 16-mixed skips the step: no gradient is changed, and nothing is learned of them.
        """
        if not all(bool(found.isfinite().all()) for found in products.values()):
            even = torch.full((len(self.tasks),), 1 / len(self.tasks), dtype=torch.float64)
            return dict.fromkeys(products, even)
        if not self.by_part:
            whole = torch.stack(list(products.values())).sum(dim=0)
            found = self.coefficients(ALL, whole.numpy(), order)
            return dict.fromkeys(products, torch.from_numpy(found.mean(axis=0)))
        mean = {part: self.coefficients(part, found.numpy(), order).mean(axis=0) for part, found in products.items()}
        return {part: torch.from_numpy(found) for part, found in mean.items()}

    def _pull(self, part: str, i: int, j: int, mine: Products, products: Products) -> float:
        """What is added of task j's gradient to that of task i, which has come to the coefficients `mine`."""
        raise NotImplementedError(f"{type(self).__name__}._pull")

    def state(self) -> dict[str, Tensor]:
        """Tensors that a resumed stage needs, by name."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `state` gave."""


class PcGrad(Surgery):
    """PCGrad (Yu et al., 2020, Algorithm 1): a gradient loses what of it points against another task's."""

    def _pull(self, part: str, i: int, j: int, mine: Products, products: Products) -> float:
        along, square = float(mine @ products[:, j]), float(products[j, j])
        return -along / square if along < 0 < square else 0.0


class GradVac(Surgery):
    """GradVac (Wang et al., 2021, Algorithm 1, equation 3): a gradient whose cosine with another task's is below what
    it usually is is turned until it is that. The targets are running means, by part of the encoder and pair of tasks.
    """

    by_part = True

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks)
        self.targets: dict[str, Tensor] = {}

    def _pull(self, part: str, i: int, j: int, mine: Products, products: Products) -> float:
        size, other = max(0.0, float(mine @ products @ mine)) ** 0.5, float(products[j, j]) ** 0.5
        if size * other == 0:  # a task that does not reach the part
            return 0.0
        targets = self.targets.setdefault(part, torch.zeros(len(mine), len(mine), dtype=torch.float64))
        cosine, target = min(1.0, max(-1.0, float(mine @ products[:, j]) / (size * other))), float(targets[i, j])
        targets[i, j] = (1 - BETA) * target + BETA * cosine
        if cosine >= target or target >= 1:  # 1, to rounding, of tasks that always agree: nothing turns as far
            return 0.0
        sine, wanted = (1 - cosine**2) ** 0.5, (1 - target**2) ** 0.5
        return float(size * (target * sine - cosine * wanted) / (other * wanted))

    def state(self) -> dict[str, Tensor]:
        return dict(self.targets)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.targets = {part: tensor.clone() for part, tensor in tensors.items()}


SURGERIES: dict[str, type[Surgery]] = {"pcgrad": PcGrad, "gradvac": GradVac}
