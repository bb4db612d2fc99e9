"""What of the word embeddings' gradient travels between ranks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, local

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.gradients import average_rows

TOKENS, WIDTH = 40, 3


class Ranks:
    """All-reduce between threads, one a rank; `sent` are the elements of each of rank 0's."""

    def __init__(self, world: int) -> None:
        self.barrier, self.given, self.sent = Barrier(world), [torch.empty(0)] * world, list[int]()
        self.pool = ThreadPoolExecutor(world)

    def all_reduce(self, rank: int, tensor: Tensor, op: dist.ReduceOp = dist.ReduceOp.SUM) -> None:
        self.given[rank] = tensor.clone()
        self.barrier.wait(10)
        stacked = torch.stack(self.given)
        tensor.copy_(stacked.amax(dim=0) if op == dist.ReduceOp.MAX else stacked.sum(dim=0))
        self.barrier.wait(10)
        if rank == 0:
            self.sent.append(tensor.numel())


def averaged(gradients: list[Tensor], sent: torch.dtype | None = None) -> Ranks:
    """Averages in place."""
    ranks, mine = Ranks(len(gradients)), local()

    def one(rank: int) -> None:
        mine.rank = rank
        average_rows(gradients[rank], len(gradients), sent)

    with pytest.MonkeyPatch.context() as patch, ranks.pool:
        patch.setattr(dist, "all_reduce", lambda *given: ranks.all_reduce(mine.rank, *given))
        list(ranks.pool.map(one, range(len(gradients))))
    return ranks


def gradient(rows: list[int], seed: int) -> Tensor:
    made = torch.zeros(TOKENS, WIDTH, dtype=torch.float64)
    made[rows] = torch.randn(len(rows), WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return made


@given(st.lists(st.lists(st.integers(0, TOKENS - 1), max_size=8, unique=True), min_size=1, max_size=3))
def test_rows_that_some_rank_has_are_averaged_and_no_others_travel(touched: list[list[int]]) -> None:
    gradients = [gradient(rows, seed) for seed, rows in enumerate(touched)]
    whole = torch.stack(gradients).sum(dim=0) / len(gradients)
    ranks = averaged(gradients)
    assert all(torch.allclose(one, whole, rtol=1e-15) for one in gradients)
    assert ranks.sent == [TOKENS, len(set().union(*touched)) * WIDTH]


def test_what_is_not_finite_reaches_every_rank() -> None:
    gradients = [gradient([1], 0), gradient([2], 1)]
    gradients[0][5, 0] = torch.nan
    averaged(gradients)
    assert all(bool(one[5, 0].isnan()) for one in gradients)


def test_compressed_rows_are_rounded_to_bfloat16() -> None:
    gradients = [gradient([1, 2], 0), gradient([2, 3], 1)]
    whole = torch.stack(gradients).sum(dim=0) / 2
    averaged(gradients, torch.bfloat16)
    assert torch.equal(gradients[0], gradients[1])
    assert 0 < float((gradients[0] - whole).abs().max()) < 2**-6
