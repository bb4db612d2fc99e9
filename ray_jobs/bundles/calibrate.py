"""`minibert calibrate`: a bundle whose probabilities fit the labels of dev, and what that is worth on other rows."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from multitask.bundle.bundle import Bundle
from multitask.bundle.fitting import with_fitting
from multitask.bundle.last_layer import moved
from multitask.errors import UserError
from multitask.experiment.finding import open_bundle
from multitask.experiment.results import cell
from multitask.export.provenance import shared_data
from multitask.inference.files import FileOutputs
from multitask.measure.calibrate import Calibration, calibrated, cross_calibrated, surprise
from multitask.measure.ensembles import FOLDS
from multitask.measure.evaluate import metrics_of, predicted_of
from multitask.measure.metrics import OVERALL_OF
from multitask.recipe.data_maps import place_of
from multitask.storage.storage import Storage
from multitask.tasks.labels import KINDS
from ray_jobs.bundles.output import BUNDLE, check_free, publish_bundle
from ray_jobs.bundles.scoring import outputs_of, scored, table_row, tell_of_fitting, trained_on
from ray_jobs.screen import Screen

log = logging.getLogger(__name__)

EARLIER = ("temperature", "calibration")  # of `about`: what the recruiter's calibration says


def calibrate_bundle(uri: str, output: str, data: str | None, screen: Screen) -> None:
    """Writes the bundle to `output` with each head whose outputs are probabilities calibrated to its task's dev file.

    What is reported is cross-fitted: each row's by what was fitted to others. data: where the dev files are; those it
    was trained with where it is None. A head that cannot be calibrated stays as it is, which is said. Raises UserError
    where none can, and for an `output` that is not free.
    """
    target = Storage(output)
    check_free(target, *BUNDLE)
    bundle = open_bundle(uri)
    tasks = [task for task in bundle.answers if KINDS[bundle.specs[task].label.kind].chances]
    if not tasks:
        raise UserError(f"bundle '{uri}': no trained head whose outputs are probabilities, so nothing to calibrate")
    place = place_of(data) if data else trained_on(uri, bundle, ["dev"])
    for task in tasks:
        if not place.has(bundle.specs[task], "dev"):
            log.warning("%s: left as it is: no dev file in %s", task, place.uri)
    made, rows = bundle, list[dict[str, Any]]()
    for one in outputs_of(bundle, place, ["dev"], screen, tasks=tasks):
        screen.note(f"calibrating {one.spec.name}")
        tell_of_fitting(bundle, one)
        try:
            found, told = _calibrated(one, bundle.about.get("overall") or list(OVERALL_OF))
        except UserError as error:
            log.warning("%s: left as it is: %s", one.spec.name, error)
            continue
        made = _with(made, one, found)
        rows.append(told)
    if not rows:
        raise UserError(f"bundle '{uri}': no head of it could be calibrated on {place.uri}; the lines above say why")
    made = replace(made, about={**_still_true(made, tasks, rows), "data": _data_of(uri, bundle)})
    publish_bundle(made, target)
    _tell(rows, target, place.uri, screen)


def _calibrated(one: FileOutputs, overall_of: list[str]) -> tuple[Calibration, dict[str, Any]]:
    """What suits all rows, and what is said of each row by what suits others. Raises UserError for too few rows."""
    spec, table, outputs = one.spec, one.table, one.outputs[0]
    if len(table) < 2 * FOLDS:
        raise UserError(f"calibrate: {table.source} has {len(table)} rows; {FOLDS} folds need {2 * FOLDS} or more")
    labels = table.labels.double()
    found = calibrated(outputs, labels, spec.label, table.source)
    crossed = cross_calibrated(outputs, labels, spec.label, table.source)
    metrics = [
        {
            "before": scored(spec, metric, table, predicted_of(outputs, spec.label))["value"],
            **scored(spec, metric, table, predicted_of(crossed, spec.label)),
        }
        for metric in metrics_of(spec, overall_of)
    ]
    surprises = {name: surprise(some, labels, spec.label) for name, some in (("before", outputs), ("value", crossed))}
    return found, {
        "task": spec.name,
        "scale": found.scale,
        "shift": found.shift.tolist(),
        "metrics": metrics,
        "cross_entropy": surprises,
    }


def _with(bundle: Bundle, one: FileOutputs, found: Calibration) -> Bundle:
    """The bundle with one more head calibrated; it says on which rows."""
    task = one.spec.name
    made = moved(bundle, task, found.scale, found.shift.flatten() if found.shift.ndim else found.shift)
    return replace(made, about=with_fitting(bundle.about, {task: [one.table.sha256]}))


def _still_true(bundle: Bundle, tasks: list[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the bundle says of itself, without what an earlier calibration said of heads that have all moved."""
    all_moved = len(rows) == len(tasks)
    return {key: value for key, value in bundle.about.items() if not (all_moved and key in EARLIER)}


def _data_of(uri: str, bundle: Bundle) -> dict[str, Any]:
    """Task -> the files that it was trained with: a bundle that lies alone does not know them from its experiment."""
    return shared_data([uri]) or bundle.about.get("data", {})


def _tell(rows: list[dict[str, Any]], target: Storage, data: str, screen: Screen) -> None:
    """Shows what calibrating is worth, and where the bundle lies."""
    if screen.as_json:
        screen.document({"bundle": target.uri, "data": data, "folds": FOLDS, "tasks": rows})
        return
    shown = []
    for row in rows:
        for one in row["metrics"]:
            metric, value, interval, count, _ = table_row(one)
            shown.append([metric, cell(one["before"]), value, interval, count])
        both = row["cross_entropy"]
        shown.append([f"{row['task']}/cross-entropy", cell(both["before"]), cell(both["value"]), "", ""])
    screen.table(["dev", "before", "calibrated", "95 % interval", "rows"], shown, title=f"dev of {data}")
    for row in rows:
        shift = row["shift"] if isinstance(row["shift"], list) else [row["shift"]]
        screen.say(f"{row['task']}: outputs times {cell(row['scale'])}, plus {', '.join(map(cell, shift))}")
    screen.say(
        f"calibrated: to all dev rows; these scores are cross-fitted over {FOLDS} folds, each row's by what was fitted "
        f"to the others"
    )
    screen.say(f"bundle: {target.uri}")
