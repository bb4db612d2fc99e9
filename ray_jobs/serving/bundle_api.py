"""A bundle's HTTP API: embed, predict, similarity, and what each is asked and answers, as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import BaseModel, Field

from ray_jobs.serving.app import app_of
from ray_jobs.serving.batcher import Full
from ray_jobs.serving.refusals import BODY, TEXT, Asked, Text

if TYPE_CHECKING:
    from fastapi import FastAPI

    from multitask.inference.predict import Answers

MAX_TEXTS = 256
_TEXTS = f"a list of 1 to {MAX_TEXTS} texts, each {TEXT}"
VALID = {  # field -> what it may be, in the schema as in refusals
    "texts": _TEXTS,
    "first": _TEXTS,
    "second": f"{_TEXTS}; as many as in the first list",
    "task": "one of the tasks of /health",
    "body": BODY,
}
Texts = Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
SOMEONE, OTHER = "A man is playing a guitar.", "Someone makes music."


class EmbedRequest(Asked):
    texts: Texts = Field(description=f"{_TEXTS}.", examples=[[SOMEONE]])


class PredictRequest(Asked):
    task: str = Field(description=f"What is asked: {VALID['task']}.", max_length=100)
    texts: Texts = Field(description=f"The texts, or the first ones of pairs: {_TEXTS}.")
    second: Texts | None = Field(None, description=f"For tasks of pairs, their second texts: {VALID['second']}.")


class SimilarityRequest(Asked):
    first: Texts = Field(description=f"{_TEXTS}.")
    second: Texts = Field(description=f"{VALID['second']}.")


class EmbedAnswer(BaseModel):
    vectors: list[list[float]] = Field(description="One for each text, of length 1.")


class PredictAnswer(BaseModel):
    labels: list[Any] = Field(description="One for each text or pair, in the task's unit.")
    probabilities: list[Any] | None = Field(None, description="Of the classes, or of yes; scores have none.")
    words: list[str] | None = Field(None, description="What the task calls each label, where it has words.")
    classes: list[str] = Field([], description="The words of all classes, in the order of the probabilities.")


class SimilarityAnswer(BaseModel):
    values: list[float] = Field(description="One for each pair.")
    by: str = Field(description="`sts`, whose scores go from 0 to 5, or `cosine`, where the bundle has no such head.")


class Health(BaseModel):
    status: str = "ok"
    tasks: list[str] = Field(description="What can be predicted.")
    pairs: list[str] = Field(description="Those of them that take two texts.")
    width: int = Field(description="The numbers of a vector; 0 where the bundle embeds nothing.")


@dataclass(frozen=True)
class Facts:
    """What a bundle can be asked."""

    tasks: Mapping[str, int]
    """Task -> the texts of an example, 1 or 2."""
    words: Mapping[str, Sequence[str]]
    """Task -> what it calls its labels; none where they are numbers."""
    width: int
    """The numbers of a sentence's vector; 0 of an ensemble, which embeds nothing."""


@dataclass(frozen=True)
class Question:
    """What a request asks of the model. task: None asks for vectors."""

    task: str | None
    first: list[str]
    second: list[str] | None = None


class Engine(Protocol):
    """The model behind the API."""

    @property
    def facts(self) -> Facts: ...

    async def ask(self, question: Question) -> Any:
        """The (N, H) vectors of a question without a task, else its Answers. Raises Full."""


def build_app(engine: Engine, token: str | None, deadline: float) -> FastAPI:
    """The API of an engine. token: what requests must bring as a bearer; without one, only this machine is answered.
    deadline: seconds until a request is given up."""
    asking = Asking(engine, deadline)
    return app_of(
        "miniBERT",
        "Vectors, labels and similarities of texts.",
        lambda app, wanted: add_answers(app, asking, wanted),
        VALID,
        {},
        token,
    )


class Asking:
    """An engine as requests ask it: what it cannot answer, or not in time, is an HTTPException."""

    def __init__(self, engine: Engine, deadline: float) -> None:
        self.engine, self.facts, self.deadline = engine, engine.facts, deadline

    async def vectors(self, texts: list[str]) -> Any:
        """(N, H) vectors of length 1."""
        if not self.facts.width:
            raise _refused(404, "embed: an ensemble has several encoders; valid: serving one of its members")
        return await self._in_time(Question(None, texts))

    async def answers(self, task: str, first: list[str], second: list[str] | None) -> Answers:
        """What a task's head says of texts, or of pairs."""
        tasks = self.facts.tasks
        if task not in tasks:
            raise _refused(404, f"task: no such; valid: {', '.join(tasks) or 'none: there is no head'}")
        wants_two = tasks[task] == 2
        if wants_two != (second is not None):
            raise _refused(422, f"second: {task} takes {'pairs' if wants_two else 'one text an example'}")
        must_match(first, second)
        found: Answers = await self._in_time(Question(task, first, second))
        return found

    async def _in_time(self, question: Question) -> Any:
        try:
            async with asyncio.timeout(self.deadline):
                return await self.engine.ask(question)
        except TimeoutError:
            told = f"the model: no answer in {self.deadline:g} s; valid: fewer texts at once"
            raise _refused(504, told) from None
        except Full:
            raise _refused(503, "the model: too much is waiting; valid: later", {"retry-after": "1"}) from None


def must_match(first: list[str], second: list[str] | None) -> None:
    """Raises an HTTPException where there are not as many second texts as first ones."""
    if second is not None and len(first) != len(second):
        raise _refused(422, f"second: {len(second)} texts; valid: {len(first)}, as in the first list")


def _refused(status: int, message: str, headers: dict[str, str] | None = None) -> Exception:
    from fastapi import HTTPException

    return HTTPException(status, message, headers)


def add_answers(app: FastAPI, asking: Asking, wanted: Sequence[Any]) -> None:
    """Adds the API's paths to the app. wanted: the dependencies of all paths but /health."""
    facts = asking.facts

    @app.get("/health")
    async def health() -> Health:
        """Whether the model is loaded, and what can be asked."""
        pairs = [task for task, texts in facts.tasks.items() if texts == 2]
        return Health(tasks=list(facts.tasks), pairs=pairs, width=facts.width)

    @app.post("/embed", dependencies=wanted)
    async def embed(asked: EmbedRequest) -> EmbedAnswer:
        """A vector of length 1 for each text: the dot product of two is their cosine."""
        return EmbedAnswer(vectors=(await asking.vectors(asked.texts)).tolist())

    @app.post("/predict", dependencies=wanted)
    async def predict(asked: PredictRequest) -> PredictAnswer:
        """What one of the bundle's tasks says of texts or pairs."""
        found = await asking.answers(asked.task, asked.texts, asked.second)
        probabilities = None if found.probabilities is None else found.probabilities.tolist()
        classes = list(facts.words[asked.task])
        one_each = classes and found.labels.ndim == 1
        words = [classes[int(label)] for label in found.labels] if one_each else None
        return PredictAnswer(labels=found.labels.tolist(), probabilities=probabilities, words=words, classes=classes)

    @app.post("/similarity", dependencies=wanted)
    async def similarity(asked: SimilarityRequest) -> SimilarityAnswer:
        """How much the texts of each pair have in common."""
        if "sts" in facts.tasks:
            found = await asking.answers("sts", asked.first, asked.second)
            return SimilarityAnswer(values=found.labels.tolist(), by="sts")
        must_match(asked.first, asked.second)
        both = await asking.vectors([*asked.first, *asked.second])
        cosines = (both[: len(asked.first)] * both[len(asked.first) :]).sum(axis=1)
        return SimilarityAnswer(values=cosines.tolist(), by="cosine")
