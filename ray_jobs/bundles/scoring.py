"""`minibert evaluate` and `minibert predict`: a bundle, or an ensemble, on data files, in this process."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_modules.progress import Progress
from multitask.bundle.ensemble import Answering
from multitask.bundle.fitting import fitted_on
from multitask.data.file_parts import parted
from multitask.data.progress import Done
from multitask.data.sample import sample_uri
from multitask.data.shards import Shards
from multitask.data.tokens import TokenTable
from multitask.errors import UserError, near, well_formed
from multitask.experiment.finding import open_answering
from multitask.experiment.results import cell
from multitask.export.provenance import provenance_of
from multitask.inference.files import FileOutputs, file_outputs
from multitask.inference.submission import is_submitted, write_predictions, write_submission_zip
from multitask.measure.classes import Classes, by_class
from multitask.measure.evaluate import metrics_of, table_score
from multitask.measure.metrics import OVERALL_OF, Predicted, majority_baseline, overall
from multitask.recipe.data_maps import Place, place_of
from multitask.recipe.settings import Task
from multitask.storage.owners import kept_in
from multitask.storage.storage import Storage
from multitask.storage.uris import join
from multitask.tasks.table import TASKS, Split, TaskSpec
from ray_jobs.bundles.unseen import training_texts, unseen_rows
from ray_jobs.screen import Screen

log = logging.getLogger(__name__)

BOTH: tuple[Split, ...] = ("dev", "test")
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
TRAIN = SPLITS[:1]
SHOWN_CLASSES = 20


def evaluate_bundle(
    uri: str, data: str | None, split: str, screen: Screen, clean: bool = False, classes: bool = False
) -> None:
    """Shows every task's exact metric with its 95 % interval. clean: also without the rows whose text a training file
    has. classes: also each class by itself, of all rows. Raises UserError where no task has that split, or its file no
    labels."""
    wanted = wanted_split(split, clean)
    model, place = opened(uri, data, [wanted, *TRAIN[: int(clean)]])
    seen = training_texts([(model, place)]) if clean else None
    whole, unseen, of = [], [], model.about.get("overall") or OVERALL_OF
    of_classes: dict[str, Classes] = {}
    for one in outputs_of(model, place, [wanted], screen):
        tell_of_fitting(uri, model, one)
        predicted = one.predicted(model.shares(one.spec.name))
        of_task = (
            by_class(predicted.labels.numpy(), one.table.labels.double().numpy(), one.spec.label) if classes else None
        )
        of_classes |= {one.spec.name: of_task} if of_task else {}
        rows = unseen_rows(seen, model, place, one.spec, wanted, one.table) if seen else None
        for metric in metrics_of(one.spec, [*of, *model.about.get("measures", [])]):
            whole.append(scored(one.spec, metric, one.table, predicted))
            if rows is not None:
                unseen.append(scored(one.spec, metric, one.table, predicted, rows))
    if screen.as_json:
        found = {"bundle": uri, "data": place.uri, "split": split, **_with_overall(whole, of)}
        found |= {"clean": _with_overall(unseen, of)} if clean else {}
        found |= {"classes": {task: _classes_document(one) for task, one in of_classes.items()}} if classes else {}
        screen.document(found)
        return
    _show(screen, whole, of, f"{uri} on {split} of {place.uri}")
    for task, found_classes in of_classes.items():
        _show_classes(screen, task, found_classes)
    if clean:
        _show(screen, unseen, of, f"{uri} on those rows of {split} of which no text is in a training file")
        tell_of_none_unseen({row["metric"].partition("/")[0]: row["rows"] for row in unseen}, split, screen)


def tell_of_none_unseen(rows: Mapping[str, int], split: str, screen: Screen) -> None:
    """Says of which tasks every row of the split has a text that a training file has too. rows: task -> those that have
    none."""
    if gone := [task for task, count in rows.items() if not count]:
        screen.say(f"--clean: every {split} row of {', '.join(gone)} has a text of a training file, so nothing is left")


def wanted_split(split: str, clean: bool) -> Split:
    """The split of that name. Raises UserError where there is none, or nothing of it can be unseen in training."""
    found = next((known for known in SPLITS if known == split), None)
    if found is None:
        raise UserError(f"--split '{split}': valid: {', '.join(SPLITS)}{near(split, SPLITS)}")
    if clean and found in TRAIN:
        raise UserError(f"--clean --split {split}: every text of it is in a training file; valid: dev, test")
    return found


def tell_of_fitting(name: str, model: Answering, one: FileOutputs) -> None:
    """Says where an ensemble's weights, or a bundle's calibration, were fitted on the rows that are measured. name:
    what the user calls the model."""
    if one.table.sha256 in fitted_on(model.about, one.spec.name):
        log.warning(
            "%s: %s was fitted on these rows; what it scores on others is what the command that fitted it measured by "
            "cross-fitting",
            one.table.source,
            name,
        )


def scored(
    spec: TaskSpec, metric: str, table: TokenTable, predicted: Predicted, rows: NDArray[np.bool_] | None = None
) -> dict[str, Any]:
    """A metric of a task on a table, with what it rests on, as --json has it. rows: (N,) whether each is measured; all
    of them where it is None."""
    labels = table.labels.double().numpy()
    labels = labels if rows is None else labels[rows]
    return {
        "metric": f"{spec.name}/{metric}",
        **asdict(table_score(spec, metric, table, predicted, rows)),
        "source": table.source,
        "rows": len(labels),
        "quarantined": len(table.quarantined),
        "majority_baseline": majority_baseline(labels, spec.label.kind),
    }


def _with_overall(rows: Sequence[Mapping[str, Any]], of: Sequence[str]) -> dict[str, Any]:
    return {"tasks": rows, **overall({row["metric"]: row["value"] for row in rows}, of)}


def _show(screen: Screen, found: Sequence[dict[str, Any]], of: Sequence[str], title: str) -> None:
    header = ["metric", "value", "95 % interval", "rows", "majority class"]
    rows = [table_row(row) for row in found]
    total = overall({row["metric"]: row["value"] for row in found}, of)
    rows += [[name, cell(value), "", "", ""] for name, value in total.items() if value is not None]
    screen.table(header, rows, title=title)


def _classes_document(found: Classes) -> dict[str, Any]:
    confusion = None if found.confusion is None else found.confusion.tolist()
    return {"classes": [asdict(one) for one in found.scores], "confusion": confusion}


def _show_classes(screen: Screen, task: str, found: Classes) -> None:
    """Shows a task's classes, and which of them are taken for which, where a screen has room for so many."""
    rows = [
        [one.name, str(one.rows), str(one.given), *(cell(value) for value in (one.precision, one.recall, one.f1))]
        for one in found.scores
    ]
    screen.table([task, "rows", "given", "precision", "recall", "F1"], rows)
    if found.confusion is not None and len(rows) <= SHOWN_CLASSES:
        names = [one.name for one in found.scores]
        taken = [[name, *map(str, row)] for name, row in zip(names, found.confusion.tolist(), strict=True)]
        screen.table([f"{task}, taken for", *names], taken)


