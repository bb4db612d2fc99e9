"""Lightning on Ray's workers: what ray.train.lightning has, of the Lightning that this project uses.

Ray's own classes come from the package `lightning` as soon as that is installed, beside `pytorch_lightning` or not, and
the one's Trainer refuses the other's strategy.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]
from pytorch_lightning.strategies import DDPStrategy


class WorkerEnvironment(LightningEnvironment):
    """Tells Lightning the ranks and sizes that Ray has given; Ray has also set up the process group."""

    def world_size(self) -> int:
        return self._context().get_world_size()

    def global_rank(self) -> int:
        return self._context().get_world_rank()

    def local_rank(self) -> int:
        return self._context().get_local_rank()

    def node_rank(self) -> int:
        return self._context().get_node_rank()

    def set_world_size(self, size: int) -> None:
        """Does nothing: the number is Ray's."""

    def set_global_rank(self, rank: int) -> None:
        """Does nothing: the number is Ray's."""

    def teardown(self) -> None:
        """Does nothing: what Lightning would remove from the environment is Ray's."""

    @staticmethod
    def _context() -> Any:
        import ray.train

        return ray.train.get_context()


class WorkerStrategy(DDPStrategy):
    """DDP on the device that Ray has given to this worker."""

    @property
    def root_device(self) -> torch.device:
        import ray.train.torch

        return ray.train.torch.get_device()
