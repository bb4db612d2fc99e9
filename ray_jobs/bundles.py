"""`minibert evaluate` and `minibert predict`: a bundle on data files, in this process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import torch
from tokenizers import Tokenizer

from lightning_modules.progress import Progress
from multitask.bundle import Bundle, read_bundle
from multitask.data.maps import Place, place_of
from multitask.data.sample import sample_uri
from multitask.data.tokens import TokenTable, cache_tokens, load_tokens
from multitask.embed import default_device
from multitask.errors import UserError
from multitask.evaluate import INTERVAL_SEED, EvalSet, predictions
from multitask.finding import find_bundle
from multitask.metrics import bootstrap_interval, majority_baseline, overall, score
from multitask.model.multitask import MultitaskModel
from multitask.predictions import write_predictions, write_submission_zip
from multitask.results import cell
from multitask.storage import Storage, join
from multitask.tasks import Split, TaskSpec
from ray_jobs.screen import Screen

MAX_BAD_ROWS = 0.01
BOTH: tuple[Split, ...] = ("dev", "test")


def evaluate_bundle(uri: str, data: str | None, split: str, screen: Screen) -> None:
    """Shows every task's exact metric with its 95 % interval. Raises UserError where no task has that split."""
    if split not in ("train", "dev"):
        raise UserError(f"--split '{split}': only files with labels can be evaluated; valid: train, dev")
    bundle, place = _opened(uri, data)
    model = bundle.model().to(default_device())
    found = [
        _scored(bundle.specs[task], table, predicted)
        for task, _, table, predicted in _predicted(bundle, model, place, [cast(Split, split)], screen)
    ]
    total = overall({row["metric"]: row["value"] for row in found})
    if screen.as_json:
        screen.document({"bundle": uri, "data": place.uri, "split": split, "tasks": found, **total})
        return
    header = ["metric", "value", "95 % interval", "rows", "majority class"]
    rows = [_table_row(row) for row in found]
    rows += [[name, cell(value), "", "", ""] for name, value in total.items() if value is not None]
    screen.table(header, rows, title=f"{uri} on {split} of {place.uri}")


def _scored(spec: TaskSpec, table: TokenTable, predicted: torch.Tensor) -> dict[str, Any]:
    labels = table.labels.double()
    result = score(spec.metric, predicted, labels)
    return {
        "metric": spec.metric_key,
        "value": result.value,
        "why": result.why,
        "interval": bootstrap_interval(spec.metric, predicted, labels, INTERVAL_SEED),
        "rows": len(table),
        "quarantined": len(table.quarantined),
        "majority_baseline": majority_baseline(labels, spec.label.kind),
    }


def _table_row(row: dict[str, Any]) -> list[str]:
    interval = " .. ".join(cell(bound) for bound in row["interval"]) if row["interval"] else "-"
    return [
        row["metric"],
        cell(row["value"], row["why"]),
        interval,
        str(row["rows"]),
        cell(row["majority_baseline"]),
    ]


def predict_bundle(uri: str, data: str | None, output: str, screen: Screen) -> None:
    """Writes the prediction files for dev and test of every task that has them, and the zip."""
    bundle, place = _opened(uri, data)
    model, folder = bundle.model().to(default_device()), Storage(output)
    for task in bundle.heads:
        for missing in BOTH:
            if not place.has(bundle.specs[task], missing):
                screen.say(f"{task}: no {missing} file in {place.uri}, none predicted")
    files = []
    for task, split, table, predicted in _predicted(bundle, model, place, list(BOTH), screen):
        path = write_predictions(folder, bundle.specs[task], split, table.ids, predicted.tolist())
        files.append({"task": task, "split": split, "rows": len(table), "file": join(folder.uri, path)})
        screen.say("{task}: {rows} predictions of {split} in {file}".format(**files[-1]))
    submission = join(folder.uri, write_submission_zip(folder))
    screen.say(f"submission: {submission}")
    if screen.as_json:
        screen.document({"bundle": uri, "data": place.uri, "files": files, "submission": submission})


def _opened(uri: str, data: str | None) -> tuple[Bundle, Place]:
    bundle = read_bundle(find_bundle(uri))
    if not bundle.heads:
        raise UserError(f"bundle '{uri}': an encoder without heads; it can only be trained from")
    return bundle, place_of(data or sample_uri())


def _predicted(
    bundle: Bundle, model: MultitaskModel, place: Place, splits: list[Split], screen: Screen
) -> Iterator[tuple[str, Split, TokenTable, torch.Tensor]]:
    """(task, split, table, predictions) of every split that the place has; UserError where it has none at all."""
    specs = [bundle.specs[task] for task in bundle.heads]
    wanted = [(spec, split) for spec in specs for split in splits if place.has(spec, split)]
    if not wanted:
        place.find(specs[0], splits[0])  # says what is there instead
    with tempfile.TemporaryDirectory(prefix="minibert-tokens-") as cache:
        for spec, split in wanted:
            table = _table(bundle, Storage(cache), place, spec, split)
            data = EvalSet.of(spec.name, table, default_device().type)
            tell = partial(_tell, screen, f"{spec.name} {split}", len(table))
            yield spec.name, split, table, predictions(model, data, device=default_device(), progress=tell)
            screen.end_line()


def _tell(screen: Screen, doing: str, total: int, done: int) -> None:
    screen.progress(Progress("predicting", doing, 0, 0, done, total))


def _table(bundle: Bundle, cache: Storage, place: Place, spec: TaskSpec, split: Split) -> TokenTable:
    path = cache_tokens(
        cache,
        place.find(spec, split),
        spec,
        Tokenizer.from_str(bundle.tokenizer_json),
        labelled=split != "test",
        max_length=bundle.max_length,
        max_bad_rows=bundle.about.get("max_bad_rows", MAX_BAD_ROWS),
        columns=place.columns(spec.name, bundle.about.get("columns", {}).get(spec.name, {})),
    )
    return load_tokens(cache, path)