def table_row(row: Mapping[str, Any]) -> list[str]:
    """What `scored` found, in words: metric, value, interval, rows and majority class."""
    interval = " .. ".join(cell(bound) for bound in row["interval"]) if row["interval"] else "-"
    return [
        row["metric"],
        cell(row["value"], row["why"]),
        interval,
        str(row["rows"]),
        cell(row["majority_baseline"]) if row["metric"].endswith("/accuracy") else "-",
    ]


def predict_bundle(uri: str, data: str | None, output: str, screen: Screen) -> None:
    """Writes the prediction files for dev and test of every task that has them, and CS224N's zip of them where one of
    its tasks is among these."""
    model, place = opened(uri, data, BOTH)
    folder = Storage(output)
    folder.probe()  # before the minutes that predicting takes
    for task in model.tasks:
        for missing in BOTH:
            if not place.has(model.specs[task], missing):
                screen.say(f"{task}: no {missing} file in {place.uri}, none predicted")
    files, paths = [], []
    for one in outputs_of(model, place, BOTH, screen, BOTH[:1]):
        task, split, table = one.spec.name, one.split, one.table
        labels = one.predicted(model.shares(task)).labels.tolist()
        paths.append(path := write_predictions(folder, one.spec, split, table.ids, labels))
        files.append({"task": task, "split": split, "rows": len(table), "file": join(folder.uri, path)})
        screen.say("{task}: {rows} predictions of {split} in {file}".format(**files[-1]))
    submission = None
    if is_submitted(str(file["task"]) for file in files):
        submission = join(folder.uri, write_submission_zip(folder, paths))
        screen.say(f"submission: {submission}")
    if screen.as_json:
        screen.document({"bundle": uri, "data": place.uri, "files": files, "submission": submission})


