"""The report, from a small experiment written by hand: what it says, what it escapes, what it refuses."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.tensorboard import SummaryWriter
from typer.testing import CliRunner

from multitask.errors import UserError
from multitask.report import write_report
from multitask.report.as_markdown import escaped
from multitask.report.compose import compose, headline
from multitask.report.facts import trainers_table
from multitask.report.numbers import DASH
from multitask.report.reading import read_evidence
from multitask.report.tables import paper_table, retention_table, stages_table
from multitask.storage.storage import Storage
from ray_jobs.cli import app
from tests.reports import ENCODER, FINISHED, NASTY, PAPER, add_dev, column, evidence, stage, texts, trainer, write

# What it says


@pytest.mark.slow
def test_both_files_are_written_where_the_experiment_is_and_say_the_same_each_time() -> None:
    home = write("memory://report/small", FINISHED[:2])
    places = write_report("memory://report/small")
    assert places == ["memory://report/small/report.html", "memory://report/small/report.md"]
    first = [home.read_bytes(name) for name in ("report.html", "report.md")]
    write_report("memory://report/small")
    assert [home.read_bytes(name) for name in ("report.html", "report.md")] == first


@pytest.mark.slow
def test_the_command_prints_both_places(tmp_path: Path) -> None:
    write(tmp_path, FINISHED)
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert all(str(tmp_path / name) in done.output for name in ("report.html", "report.md"))


def test_a_folder_without_results_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no results\.json there; give the folder") as caught:
        write_report(str(tmp_path / "none"))
    assert str(tmp_path / "none") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}"])
def test_a_broken_results_file_is_refused(tmp_path: Path, content: bytes) -> None:
    Storage(str(tmp_path)).write_bytes("results.json", content)
    with pytest.raises(UserError, match=r"results\.json: damaged: "):
        read_evidence(Storage(str(tmp_path)))


@pytest.mark.parametrize("tables", [[{"title": "no conditions"}], {"title": "no list"}])
def test_tables_that_are_none_are_refused(tmp_path: Path, tables: Any) -> None:
    with pytest.raises(UserError, match=r"recipe\.yaml: tables"):
        evidence(tmp_path, FINISHED, tables=tables)


def test_retention_is_the_difference_to_what_the_stage_started_from(tmp_path: Path) -> None:
    table = retention_table(evidence(tmp_path, FINISHED))
    assert column(table, "sts", "sst accuracy") == "−.050"
    assert column(table, "sts", "sts pearson") == "+.250"
    assert column(table, "sst", "sts pearson") == "0", "exactly nothing"
    assert column(table, "sts", "overall mean") == DASH, "the encoder's was not measured"
    assert "encoder" not in texts(table)


def test_retention_colours_gains_and_costs_but_no_other_scale(tmp_path: Path) -> None:
    before = {"sst/accuracy": 0.2, "mlm/perplexity": 40.0, "sst/log_loss": 1.5}
    after = {"sst/accuracy": 0.6, "mlm/perplexity": 12.5, "sst/log_loss": 1.0}
    stages = [{**ENCODER, "metrics": before}, stage("mlm", "encoder", after, objective="mlm")]
    table = retention_table(evidence(tmp_path, stages))
    assert table
    _, _, accuracy, perplexity, loss = table.rows[0]
    assert accuracy.tone == pytest.approx(1.0)
    assert (perplexity.text, perplexity.tone) == ("−27.5", None)
    assert (loss.text, loss.tone) == ("−.500", None), "less is better"


def test_a_foreign_bundles_stage_has_no_difference(tmp_path: Path) -> None:
    stages = [*FINISHED, stage("late", "s3://other/experiment/bundle", {"sst/accuracy": 0.4})]
    table = retention_table(evidence(tmp_path, stages))
    assert set(texts(table)["late"][1:]) == {DASH}
    assert table and table.rows[-1][1].note == "s3://other/experiment/bundle"


def test_seeds_give_mean_and_sample_standard_deviation(tmp_path: Path) -> None:
    scores = [0.40, 0.46, 0.49]
    stages = [{**ENCODER, "variant": variant, "seed": 11711 + variant} for variant in range(3)]
    stages += [stage("sst", "encoder", {"sst/accuracy": score}, variant) for variant, score in enumerate(scores)]
    found = evidence(tmp_path, stages)
    sd = stdev(scores)
    assert column(stages_table(found), "sst", "sst accuracy") == f".450 ± {sd:.3f}".replace("0.", ".")
    assert column(stages_table(found), "sst", "n") == "3"
    assert column(retention_table(found), "sst", "sst accuracy") == f"+.200 ± {sd:.3f}".replace("0.", ".")
    assert any("n − 1" in note and "11711, 11712, 11713" in note for note in stages_table(found).notes)


def test_a_seed_that_is_missing_is_counted(tmp_path: Path) -> None:
    stages = [ENCODER, stage("sst", "encoder", {"sst/accuracy": 0.4})]
    stages += [stage("sst", "encoder", {}, variant=1, status="running", seconds=None)]
    table = stages_table(evidence(tmp_path, stages))
    cell = table.rows[1][table.header.index("sst accuracy")]
    assert (cell.text, cell.note) == (".400", "n = 1 of 2")
    assert column(table, "sst", "status") == "finished, not finished (running)"


def test_an_unfinished_stage_is_a_dash_and_said(tmp_path: Path) -> None:
    facts = dict.fromkeys(("epochs", "steps", "seconds", "examples_per_second"))
    stages = [*FINISHED, stage("late", "sst", {}, status="pending", **facts)]
    found = evidence(tmp_path, stages, tables=[PAPER])
    assert column(stages_table(found), "late", "status") == "not finished (pending)"
    assert column(stages_table(found), "late", "sst accuracy") == DASH
    assert set(texts(retention_table(found))["late"][1:]) == {DASH}
    write_report(str(tmp_path))
    assert "not finished (pending)" in (tmp_path / "report.md").read_text()
    assert headline(found).startswith("No stage is finished"), "the only leaf is not"


def test_a_papers_table_has_both_layouts(tmp_path: Path) -> None:
    tables = [PAPER, {**PAPER, "layout": "conditions-as-rows", "note": "Rows."}]
    found = evidence(tmp_path, FINISHED, tables=tables)
    across, down = (paper_table(found, table) for table in found.tables)
    assert across.groups == ["Baseline", "Ours, late"] and across.span == 2
    assert texts(across) == {"Sentiment": [".318", ".250", ".500", DASH], "Similarity": [DASH, ".500", DASH, DASH]}
    assert across.rows[0][4].note == "no such stage here"
    assert down.groups == ["Sentiment", "Similarity"] and down.notes[0] == "Rows."
    assert texts(down)["Baseline"] == [".318", ".250", DASH, ".500"]
    assert any("1,234 train" in note and "majority class .263" in note for note in down.notes)


def test_intervals_and_reasons_stand_below_the_scores(tmp_path: Path) -> None:
    scored = stage(
        "sst", "encoder", {"sst/accuracy": 0.5, "sts/pearson": None},
        intervals={"sst/accuracy": [0.41, 0.59]}, why={"sts/pearson": "constant prediction 1.0"},
    )  # fmt: skip
    table = stages_table(evidence(tmp_path, [ENCODER, scored]))
    cells = dict(zip(table.header, table.rows[1], strict=True))
    assert cells["sst accuracy"].note == "[.410,\N{NO-BREAK SPACE}.590]" and cells["sst accuracy"].strong
    assert (cells["sts pearson"].text, cells["sts pearson"].note) == (DASH, "constant prediction 1.0")


@pytest.mark.parametrize(("encoder", "marked"), [("minilm-l6", True), ("tiny", False)])
def test_an_encoder_that_has_seen_such_data_is_marked(tmp_path: Path, encoder: str, marked: bool) -> None:
    table = stages_table(evidence(tmp_path, FINISHED, encoder=encoder))
    assert ("sts pearson†" in table.header) is marked
    assert any("billion sentence pairs" in note for note in table.notes) is marked
    assert "sst accuracy" in table.header


def test_the_headline_is_the_best_leafs(tmp_path: Path) -> None:
    best = {"sst/accuracy": 0.4, "overall/normalised": 0.7}
    stages = [ENCODER, stage("one", "encoder", best), stage("two", "encoder", {**best, "overall/normalised": 0.6})]
    said = headline(evidence(tmp_path, stages))
    assert said == "Best final stage by overall normalised, one: sst accuracy .400, overall normalised .700"


# Sweeps


def swept_rows(**facts: Any) -> list[dict[str, Any]]:
    """Trials of sts, of which the first is best by Pearson and the second by the mean, and the stage itself."""
    scores = {"sts@lr=0.001": (0.822, 0.5), "sts@lr=0.0003": (0.762, 0.6)}
    rows = [
        stage(name, "encoder", {"sts/pearson": pearson, "overall/mean": mean, "overall/normalised": mean})
        | {"settings": {"lr": float(name.partition("=")[2])}, "trainer": trainer(name[::-1]), **facts}
        for name, (pearson, mean) in scores.items()
    ]
    return [ENCODER, *rows, {**rows[0], "name": "sts"}]


SWEEP = {"stage": "sts", "by": "sts/pearson", "trials": ["sts@lr=0.001", "sts@lr=0.0003"], "best": "sts@lr=0.001"}
STORY = "sts: lr=0.001 is the best of 2 trials by sts/pearson, .822"


def test_a_sweeps_trials_are_no_final_stages(tmp_path: Path) -> None:
    found = evidence(tmp_path, swept_rows(sweep=SWEEP))
    assert list(found.final()) == ["sts"]
    assert headline(found).startswith("Last stage, sts: sts pearson .822,")
    assert compose(found).notes == [STORY]
    more = [*swept_rows(sweep=SWEEP), stage("sst", "sts", {"overall/normalised": 0.4})]
    assert headline(evidence(tmp_path, more)) == "Last stage, sst: overall normalised .400"


def test_the_table_has_the_swept_value_marks_the_winner_and_says_by_what(tmp_path: Path) -> None:
    table = stages_table(evidence(tmp_path, swept_rows(sweep=SWEEP)))
    names = ["encoder", "sts@lr=0.001", "sts@lr=0.0003", "sts"]
    assert [column(table, name, "lr") for name in names] == ["", "0.001", "0.0003", "0.001"]
    assert [column(table, name, "sts pearson") for name in names] == [".500", ".822*", ".762", ".822"]
    assert table.notes[0] == f"* {STORY}"
    assert table.rows[1][table.header.index("sts pearson")].strong, "a trial trains what its stage does"


def test_a_swept_stage_and_its_trial_are_one_training(tmp_path: Path) -> None:
    found = evidence(tmp_path, swept_rows(sweep=SWEEP))
    facts = dict(compose(found).facts)
    assert facts["Stages"] == "1 of 1 finished (2 of 2 trials)"
    assert facts["Cost"] == "2 min 10 s of training and measuring, 0.036 worker-hours"
    assert list(texts(trainers_table(found))) == ["sts@lr=0.001, sts", "sts@lr=0.0003"]


def test_a_sweep_that_was_told_before_rows_had_it_is_told_the_same(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "sweep"} for row in swept_rows()]
    stages = [{"name": "sts", "tasks": ["sts"], "sweep": {"by": "sts/pearson"}}]
    write(tmp_path, rows)
    Storage(str(tmp_path)).write_bytes("recipe.yaml", yaml.safe_dump({"stages": stages}).encode())
    found = read_evidence(Storage(str(tmp_path)))
    assert [row["sweep"] for row in found.rows] == [None, SWEEP, SWEEP, SWEEP]


def test_an_unfinished_sweep_has_no_best(tmp_path: Path) -> None:
    rows = swept_rows(sweep={**SWEEP, "best": None})
    rows[-1] |= {"trainer": None, "status": "running", "settings": None}
    found = evidence(tmp_path, rows)
    assert headline(found) == "No stage is finished yet."
    (line,) = compose(found).notes
    assert line == "sts: 2 trials, not all finished; sts/pearson will decide"


# The page


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The texts of report.html and report.md; a stage, a table, a file and a bad row have markup in their names."""
    folder = tmp_path_factory.mktemp("small")
    strange = {**stage("late", NASTY, {"sst/accuracy": 0.5}), "name": NASTY}
    write(folder, [*FINISHED, strange], tables=[PAPER])
    with SummaryWriter(str(folder / trainer("sts"))) as writer:
        for step in range(10, 30, 10):
            writer.add_scalar("train/loss", 1.0 / step, step)
            writer.add_scalar("train/lr", 0.1, step)
        add_dev(writer, FINISHED[1])
    return {Path(place).suffix: Path(place).read_text() for place in write_report(str(folder))}


