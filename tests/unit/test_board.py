"""The board without Ray: its methods are coroutines of one event loop, as in the actor."""

from __future__ import annotations

import asyncio
from typing import Any

from fsspec.exceptions import FSTimeoutError

from ray_jobs.runners.board import MAX_STARTS, Board, News
from ray_jobs.runners.ends import End

LOST = "rank 0: ConnectionResetError: lost"


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
            await board.ended("", [End.of(0, ConnectionResetError("lost"))])
        seen.append((await board.peek(False)).failure)
        await board.begin(2)
        seen.append((await board.peek(False)).failure)
        await board.post(line(0, "dev quora"))
        await board.begin(2)
        seen.append((await board.peek(False)).failure)
        return seen

    before, still, after = asyncio.run(scenario())
    assert before is None and still is None  # the first start's steps were new ones
    assert after == ("RuntimeError", f"the workers were started {MAX_STARTS} times without a step: {LOST}")


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


def ended(*starts: list[End], label: str = "", steps: bool = True) -> News:
    """What the board says after starts of workers that ended so."""

    async def scenario() -> News:
        board = Board()
        for at, ends in enumerate(starts):
            await board.begin(2)
            if steps:
                await board.post(line(at + 1))
            await board.ended(label, ends)
        return await board.peek(False)

    return asyncio.run(scenario())


def value_error(step: int) -> End:
    return End.of(1, ValueError(f"bad row in batch {step} at 0x7f{step}"))


def test_the_same_error_at_two_starts_in_a_row_ends_the_run() -> None:
    """Though each start got further, and whatever differs from time to time in its numbers."""
    assert ended([value_error(7)]).failure is None
    news = ended([value_error(7)], [value_error(8)])
    assert news.failure == ("ValueError", "bad row in batch 8 at 0x7f8 (rank 1, at two starts in a row)")


def test_other_errors_in_between_are_no_two_in_a_row() -> None:
    assert ended([value_error(7)], [End.of(0, KeyError("x"))], [value_error(8)]).failure is None


def test_what_may_pass_is_tried_again_for_as_long_as_there_are_steps() -> None:
    passing = [
        *(TimeoutError("no answer"), ConnectionResetError("reset"), FSTimeoutError()),
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer"),
    ]
    for error in passing:
        assert ended(*[[End.of(0, error)]] * 9).failure is None, error


def test_a_trial_that_meets_the_same_error_twice_has_failed_and_no_other_has() -> None:
    news = ended([value_error(7)], [value_error(8)], label="sst@lr=1")
    assert news.failures == {"sst@lr=1": ("ValueError", "bad row in batch 8 at 0x7f8 (rank 1, at two starts in a row)")}


def test_workers_that_are_lost_before_they_begin_are_counted_too() -> None:
    async def scenario() -> Any:
        board = Board()
        for _ in range(MAX_STARTS + 1):
            await board.ended("", [End.of(0, ConnectionResetError("lost"))])
        return (await board.peek(False)).failure

    assert asyncio.run(scenario())[1].startswith(f"the workers were started {MAX_STARTS} times without a step")


def test_a_machine_that_is_taken_away_counts_for_nothing_however_often_it_is_told() -> None:
    async def scenario() -> Any:
        board = Board()
        await board.begin(2)
        for _ in range(5):
            await board.ended("", [value_error(1)], True)
        return (await board.peek(False)).failure

    assert asyncio.run(scenario()) is None


def test_a_ranks_own_word_goes_before_rays_and_what_died_before_what_followed() -> None:
    async def scenario() -> News:
        board = Board()
        await board.begin(2)
        symptom = RuntimeError("Connection reset by peer")
        await board.note("", End.of(0, symptom, "Traceback ...", " (pid 7 on host)"))
        await board.ended("", [End.of(0, symptom), End(1, "rank 1 (pid 8 on host) was killed")])
        return await board.peek(False)

    news = asyncio.run(scenario())
    assert news.trouble == "rank 1 (pid 8 on host) was killed"
    assert [(end.rank, end.trace) for end in news.ends] == [(0, "Traceback ..."), (1, "")]


def test_what_all_ranks_warn_of_is_said_once() -> None:
    async def scenario() -> list[list[str]]:
        board, seen = Board(), []
        for text in ("a", "b", "a"):
            await board.say(text)
        seen.append((await board.peek(False)).said)
        await board.say("a")
        seen.append((await board.peek(False)).said)
        return seen

    assert asyncio.run(scenario()) == [["a", "b"], []]
