"""`minibert ensemble`: bundles that answer together, how much each counts, and what that scores on dev."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from multitask.bundle.bundle import Bundle, bundle_fingerprint, member_folder, save_bundle
from multitask.bundle.ensemble import FITTED, MOST, Ensemble, Members, differing, write_ensemble
from multitask.bundle.fitting import fitted_on, with_fitting
from multitask.errors import UserError, near
from multitask.experiment.finding import open_found
from multitask.experiment.results import cell
from multitask.export.provenance import shared_data
from multitask.inference.files import FileOutputs
from multitask.measure.ensembles import FOLDS, Weights, cross_fitted, fitted
from multitask.measure.evaluate import metrics_of, predicted_of, table_score
from multitask.measure.metrics import OVERALL_OF, Predicted
from multitask.recipe.data_maps import Place, place_of
from multitask.report.ensemble import score_rows
from multitask.storage.storage import Storage
from multitask.storage.uris import shown
from multitask.tasks.table import TaskSpec
from ray_jobs.bundles.output import ENSEMBLE_FILES, check_free, draft, publish
from ray_jobs.bundles.scoring import outputs_of, place_known, scored, tell_of_fitting
from ray_jobs.screen import Screen

WEIGHTS = ("uniform", FITTED)
Value = TypeVar("Value")


def make_ensemble(uris: Sequence[str], output: str, weights: str, data: str | None, screen: Screen) -> None:
    """Writes an ensemble of copies of the bundles to `output`.

    weights: `uniform`, or `fitted` to dev, task by task; what is then reported of dev is cross-fitted. data: where the
    tasks' dev files are, which are measured where it is given, or weights are fitted. Raises UserError before anything
    is computed where the bundles cannot answer together, and for an `output` that is not free.
    """
    if weights not in WEIGHTS:
        raise UserError(f"--weights '{weights}': one of {', '.join(WEIGHTS)}{near(weights, WEIGHTS)}")
    if len(uris) < 2:
        raise UserError(f"ensemble: '{', '.join(uris)}' alone; name two bundles or more")
    if len(uris) > MOST:
        raise UserError(f"ensemble: {len(uris)} bundles; valid: at most {MOST}")
    target = Storage(output)
    check_free(target, *ENSEMBLE_FILES)
    with draft(target) as folder:
        gathered = Gathered(Storage(str(folder)), [], {}, {}, [])
        for uri in uris:
            screen.note(f"reading {uri}")
            gathered.add(uri, open_found(uri).bundle)
        for task, others in gathered.leave_to_the_trained().items():
            screen.note(f"{task}: without {', '.join(others)}, not trained on it as others are")
        ensemble = gathered.ensemble()
        if data or weights == FITTED:
            place = place_of(data) if data else _known_place(ensemble)
            ensemble = _measured(ensemble, place, weights == FITTED, screen)
        write_ensemble(Storage(str(folder)), ensemble, gathered.members)
        publish(folder, target, *ENSEMBLE_FILES)
    _tell(ensemble, gathered.members, target, screen)


@dataclass
class Gathered:
    """Bundles that were copied to `folder` so far. members: what the user calls each, its content's hash, and the tasks
    that it answers. specs: task -> what it is. columns: task -> what its files call its columns. overalls: what each
    one's overall scores are made of, none for the papers'. trained: the tasks that each was trained on. about: which
    rows some of them were fitted to."""

    folder: Storage
    members: list[dict[str, Any]]
    specs: dict[str, TaskSpec]
    columns: dict[str, Mapping[str, Any]]
    overalls: list[list[str]]
    trained: list[list[str]] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    def add(self, uri: str, bundle: Bundle) -> None:
        """Copies one more bundle. Raises UserError where it answers nothing, or a task of another meaning."""
        if not bundle.answers:
            raise UserError(f"bundle '{uri}': no trained head, so it has no part in an ensemble")
        for task in bundle.answers:
            first = next((member["bundle"] for member in self.members if task in member["tasks"]), uri)
            if what := differing(bundle.specs[task], self.specs.setdefault(task, bundle.specs[task])):
                raise UserError(
                    f"ensemble: task {task}: '{uri}' has {_said(bundle.specs[task], what)}, "
                    f"'{first}' {_said(self.specs[task], what)}; members of a task mean the same by its labels"
                )
        name = member_folder(len(self.members))
        save_bundle(self.folder, name, bundle)
        fingerprint = bundle_fingerprint(self.folder.at(name))
        if twice := [member["bundle"] for member in self.members if member["fingerprint"] == fingerprint]:
            raise UserError(f"bundle '{uri}': the same as '{twice[0]}'; name each once")
        heads = {task: bundle.heads[task] for task in bundle.answers}
        self.members.append({"bundle": uri, "fingerprint": fingerprint, "tasks": heads})
        self.columns = {**bundle.about.get("columns", {}), **self.columns}
        self.overalls.append(bundle.about.get("overall", []))
        self.trained.append(bundle.about.get("trained", [*bundle.heads]))  # older bundles do not say
        self.about = with_fitting(self.about, {task: fitted_on(bundle.about, task) for task in heads})

    def leave_to_the_trained(self) -> dict[str, list[str]]:
        """Takes a task from members that were not trained on it where others were: a head without weights, such as a
        cosine, answers for any encoder. Returns task -> those members. Raises UserError for a member that is left with
        no task."""
        left: dict[str, list[str]] = {}
        for task in self.specs:
            if any(task in trained for trained in self.trained):
                for member, trained in zip(self.members, self.trained, strict=True):
                    if task in member["tasks"] and task not in trained:
                        left.setdefault(task, []).append(member["bundle"])
                        del member["tasks"][task]
        if none := [member["bundle"] for member in self.members if not member["tasks"]]:
            raise UserError(f"bundle '{none[0]}': trained on no task that it answers, as others are; leave it out")
        return left

    def ensemble(self) -> Ensemble:
        """The ensemble in which all members of a task count alike."""
        names = [[task for task in self.specs if task in member["tasks"]] for member in self.members]
        parts = {task: [task in mine for mine in names] for task in self.specs}
        weights = {task: tuple(part / sum(mine) for part in mine) for task, mine in parts.items()}
        tasks = [{task: self.specs[task] for task in mine} for mine in names]
        members = Members(self.folder, [member["fingerprint"] for member in self.members], tasks)
        overall = self.overalls[0] if all(other == self.overalls[0] for other in self.overalls) else []
        data = shared_data(member["bundle"] for member in self.members)
        about = {**self.about, "columns": self.columns, "data": data, "overall": overall}
        return Ensemble(members, weights, self.specs, about)


def _said(spec: TaskSpec, what: str) -> str:
    return f"{what} {({**vars(spec.label), **vars(spec)})[what]}"


def _known_place(ensemble: Ensemble) -> Place:
    """Where the members' experiments had their dev files. Raises UserError where these are not known of all tasks."""
    if unknown := [task for task in ensemble.tasks if task not in ensemble.about["data"]]:
        raise UserError(
            f"--weights fitted: the members' experiments do not say, or not alike, where the dev rows of {unknown[0]} "
            f"are; give --data"
        )
    return place_known("the ensemble", ensemble, ensemble.about["data"], ["dev"])


