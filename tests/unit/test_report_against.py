"""Two experiments compared in a report: pairs of stages, their differences, the settings that are not the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multitask.errors import UserError
from multitask.measure.compare import Comparison, Sides, holm
from multitask.report import report_of
from multitask.report.against import Against, Baseline, against, against_section, paired
from multitask.report.as_html import as_html
from multitask.report.compose import compose
from multitask.report.differing import settings_apart
from multitask.report.reading import Evidence
from multitask.storage.storage import Storage
from tests.reports import ENCODER, FINISHED, NASTY, SCORES, evidence, stage, swept, trainer, write

STS, SST = FINISHED[1], FINISHED[2]


def named(found: Evidence, name: str) -> Evidence:
    return replace(found, results={**found.results, "experiment": name})


def none(first: str, second: str) -> list[Comparison]:
    return []


def compared(folder: Path, before: list[dict[str, Any]], after: list[dict[str, Any]], compare: Any = none) -> Against:
    write(folder / "before", before)
    return against(evidence(folder / "after", after), Baseline(str(folder / "before"), compare))


def leaf(name: str, score: float, variant: int = 0, **facts: Any) -> dict[str, Any]:
    return stage(name, "encoder", {"sst/accuracy": score}, variant, **facts)


def test_final_stages_of_one_name_are_paired_and_the_one_that_is_left_on_either_side(tmp_path: Path) -> None:
    before = evidence(tmp_path / "a", [ENCODER, leaf("one", 0.1), leaf("two", 0.2), leaf("old", 0.3)])
    after = evidence(tmp_path / "b", [ENCODER, leaf("two", 0.4), leaf("one", 0.5), leaf("new", 0.6)])
    assert [pair.name for pair in paired(before, after)] == ["one", "two", "old / new"]
    more = evidence(tmp_path / "c", [ENCODER, leaf("one", 0.5), leaf("new", 0.6), leaf("newer", 0.6)])
    assert [pair.name for pair in paired(before, more)] == ["one"]


def test_seeds_are_paired_in_their_order_and_summed_up(tmp_path: Path) -> None:
    before = [ENCODER, leaf("sst", 0.25), leaf("sst", 0.5, 1)]
    after = [ENCODER, leaf("sst", 0.5), leaf("sst", 0.5, 1), leaf("sst", 0.75, 2)]
    table = against_section(compared(tmp_path, before, after)).tables[0]
    assert table.header[:2] == ["metric", "seed"]
    shown = [[cell.text for cell in row[:5]] for row in table.rows]
    assert shown == [
        ["sst accuracy", "11711", ".250", ".500", "+.250"],
        ["sst accuracy", "11712", ".500", ".500", "0"],
        ["sst accuracy", "2 seeds", ".375 ± .177", ".500", "+.125 ± .177"],
    ]


def test_an_interval_is_of_what_both_bundles_answered_and_p_is_adjusted_for_the_whole_table(tmp_path: Path) -> None:
    ps = {"before/one": 0.01, "before/two": 0.04}
    asked: list[tuple[str, str]] = []

    def compare(first: str, second: str) -> list[Comparison]:
        asked.append((first, second))
        p = ps["/".join(first.split("/")[-2:])]
        return [Comparison(1, "sst/accuracy", 56, 0.11, 0.36, None, (0.125, 0.375), p, p, Sides(9, 2, 0.5, 0.5))]

    stages = [ENCODER, leaf("one", 0.1), leaf("two", 0.2)]
    found = compared(tmp_path, stages, stages, compare)
    assert asked == [(str(tmp_path / "before" / name), str(tmp_path / "after" / name)) for name in ("one", "two")]
    table = against_section(found).tables[0]
    cells = dict(zip(table.header, table.rows[0], strict=True))
    assert [cells[title].text for title in ("difference", "95 % interval", "p (Holm)")] == [
        "+.250", "+.125 .. +.375", ".0200"]  # fmt: skip
    assert table.caption == "Scores of the final stages one, two" and cells["metric"].note == "one"
    assert cells["difference"].tone == pytest.approx(1.0), "the largest difference"
    assert (cells["gained"].text, cells["lost"].text) == ("9", "2") and cells["difference"].strong
    assert [one.compared.p_holm for one in found.differences if one.compared] == holm([0.01, 0.04])
    first = found.to_json()["scores"][0]
    assert first["difference"] == 0.25 and first["p_holm"] == 0.02 and first["sides"]["gained"] == 9


def test_where_bundles_cannot_be_compared_there_are_values_and_a_reason(tmp_path: Path) -> None:
    def gone(first: str, second: str) -> list[Comparison]:
        raise UserError("dev.csv is not there; give --data")

    section = against_section(compared(tmp_path, [ENCODER, leaf("sst", 0.25)], [ENCODER, leaf("sst", 0.75)], gone))
    table = section.tables[0]
    assert [cell.text for cell in table.rows[0]] == ["sst accuracy", ".250", ".750", "+.500", "–", "", "", ""]
    assert table.notes[-1] == "No intervals of sst, seed 11711: dev.csv is not there; give --data."


def test_a_metric_that_one_alone_has_has_no_difference(tmp_path: Path) -> None:
    other = [ENCODER, stage("sst", "encoder", {"sts/pearson": 0.5})]
    table = against_section(compared(tmp_path, [ENCODER, leaf("sst", 0.25)], other)).tables[0]
    assert [[cell.text for cell in row[:4]] for row in table.rows] == [
        ["sst accuracy", ".250", "–", "–"],
        ["sts pearson", "–", ".500", "–"],
    ]


def test_an_experiment_against_itself_or_one_without_a_stage_in_common_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", FINISHED)
    with pytest.raises(UserError, match="a': the experiment itself; name another one"):
        report_of(str(tmp_path / "a"), baseline=Baseline(str(tmp_path / "a"), none))
    write(tmp_path / "b", [ENCODER, leaf("one", 0.1), leaf("two", 0.1)])
    with pytest.raises(UserError, match=r"b': no finished final stage in common: .*b has one, two; .*a has sst$"):
        report_of(str(tmp_path / "a"), baseline=Baseline(str(tmp_path / "b"), none))
    with pytest.raises(UserError, match=r"gone': no results\.json there"):
        report_of(str(tmp_path / "a"), baseline=Baseline(str(tmp_path / "gone"), none))


# Settings


def recipe(found: Evidence, **tree: Any) -> Evidence:
    return replace(found, recipe=tree)


def test_settings_that_differ_stand_under_their_paths_and_a_lone_stage_in_a_line(tmp_path: Path) -> None:
    found = evidence(tmp_path, FINISHED)
    sts = {"name": "sts", "objective": "supervised", "tasks": ["sts"], "train": "full-model", "lr": 1e-3, "smart": None}
    joint = {**sts, "name": "joint", "tasks": ["sst", "sts"]}
    before = recipe(found, seed=1, defaults={"lr": 1}, tasks={"sst": {"head": "mlp"}}, stages=[sts], tables=[1])
    after = recipe(
        found, seed=1, defaults={"lr": 2}, tasks={"sst": {"head": "linear"}}, stages=[{**sts, "lr": 1e-2}, joint]
    )
    assert settings_apart(before, after) == {
        "tasks.sst.head": ("mlp", "linear"),
        "stages.sts.lr": (1e-3, 1e-2),
        "stages.joint": ("absent", "supervised on sst, sts, full-model"),
    }
    assert settings_apart(before, before) == {}


def test_a_swept_stage_has_the_best_trials_settings_and_stages_what_they_start_from(tmp_path: Path) -> None:
    tree = [{"name": "sts", "lr": 1e-3}, {"name": "sst"}]
    other = {label: None if score is None else 1 - score for label, score in SCORES.items()}
    seeds = [*swept(), *swept(variant=1, scores=other)]
    before = recipe(evidence(tmp_path / "a", FINISHED), stages=[tree[0], {**tree[1], "from": "sts", "sweep": None}])
    after = recipe(evidence(tmp_path / "b", swept()), stages=[{**tree[0], "lr": {"sweep": [1]}}, tree[1]])
    assert settings_apart(before, after) == {"stages.sts.lr.sweep": ("absent", [1])}, "the best is the one it had"
    after = recipe(evidence(tmp_path / "c", seeds), stages=tree)
    assert settings_apart(before, after)["stages.sts.lr"] == (1e-3, [1e-3, 1e-5])


def test_other_data_seeds_and_versions_are_settings_too(tmp_path: Path) -> None:
    before = evidence(tmp_path / "a", FINISHED)
    after = evidence(tmp_path / "b", [*FINISHED, {**SST, "variant": 1, "seed": 7, "trainer": trainer("sst", 1)}])
    results = after.results
    data = {"sst": {**results["data"]["sst"], "fingerprint": {"train": "ab" * 32, "dev": "99" * 32}}}
    after = replace(after, results={**results, "data": data, "versions": {"python": "3.12.0"}})
    assert settings_apart(before, after) == {
        "seeds": ([11711], [11711, 7]),
        "data.sst.dev": ("dev.csv (cdcdcdcdcdcd)", "dev.csv (999999999999)"),
        "versions.python": ("3.11.7", "3.12.0"),
    }


def test_the_section_stands_first_with_both_costs_and_nothing_of_it_is_markup(tmp_path: Path) -> None:
    slow = [ENCODER, {**STS, "seconds": 3600.0}, SST]
    found = compared(tmp_path, slow, FINISHED)
    found = replace(found, baseline=named(found.baseline, NASTY), evidence=named(found.evidence, "late"))
    report = compose(found.evidence, against=found)
    assert report.sections[0].title == f"Against {NASTY}" and report.document["against"]["cost"]["seconds"] == 3665.0
    table = report.sections[0].tables[2]
    assert table.groups == [NASTY, "late"]
    assert {row[0].text: [cell.text for cell in row[1:]] for row in table.rows} == {
        "sts": ["1 h 0 min", "1.00", "1 min 5 s", "0.018"],
        "sst": ["1 min 5 s", "0.018", "1 min 5 s", "0.018"],
        "in all": ["1 h 1 min", "1.02", "2 min 10 s", "0.036"],
    }
    assert "<script" not in as_html(report)


def test_experiments_of_one_name_are_called_by_their_places(tmp_path: Path) -> None:
    assert compared(tmp_path, FINISHED, FINISHED).names == (str(tmp_path / "before"), str(tmp_path / "after"))


@pytest.mark.parametrize(
    ("option", "asked"), [("--price", {"price": 2.5}), ("--against", {"baseline": Baseline("runs/other", none)})]
)
def test_an_ensemble_has_no_stages_and_no_cost(tmp_path: Path, option: str, asked: Any) -> None:
    Storage(str(tmp_path)).write_json("ensemble.json", {})
    with pytest.raises(UserError, match=f"^{option}: of an experiment; '.*' is an ensemble"):
        report_of(str(tmp_path), **asked)
