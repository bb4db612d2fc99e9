"""`minibert recruit measure` and `card`: what a bundle is worth on the postings that `prepare` held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from multitask.bundle.bundle import Bundle
from multitask.data.files import find_file
from multitask.data.shards import read_examples
from multitask.errors import UserError
from multitask.experiment.finding import open_bundle
from multitask.experiment.results import cell
from multitask.inference.embed import default_device
from multitask.recruit.card import recruiter_card
from multitask.recruit.completion import Completer, measure_titles
from multitask.recruit.index import COMPLETION
from multitask.recruit.postings import read_postings
from multitask.recruit.quality import compare
from multitask.recruit.repeats import repeat_groups
from multitask.recruit.suitability import TASK as SUITABILITY
from multitask.storage.sealed import Damaged, read_document
from multitask.storage.storage import file_at
from multitask.storage.uris import join, local_copy
from multitask.tasks.table import Split
from ray_jobs.recruit.completion import pairs_of
from ray_jobs.recruit.folds import search_summary, systems
from ray_jobs.recruit.suitability import suitability_metrics
from ray_jobs.screen import Screen

MetricRow = dict[str, Any]  # metric, value, interval, rows, and why where the value is null
SPLITS: tuple[Split, ...] = ("train", "dev")


def measure_bundle(bundle: str, data: str, screen: Screen) -> None:
    """Shows the metrics of what the bundle was trained for."""
    rows = measured(open_bundle(bundle), data)
    if screen.as_json:
        screen.document({"bundle": bundle, "data": data, "metrics": rows})
        return
    body = [
        [row["metric"], cell(row["value"], row["why"]), " .. ".join(map(cell, row["interval"] or ())), str(row["rows"])]
        for row in rows
    ]
    screen.table(["metric", "value", "95 % interval", "rows"], body, title=f"{bundle} on what {data} holds out")


def write_card(bundle: str, data: str, output: str, audit: str | None, screen: Screen) -> None:
    """Writes the model card. audit: the JSON file of `minibert recruit audit --output`."""
    loaded = open_bundle(bundle)
    findings = _findings(audit) if audit else None
    text = recruiter_card(loaded.about, _files(loaded, data), measured(loaded, data), findings)
    folder, name = file_at(output)
    folder.write_bytes(name, text.encode())
    screen.say(f"card: {output}")
    if screen.as_json:
        screen.document({"card": output, "bundle": bundle})


def measured(bundle: Bundle, data: str) -> list[MetricRow]:
    """The metrics of what the bundle's stage has trained; of search for a stage that has trained nothing else."""
    return MEASURES.get(_purpose(bundle), _search)(bundle, data)


def _purpose(bundle: Bundle) -> str:
    about = bundle.about
    return SUITABILITY if SUITABILITY in about.get("tasks", ()) else about.get("objective", "")


def _search(bundle: Bundle, data: str) -> list[MetricRow]:
    """The metrics of search: the held-out postings ask, and those trained on are among what may be found."""
    sides = [read_postings(join(data, f"postings-{split}.jsonl")).items for split in SPLITS]
    items = [*sides[0], *sides[1]]
    rows = range(len(sides[0]), len(items))
    before = open_bundle(bundle.about.get("encoder", "minilm-l6"))
    found = search_summary(compare(systems(before, bundle), items, repeat_groups(items), rows))
    return [
        {
            "metric": f"{metric}, {row['query']}: {row['system']}",
            "value": row[metric]["value"],
            "interval": (row[metric]["low"], row[metric]["high"]),
            "rows": row[metric]["queries"],
            "why": "",
        }
        for row in found["systems"]
        for metric in ("recall@1", "recall@10", "mrr", "ndcg@10")
    ]


def _completion(bundle: Bundle, data: str) -> list[MetricRow]:
    from multitask.inference.embed import TextEncoder

    completer, encoder = Completer(bundle, default_device()), TextEncoder(bundle, default_device())
    found = measure_titles(completer, encoder, pairs_of(data, "train"), pairs_of(data, "dev"))
    return [
        {
            "metric": f"{row.metric}: {row.method}",
            "value": row.value,
            "interval": row.interval,
            "rows": row.rows,
            "why": "",
        }
        for row in found
    ]


def _suitability(bundle: Bundle, data: str) -> list[MetricRow]:
    found = suitability_metrics(bundle, data)
    weak = " (weak labels)" if found["labels"] else ""
    return [{"metric": f"{name}{weak}", "rows": found["rows"], **row} for name, row in found["metrics"].items()]


MEASURES: dict[str, Callable[[Bundle, str], list[MetricRow]]] = {
    COMPLETION: _completion,  # the objective that its bundle was trained by is called so, too
    SUITABILITY: _suitability,
}


def _files(bundle: Bundle, data: str) -> list[MetricRow]:
    """Task, split, rows and sha256 of each file that the bundle's tasks have in the directory."""
    found = []
    for task in bundle.about.get("tasks", ()):
        spec, columns = bundle.specs[task], bundle.about.get("columns", {}).get(task, {})
        for split in SPLITS:
            uri = find_file(data, spec, split)
            rows = len(read_examples(uri, spec, labelled=True, columns=columns).examples)
            with local_copy(uri) as path, open(path, "rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            found.append({"task": task, "split": split, "rows": rows, "sha256": sha256[:12]})
    return found


def _findings(uri: str) -> list[MetricRow]:
    folder, name = file_at(uri)
    try:
        findings: list[MetricRow] = read_document(folder, name)["findings"]
    except (FileNotFoundError, ValueError, KeyError, TypeError, Damaged) as error:
        raise UserError(f"--audit {uri}: {error}; valid: what `minibert recruit audit --output` wrote") from error
    return findings