@pytest.mark.parametrize("damage", ["a bit", "the end", "another run's"])
def test_events_that_are_not_the_runs_are_left_out_by_name(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    home = write(tmp_path, FINISHED)
    for one in FINISHED[1:]:
        with SummaryWriter(str(tmp_path / one["trainer"])) as writer:
            writer.add_scalar("train/loss", 0.5, 10)
            add_dev(writer, one)
    mine, other = (next((tmp_path / one["trainer"]).glob("events.out.*")) for one in FINISHED[1:])
    assert read_evidence(home).runs[1].losses["train/loss"] == [(10, 0.5)]
    data = mine.read_bytes()
    changed = {"a bit": data[:-60] + bytes([data[-60] ^ 1]) + data[-59:], "the end": data[: len(data) // 2]}
    mine.write_bytes(changed.get(damage, other.read_bytes()))
    runs = read_evidence(home).runs
    assert runs[1].losses == {} and runs[2].losses["train/loss"] == [(10, 0.5)]
    assert f"{mine.name}: damaged, cut or another run's: no dev metrics of step 20; left out" in caplog.text


def test_the_page_stands_alone_and_escapes_what_it_is_given(built: dict[str, str]) -> None:
    html = built[".html"]
    assert "<script" not in html and "&lt;script&gt;" in html
    assert not re.search(r"(src|href)\s*=\s*[\"']?\s*(https?:)?//", html)
    assert "@import" not in html and "url(http" not in html and "http" not in html
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', html))
    assert used and used <= set(ids)


def test_figures_take_the_pages_colours_and_are_described(built: dict[str, str]) -> None:
    figures = re.findall(r"<svg.*?</svg>", built[".html"], re.DOTALL)
    assert len(figures) == 1 + 3 + 3, "a loss, three stages' dev scores, three metrics of the leaves"
    for svg in figures:
        assert 'role="img"' in svg and 'aria-label="' in svg and "<title>" in svg
        assert not re.search(r"#[0-9a-f]{6}", svg) and "var(--ink)" in svg
        assert "<style" not in svg and "DejaVu" not in svg
    assert 'aria-label="Training loss of the stage sts over its steps"' in built[".html"]


def test_tables_have_captions_and_scopes(built: dict[str, str]) -> None:
    html = built[".html"]
    assert html.count("<table") == html.count("<caption") == 6
    assert {*re.findall(r'scope="(\w+)"', html)} == {"col", "colgroup", "row"}
    assert not re.search(r"<th(?![^>]*scope)[ >]", html)


def test_markdown_holds_all_tables_and_no_markup_of_others(built: dict[str, str]) -> None:
    text = built[".md"]
    assert len(re.findall(r"^\| ---", text, re.MULTILINE)) == 6 and "<svg" not in text
    assert not re.search(r"(?<!\\)<script", text)
    widths = [[len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()] for block in text.split("\n\n")]
    assert all(len(set(width)) == 1 for width in widths if width[0]), "every row as wide as its header"
    assert "a paper, table 1" in text and "Run facts" in text and trainer("sts") in text


@given(st.text())
def test_escaped_text_is_one_line_without_bare_markup(text: str) -> None:
    line = escaped(text)
    assert "\n" not in line
    assert not re.search(r"[`*\[\]<>|#]", re.sub(r"\\.", "", line))
