"""`minibert serve`: a bundle's API, in this process or by replicas on Ray Serve, until Ctrl-C."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from multitask.bundle.bundle import is_bundle
from multitask.bundle.ensemble import Answering, Ensemble, is_ensemble
from multitask.errors import UserError
from multitask.experiment.finding import find_bundle, open_answering
from multitask.inference.embed import default_device
from multitask.inference.predict import Answers, answerer
from ray_jobs.screen import Screen
from ray_jobs.serving.batcher import Batcher
from ray_jobs.serving.bundle_api import Facts, Question, build_app
from ray_jobs.serving.gate import Limits, impatient, layers
from ray_jobs.serving.start import KEEP_ALIVE_SECONDS, Listening, prepare_ray, ready, run_on_ray

TOGETHER = 64  # texts that are computed together; a request with more has a computation of its own
WAITING = 1024  # texts that wait; what is more is refused with 503
ONGOING = 256  # requests in a replica, their bodies read (gate.py); batches are made of those
QUEUED = 256  # requests that wait for a replica; what is more is refused with 503
GRACE_SECONDS = 5  # for what is being answered when the service ends


def _cores() -> int:
    return os.cpu_count() or 1


class BundleEngine:
    """A bundle or an ensemble, loaded, that answers together what came while it was busy. replicas: how many share the
    machine."""

    def __init__(self, model: Answering, replicas: int = 1) -> None:
        # One core for requests that come meanwhile.
        torch.set_num_threads(max(1, (_cores() - 1) // replicas))
        self._answerer = answerer(model, default_device())
        self.facts = facts_of(model)
        self._batcher = Batcher(self.answer, lambda asked: len(asked.first), TOGETHER, WAITING)

    async def ask(self, question: Question) -> Any:
        """The (N, H) vectors of a question without a task, else its Answers. Raises Full."""
        return await self._batcher(question)

    def answer(self, asked: Sequence[Question]) -> list[Any]:
        """What each question gives; those of one task are computed together."""
        alike = defaultdict[str | None, list[int]](list)
        for place, question in enumerate(asked):
            alike[question.task].append(place)
        found: dict[int, Any] = {}
        for task, places in alike.items():
            found |= zip(places, self._together(task, [asked[place] for place in places]), strict=True)
        return [found[place] for place in range(len(asked))]

    def _together(self, task: str | None, asked: Sequence[Question]) -> list[Any]:
        first = [text for question in asked for text in question.first]
        ends = [sum(len(question.first) for question in asked[: at + 1]) for at in range(len(asked))]
        parts = [slice(end - len(question.first), end) for end, question in zip(ends, asked, strict=True)]
        if task is None:
            vectors = self._answerer.embed(first)
            return [vectors[part] for part in parts]
        second = [text for question in asked for text in question.second or []] or None
        answers = self._answerer.answer(task, first, second)
        chances = answers.probabilities
        return [Answers(answers.labels[part], None if chances is None else chances[part]) for part in parts]


def facts_of(model: Answering) -> Facts:
    """What a bundle or an ensemble can be asked."""
    specs = {task: model.specs[task] for task in model.answers}
    return Facts(
        {task: len(spec.columns) for task, spec in specs.items()},
        {task: spec.label.words for task, spec in specs.items()},
        0 if isinstance(model, Ensemble) else model.config.hidden_size,
    )


def serve_bundle(uri: str, listening: Listening, replicas: int, deadline: float, screen: Screen) -> None:
    """Serves a bundle until Ctrl-C or SIGTERM. The token is that of the environment's MINIBERT_TOKEN.

    uri: all that `load_bundle` takes. replicas: 0 answers in this process, more on Ray Serve, where one that dies is
    replaced. deadline: seconds until a request is given up.

    Raises UserError before anything starts: no sound bundle, no token for a host that others reach, a port in use.
    """
    token = listening.check()
    if replicas > _cores():
        raise UserError(f"--replicas {replicas}: this machine has {_cores()} cores, and each takes one at least")
    if replicas:
        prepare_ray("minibert serve --replicas", listening)
    model = open_answering(uri).bundle  # says what is wrong with it in one line, which a replica cannot
    loading = f"loading {uri}: {', '.join(['embed'] * (not isinstance(model, Ensemble)) + list(model.answers))} ..."
    if replicas:
        del model
        place = find_bundle(uri).uri  # a replica may have another working directory
        uri = place if is_bundle(place) or is_ensemble(place) else uri
        run_on_ray(application(uri, replicas, token, deadline), "minibert", listening, loading, screen)
        return
    screen.note(loading)
    _serve_here(BundleEngine(model), listening, token, deadline, screen)


def _serve_here(engine: BundleEngine, listening: Listening, token: str | None, deadline: float, screen: Screen) -> None:
    import uvicorn
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    limits = Limits(per_client=listening.per_client)
    app: Any = build_app(engine, token, deadline)
    for layer, options in reversed(layers(token, limits)):
        app = layer(app, **options)
    config = uvicorn.Config(
        app, host=listening.host, port=listening.port, http=impatient(AutoHTTPProtocol, limits.head), log_level="error",
        access_log=False, timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=GRACE_SECONDS,
    )  # fmt: skip

    class Told(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """uvicorn would raise them again when it has ended, and the command fail by what was asked of it."""
            handlers = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            screen.say(ready(listening))

    Told(config).run()
    screen.say("stopping ...")


def application(uri: str, replicas: int, token: str | None, deadline: float) -> Any:
    """Ray Serve's application: replicas that have the model."""
    from ray import serve

    @serve.deployment(
        name="bundle",
        num_replicas=replicas,
        max_ongoing_requests=ONGOING,
        max_queued_requests=QUEUED,
        ray_actor_options={"num_cpus": 1, "num_gpus": (default_device().type == "cuda") / replicas},
        health_check_period_s=2,
        graceful_shutdown_timeout_s=GRACE_SECONDS,
    )
    @serve.ingress()
    class Bundle:
        def __init__(self, uri: str, token: str | None, deadline: float) -> None:
            self.engine = BundleEngine(open_answering(uri).bundle, replicas)
            self.token, self.deadline = token, deadline

        def __serve_build_asgi_app__(self) -> Any:
            return build_app(self.engine, self.token, self.deadline)

    deployment: Any = Bundle
    return deployment.bind(uri, token, deadline)
