"""The report's closer look at dev: confusion, calibration, the worst rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from multitask.experiment.stage_job import write_outcome
from multitask.report.blocks import Section
from multitask.report.compose import compose
from multitask.report.looks import TEXT_SHOWN, looks_section
from multitask.report.reading import read_evidence
from tests.reports import FINISHED, trainer, write

CLASSES: dict[str, Any] = {
    "names": ["no", "yes"],
    "confusion": [[3, 1], [0, 0]],
    "calibration": [[0.55, 0.5, 2], [0.95, 1.0, 2]],
    "worst": [{"row": 7, "label": 0.0, "predicted": 1.0, "sure": 0.9612, "texts": ["one side", "x" * 200]}],
}
SCORES: dict[str, Any] = {
    "names": [], "confusion": [], "calibration": [],
    "worst": [{"row": 3, "label": 4.2, "predicted": 0.5, "sure": 3.7, "texts": ["a text"]}],
}  # fmt: skip


def section(folder: Path, dev: dict[str, Any]) -> Section | None:
    home = write(folder, FINISHED)
    write_outcome(home.at(trainer("sst")), {"dev": dev, "seconds": 65.0})
    return looks_section(read_evidence(home))


def test_right_and_wrong_are_shaded_by_their_share_of_the_class(tmp_path: Path) -> None:
    found = section(tmp_path, {"quora": CLASSES})
    assert found
    table = found.tables[0]
    assert (table.caption, table.header, table.groups) == (
        "quora after sst: what each class is taken for", ["is", "no", "yes"], ["said"])  # fmt: skip
    assert [[(cell.text, cell.note, cell.tone) for cell in row[1:]] for row in table.rows] == [
        [("3", "75%", 0.75), ("1", "25%", -0.25)],
        [("0", "0%", 0.0), ("0", "0%", 0.0)],
    ]


def test_the_worst_rows_have_both_texts_cut_to_what_is_read(tmp_path: Path) -> None:
    found = section(tmp_path, {"quora": CLASSES, "sts": SCORES})
    assert found
    pairs, single = found.tables[1], found.tables[2]
    assert pairs.prose and [cell.text for cell in pairs.rows[0]] == [
        f"one side /\n{'x' * TEXT_SHOWN} ...", "no", "yes", "0.96"]  # fmt: skip
    assert pairs.notes == ["The texts are as the tokenizer gives them back; a stroke is between the two of a pair."]
    assert single.header == ["text", "is", "said", "off by"]
    assert [cell.text for cell in single.rows[0]] == ["a text", "4.20", "0.50", "3.70"]
    assert single.notes == ["The texts are as the tokenizer gives them back."]


def test_calibration_is_a_figure_a_stage_with_a_panel_a_task_of_classes(tmp_path: Path) -> None:
    found = section(tmp_path, {"quora": CLASSES, "sst": CLASSES, "sts": SCORES})
    assert found
    (figure,) = found.figures
    assert figure.caption.startswith("After sst: ") and len(figure.panels) == 2
    assert "How often answers of quora are right, by how sure they are, after the stage sst" in figure.panels[0]


def test_a_stage_that_looked_at_nothing_has_no_section(tmp_path: Path) -> None:
    assert section(tmp_path, {}) is None
    assert "Dev, closely" not in [one.title for one in compose(read_evidence(write(tmp_path, FINISHED))).sections]
