"""`minibert evaluate A B ...`: each bundle against the first, on the rows that both have answered."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.bundle.ensemble import Answering
from multitask.data.tokens import TokenTable
from multitask.errors import UserError
from multitask.experiment.finding import find_bundle
from multitask.experiment.results import cell
from multitask.measure.compare import RESAMPLES, Answered, Comparison, compare
from multitask.measure.metrics import OVERALL_OF, Predicted
from multitask.measure.rankings import questions_of
from multitask.recipe.data_maps import Place
from multitask.storage.storage import file_at
from multitask.tasks.table import Split
from ray_jobs.bundles.scoring import TRAIN, opened, outputs_of, tell_of_fitting, tell_of_none_unseen, wanted_split
from ray_jobs.bundles.unseen import training_texts, unseen_rows
from ray_jobs.screen import Screen

CHANGED = ("bundle", "task", "id", "label", "baseline", "prediction", "change")


@dataclass(frozen=True)
class Task:
    """A task that all bundles have: what they say of its rows, and the baseline's table of them.

    unseen: (N,) whether no text of a row is in a training file; None where nobody asks.
    """

    answered: Answered
    table: TokenTable
    unseen: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Found:
    """What several bundles say of the tasks that all of them have.

    place: the files' whose rows they are. asked: the metrics that overall scores are made of, and further ones.
    """

    tasks: list[Task]
    place: Place
    asked: tuple[Sequence[str], Sequence[str]]


def compare_bundles(
    uris: Sequence[str], data: str | None, split: str, screen: Screen, clean: bool = False, rows: str | None = None
) -> None:
    """Shows each bundle's metrics against the first one's. clean: also without the rows whose text a training file has.
    rows: where a CSV of the rows is to be written of which one of two bundles is right and the other wrong.

    Raises UserError where bundles have no task in common, or do not mean the same labels by it.
    """
    found = _found(uris, data, split, screen, clean, rows)
    parts = {"whole": compare([task.answered for task in found.tasks], *found.asked)}
    if clean:
        answered = [task.answered.of(task.unseen) for task in found.tasks if task.unseen is not None]
        parts["clean"] = compare(answered, *found.asked)
    if rows:
        _write_changed(rows, uris, found.tasks, screen)
    if screen.as_json:
        screen.document(_document(uris, found.place.uri, split, parts))
        return
    _show(screen, uris, parts["whole"], f"against {uris[0]} on {split} of {found.place.uri}")
    if clean:
        title = f"against {uris[0]} on those rows of {split} of which no text is in a training file"
        _show(screen, uris, parts["clean"], title)
        left = {task.answered.spec.name: int(task.unseen.sum()) for task in found.tasks if task.unseen is not None}
        tell_of_none_unseen(left, split, screen)


def compared_on_dev(baseline: str, bundle: str, screen: Screen) -> list[Comparison]:
    """A bundle's metrics against a baseline's, on the dev files that the baseline was trained with. Raises UserError
    where these are gone, and as `compare_bundles` does."""
    found = _found([baseline, bundle], None, "dev", screen)
    return compare([task.answered for task in found.tasks], *found.asked)


def _found(
    uris: Sequence[str], data: str | None, split: str, screen: Screen, clean: bool = False, rows: str | None = None
) -> Found:
    wanted = _checked(uris, split, clean, rows)
    bundles = [opened(uri, data, [wanted, *TRAIN[: int(clean)]]) for uri in uris]
    names = _common(uris, [bundle for bundle, _ in bundles], bundles[0][1], wanted, screen)
    about = bundles[0][0].about
    asked = about.get("overall") or OVERALL_OF, about.get("measures", [])
    return Found(_answered(uris, bundles, names, wanted, screen, clean), bundles[0][1], asked)


def _checked(uris: Sequence[str], split: str, clean: bool, rows: str | None) -> Split:
    if len(uris) < 2:
        raise UserError(f"--rows '{rows}': which rows change sides is a matter of two bundles; only {uris[0]} is given")
    places = [find_bundle(uri).uri.rstrip("/") for uri in uris]
    if twice := [uri for at, uri in enumerate(uris) if places[at] in places[:at]]:
        raise UserError(f"bundle '{twice[0]}': given twice; compared are different ones")
    if rows and "://" not in rows and Path(rows).is_dir():
        raise UserError(f"--rows '{rows}': is a directory; name a file, such as changed.csv")
    return wanted_split(split, clean)


def _common(
    uris: Sequence[str], bundles: Sequence[Answering], place: Place, split: Split, screen: Screen
) -> dict[str, None]:
    """The tasks that all bundles have, in the baseline's order, with a file of the split; says which are left out.
    Raises UserError where there is none, or where a label is not the same to all."""
    first = bundles[0]
    common = [task for task in first.tasks if all(task in bundle.tasks for bundle in bundles)]
    if not common:
        have = "; ".join(f"{uri} has {', '.join(bundle.tasks)}" for uri, bundle in zip(uris, bundles, strict=True))
        raise UserError(f"no task in common: {have}")
    for uri, bundle in zip(uris, bundles, strict=True):
        if others := [task for task in bundle.tasks if task not in common]:
            screen.note(f"{uri}: {', '.join(others)} is left out: not all bundles have it")
        for task in common:
            own, other = first.specs[task].label.meaning, bundle.specs[task].label.meaning
            if own != other:
                raise UserError(
                    f"task {task}: its label is {own} to {uris[0]}, {other} to {uri}; they must be the same"
                )
    found = dict.fromkeys(task for task in common if place.has(first.specs[task], split))
    if not found:
        place.find(first.specs[common[0]], split)  # says what is there instead
    return found


def _answered(
    uris: Sequence[str],
    opened_: Sequence[tuple[Answering, Place]],
    names: dict[str, None],
    split: Split,
    screen: Screen,
    clean: bool,
) -> list[Task]:
    """What each bundle says of the rows of each of those tasks, of the baseline's files."""
    place = opened_[0][1]
    seen = training_texts(opened_) if clean else None
    given: dict[str, list[tuple[TokenTable, Predicted]]] = {name: [] for name in names}
    unseen: dict[str, NDArray[np.bool_]] = {}
    for uri, (bundle, _) in zip(uris, opened_, strict=True):
        screen.note(f"predicting: {uri}")
        for name, table, predicted in _of_tasks(uri, bundle, place, names, split, screen):
            if given[name]:
                _check_rows(name, uris[0], given[name][0][0], uri, table)
            elif seen:
                unseen[name] = unseen_rows(seen, bundle, place, bundle.specs[name], split, table)
            given[name].append((table, predicted))
    assert all(len(pairs) == len(uris) for pairs in given.values()), "a task of one name has files of one name"
    specs = opened_[0][0].specs
    return [
        Task(
            Answered(
                specs[name],
                pairs[0][0].labels.double().numpy(),
                [predicted for _, predicted in pairs],
                questions_of(pairs[0][0], specs[name].label) if specs[name].ranks else None,
            ),
            pairs[0][0],
            unseen.get(name),
        )
        for name, pairs in given.items()
    ]


