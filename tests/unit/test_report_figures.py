"""The report's curves and numbers."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.tensorboard import SummaryWriter

from multitask.experiment.results import summary
from multitask.report.figures import LINE, MOST_POINTS, apart, dev_curve, smoothed, stage_figure, thinned
from multitask.report.numbers import ordered, signed, spread
from multitask.report.reading import read_evidence
from tests.reports import ENCODER, FINISHED, add_dev, evidence, stage, trainer, write


def test_a_stage_of_one_epoch_starts_from_where_its_parent_ended(tmp_path: Path) -> None:
    found = evidence(tmp_path, FINISHED)
    assert dev_curve(found, found.runs[2], "sst/accuracy") == [(0, 0.2), (1, 0.5)]


def test_an_epoch_0_of_its_own_wins(tmp_path: Path) -> None:
    home = write(tmp_path, FINISHED)
    lines = [
        {"epoch": epoch, "steps": 20 * epoch, "seconds": 1.0, "metrics": {"sst/accuracy": 0.1 + epoch}}
        for epoch in (0, 1)
    ]
    home.at(trainer("sst")).write_bytes("metrics.jsonl", "\n".join(map(json.dumps, lines)).encode())
    found = read_evidence(home)
    assert dev_curve(found, found.runs[2], "sst/accuracy") == [(0, 0.1), (1, 1.1)]


def test_a_stage_without_any_measurement_has_no_figure(tmp_path: Path) -> None:
    found = evidence(tmp_path, [ENCODER, stage("late", "encoder", {}, status="pending")])
    assert stage_figure(found, "late") is None


@pytest.mark.slow
def test_losses_of_several_tasks_and_another_scale_are_drawn_apart(tmp_path: Path) -> None:
    stages = [ENCODER, stage("joint", "encoder", {"sst/accuracy": 0.3, "sts/pearson": 0.3, "mlm/perplexity": 30.0})]
    home = write(tmp_path, stages)
    with SummaryWriter(str(tmp_path / trainer("joint"))) as writer:
        for step in range(10, 100, 10):
            for tag in ("train/loss", "train/loss_sst", "train/loss_sts"):
                writer.add_scalar(tag, step / 100, step)
        add_dev(writer, stages[1])
    found = read_evidence(home)
    assert sorted(found.runs[1].losses) == ["train/loss", "train/loss_sst", "train/loss_sts"]
    assert [step for step, _ in found.runs[1].losses["train/loss"]] == list(range(10, 100, 10))
    figure = stage_figure(found, "joint")
    assert figure and len(figure.panels) == 3
    assert all(f">{name}</text>" in figure.panels[0] for name in ("sst", "sts", "all"))
    assert ">dev perplexity</text>" in figure.panels[2]


CURVES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=1000)


@given(CURVES)
def test_a_smoothed_curve_keeps_its_steps_and_stays_within_its_values(values: list[float]) -> None:
    curve = list(enumerate(values))
    found = smoothed(curve)
    assert [step for step, _ in found] == list(range(len(values)))
    assert all(min(values) - 1e-6 <= value <= max(values) + 1e-6 for _, value in found)


@given(CURVES)
def test_a_thinned_curve_is_short_and_keeps_its_ends(values: list[float]) -> None:
    curve = list(enumerate(values))
    found = thinned(curve)
    assert len(found) == min(len(curve), MOST_POINTS) and (found[0], found[-1]) == (curve[0], curve[-1])
    assert found == sorted(set(found))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_labels_do_not_touch_and_keep_their_order(places: list[float]) -> None:
    found = apart(places, LINE)
    in_order = [found[index] for index in sorted(range(len(places)), key=lambda index: places[index])]
    assert all(after - before >= LINE - 1e-9 for before, after in pairwise(in_order))
    assert min(found) >= 0 and max(found) <= 1


@pytest.mark.parametrize(
    ("change", "text"),
    [(0.0, "0"), (-0.0, "0"), (0.12, "+.120"), (-0.1314, "−.131"), (1e-5, "+1e-05"), (-2.5, "−2.500")],
)
def test_only_exactly_nothing_is_0(change: float, text: str) -> None:
    assert signed(change) == text


def test_one_value_has_no_deviation() -> None:
    assert summary([]) is None
    assert spread(summary([0.411])) == ".411"  # type: ignore[arg-type]


def test_the_papers_metrics_come_first() -> None:
    given_order = ["mlm/perplexity", "overall/mean", "cfimdb/accuracy", "sts/pearson", "sst/accuracy", "sts/pearson"]
    expected = ["sst/accuracy", "sts/pearson", "overall/mean", "mlm/perplexity", "cfimdb/accuracy"]
    assert ordered(given_order) == expected
