"""`minibert recruit prepare`: training files from postings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_modules.progress import Progress
from multitask.recruit.pairs import WEAK_NOTE, Corpus, write_training_files
from multitask.recruit.postings import Postings, read_postings
from multitask.recruit.repeats import repeat_groups
from multitask.storage.storage import Storage
from ray_jobs.screen import Screen

SHOWN = 5


def read_corpus(uri: str, screen: Screen) -> Corpus:
    """A file's postings with their repeats found; says on the screen what was left out, and why."""
    found = read_postings(uri)
    total = len(found.items)
    groups = repeat_groups(found.items, lambda done: screen.progress(Progress("prepare", "repeats", 0, 0, done, total)))
    screen.end_line()
    corpus = Corpus(found.items, groups)
    _tell(screen, found, corpus)
    return corpus


def _tell(screen: Screen, found: Postings, corpus: Corpus) -> None:
    screen.say(f"{found.source}: {len(found.items)} postings, {corpus.repeats} of them repeats")
    for row in found.quarantined[:SHOWN]:
        screen.say(f"  left out: line {row.line}: {row.reason}")
    if (more := len(found.quarantined) - SHOWN) > 0:
        screen.say(f"  left out: {more} more")


def prepare_files(postings: str, output: str, held_out: float, seed: int, screen: Screen) -> None:
    """Writes the training files of the recipes in recruiter/ into a directory."""
    corpus = read_corpus(postings, screen)
    folds = corpus.folds(max(2, round(1 / held_out)), seed)
    files = write_fold(Storage(output), corpus, folds == 0, seed, screen)
    screen.say(f"next: minibert train recruiter/search --data {output}")
    if screen.as_json:
        facts = {"postings": postings, "rows": len(corpus.postings), "repeats": corpus.repeats}
        screen.document({**facts, "labels": WEAK_NOTE, "files": files})


def write_fold(
    storage: Storage, corpus: Corpus, dev: NDArray[np.bool_], seed: int, screen: Screen
) -> list[dict[str, Any]]:
    """Writes a fold's training files; returns each one's path and rows."""
    rows = write_training_files(storage, corpus, dev, seed)
    for name, count in rows.items():
        screen.say(f"{storage.uri}/{name}.jsonl: {count} rows")
    screen.say(f"suitability: {WEAK_NOTE}")
    return [{"file": f"{storage.uri}/{name}.jsonl", "rows": count} for name, count in rows.items()]
