"""What Ray Tune is told of a trial."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from multitask.experiment.records import Record
from ray_jobs.runners import tuning


def job(by: str = "sts/pearson") -> Any:
    return SimpleNamespace(by=by, stage={"epochs": 3})


def test_tune_is_told_what_was_measured() -> None:
    assert tuning._facts(job(), Record.of(2, 10, 0.0, {"sts/pearson": 0.5})) == {"epoch": 2, "sts/pearson": 0.5}


@pytest.mark.parametrize("value", [None, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("by", ["sts/pearson", "mlm/perplexity"])
def test_tune_is_never_told_a_score_that_is_none(by: str, value: float | None) -> None:
    """One infinite score would make ASHA's cut-off NaN, by which it stops no trial any more."""
    assert tuning._facts(job(by), Record.of(1, 5, 0.0, {by: value})) is None


def test_asha_still_stops_what_lags_behind_a_trial_without_a_score() -> None:
    from ray.tune.schedulers.async_hyperband import AsyncHyperBandScheduler

    asha = AsyncHyperBandScheduler(
        metric="sts/pearson", mode="max", time_attr="epoch", max_t=9, grace_period=1, reduction_factor=3
    )
    decisions = {}
    for name, value in {"a": None, "b": 0.8, "c": None, "d": 0.2}.items():
        trial: Any = SimpleNamespace(trial_id=name)
        asha._metric_op = 1.0
        asha.on_trial_add(SimpleNamespace(), trial)
        facts = tuning._facts(job(), Record.of(1, 5, 0.0, {"sts/pearson": value}))
        decisions[name] = asha.on_trial_result(SimpleNamespace(), trial, facts) if facts else None
    assert decisions == {"a": None, "b": "CONTINUE", "c": None, "d": "STOP"}
