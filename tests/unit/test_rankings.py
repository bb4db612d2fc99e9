"""Rankings of pairs: against scikit-learn question by question, with ties, intervals, and where there is no value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn import metrics as peer

from multitask.measure.compare import Answered, compare
from multitask.measure.evaluate import table_score
from multitask.measure.metrics import NO_QUESTION, Predicted
from multitask.measure.rankings import Bools, questions_of
from multitask.recipe.checks import build_recipe
from multitask.tasks.labels import RANKINGS, LabelSpec
from multitask.tasks.table import TASKS
from tests.helpers import recipe_tree, refused_stage, table_of

QUORA, STS = TASKS["quora"], TASKS["sts"]


def falling(relevant: Bools) -> np.ndarray:
    """Scores of candidates that stand in their ranks."""
    return -np.arange(len(relevant), dtype=np.float64)


PEERS: dict[str, Callable[[Bools], float]] = {
    "mrr": lambda relevant: 1 / (1 + list(relevant).index(True)),
    "map": lambda relevant: peer.average_precision_score(relevant, falling(relevant)),
    "ndcg_at_10": lambda relevant: peer.ndcg_score([relevant], [falling(relevant)], k=10),
    "recall_at_1": lambda relevant: relevant[:1].sum() / relevant.sum(),
    "recall_at_5": lambda relevant: relevant[:5].sum() / relevant.sum(),
    "recall_at_10": lambda relevant: relevant[:10].sum() / relevant.sum(),
}


def drawn(seed: int, tied: bool) -> tuple[list[list[int]], np.ndarray, np.ndarray]:
    """Pairs as sentences of token ids, of 20 questions with 1 to 25 candidates in any order; labels and logits."""
    random = np.random.default_rng(seed)
    asked = random.permutation(np.repeat(np.arange(20), random.integers(1, 26, 20)))
    sentences = [tokens for at, number in enumerate(asked) for tokens in ([2, number, 3], [2, 30, at, 3])]
    logits = random.normal(0, 1, len(asked))
    return sentences, random.integers(0, 2, len(asked)), np.round(logits, 1) if tied else logits


def by_hand(metric: str, sentences: list[list[int]], labels: np.ndarray, logits: np.ndarray) -> float:
    """The mean over questions with a relevant candidate and another; of equal logits the relevant come last."""
    found = []
    for number in range(20):
        rows = [at for at in range(len(labels)) if sentences[2 * at][1] == number]
        order = sorted(rows, key=lambda at: (-logits[at], labels[at]))
        relevant = np.array([labels[at] == 1 for at in order])
        if relevant.any() and not relevant.all():
            found.append(PEERS[metric](relevant))
    return float(np.mean(found))


@pytest.mark.parametrize("metric", RANKINGS)
@pytest.mark.parametrize("tied", [False, True])
def test_a_ranking_is_measured_as_the_peers_do(metric: str, tied: bool) -> None:
    for seed in range(5):
        sentences, labels, logits = drawn(seed, tied)
        predicted = Predicted(torch.tensor(logits > 0).double(), torch.tensor(logits))
        found = table_score(QUORA, metric, table_of(sentences, labels.tolist(), per=2), predicted)
        assert found.value == pytest.approx(by_hand(metric, sentences, labels, logits), abs=1e-12)
        assert found.interval and found.interval[0] <= found.value <= found.interval[1]


def test_scores_are_relevant_from_similar_on_and_ranked_by_themselves() -> None:
    sentences = [[2, 5, 3], [2, 6, 3], [2, 5, 3], [2, 7, 3], [2, 5, 3], [2, 8, 3]]
    table = table_of(sentences, [1.0, 4.5, 2.0], per=2)
    predicted = Predicted(torch.tensor([3.0, 2.0, 1.0]).double())
    assert table_score(STS, "mrr", table, predicted).value == 0.5
    assert questions_of(table, STS.label).relevant.tolist() == [False, True, False]
    upper_half = LabelSpec("score", "label", 0, 5)
    assert questions_of(replace(table, labels=torch.tensor([2.5, 2.6, 5.0])), upper_half).relevant.tolist() == [
        False, True, True,
    ]  # fmt: skip


def test_joined_pairs_are_told_apart_by_the_tokens_before_the_second_text() -> None:
    table = table_of([[2, 5, 3, 6, 3], [2, 5, 3, 7, 8, 3], [2, 9, 3, 6, 3]], [1, 0, 1], per=1)
    numbers = questions_of(replace(table, seconds=torch.tensor([3, 3, 3])), QUORA.label).number
    assert numbers[0] == numbers[1] != numbers[2]


@pytest.mark.parametrize("labels", [[0, 0, 1], [1, 1, 0], [0, 0, 0]])
def test_no_question_has_both_kinds_of_candidates(labels: list[int]) -> None:
    table = table_of([[2, 5, 3], [2, 6, 3], [2, 5, 3], [2, 7, 3], [2, 9, 3], [2, 8, 3]], labels, per=2)
    found = table_score(QUORA, "map", table, Predicted(torch.ones(3), torch.ones(3)))
    assert (found.value, found.why) == (None, NO_QUESTION)


def test_models_are_compared_over_questions() -> None:
    sentences, labels, logits = drawn(7, tied=False)
    better = logits + 3 * labels
    given = [Predicted(torch.tensor(one > 0).double(), torch.tensor(one)) for one in (logits, better)]
    table = table_of(sentences, labels.tolist(), per=2)
    task = Answered(QUORA, labels.astype(float), given, questions_of(table, QUORA.label))
    (found,) = [one for one in compare([task], measures=["quora/mrr"], resamples=300) if one.metric == "quora/mrr"]
    assert found.difference is not None and found.difference > 0.1 and found.interval and found.interval[0] > 0
    values = [table_score(QUORA, "mrr", table, one).value for one in given]
    assert [found.baseline, found.value] == values
    some = np.arange(len(labels)) % 3 > 0
    parts = [table_score(QUORA, "mrr", table, one, some).value for one in given]
    (part,) = [one for one in compare([task.of(some)], measures=["quora/mrr"], resamples=9) if one.metric[-3:] == "mrr"]
    assert [part.baseline, part.value] == parts != values


def test_single_texts_have_no_questions() -> None:
    tree = recipe_tree(tasks=["sst", "quora"])
    tree["tasks"]["quora"]["measures"] = ["mrr"]
    assert build_recipe(tree, "r").measures == ["quora/mrr"]
    assert "mrr" not in TASKS["sst"].metrics
    refused_stage("'sst/mrr'", tasks=["sst"], keep={"best": "sst/mrr"})
