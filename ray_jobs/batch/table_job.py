"""`minibert embed` and `minibert predict --input`: a table of texts -> Parquet, a part a shard of rows.

A part appears whole, under a name that is its place in the input; so work that was stopped goes on with the parts that
are not there, and with those that are not as they were written. `_work.json` says of what they are parts,
`_manifest.json` that all are there. Readers of Parquet directories pass over names with an underscore.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from lightning_modules.progress import Progress
from multitask.bundle.bundle import Bundle
from multitask.bundle.ensemble import Answering
from multitask.bundle.found import Found
from multitask.errors import UserError, near
from multitask.experiment.finding import open_answering, open_found
from multitask.experiment.stage_job import digest
from multitask.inference.embed import default_device
from multitask.inference.predict import require
from multitask.storage.sealed import Damaged, read_document, write_document
from multitask.storage.storage import Storage
from ray_jobs.batch.input import Shard, TableSource, source_of
from ray_jobs.batch.parts import PartPlan, is_sound, part_name
from ray_jobs.screen import Screen

WORK, MANIFEST = "_work.json", "_manifest.json"
PART = re.compile(r"part-(\d{5})\.parquet")
SCHEMA = 1
log = logging.getLogger(__name__)
LISTED = 100  # of the rows left out, those that the manifest tells of


@dataclass(frozen=True)
class TableRequest:
    """A table of texts to embed, or to predict a task of."""

    bundle: str
    """A bundle's URI, or an encoder's name."""
    input: str
    """A file, a directory or a pattern."""
    output: str
    """The directory of the parts."""
    columns: tuple[str, ...] = ()
    """The columns of texts; none for the usual ones."""
    task: str | None = None
    """What is predicted; None for embeddings, and for the only task of a bundle."""
    keep: bool = False
    """Whether parts hold the texts too."""
    rows: int = 4096
    """Rows of a part."""
    workers: int = 0
    """Ray workers; 0 is this process."""


def embed_table(request: TableRequest, screen: Screen) -> None:
    """Writes embeddings. Raises UserError before anything is computed, but for what only the whole input shows."""
    _run(request, screen, open_found(request.bundle), request.columns or ("text",))


def predict_table(request: TableRequest, screen: Screen) -> None:
    """Writes a task's predictions. Raises UserError before anything is computed, but for what only the whole input
    shows; also where the bundle cannot answer the task."""
    found = open_answering(request.bundle)
    bundle, tasks = found.bundle, found.bundle.answers
    task = request.task or (tasks[0] if len(tasks) == 1 else "")
    if task not in bundle.specs:
        given = f"'{task}'" if task else "missing"
        known = f"{', '.join(tasks) or 'nothing'}{near(task, tasks)}"
        raise UserError(f"--task: {given}; bundle '{request.bundle}' predicts {known}")
    require(bundle, task)
    wanted = bundle.specs[task].columns
    columns = request.columns or tuple(bundle.about.get("columns", {}).get(task, {}).get(name, name) for name in wanted)
    if len(columns) != len(wanted):
        raise UserError(f"--column: {', '.join(columns)}; task {task} takes {len(wanted)}: its {', '.join(wanted)}")
    _run(request, screen, found, columns, task)


def _run(
    request: TableRequest, screen: Screen, found: Found[Answering], columns: tuple[str, ...], task: str | None = None
) -> None:
    """Makes the parts that are not there yet, and the manifest, which is also the document of --json."""
    bundle, output = found.bundle, Storage(request.output)
    PartPlan(output, columns, task, request.keep).check()
    source = source_of(request.input, columns, request.rows)
    content = source.content()
    work = {
        "schema": SCHEMA,
        "bundle": found.fingerprint,
        "task": task,
        "columns": list(columns),
        "keep": request.keep,
        "part_rows": request.rows,
        "input": content,
    }  # fmt: skip
    # A source's is of weights and tokenizer, not of how it is used.
    if isinstance(bundle, Bundle) and bundle.about.get("fingerprint") == found.fingerprint:
        work |= {"pooling": bundle.pooling, "max_length": bundle.max_length}
    plan = PartPlan(output, columns, task, request.keep, digest(work))
    made, source = begin(plan, work), source.held_to(content)
    if before := _manifest(output, plan.work):
        _check_parts(output, before["parts"])
    if before and before["parts"] == len(made):
        screen.say(f"all {len(made)} parts are in {output.uri} already")
        if screen.as_json:
            screen.document(before)
        return
    if made:
        screen.note(f"{len(made)} parts are in {output.uri} already; going on")
    if request.workers:
        shards = on_workers(source, made, plan, bundle, request.workers, screen)
    else:
        shards = here(source, made, plan, bundle)
    with closing(shards):
        done = follow(shards, task or "embed", screen)
    _check_parts(output, done["parts"])
    manifest = {"source": request.input, "model": request.bundle, **work, **done}
    write_document(output, MANIFEST, manifest, plan.work)
    screen.say(f"{done['rows']} rows in {done['parts']} parts in {output.uri}")
    if bad := done["quarantined"]["rows"]:
        screen.say(f"left out: {bad} rows: {'; '.join(done['quarantined']['first'][:3])}")
    if screen.as_json:
        screen.document(manifest)


def begin(plan: PartPlan, work: dict[str, Any]) -> set[int]:
    """Claims a directory without parts for the work, or finds which of its parts are there already, as they were
    written; the others are made again.

    Raises UserError where the directory holds anything else.
    """
    output = plan.output
    names = [name for name in output.list() if not name.startswith(".")]
    if not set(names) - {WORK}:
        write_document(output, WORK, work)
        return set()
    if WORK not in names:
        raise UserError(f"{output.uri}: holds {names[0]}, which is not of this work; name an empty directory")
    _check_work(output, work)
    found = {int(match[1]): name for name in names if (match := PART.fullmatch(name))}
    if strange := [name for name in names if name not in found.values() and not name.startswith("_")]:
        raise UserError(f"{output.uri}/{strange[0]}: no part of this work, and who reads the parts would read it too")
    sound = {number for number, name in found.items() if is_sound(output.read_bytes(name), f"{plan.work} {name}")}
    for number in sorted(found.keys() - sound):
        log.warning(
            "%s/%s: damaged, of other work, or of a build without checksums; made again", output.uri, found[number]
        )
    return sound


def _check_parts(output: Storage, parts: int) -> None:
    """Raises UserError where there are more than so many; what is gone of them is named in a warning."""
    names, wanted = output.list(), [part_name(number) for number in range(parts)]
    if more := [name for name in names if PART.fullmatch(name) and name not in wanted]:
        raise UserError(f"{output.uri}/{more[0]}: the work has {parts} parts, and this is none of them; remove it")
    for name in wanted:
        if name not in names:
            log.warning("%s/%s: gone; made again", output.uri, name)


def _check_work(output: Storage, work: dict[str, Any]) -> None:
    """Raises UserError where the directory holds parts of other work than this.

    A damaged WORK is written again: each part says itself what it is of.
    """
    try:
        before = read_document(output, WORK)
    except Damaged as error:
        log.warning("%s; written again", error)
        write_document(output, WORK, work)
        return
    for key in work:
        if before.get(key) != work[key]:
            old, new = (_short(some.get(key)) for some in (before, work))
            raise UserError(
                f"{output.uri}: holds parts of other work: {key} was {old}, is now {new}; name another ({WORK} says so)"
            )


def _manifest(output: Storage, work: str) -> dict[str, Any] | None:
    """The manifest's content; None where it is not there, or not as it was written."""
    if not output.exists(MANIFEST):
        return None
    try:
        return read_document(output, MANIFEST, work)
    except Damaged as error:
        log.warning("%s; made again", error)
        return None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:120] + "..."


