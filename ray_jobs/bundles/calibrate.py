"""`minibert calibrate`: a bundle, or an ensemble, whose probabilities fit the labels of dev, and what that is worth on
other rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from multitask.bundle.bundle import Bundle, bundle_fingerprint, member_folder, save_bundle
from multitask.bundle.ensemble import Answering, Ensemble, ensemble_facts, write_ensemble
from multitask.bundle.fitting import with_fitting
from multitask.bundle.last_layer import moved
from multitask.errors import UserError, near
from multitask.experiment.finding import open_answering
from multitask.experiment.results import cell
from multitask.export.provenance import shared_data
from multitask.inference.files import FileOutputs
from multitask.measure.calibrate import DECISIONS, Calibration, calibrated, cross_calibrated, surprise, with_best_cuts
from multitask.measure.ensembles import FOLDS
from multitask.measure.evaluate import metrics_of, predicted_of
from multitask.measure.metrics import OVERALL_OF
from multitask.recipe.data_maps import place_of
from multitask.storage.storage import Storage
from multitask.storage.uris import shown
from multitask.tasks.labels import KINDS
from ray_jobs.bundles.output import BUNDLE, ENSEMBLE_FILES, check_free, draft, publish, publish_bundle
from ray_jobs.bundles.scoring import outputs_of, scored, table_row, tell_of_fitting, trained_on
from ray_jobs.screen import Screen

log = logging.getLogger(__name__)

EARLIER = ("temperature", "calibration")  # of `about`: what the recruiter's calibration says


@dataclass(frozen=True)
class Fit:
    """What suits a task's dev file of that sha256."""

    calibration: Calibration
    sha256: str


def calibrate_bundle(uri: str, output: str, data: str | None, screen: Screen, decide: Sequence[str] = ()) -> None:
    """Writes the bundle, or ensemble, to `output` with each task whose answers are probabilities calibrated to its dev
    file.

    What is reported is cross-fitted: each row's by what was fitted to others. data: where the dev files are; those it
    was trained with where it is None. decide: TASK/METRIC, by which a task's decisions are made best. A task that
    cannot be calibrated stays as it is, which is said. Raises UserError where none can, and for an `output` that is not
    free.
    """
    target = Storage(output)
    model = open_answering(uri).bundle
    by = _decisions(model, decide)
    check_free(target, *(BUNDLE if isinstance(model, Bundle) else ENSEMBLE_FILES))
    tasks = [task for task in model.answers if KINDS[model.specs[task].label.kind].chances]
    if not tasks:
        raise UserError(f"bundle '{uri}': no trained head whose outputs are probabilities, so nothing to calibrate")
    place = place_of(data) if data else trained_on(uri, model, ["dev"])
    for task in tasks:
        if not place.has(model.specs[task], "dev"):
            log.warning("%s: left as it is: no dev file in %s", task, place.uri)
    fits, rows = dict[str, Fit](), list[dict[str, Any]]()
    keys = [*(model.about.get("overall") or OVERALL_OF), *model.about.get("measures", [])]
    for one in outputs_of(model, place, ["dev"], screen, tasks=tasks):
        screen.note(f"calibrating {one.spec.name}")
        tell_of_fitting(uri, model, one)
        try:
            fits[one.spec.name], told = _calibrated(
                one, model.shares(one.spec.name), [*keys, *decide], by.get(one.spec.name)
            )
        except UserError as error:
            log.warning("%s: left as it is: %s", one.spec.name, error)
            continue
        rows.append(told)
    if not rows:
        raise UserError(f"bundle '{uri}': no head of it could be calibrated on {place.uri}; the lines above say why")
    if isinstance(model, Bundle):
        made = _fitted(model, fits)
        about = {**made.about, "data": shared_data([uri]) or made.about.get("data", {})}  # what a copy cannot look up
        publish_bundle(replace(made, about=about), target)
    else:
        _publish_ensemble(model, fits, ensemble_facts(Storage(uri))["members"], target)
    _tell(rows, target, place.uri, screen)


def _decisions(model: Answering, decide: Sequence[str]) -> dict[str, str]:
    """Task -> the metric that its decisions are made best by. Raises UserError for what no model or label has."""
    found = {}
    for key in decide:
        task, _, metric = key.partition("/")
        known = {name: DECISIONS.get(model.specs[name].label.kind, {}) for name in model.answers}
        valid = [f"{name}/{each}" for name, metrics in known.items() for each in metrics]
        if metric not in known.get(task, {}):
            raise UserError(f"--decide '{key}': valid: {', '.join(valid) or 'none of this bundle'}{near(key, valid)}")
        if not isinstance(model, Bundle):
            raise UserError(f"--decide '{key}': of one bundle; an ensemble's members do not decide by themselves")
        found[task] = metric
    return found