def _of_tasks(
    uri: str, bundle: Answering, place: Place, names: dict[str, None], split: Split, screen: Screen
) -> Iterator[tuple[str, TokenTable, Predicted]]:
    for one in outputs_of(bundle, place, [split], screen, tasks=names):
        tell_of_fitting(uri, bundle, one)
        yield one.spec.name, one.table, one.predicted(bundle.shares(one.spec.name))


def _check_rows(task: str, first: str, own: TokenTable, uri: str, other: TokenTable) -> None:
    """Raises UserError where two bundles do not read the same rows of a file."""
    if len(own) != len(other):
        raise UserError(f"task {task}: {first} reads {len(own)} rows of {own.source}, {uri} {len(other)}")
    pairs = zip(own.ids, other.ids, own.labels.tolist(), other.labels.tolist(), strict=True)
    for id_, other_id, label, other_label in pairs:
        if id_ != other_id or label != other_label:
            raise UserError(
                f"task {task}: {first} reads row {id_} with label {label} of {own.source} where {uri} reads row "
                f"{other_id} with label {other_label}; compared are bundles that read a file alike"
            )


def _write_changed(target: str, uris: Sequence[str], tasks: Sequence[Task], screen: Screen) -> None:
    """Writes the rows that a bundle has gained or lost against the baseline as a CSV, one after the other."""
    text, count = io.StringIO(), 0
    writer = csv.writer(text)
    writer.writerow(CHANGED)
    for model, uri in enumerate(uris[1:], start=1):
        for task in tasks:
            for row in _changed(task, model):
                writer.writerow([uri, *row])
                count += 1
    folder, name = file_at(target)
    folder.write_bytes(name, text.getvalue().encode())
    screen.say(f"rows that change sides: {count} in {target}")
    scores = [task.answered.spec.name for task in tasks if task.answered.right(0) is None]
    if scores:
        screen.note(f"none of {', '.join(scores)}: only decisions, as classes are, have sides")


