"""A sweep in the report: its trials as parallel lines, and as a table."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask.recipe.sweeps import said
from multitask.report.as_markdown import as_markdown
from multitask.report.compose import compose
from multitask.report.reading import Evidence, read_evidence
from multitask.report.sweeps import LETTER, Scale, roomy, sweep_panel, sweeps, sweeps_section
from tests.reports import FINISHED, SCORES, evidence, swept, texts, trial_trainer, write


def test_the_table_has_a_row_a_trial_the_best_first_and_starred(tmp_path: Path) -> None:
    section = sweeps_section(evidence(tmp_path, swept()))
    assert section
    (table,) = section.tables
    assert table.header == ["place", "lr", "sts pearson", "time", "status"]
    assert texts(table) == {
        "1": ["0.001", ".750*", "1 min 5 s", "finished"],
        "2": ["0.0001", ".500", "1 min 5 s", "finished"],
        "3": ["1e-05", ".250", "1 min 5 s", "finished"],
        "4": ["0.01", "–", "1 min 5 s", "failed"],
    }
    assert [cell.strong for cell in table.rows[0]] == [False, True, True, False, False]
    assert table.caption == "sts: 4 trials by sts pearson" and "sts@lr=0.001" in table.notes[0]


def test_a_trial_that_was_stopped_says_what_it_had_measured(tmp_path: Path) -> None:
    home = write(tmp_path, swept())
    lines = [{"epoch": epoch, "steps": 9 * epoch, "seconds": 1.0, "metrics": {"sts/pearson": 0.1 + epoch / 10}}
             for epoch in range(3)]  # fmt: skip
    home.at(trial_trainer(3, 0)).write_bytes("metrics.jsonl", "\n".join(map(json.dumps, lines)).encode())
    (sweep,) = sweeps(read_evidence(home))
    section = sweeps_section(read_evidence(home))
    assert sweep.trials[-1].name == "sts@lr=0.01" and section
    assert section.tables[0].rows[-1][2].note == ".300 after epoch 2"


def test_where_less_is_better_the_least_is_first(tmp_path: Path) -> None:
    (sweep,) = sweeps(evidence(tmp_path, swept("sts/mse")))
    assert [run.metrics.get("sts/mse") for run in sweep.trials] == [0.25, 0.5, 0.75, None]
    assert "sts mse (less is better)" in sweep_panel(sweep)


def test_each_seed_has_a_sweep_of_its_own(tmp_path: Path) -> None:
    other = {label: None if score is None else 1 - score for label, score in SCORES.items()}
    section = sweeps_section(evidence(tmp_path, [*swept(), *swept(variant=1, scores=other)]))
    assert section and [table.caption for table in section.tables] == [
        "sts, seed 11711: 4 trials by sts pearson",
        "sts, seed 11712: 4 trials by sts pearson",
    ]
    assert [table.rows[0][1].text for table in section.tables] == ["0.001", "1e-05"]
    assert len({re.findall(r'id="(sweep-sts-\d)-', figure.panels[0])[0] for figure in section.figures}) == 2


def test_no_sweep_no_section_and_markdown_has_the_table(tmp_path: Path) -> None:
    assert sweeps_section(evidence(tmp_path / "none", FINISHED)) is None
    found: Evidence = evidence(tmp_path / "swept", swept())
    text = as_markdown(compose(found))
    assert "## Sweeps" in text and "| 1 | **0.001** | **.750\\*** |" in text


def test_a_line_a_trial_and_the_best_alone_in_colour(tmp_path: Path) -> None:
    (sweep,) = sweeps(evidence(tmp_path, swept()))
    svg = sweep_panel(sweep)
    lines = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\((--[\w-]+)\)', svg)
    drawn = [(len(re.findall(r"[ML]", path)), colour) for path, colour in lines]
    assert drawn.count((2, "--series-0")) == 1 and drawn.count((2, "--muted")) == 2
    assert drawn.count((2, "--rule")) == 2 and len([one for one in drawn if one[0] == 2]) == 5, "the axes"
    assert all(f">{text}</text>" in svg for text in ("lr (log)", "sts pearson", "0.001", ".750"))


# Axes


@pytest.mark.parametrize(
    ("values", "places", "log"),
    [
        ([1e-3, 1e-5, 1e-4], [0.0, 0.5, 1.0], True),
        ([1, 10], [0.0, 1.0], False),
        ([8, 16, 32], [0.0, 1 / 3, 1.0], False),
        ([0, 10, 100], [0.0, 0.1, 1.0], False),
        ([0.3], [0.5], False),
        (["linear", "constant", "cosine"], [0.0, 0.5, 1.0], False),
        ([True, False], [0.0, 1.0], False),
        ([None, 1.0, 2.5], [0.0, 0.5, 1.0], False),
    ],
)
def test_an_axis_is_logarithmic_beyond_a_factor_of_ten(values: list[Any], places: list[float], log: bool) -> None:
    scale = Scale.of("lr", values)
    assert scale.log is log
    assert sorted(map(scale.place, values)) == pytest.approx(places)


def test_a_metrics_axis_is_never_logarithmic() -> None:
    assert Scale.of("mlm perplexity", [1.0, 100.0, 50.5], log=False).place(50.5) == pytest.approx(0.5)


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30), st.data())
def test_labels_of_an_axis_do_not_touch_and_the_marked_one_is_there(values: list[float], data: st.DataObject) -> None:
    scale, marked = Scale.of("lr", values), data.draw(st.sampled_from(values))
    shown = roomy(scale, [marked], said)
    assert marked in shown and set(shown) <= set(values)
    spans = []
    for value in shown:
        width = LETTER * len(said(value))
        left = min(max(scale.place(value) - width / 2, 0.0), 1.0 - width)
        spans.append((left, left + width))
    assert all(right < left for (_, right), (left, _) in pairwise(sorted(spans)))