def _calibrated(
    one: FileOutputs, shares: Sequence[float], keys: list[str], decide: str | None
) -> tuple[Fit, dict[str, Any]]:
    """What suits all rows, and what is said of each row by what suits others. Raises UserError for too few rows."""
    spec, table, weights, before = one.spec, one.table, one.mine(shares), one.together(shares)
    if len(table) < 2 * FOLDS:
        raise UserError(f"calibrate: {table.source} has {len(table)} rows; {FOLDS} folds need {2 * FOLDS} or more")
    labels = table.labels.double()
    found = calibrated(one.outputs, weights, labels, spec.label, table.source)
    if decide:
        found = with_best_cuts(found, one.outputs[0], labels, spec.label, decide)
    crossed = cross_calibrated(one.outputs, weights, labels, spec.label, table.source, decide=decide)
    metrics = [
        {
            "before": scored(spec, metric, table, predicted_of(before, spec.label))["value"],
            **scored(spec, metric, table, predicted_of(crossed, spec.label)),
        }
        for metric in metrics_of(spec, keys)
    ]
    surprises = {name: surprise(some, labels, spec.label) for name, some in (("before", before), ("value", crossed))}
    return Fit(found, table.sha256), {
        "task": spec.name,
        "scale": found.scale,
        "shift": found.shift.tolist(),
        "metrics": metrics,
        "cross_entropy": surprises,
    }


def _fitted(bundle: Bundle, fits: Mapping[str, Fit]) -> Bundle:
    """The bundle with its heads calibrated; it says on which rows, and nothing that was true of earlier ones alone."""
    mine = [task for task in bundle.answers if task in fits]
    for task in mine:
        found = fits[task].calibration
        bundle = moved(bundle, task, found.scale, found.shift.flatten() if found.shift.ndim else found.shift)
    probable = [task for task in bundle.answers if KINDS[bundle.specs[task].label.kind].chances]
    told = {key: value for key, value in bundle.about.items() if mine != probable or key not in EARLIER}
    return replace(bundle, about=with_fitting(told, {task: [fits[task].sha256] for task in mine}))


def _publish_ensemble(
    ensemble: Ensemble, fits: Mapping[str, Fit], members: Sequence[Mapping[str, Any]], target: Storage
) -> None:
    """Writes the ensemble with every member's heads calibrated. members: what its ensemble.json says of each."""
    with draft(target) as folder:
        place, told = Storage(str(folder)), []
        for number, (bundle, member) in enumerate(zip(ensemble.members, members, strict=True)):
            save_bundle(place, name := member_folder(number), _fitted(bundle, fits))
            told.append({**member, "fingerprint": bundle_fingerprint(place.at(name))})
        about = with_fitting(ensemble.about, {task: [fit.sha256] for task, fit in fits.items()})
        write_ensemble(place, replace(ensemble, about=about, dev={}), told)  # dev was measured of others
        publish(folder, target, *ENSEMBLE_FILES)


def _tell(rows: list[dict[str, Any]], target: Storage, data: str, screen: Screen) -> None:
    """Shows what calibrating is worth, and where the bundle lies."""
    if screen.as_json:
        screen.document({"bundle": target.uri, "data": data, "folds": FOLDS, "tasks": rows})
        return
    body = []
    for row in rows:
        for one in row["metrics"]:
            metric, value, interval, count, _ = table_row(one)
            body.append([metric, cell(one["before"]), value, interval, count])
        both = row["cross_entropy"]
        body.append([f"{row['task']}/cross-entropy", cell(both["before"]), cell(both["value"]), "", ""])
    screen.table(["dev", "before", "calibrated", "95 % interval", "rows"], body, title=f"dev of {data}")
    for row in rows:
        shift = row["shift"] if isinstance(row["shift"], list) else [row["shift"]]
        screen.say(f"{row['task']}: outputs times {cell(row['scale'])}, plus {', '.join(map(cell, shift))}")
    screen.say(
        f"calibrated: to all dev rows; these scores are cross-fitted over {FOLDS} folds, each row's by what was fitted "
        f"to the others"
    )
    screen.say(f"bundle: {target.uri}\nnext: minibert predict {shown(target.uri)} --output predictions")
