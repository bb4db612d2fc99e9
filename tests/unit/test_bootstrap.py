"""Bootstrap intervals are those that every seed has given so far.

All values are multiples of 1/64, whose sums are exact in any order: the expected numbers are equal on every machine.
"""

from __future__ import annotations

import numpy as np
import pytest

from multitask.measure.bootstrap import clustered_interval, mean_interval, resampled_means
from multitask.measure.metrics import Floats, bootstrap_interval
from multitask.recruit.quality import Estimate, estimate

PLACES = np.arange(150)
VALUES: Floats = (PLACES * 37 % 65) / 64  # 0 to 1
LABELS: Floats = (PLACES * 11 % 5).astype(float)
GIVEN: Floats = np.where(PLACES % 3 == 0, LABELS, PLACES * 7 % 5)
MANY = np.arange(2500)  # not all of their draws are made at once


def test_of_a_metric() -> None:
    assert bootstrap_interval("accuracy", GIVEN, LABELS, 11711) == (0.38666666666666666, 0.5466666666666666)
    assert bootstrap_interval("accuracy", GIVEN, LABELS, 5, 300) == (0.38, 0.5533333333333333)
    assert bootstrap_interval("accuracy", (MANY % 7 > 1) * 1.0, MANY % 2, 11711) == (0.48039, 0.5196099999999999)
    expected = pytest.approx((0.5823533589148412, 0.7426978560144162), rel=1e-12)
    assert bootstrap_interval("pearson", GIVEN, LABELS, 11711) == expected


def test_of_means_over_units_that_are_alike() -> None:
    alike = PLACES % 40
    assert estimate(VALUES, alike) == Estimate(0.5020833333333333, 0.47322842508278146, 0.5295684954725134, 150)
    assert estimate(VALUES, alike, 5) == Estimate(0.5020833333333333, 0.4731076940295986, 0.528664672765658, 150)
    assert estimate(MANY % 65 / 64, MANY) == Estimate(0.49671875, 0.48575453125, 0.50816921875, 2500)
    assert estimate(np.ones(150), alike) == Estimate(1.0, 1.0, 1.0, 150)
    assert estimate(np.ones(150), alike, shares=True) == Estimate(1.0, 0.9123783988027133, 0.9999999999999999, 150)


def test_of_a_statistic_over_clusters() -> None:
    clusters = (PLACES % 40).tolist()
    mean = clustered_interval(lambda rows: float(VALUES[rows].mean()), clusters)
    assert mean == (0.47322842508278146, 0.5295684954725134)
    most = clustered_interval(lambda rows: float(VALUES[rows].max()), (PLACES % 9).tolist(), 5, 100)
    assert most == (0.991796875, 1.0)


def test_of_a_mean_in_0_to_1() -> None:
    assert mean_interval(VALUES, shares=True) == (0.4535208333333333, 0.5504244791666667)
    assert mean_interval(VALUES, shares=True, resamples=100) == (0.45315364583333334, 0.5501953125)
    assert mean_interval(MANY % 65 / 64, shares=True) == (0.48575453125, 0.50816921875)
    assert mean_interval(np.ones(150), shares=True) == (0.9750297556319235, 1.0)
    assert mean_interval(np.full(9, 0.25), shares=True) == (0.25, 0.25)


def test_of_means_over_texts_and_names() -> None:
    groups = [VALUES.reshape(50, 3), VALUES[::-1].reshape(50, 3)]
    assert resampled_means(groups)[[0, 1, 500, 999]].tolist() == [
        [0.5283333333333333, 0.455],
        [0.4815625, 0.4653125],
        [0.48364583333333333, 0.5403125],
        [0.471875, 0.48125],
    ]
