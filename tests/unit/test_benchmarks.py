"""The benchmarks' table, without running them: nothing here is timed."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks.duel import BEFORE, Measured
from benchmarks.rows import ROWS, Row
from benchmarks.scaling import CLUSTERS, MINILM, speed_up, step
from benchmarks.side import Pass


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_side_is_there(row: Row) -> None:
    for side in row.sides:
        module, _, function = side.removesuffix(BEFORE).partition(":")
        assert callable(getattr(import_module(f"benchmarks.{module}"), function)), side


def measured(seconds: float, **facts: float) -> Measured:
    return Measured([Pass(seconds * factor, 100, facts) for factor in (1.0, 1.1, 0.9)], 500.0)


def entry_of(row: Row, monkeypatch: pytest.MonkeyPatch, *sides: Measured) -> dict[str, object]:
    monkeypatch.setattr(bench, "duel", lambda *arguments: list(sides))
    return bench.measure([row], Path("data"), quick=False)[0]


def row_named(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)


def test_as_fast_as_was_aimed_at_is_reached_and_less_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_named("sbert")
    fast = entry_of(row, monkeypatch, measured(1.0), measured(2.75))
    slow = entry_of(row, monkeypatch, measured(1.0), measured(2.5))
    assert (fast["reached"], slow["reached"]) == (True, False)
    assert "| >= 2.70 x | 2.75 x | reached | 100 / 36.36 | 500 / 500 |" in bench.line(row, fast)
    assert "**short**" in bench.line(row, slow)


def test_a_cost_is_reached_where_it_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_named("lightning")
    assert entry_of(row, monkeypatch, measured(1.5, steps=1.02), measured(1.0))["reached"]
    assert not entry_of(row, monkeypatch, measured(1.5, steps=1.2), measured(1.0))["reached"]


def test_rows_of_one_contest_share_their_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def duel(sides: list[str], *arguments: object) -> list[Measured]:
        asked.append(sides)
        return [measured(float(at)) for at in range(1, len(sides) + 1)]

    monkeypatch.setattr(bench, "duel", duel)
    entries = bench.measure([row_named("sbert"), row_named("plain")], Path("data"), quick=True)
    assert asked == [["training:ours", "training:sbert", "training:plain"]]
    assert [entry["value"] for entry in entries] == pytest.approx([2.0, 3.0])
    assert [entry["amount"] for entry in entries] == [row_named("sbert").contest.quick] * 2


def test_other_results_are_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_named("encode")
    same = entry_of(row, monkeypatch, measured(1.0, projection=2.0), measured(2.0, projection=2.0))
    other = entry_of(row, monkeypatch, measured(1.0, projection=2.0), measured(2.0, projection=2.1))
    assert (same["reached"], other["reached"]) == (True, False)
    assert "differs by 5e-02" in bench.line(row, other)


def test_a_row_measured_again_replaces_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(f"# Benchmarks\n\n{bench.BEGIN}\n{bench.END}\n\nand more\n")
    monkeypatch.setattr(bench, "PAGE", page)
    monkeypatch.setattr(bench, "KEPT", tmp_path / "results.json")
    for seconds in (2.0, 3.0):
        bench.keep(entry_of(row_named("sbert"), monkeypatch, measured(1.0), measured(seconds)))
    assert page.read_text().count("sentence-transformers") == 1
    assert "3.00 x" in page.read_text() and page.read_text().endswith("and more\n")
    assert len(json.loads((tmp_path / "results.json").read_text())["rows"]) == 1


@pytest.mark.parametrize("cluster", CLUSTERS, ids=lambda cluster: cluster.name)
def test_larger_batches_and_fewer_bytes_scale_better(cluster) -> None:
    assert speed_up(MINILM, cluster, 32, False) < speed_up(MINILM, cluster, 2048, False) < cluster.ranks
    assert step(MINILM, cluster, 32, cluster.ranks, True) < step(MINILM, cluster, 32, cluster.ranks, False)
    assert step(MINILM, cluster, 32, 1, False) == step(MINILM, cluster, 32, 1, True)


def test_rows_against_another_build_are_wanted_where_its_tree_is_given() -> None:
    row, other = row_named("step"), row_named("help")
    assert not bench.is_wanted(row, [], False, None) and bench.is_wanted(row, [], False, Path("tree"))
    assert bench.is_wanted(row, ["step"], False, Path("tree")) and not bench.is_wanted(other, ["step"], False, None)
    assert bench.is_wanted(other, [], False, None) and not bench.is_wanted(other, [], True, None)