def here(source: TableSource, made: set[int], plan: PartPlan, bundle: Answering) -> Generator[Shard]:
    """Makes the parts in this process, one after the other; gives each shard when its part is there."""
    write = plan.worker(bundle, default_device())
    for shard in source.shards(made):
        if not shard.made:
            write(shard)
        yield shard


def on_workers(
    source: TableSource, made: set[int], plan: PartPlan, bundle: Answering, workers: int, screen: Screen
) -> Generator[Shard]:
    """Makes the parts on Ray workers; shards come back in any order. Raises RuntimeError where the workers failed."""
    from ray_jobs.batch.ray_data import WorkersFailed, on_ray

    try:
        yield from on_ray(source, made, plan, bundle.loaded(), workers, screen)
    except WorkersFailed as error:
        raise RuntimeError(f"{error}; the same command goes on where they were") from error


def follow(shards: Iterable[Shard], doing: str, screen: Screen) -> dict[str, Any]:
    """Waits for all shards and shows how far they are; returns what the manifest says of them."""
    rate, parts, rows, bad = RowsPerSecond(), 0, 0, 0
    first: list[tuple[int, list[str]]] = []
    for shard in shards:
        parts, rows, bad = parts + 1, rows + shard.rows, bad + len(shard.bad)
        if shard.bad:
            first = sorted([*first, (shard.number, shard.bad[:LISTED])])[:LISTED]
        screen.progress(Progress(doing, "rows", 0, 0, rows, 0, speed=rate.of(0 if shard.made else shard.rows)))
    screen.end_line()
    listed = [reason for _, reasons in first for reason in reasons][:LISTED]
    return {"parts": parts, "rows": rows, "quarantined": {"rows": bad, "first": listed}}


class RowsPerSecond:
    """Rows a second since the first ones came: what workers need to start is not counted."""

    def __init__(self) -> None:
        self._began, self._rows = 0.0, 0

    def of(self, rows: int) -> float | None:
        """The rate with so many more rows; None where there is nothing to count yet."""
        if not rows:
            return None
        if not self._began:
            self._began = time.monotonic()
            return None
        self._rows += rows
        return self._rows / (time.monotonic() - self._began)
