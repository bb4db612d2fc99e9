"""The board without Ray: its methods are coroutines of one event loop, as in the actor."""

from __future__ import annotations

import asyncio
from typing import Any

from ray_jobs.board import MAX_STARTS, Board


def line(done: int, doing: str = "step", epoch: int = 1) -> dict[str, Any]:
    return {"stage": "sst", "doing": doing, "epoch": epoch, "done": done}


def test_every_worker_gets_every_job_once_and_then_none() -> None:
    async def worker(board: Board) -> list[str]:
        got, number = [], 0
        while offer := await board.next(number):
            number, job = offer
            got.append(job["name"])
            await board.finish(number)
        return got

    async def driver(board: Board) -> None:
        for at, name in enumerate(("para", "sts"), start=1):
            assert await board.offer({"name": name}) == at
            while (await board.peek(stop=False)).finished < at:
                await asyncio.sleep(0.01)
        await board.close()

    async def all_of_them() -> list[list[str]]:
        board = Board()
        *got, _ = await asyncio.gather(worker(board), worker(board), driver(board))
        return got

    assert asyncio.run(all_of_them()) == [["para", "sts"]] * 2


def test_workers_that_start_again_get_the_job_at_hand() -> None:
    async def scenario() -> Any:
        board = Board()
        await board.offer({"name": "para"})
        await board.finish(1)
        await board.offer({"name": "sts"})
        return await board.next(0)

    assert asyncio.run(scenario()) == (2, {"name": "sts"})


def test_starts_without_progress_end_the_run() -> None:
    """What was done before does not count: workers that fail at the same step again and again get nowhere."""

    async def scenario() -> list[Any]:
        board, seen = Board(), []
        await board.offer({})
        for _ in range(MAX_STARTS):
            await board.begin(2)
            await board.post(line(7))
            await board.note("OSError: disk")
        seen.append((await board.peek(False)).failure)
        await board.begin(2)
        seen.append((await board.peek(False)).failure)
        await board.post(line(0, "dev quora"))
        await board.begin(2)
        seen.append((await board.peek(False)).failure)
        return seen

    before, still, after = asyncio.run(scenario())
    assert before is None and still is None  # the first start's steps were new ones
    assert after == ("RuntimeError", f"the workers were started {MAX_STARTS} times without a step: OSError: disk")


def test_progress_and_a_node_that_is_taken_away_start_the_count_again() -> None:
    async def scenario() -> Any:
        board = Board()
        await board.offer({})
        for at in range(3 * MAX_STARTS):
            await board.begin(2)
            await board.post(line(at + 1))
        for _ in range(3 * MAX_STARTS):
            await board.begin(2)
            await board.excuse()
        return (await board.peek(False)).failure

    assert asyncio.run(scenario()) is None


def test_another_number_of_workers_is_the_clusters_doing() -> None:
    async def scenario() -> Any:
        board = Board()
        for at in range(3 * MAX_STARTS):
            await board.begin(2 + at % 2)
        return await board.peek(False)

    news = asyncio.run(scenario())
    assert news.failure is None and news.starts == 3 * MAX_STARTS


def test_a_request_to_stop_reaches_rank_0_with_its_next_line() -> None:
    async def scenario() -> list[bool]:
        board = Board()
        before = await board.post(line(1))
        await board.peek(stop=True)
        return [before, await board.post(line(2)), await board.stopping()]

    assert asyncio.run(scenario()) == [False, True, True]


def test_the_first_failure_is_the_one_that_counts() -> None:
    async def scenario() -> Any:
        board = Board()
        await board.fail("sst", "NonFiniteLoss", "stage 'sst': the loss is nan")
        await board.fail("sst", "RuntimeError", "a rank was left alone")
        return (await board.peek(False)).failure

    assert asyncio.run(scenario()) == ("NonFiniteLoss", "stage 'sst': the loss is nan")


def test_trials_failures_and_those_that_lag_behind_are_told_apart() -> None:
    async def scenario() -> Any:
        board = Board()
        await board.fail("sst@lr=1", "NonFiniteLoss", "nan")
        await board.lags("sst@lr=2")
        return await board.peek(False), await board.failed("sst@lr=1"), await board.failed("sst@lr=2")

    news, one, two = asyncio.run(scenario())
    assert news.failures == {"sst@lr=1": ("NonFiniteLoss", "nan")} and news.stopped == {"sst@lr=2"}
    assert (one, two) == (True, False)
