"""A closer look at dev: confusion, calibration and the worst rows of a few known predictions."""

from __future__ import annotations

import pytest
import torch

from multitask.measure.looks import Worst, look_at
from multitask.measure.metrics import Predicted
from multitask.tasks.labels import LabelSpec
from tests.helpers import table_of


def logits_of(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).logit()


def test_yes_or_no_by_hand() -> None:
    table = table_of([[1], [2], [3], [4]], [1, 0, 0, 1], per=1)
    logits = logits_of(0.9, 0.8, 0.3, 0.96)
    found = look_at(Predicted((logits > 0).double(), logits), table, LabelSpec("binary", "label", 0, 1))
    assert found is not None and found.names == ["0", "1"]
    assert found.confusion == [[1, 1], [0, 2]]  # of two 0s one is taken for a 1
    expected = [(0.7, 1.0, 1), (0.8, 0.0, 1), (0.93, 1.0, 2)]
    for bin_, wanted in zip(found.calibration, expected, strict=True):
        assert bin_ == pytest.approx(wanted)
    assert found.worst == [Worst(1, 0.0, 1.0, pytest.approx(0.8))]


def test_classes_by_hand() -> None:
    table = table_of([[1], [2], [3]], [2, 0, 1], per=1)
    logits = torch.tensor([[0.0, 0.0, 3.0], [0.0, 2.0, 0.0], [0.1, 0.0, 0.0]])
    label = LabelSpec("classes", "label", 0, 2, words=("bad", "so", "good"))
    found = look_at(Predicted(logits.argmax(dim=-1).double(), logits), table, label)
    assert found is not None and found.names == ["bad", "so", "good"]
    assert found.confusion == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert [(one.row, one.label, one.predicted) for one in found.worst] == [(1, 0.0, 1.0), (2, 1.0, 0.0)]
    assert sum(count for _, _, count in found.calibration) == 3


def test_scores_have_the_rows_that_are_furthest_off() -> None:
    table = table_of([[1, 2], [3, 4], [5, 6]], [1.0, 5.0, 2.0], per=1)
    found = look_at(Predicted(torch.tensor([1.0, 2.5, 2.5])), table, LabelSpec("score", "label", 0, 5))
    assert found is not None and not found.confusion and not found.calibration
    assert [(one.row, one.sure) for one in found.worst] == [(1, 2.5), (2, 0.5)]


def test_labels_that_are_several_or_unknown_have_none() -> None:
    label = LabelSpec("binary", "label", 0, 1)
    unknown = table_of([[1], [2]], [1, float("nan")], per=1)
    assert look_at(Predicted(torch.ones(2), torch.ones(2)), unknown, label) is None
    assert look_at(Predicted(torch.ones(0), torch.ones(0)), table_of([], [], per=1), label) is None


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_predictions_that_are_no_numbers_have_none(broken: float) -> None:
    table, label = table_of([[1], [2]], [1, 0], per=1), LabelSpec("binary", "label", 0, 1)
    logits = torch.tensor([0.5, broken], dtype=torch.float64)
    assert look_at(Predicted((logits > 0).double(), logits), table, label) is None
    scores = Predicted(torch.tensor([1.0, broken]))
    assert look_at(scores, table, LabelSpec("score", "label", 0, 5)) is None


def test_no_rows_are_named_where_none_are_wanted() -> None:
    table = table_of([[1, 2]], [5.0], per=1)
    found = look_at(Predicted(torch.tensor([1.0])), table, LabelSpec("score", "label", 0, 5), worst=0)
    assert found is not None and found.worst == []