def _measured(ensemble: Ensemble, place: Place, fit: bool, screen: Screen) -> Ensemble:
    """The ensemble with what it and its members score on the place's dev files, and with its weights fitted there."""
    if fit and (missing := [task for task in ensemble.tasks if not place.has(ensemble.specs[task], "dev")]):
        raise UserError(f"--weights fitted: {place.uri} has no dev file of {missing[0]}")
    weights, rows, fitted_to = dict(ensemble.weights), dict[str, Any](), dict[str, list[str]]()
    of = ensemble.about.get("overall") or list(OVERALL_OF)
    for one in outputs_of(ensemble, place, ["dev"], screen):
        task = one.spec.name
        screen.note(f"scoring {task}")
        tell_of_fitting("a member of the ensemble", ensemble, one)
        metrics = metrics_of(one.spec, of)
        rows |= {f"{task}/{metric}": _scores(ensemble, one, metric) for metric in metrics}
        if fit and len(one.outputs) > 1:
            found, crossed = _fitted(one)
            weights[task] = tuple(_by_member(one, found, len(ensemble.members), 0.0))
            fitted_to[task] = [one.table.sha256]
            for metric in metrics:
                rows[f"{task}/{metric}"]["score"] = scored(one.spec, metric, one.table, crossed)
    dev = {"data": place.uri, "folds": FOLDS if fit else None, "overall": of, "metrics": rows}
    about = with_fitting(ensemble.about, fitted_to) | ({"weights": FITTED} if fit else {})
    return replace(ensemble, weights=weights, about=about, dev=dev)


def _scores(ensemble: Ensemble, one: FileOutputs, metric: str) -> dict[str, Any]:
    """A metric on dev: of all members alike, and of each by itself, null where it has no part in the task."""
    alike = scored(one.spec, metric, one.table, one.predicted(ensemble.shares(one.spec.name)))
    own = [table_score(one.spec, metric, one.table, predicted_of(some, one.spec.label)).value for some in one.outputs]
    members = _by_member(one, own, len(ensemble.members), None)
    return {"score": alike, "uniform": alike["value"], "members": members}


def _by_member(one: FileOutputs, values: Sequence[Value], count: int, otherwise: Value) -> list[Value]:
    """A value for each of `count` members, of which the task has some."""
    found = dict(zip(one.members, values, strict=True))
    return [found.get(at, otherwise) for at in range(count)]


def _fitted(one: FileOutputs) -> tuple[Weights, Predicted]:
    """The weights that were fitted to all rows, and what is said of each row by weights that were fitted to others."""
    if len(one.table) < 2 * FOLDS:
        raise UserError(
            f"--weights fitted: {one.table.source} has {len(one.table)} rows; {FOLDS} folds need {2 * FOLDS} or more"
        )
    labels, label = one.table.labels.double(), one.spec.label
    return fitted(one.outputs, labels, label), predicted_of(cross_fitted(one.outputs, labels, label), label)


def _tell(ensemble: Ensemble, members: Sequence[Mapping[str, Any]], target: Storage, screen: Screen) -> None:
    """Shows scores and weights, and where the ensemble lies."""
    if screen.as_json:
        screen.document({"ensemble": target.uri, "members": members, "weights": ensemble.weights, "dev": ensemble.dev})
        return
    names = [member["bundle"] for member in members]
    if ensemble.dev:
        screen.table(*score_rows(ensemble.dev, names), title=f"dev of {ensemble.dev['data']}")
    for task, shares in ensemble.weights.items():
        counted = ", ".join(f"{cell(share)} {name}" for share, name in zip(shares, names, strict=True) if share)
        screen.say(f"{task}: {counted}")
    if ensemble.dev.get("folds"):
        screen.say(
            f"weights: fitted to all dev rows; the fitted ensemble's scores are cross-fitted over {FOLDS} folds, each "
            f"row's by weights that the others gave"
        )
    screen.say(f"ensemble: {target.uri}, of {len(members)} bundles")
    screen.say(f"next: minibert evaluate {shown(target.uri)}")