def opened(uri: str, data: str | None, splits: Sequence[Split]) -> tuple[Answering, Place]:
    """A bundle or ensemble with heads, and where its tasks' files lie: --data, or what it was trained with. Raises
    UserError for an encoder without heads, and where a file of those splits is not there."""
    model = open_answering(uri).bundle
    if not model.tasks:
        raise UserError(f"bundle '{uri}': an encoder without heads; it can only be trained from")
    return model, place_of(data) if data else trained_on(uri, model, splits)


def trained_on(uri: str, bundle: Answering, splits: Sequence[Split]) -> Place:
    """The place of the files that the bundle's tasks were trained on, as its experiment's results say, or an ensemble
    of its members'; where nothing says so, the packaged sample, which built-in tasks have.

    Raises UserError where an own task has no files, or a file of the wanted splits is not there any more.
    """
    return place_known(uri, bundle, provenance_of(uri).data or bundle.about.get("data", {}), splits)


def place_known(uri: str, bundle: Answering, facts: Mapping[str, Any], splits: Sequence[Split]) -> Place:
    """The place of which `trained_on` tells. uri: what an error calls the bundle. facts: task -> its files."""
    columns = bundle.about.get("columns", {})
    with well_formed(f"bundle '{uri}': its files"):
        tasks = {
            task: Task(**_files(facts[task]["source"]), columns=columns.get(task, {}))
            for task in bundle.tasks
            if task in facts
        }
    if not tasks and all(task in TASKS for task in bundle.tasks):
        return place_of(sample_uri())
    if not tasks:
        raise UserError(f"bundle '{uri}': no experiment around it says what its tasks' files are; give --data")
    for task, files in tasks.items():
        for file in (name for split in splits for name in getattr(files, split) or ()):
            if "://" not in file and not Path(parted(file)[0]).is_file():
                raise UserError(f"bundle '{uri}': {task} was trained with {file}, which is not there; give --data")
        _tell_of_changes(bundle.specs[task], files, facts[task].get("fingerprint", {}), splits)
    return Place(f"what {uri} was trained with", tasks, "")


def _tell_of_changes(spec: TaskSpec, files: Task, known: Mapping[str, str], splits: Sequence[Split]) -> None:
    """Says where files on this machine hold something else than when the bundle was trained."""
    for split in splits:
        names = getattr(files, split) or []
        if split in known and names and not any("://" in name for name in names):
            with Shards.opened(names, spec, split != "test", files.columns) as reading:
                if reading.sha256() != known[split]:
                    log.warning("%s: not what it was when the bundle was trained", reading.source)


def _files(source: Mapping[str, str]) -> dict[Split, list[str]]:
    """Split -> its files, from what results.json says of a task, where commas join several and names may hold some."""
    found: dict[Split, list[str]] = {}
    for split in SPLITS:
        if said := source.get(split):
            found[split] = [said] if Path(parted(said)[0]).is_file() else said.split(", ")
    return found


def outputs_of(
    model: Answering,
    place: Place,
    splits: Sequence[Split],
    screen: Screen,
    labelled: Collection[Split] = SPLITS,
    tasks: Collection[str] | None = None,
) -> Iterator[FileOutputs]:
    """What `file_outputs` finds, with progress; their tables are there until the next one is asked for. tasks: those
    that are wanted; all that the model has where it is None."""

    def tell(doing: str, total: int) -> Done:
        screen.end_line()
        return partial(_tell, screen, doing, total)

    with tempfile.TemporaryDirectory(prefix=kept_in("tokens")) as cache:
        found = file_outputs(model, place, splits, labelled, Storage(cache), tell, tasks)
        screen.end_line()
        yield from found


def _tell(screen: Screen, doing: str, total: int, done: int) -> None:
    screen.progress(Progress("predicting", doing, 0, 0, done, total))
