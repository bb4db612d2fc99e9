"""Answers together what was asked while the model was busy, so that a busy service does more in a second."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Full(Exception):
    """More is waiting than the service would get to."""


class Batcher(Generic[Asked, Answer]):
    """Calls `answer` in a thread with all that has come since its last call, in the order in which it came.

    answer: some of what was asked -> the answers, in order. size: what one that is asked counts for. most: what a
    call may count for in all, where it is more than one. waiting: what may wait in all.

    Nothing waits for company: a single request is answered at once. What fails in company is tried alone, so that a
    request's fault is its own.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Asked]], Sequence[Answer]],
        size: Callable[[Asked], int],
        most: int,
        waiting: int,
    ) -> None:
        self.answer, self.size, self.most, self.waiting = answer, size, most, waiting
        self._queue: deque[tuple[Asked, asyncio.Future[Answer]]] = deque()
        self._work: asyncio.Task[None] | None = None

    async def __call__(self, asked: Asked) -> Answer:
        """The answer. Raises Full where too much is waiting already, and what `answer` raises."""
        if sum(self.size(one) for one, _ in self._queue) > self.waiting:
            raise Full
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.append((asked, future))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._go_on())
        return await future

    async def _go_on(self) -> None:
        while batch := self._next():
            await self._answer(batch)

    def _next(self) -> list[tuple[Asked, asyncio.Future[Answer]]]:
        """The oldest that are still wanted, as many as fit; none when nobody waits."""
        batch: list[tuple[Asked, asyncio.Future[Answer]]] = []
        room = self.most
        while self._queue and (not batch or self.size(self._queue[0][0]) <= room):
            asked, future = self._queue.popleft()
            if not future.done():  # whoever asked may have left, or run out of time
                batch.append((asked, future))
                room -= self.size(asked)
        return batch

    async def _answer(self, batch: list[tuple[Asked, asyncio.Future[Answer]]]) -> None:
        try:
            found = await asyncio.to_thread(self.answer, [asked for asked, _ in batch])
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    await self._answer([one])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for (_, future), answer in zip(batch, found, strict=True):
            if not future.done():
                future.set_result(answer)
