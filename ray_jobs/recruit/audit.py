"""`minibert recruit audit`: swap names and see what changes; a bound that is broken is exit status 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import torch

from lightning_modules.progress import Progress
from multitask.data.files import find_file
from multitask.data.progress import Done
from multitask.data.samplers import subset
from multitask.data.shards import ReadResult, read_examples
from multitask.errors import UserError
from multitask.experiment.finding import open_bundle
from multitask.experiment.results import cell
from multitask.inference.embed import default_device
from multitask.measure.metrics import Floats
from multitask.recruit.audit import (
    Bounds,
    Finding,
    Judge,
    Search,
    Sentiment,
    every_name,
    impact,
    rank_shifts,
    sentiment_differences,
)
from multitask.recruit.names import SETS
from multitask.recruit.suitability import Pair, Suitability, TaskModel, labels_note
from multitask.storage.sealed import write_document
from multitask.storage.storage import file_at
from multitask.tasks.table import TASKS
from ray_jobs.recruit.suitability import interval_cell
from ray_jobs.screen import Screen

SCHEMA = 1
BROKEN = 3  # exit status
MOST = 50  # applications, drawn by seed: each is read under every name
SEED = 11711
DEPTH = 50  # postings of a ranking
WEAK_APPLICATIONS = "weak applications made from held-out postings: qualifications as postings state them, not people's"


@dataclass(frozen=True)
class AuditRequest:
    """What to audit, on which applications, and by which bounds."""

    suitability: str | None = None
    """A bundle that judges suitability."""
    index: str | None = None
    """What `minibert recruit index` made."""
    sentiment: str | None = None
    """A bundle with a head for sst."""
    applications: str | None = None
    """A file of jobs and applications."""
    data: str | None = None
    """A directory of `minibert recruit prepare`, whose held-out rows are the applications where no file is given."""
    output: str | None = None
    """A JSON file for the findings."""
    bounds: Bounds = field(default_factory=Bounds)

    @property
    def audited(self) -> dict[str, str | None]:
        """Part -> what is audited of it."""
        return {"suitability": self.suitability, "index": self.index, "sentiment": self.sentiment}


def run_audit(request: AuditRequest, screen: Screen) -> int:
    """Audits what the request names; returns 3 where a bound is broken, else 0. Its output is JSON of this schema:

    {"schema": 1, "suitability", "index", "sentiment": URI or null, "labels": what the suitability head learned from,
    "applications": {"source", "rows", "used", "note"} or null, "bounds": {name: number}, "sources": {name set: where it
    is from}, "left_out": [why], "findings": [{"what", "group": "set: group", "value": null where undefined, "interval",
    "bound", "verdict": ok, broken, undefined or shown, "why"}], "broken": count}
    """
    audited, bounds = request.audited, request.bounds
    if not any(audited.values()):
        raise UserError("nothing to audit: give --suitability BUNDLE, --index DIR or --sentiment BUNDLE, or several")
    place = file_at(request.output) if request.output else None
    if place:
        place[0].probe()  # before the minutes that the audit takes
    pairs, read = _applications(request) if request.suitability or request.index else ([], None)
    findings = _findings(audited, pairs, read, bounds, screen)
    broken = sum(finding.verdict == "broken" for finding in findings)
    report = {
        "schema": SCHEMA, **audited,
        "labels": labels_note(open_bundle(request.suitability)) if request.suitability else "",
        "applications": read, "bounds": vars(bounds), "sources": {some.name: some.source for some in SETS},
        "left_out": [f"{part}: no --{part} was given" for part, uri in audited.items() if not uri],
        "findings": [finding.to_json() for finding in findings], "broken": broken,
    }  # fmt: skip
    if place:
        write_document(place[0], place[1], report)
    if screen.as_json:
        screen.document(report)
    else:
        _show(screen, findings, report)
    return BROKEN if broken else 0


def _findings(
    audited: dict[str, str | None],
    pairs: list[Pair],
    read: dict[str, Any] | None,
    bounds: Bounds,
    screen: Screen,
) -> list[Finding]:
    """The findings of all parts that are audited.

    pairs: the applications, for suitability and search. read: the facts about them, None where there are none.
    """
    findings: list[Finding] = []
    if read:
        names = len(every_name(SETS))
        screen.note(f"{read['used']} of {read['rows']} applications of {read['source']}, each under {names} names")
        screen.note(read["note"] or "applications as the file has them")
    if uri := audited["suitability"]:
        findings += impact(judge_of(uri, _telling(screen)), pairs, SETS, bounds)
    if uri := audited["index"]:
        queries = list(dict.fromkeys(application for _, application in pairs))
        screen.note(f"searching with {len(queries)} applications under every name ...")
        findings += rank_shifts(search_of(uri), queries, SETS, bounds)
    if uri := audited["sentiment"]:
        findings += sentiment_differences(sentiment_of(uri), SETS, bounds)
    return findings


def _applications(request: AuditRequest) -> tuple[list[Pair], dict[str, Any]]:
    """At most MOST (job, application) pairs, from a file or a directory's suitability dev file, and the facts about
    them. Raises UserError where the request names neither."""
    spec, uri, data = TASKS["suitability"], request.applications, request.data
    if not uri and not data:
        raise UserError("--suitability and --index want applications: give --applications FILE, or --data DIR")
    read: ReadResult = read_examples(uri or find_file(str(data), spec, "dev"), spec, labelled=False)
    rows = subset(len(read.examples), MOST, SEED)
    pairs = [(read.examples[row].texts[0], read.examples[row].texts[1]) for row in rows.tolist()]
    note = "" if uri else WEAK_APPLICATIONS
    return pairs, {"source": read.source, "rows": len(read.examples), "used": len(pairs), "note": note}


def judge_of(uri: str, told: Done) -> Judge:
    """The suitability bundle at a URI as a judge. told: called with how often it has judged, once a name."""
    model, times = Suitability(open_bundle(uri), default_device()), count(1)

    def judge(pairs: Sequence[Pair]) -> Floats:
        found = model.probabilities(pairs)
        told(next(times))
        return found

    return judge


def _telling(screen: Screen) -> Done:
    names = len(every_name(SETS))
    return lambda done: screen.progress(Progress("audit", "name", 0, 0, done, names))


def search_of(uri: str) -> Search:
    """The index at a URI as a search: rankings as `minibert recruit search` makes them, without the words it marks."""
    from multitask.recruit.search import Searcher

    searcher = Searcher.open(uri, default_device())

    def search(queries: Sequence[str]) -> list[list[str]]:
        orders = [np.argsort(-scores, kind="stable")[:DEPTH] for scores in searcher.scores(queries)]
        return [[searcher.index.postings[place].id for place in order.tolist()] for order in orders]

    return search


def sentiment_of(uri: str) -> Sentiment:
    """The bundle at a URI as a judge of sentiment: the classes 0..4 weighted by their probabilities."""
    model = TaskModel(open_bundle(uri), "sst", default_device())

    def sentiment(sentences: Sequence[str]) -> Floats:
        outputs = model.outputs(sentences).softmax(dim=1)
        expected: Floats = (outputs @ torch.arange(outputs.shape[1], dtype=outputs.dtype)).numpy()
        return expected

    return sentiment


def _show(screen: Screen, findings: Sequence[Finding], report: dict[str, Any]) -> None:
    rows = [[f.what, f.group, cell(f.value, f.why), interval_cell(f.interval), f.bound, f.verdict] for f in findings]
    screen.table(["what", "group", "value", "95 % interval", "bound", "verdict"], rows)
    for name, source in report["sources"].items():
        screen.say(f"names '{name}': {source}")
    for line in report["left_out"]:
        screen.say(f"left out: {line}")
    if report["labels"]:
        screen.say(f"suitability's labels: {report['labels']}")
    undefined = sum(finding.verdict == "undefined" for finding in findings)
    screen.say(f"{report['broken']} bounds broken, {undefined} undefined, of {sum(bool(f.bound) for f in findings)}")