def _changed(task: Task, model: int) -> Iterator[list[str]]:
    said, spec = task.answered, task.answered.spec
    before, after = said.right(0), said.right(model)
    if before is None or after is None:
        return
    for at in np.flatnonzero(before != after).tolist():
        labels = (said.labels[at], *(said.predicted[one].labels[at].tolist() for one in (0, model)))
        yield [
            spec.name,
            task.table.ids[at],
            *(spec.label.says(label) for label in labels),
            "gained" if after[at] else "lost",
        ]


def _document(uris: Sequence[str], data: str, split: str, parts: dict[str, list[Comparison]]) -> dict[str, Any]:
    found = {name: [_to_json(one, uris) for one in part] for name, part in parts.items()}
    head = {"baseline": uris[0], "data": data, "split": split, "resamples": RESAMPLES}
    return head | {"comparisons": found.pop("whole")} | {name: {"comparisons": part} for name, part in found.items()}


def _to_json(one: Comparison, uris: Sequence[str]) -> dict[str, Any]:
    facts = asdict(one)
    return {"bundle": uris[facts.pop("model")], **facts, "difference": one.difference}


def _show(screen: Screen, uris: Sequence[str], found: Sequence[Comparison], title: str) -> None:
    several = len(found) > 1
    header = ["bundle", "metric", "rows", "baseline", "value", "difference", "95 % interval", "p"]
    header += [*["p (Holm)"][: int(several)], "gained", "lost", "McNemar's p", *["McNemar's p (Holm)"][: int(several)]]
    screen.table(header, [_table_row(one, uris, several) for one in found], title=title)
    if several:
        metrics = len({one.metric for one in found})
        made = f"{len(found)} comparisons ({metrics} metrics x {len(uris) - 1} bundles)"
        screen.say(f"{made} are made at once: go by p (Holm), which is adjusted for all of them")


def _table_row(one: Comparison, uris: Sequence[str], several: bool) -> list[str]:
    ends = " .. ".join(_signed(bound) for bound in one.interval) if one.interval else cell(None, one.why)
    row = [uris[one.model], one.metric, str(one.rows), cell(one.baseline), cell(one.value), _signed(one.difference)]
    row += [ends, _p(one.p), *[_p(one.p_holm)][: int(several)]]
    if one.sides is None:
        return [*row, "", "", "", *[""][: int(several)]]
    sides = one.sides
    return [*row, str(sides.gained), str(sides.lost), _p(sides.p), *[_p(sides.p_holm)][: int(several)]]


def _signed(value: float | None) -> str:
    return "-" if value is None else ("+" if value >= 0 else "") + cell(value)


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "<.0001" if value < 0.0001 else f"{value:.4f}".replace("0.", ".", 1)
