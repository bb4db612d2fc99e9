"""Training files from postings: what belongs together in a posting is a pair; repeats stay on one side of the split."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from multitask.data.samplers import derive_seed
from multitask.recruit.postings import COLUMNS, Posting
from multitask.storage.storage import Storage

# Weak labels of suitability, made and not judged by anyone: whose qualifications the application states.
WEAK = {"own": 1.0, "near": 0.5, "far": 0.0}
WEAK_NOTE = "weak labels made from postings: its own qualifications 1, those of a near title 0.5, of a far one 0"
# Words of titles that say a rank or nothing, not a trade.
RANKS = frozenset({
    "a", "an", "and", "at", "for", "in", "of", "or", "the", "to", "with",
    "assistant", "chief", "deputy", "head", "junior", "lead", "manager", "senior",
})  # fmt: skip

TrainingRow = dict[str, str | float]


@dataclass(frozen=True)
class Corpus:
    """Postings with their repeat groups: (N,) the place of each group's first posting."""

    postings: Sequence[Posting]
    groups: NDArray[np.int64]

    @property
    def repeats(self) -> int:
        """How many postings say what an earlier one has said."""
        return len(self.postings) - len(set(self.groups.tolist()))

    @cached_property
    def trades(self) -> list[frozenset[str]]:
        """Each title's words that say a trade."""
        return [frozenset(re.findall(r"[a-z]+", posting.title.casefold())) - RANKS for posting in self.postings]

    @cached_property
    def having(self) -> dict[str, list[int]]:
        """A trade's word -> the postings whose titles have it."""
        found: dict[str, list[int]] = {}
        for place, trade in enumerate(self.trades):
            for word in trade:
                found.setdefault(word, []).append(place)
        return found

    @cached_property
    def titles(self) -> NDArray[np.int64]:
        """(N,) equal where titles are, but for case."""
        _, number = np.unique([posting.title.casefold() for posting in self.postings], return_inverse=True)
        return np.asarray(number)

    def key(self, place: int) -> str:
        """Names a posting behind its group: what shares the first part must not be split."""
        return f"{self.postings[self.groups[place]].id}/{self.postings[place].id}"

    def folds(self, count: int, seed: int) -> NDArray[np.int64]:
        """(N,) the fold 0..count-1 of each posting, one for all of a group, of nearly equal size."""
        names = sorted(set(self.groups.tolist()), key=lambda g: derive_seed(seed, "fold", self.postings[g].id))
        fold = {group: place * count // len(names) for place, group in enumerate(names)}
        return np.array([fold[group] for group in self.groups.tolist()])


def write_training_files(storage: Storage, corpus: Corpus, held_out: NDArray[np.bool_], seed: int) -> dict[str, int]:
    """jobs-, skills- and suitability-{train,dev}.jsonl, and the postings of both sides; returns each file's rows.

    held_out: (N,) which postings are dev; all of a repeat group are on one side.
    """
    written = {}
    for split, mask in (("train", ~held_out), ("dev", held_out)):
        places = np.flatnonzero(mask).tolist()
        some = Corpus([corpus.postings[at] for at in places], _regrouped(corpus.groups[places]))
        files = {name: list(make(some, split, seed)) for name, make in FILES.items()}
        files["postings"] = [{COLUMNS.get(key, key): v for key, v in p.to_json().items()} for p in some.postings]
        for name, rows in files.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            storage.write_bytes(f"{name}-{split}.jsonl", text.encode())
            written[f"{name}-{split}"] = len(rows)
    return written


def _regrouped(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The repeat groups of the postings that are left, named by their first place among these."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return first[inverse]


def matches(field: str, corpus: Corpus, split: str, seed: int) -> Iterator[TrainingRow]:
    """Rows of (the field, a posting without it, match): a posting's own field is 1; for dev another trade's is added,
    0.

    Ranking trains on what matches and takes its negatives from the batch; a dev metric needs both.
    """
    drawn = np.random.default_rng(derive_seed(seed, "match", field, split))
    for place, posting in enumerate(corpus.postings):
        query, rest = getattr(posting, field), posting.text(without=(field,))
        if not query or not rest:
            continue
        yield {"id": f"{corpus.key(place)}/own", "sentence1": query, "sentence2": rest, "match": 1.0}
        others = _far(corpus, place)
        if split == "dev" and len(others):
            other = corpus.postings[drawn.choice(others)]
            if text := other.text(without=(field,)):
                yield {"id": f"{corpus.key(place)}/far", "sentence1": query, "sentence2": text, "match": 0.0}


def suitability(corpus: Corpus, split: str, seed: int) -> Iterator[TrainingRow]:
    """Rows of (a posting without its qualifications, qualifications as an application, WEAK score): its own
    qualifications, those of a near title, those of a far one."""
    drawn = np.random.default_rng(derive_seed(seed, "suitability", split))
    stated = [bool(posting.qualifications) for posting in corpus.postings]
    for place, posting in enumerate(corpus.postings):
        job = posting.text(without=("qualifications",))
        choices = {"own": np.array([place]), "near": _near(corpus, place), "far": _far(corpus, place)}
        for kind, others in choices.items():
            some = [at for at in others.tolist() if stated[at]]
            if some and (posting.description or posting.requirements):
                application = corpus.postings[drawn.choice(some)].qualifications
                key = f"{corpus.key(place)}/{kind}"
                yield {"id": key, "job": job, "application": application, "score": WEAK[kind]}


FILES = {
    "jobs": lambda corpus, split, seed: matches("title", corpus, split, seed),
    "skills": lambda corpus, split, seed: matches("qualifications", corpus, split, seed),
    "suitability": suitability,
}


def _near(corpus: Corpus, place: int) -> NDArray[np.int64]:
    """Postings near to one: of its trade, but of another group and title, so that who fits one may fit the other in
    part."""
    return np.flatnonzero(_others(corpus, place) & _same_trade(corpus, place))


def _far(corpus: Corpus, place: int) -> NDArray[np.int64]:
    """Postings far from one: of another group, with a title that shares no trade's word with its."""
    return np.flatnonzero(_others(corpus, place) & ~_same_trade(corpus, place))


def _others(corpus: Corpus, place: int) -> NDArray[np.bool_]:
    """(N,) whether a posting is of another group and another title than the one at `place`."""
    return np.asarray((corpus.groups != corpus.groups[place]) & (corpus.titles != corpus.titles[place]))


def _same_trade(corpus: Corpus, place: int) -> NDArray[np.bool_]:
    """(N,) whether a posting's title shares a trade's word with that of the one at `place`."""
    found = np.zeros(len(corpus.postings), np.bool_)
    for word in corpus.trades[place]:
        found[corpus.having[word]] = True
    return found
