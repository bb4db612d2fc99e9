"""The report of an ensemble: its members, how much each counts, and what that scored on dev."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multitask.bundle.ensemble import FITTED, ensemble_facts
from multitask.errors import well_formed
from multitask.experiment.results import cell
from multitask.measure.metrics import overall
from multitask.report.blocks import Cell, Report, ReportTable, Section
from multitask.report.numbers import DASH, number
from multitask.storage.storage import Storage, file_at


def ensemble_report(place: Storage) -> Report:
    """The report of the ensemble in a directory. Raises UserError where its ensemble.json is not sound."""
    facts = ensemble_facts(place)
    with well_formed(f"ensemble '{place.uri}'"):
        dev, names = facts["dev"], [member["bundle"] for member in facts["members"]]
        told = [("Members", str(len(names))), ("Weights", _weights(facts))]
        sections = [Section("Members", tables=[_members_table(facts, names)])]
        if dev:
            sections.insert(0, Section("Scores on dev", tables=[_scores_table(dev, names), _intervals_table(dev)]))
        return Report(file_at(place.uri)[1], told, _headline(dev), [], sections)


def score_rows(dev: Mapping[str, Any], names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of dev scores: a member a row, then the ensemble. names: the members'."""
    rows = dev["metrics"].values()
    metrics = [row["score"]["metric"] for row in rows]
    systems = {name: [row["members"][at] for row in rows] for at, name in enumerate(names)}
    systems["all alike"] = [row["uniform"] for row in rows]
    if dev["folds"]:
        systems["fitted, on other rows"] = [row["score"]["value"] for row in rows]
    named = {name: dict(zip(metrics, values, strict=True)) for name, values in systems.items()}
    totals = {name: overall(found, dev["overall"]) for name, found in named.items()}
    means = [key for key in overall({}) if any(total[key] is not None for total in totals.values())]
    body = [[name, *map(cell, values), *(cell(totals[name][key]) for key in means)] for name, values in systems.items()]
    return ["", *metrics, *means], body


def _weights(facts: Mapping[str, Any]) -> str:
    """How the weights came about; older ensembles say so where they say what was measured."""
    return "fitted to dev" if facts["about"].get("weights") == FITTED or facts["dev"].get("folds") else "uniform"


def _headline(dev: Mapping[str, Any]) -> str:
    if not dev:
        return "Not measured; minibert evaluate does."
    scores = [row["score"] for row in dev["metrics"].values()]
    return ", ".join(f"{score['metric'].replace('/', ' ')} {number(score['value'])}" for score in scores)


def _scores_table(dev: Mapping[str, Any], names: Sequence[str]) -> ReportTable:
    header, body = score_rows(dev, names)
    notes = [f"Dev files of {dev['data']}."]
    if dev["folds"]:
        notes.append(
            f"Fitted: each row's answer is by weights that were fitted to the rows of the other {dev['folds'] - 1} of "
            f"{dev['folds']} folds; the ensemble's own weights were then fitted to all of them."
        )
    rows = [[Cell(row[0]), *(Cell(text, strong=row is body[-1]) for text in row[1:])] for row in body]
    return ReportTable("The members and the ensemble", header, rows, notes=notes)


def _intervals_table(dev: Mapping[str, Any]) -> ReportTable:
    rows = []
    for row in dev["metrics"].values():
        score = row["score"]
        interval = " .. ".join(map(number, score["interval"])) if score["interval"] else DASH
        rows.append([Cell(score["metric"]), Cell(number(score["value"]), score["why"] or ""), Cell(interval)])
        rows[-1] += [Cell(f"{score['rows']:,}"), Cell(number(score["majority_baseline"]))]
    header = ["metric", "ensemble", "95 % interval", "rows", "majority class"]
    return ReportTable("The ensemble", header, rows)


def _members_table(facts: Mapping[str, Any], names: Sequence[str]) -> ReportTable:
    """How much each member counts in each task, and by which head it answers."""
    rows = []
    for at, name in enumerate(names):
        heads = facts["members"][at].get("tasks", {})
        shares = [(shares[at], heads.get(task, "")) for task, shares in facts["weights"].items()]
        cells = [Cell(number(share), head) if head else Cell(DASH, quiet=True) for share, head in shares]
        rows.append([Cell(name), *cells])
    return ReportTable("How much each member counts", ["bundle", *facts["weights"]], rows)
