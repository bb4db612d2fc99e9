"""A recruiter's engine for tests: it answers at once, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from multitask.recruit.completion import Title
from multitask.recruit.postings import Posting
from multitask.recruit.search import Hit
from ray_jobs.recruit.endpoints import IndexFacts, Judgement
from ray_jobs.recruit.messages import CompleteRequest, SearchRequest, SuitabilityRequest

PARTS = frozenset({"completion", "suitability"})
# A sign outside the first 65,536 before the words: JavaScript counts it as two.
PASSAGE = "𝕂𝕖𝕖𝕡 the books: accounting, salaries,\n- and taxes."
WORDS = ((16, 26), (28, 36))
MARKUP = "<script>document.title = 'taken over'</script><img src=x onerror=\"document.title = 'taken over'\">"

HITS = [
    Hit(Posting("7", "Chief Accountant", "Books CJSC", "Yerevan, Armenia"), 0.654, PASSAGE, WORDS),
    Hit(Posting("8", MARKUP, "<b>Bold</b> & Co.", "<i>Gyumri</i>"), 0.5, f"Sells {MARKUP}", ((0, 5),)),
    Hit(Posting("9", "Driver"), 0.25, "Drives" + "x" * 200, ()),
]


class FakeEngine:
    """seconds: how long an answer takes. failure: what is raised in its place."""

    def __init__(self, parts: frozenset[str] = PARTS) -> None:
        self.facts = IndexFacts(370, 872, parts, "weak labels: made from postings")
        self.hits, self.titles = HITS, [Title("chief accountant", 0.41), Title(MARKUP, 0.125)]
        self.judgement = Judgement(True, 0.73)
        self.asked: list[Any] = []
        self.failure: Exception | None = None
        self.seconds = 0.0

    async def _answer(self, asked: Any, answer: Any) -> Any:
        self.asked.append(asked)
        await asyncio.sleep(self.seconds)
        if self.failure:
            raise self.failure
        return answer

    async def search(self, asked: SearchRequest) -> list[Hit]:
        found: list[Hit] = await self._answer(asked, self.hits[: asked.k])
        return found

    async def complete(self, asked: CompleteRequest) -> list[Title]:
        found: list[Title] = await self._answer(asked, self.titles[: asked.k])
        return found

    async def suitability(self, asked: SuitabilityRequest) -> Judgement:
        found: Judgement = await self._answer(asked, self.judgement)
        return found


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
