"""`minibert recruit folds`: a recipe trained on each fold's other postings, search measured on the fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from multitask.bundle.bundle import Bundle
from multitask.errors import UserError
from multitask.experiment.finding import open_bundle
from multitask.inference.embed import TextEncoder, default_device
from multitask.recipe.loading import load_recipe
from multitask.recruit.quality import METRICS, Measured, System, compare, difference, estimate, pooled
from multitask.storage.storage import Storage
from multitask.storage.uris import join
from ray_jobs.driver.driver import run_training
from ray_jobs.driver.request import TrainingRequest
from ray_jobs.driver.telling import tell_results
from ray_jobs.options import workers_span
from ray_jobs.recruit.training_files import read_corpus, write_fold
from ray_jobs.screen import Screen
from ray_jobs.stopping import INTERRUPTED

RESULT = "search.json"
DECIDING = "ndcg@10"
# What is asked of a search: that training helps it, and that meaning adds to words.
CLAIMS = (("trained", "untrained"), ("hybrid, trained", "bm25"), ("hybrid, trained", "hybrid, untrained"))


@dataclass(frozen=True)
class FoldsRequest:
    """A recipe to train on all folds of some postings but one, each in turn."""

    recipe: str
    postings: str
    """A file of postings, at any URI."""
    stage: str
    """The stage whose bundle searches."""
    count: int
    """How many folds."""
    storage: str
    workers: str = "0"
    """The argument of `minibert train --workers`."""
    overrides: list[str] = field(default_factory=list)
    """The arguments of `minibert train --set`."""


def run_folds(request: FoldsRequest, screen: Screen) -> int:
    """Trains fold after fold, each an experiment of its own, so that finished ones are skipped when it is run again;
    returns the exit status."""
    place, span = Storage(request.storage), workers_span(request.workers)
    loaded, stage, count = load_recipe(request.recipe, request.overrides), request.stage, request.count
    if stage not in (names := [found.name for found in loaded.stages]):
        raise UserError(f"--stage '{stage}': the recipe has the stages {', '.join(names)}")
    corpus = read_corpus(request.postings, screen)
    folds = corpus.folds(count, loaded.seed)
    parts = []
    for fold in range(count):
        name = f"{loaded.name}-fold-{fold + 1}-of-{count}"
        data = place.at(f"{name}-data")
        write_fold(data, corpus, folds == fold, loaded.seed, screen)
        trained = run_training(TrainingRequest(loaded, data.uri, place, name, span), screen)
        if trained is None:
            return INTERRUPTED
        tell_results(screen, place, trained)
        screen.note(f"{name}: measuring search")
        parts += compare(
            systems(open_bundle(loaded.encoder), open_bundle(join(place.uri, name, stage))),
            corpus.postings,
            corpus.groups,
            np.flatnonzero(folds == fold).tolist(),
        )
    result = {"postings": request.postings, "recipe": loaded.name, "folds": count, **search_summary(pooled(parts))}
    place.write_json(f"{loaded.name}-folds/{RESULT}", result)
    if screen.as_json:
        screen.document(result)
    else:
        tell(screen, result)
        screen.say(f"results: {join(place.uri, f'{loaded.name}-folds', RESULT)}")
    return 0


def systems(untrained: Bundle, trained: Bundle) -> dict[str, System]:
    """The systems that are compared: words alone, and meaning before and after training, each alone and with words."""
    after = TextEncoder(trained, default_device())
    before = TextEncoder(untrained, default_device(), after.max_length)
    return {
        "bm25": System(before, "bm25"),
        "untrained": System(before, "dense"),
        "trained": System(after, "dense"),
        "hybrid, untrained": System(before, "hybrid"),
        "hybrid, trained": System(after, "hybrid"),
    }


def search_summary(measured: Sequence[Measured]) -> dict[str, Any]:
    """Every system's metrics and the claims' differences, with their intervals."""
    found = {(one.system, one.kind): one for one in measured}
    kinds = dict.fromkeys(kind for _, kind in found)
    return {
        "systems": [
            {
                "query": one.kind,
                "system": one.system,
                **{m: asdict(estimate(one.values[m], one.units, shares=True)) for m in METRICS},
            }
            for one in measured
        ],
        "differences": [
            {
                "query": kind,
                "of": better,
                "over": worse,
                DECIDING: asdict(difference(found[better, kind], found[worse, kind], DECIDING)),
            }
            for kind in kinds
            for better, worse in CLAIMS
            if (better, kind) in found and (worse, kind) in found
        ],
    }


def tell(screen: Screen, result: dict[str, Any]) -> None:
    """Shows the tables of systems and of differences; a value's 95 % interval follows it."""
    rows = [[row["query"], row["system"], *(_cell(row[m]) for m in METRICS)] for row in result["systems"]]
    queries = " / ".join(dict.fromkeys(str(row[DECIDING]["queries"]) for row in result["systems"]))
    screen.table(["query", "system", *METRICS], rows, title=f"Search, {queries} queries")
    rows = [[row["query"], f"{row['of']} - {row['over']}", _cell(row[DECIDING])] for row in result["differences"]]
    screen.table(["query", "difference", DECIDING], rows)


def _cell(value: dict[str, float]) -> str:
    return f"{value['value']:.3f} ({value['low']:.3f} .. {value['high']:.3f})"
