"""Multiple negatives ranking: the paper's formula, sentence-transformers' loss, and ranks that cost what one does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from multitask.data.batches import Batch
from multitask.data.samplers import derive_seed, rank_slice
from multitask.data.tokens import TokenTable
from multitask.objectives.base import Place
from multitask.objectives.losses import multiple_negatives
from multitask.objectives.ranks import Gather
from tests.helpers import Ranks, module_of, objective_of, random_sentences, table_of


def pairs(labels: list[float], seed: int = 0, same: int = 0) -> TokenTable:
    """A table of those labels; its first `same` sentences come again in the pairs after theirs."""
    sentences = random_sentences(2 * len(labels), seed, low=2, high=7)
    for at in range(same):
        sentences[(2 * at + 4 + at % 2) % len(sentences)] = sentences[at]
    return table_of(sentences, labels)


def objective(table: TokenTable, task: str = "quora", **options: Any) -> Any:
    size = options.pop("batch_size", len(table))
    return objective_of({task: table}, objective="ranking", batch_size=size, ranking=options)


def whole(objective: Any, task: str = "quora") -> Batch:
    rows = np.arange(len(objective.setup.tables[task]))
    batch: Batch = objective.batch(task, rows, np.ones(len(rows), np.float32), "epoch 0")
    return batch


def by_loops(objective: Any, similar: list[int], extra: list[int], scale: float, swapped: bool = False) -> float:
    """K_s J of mlm-mnrl.txt 4.3, pair by pair, each sentence encoded alone; `extra` sentences are candidates too."""
    (task, table), total = next(iter(objective.setup.tables.items())), 0.0

    def vector(index: int) -> Tensor:
        ids = table.sentence(index).long()[None, :]
        blank = torch.ones(1)
        with torch.no_grad():
            return objective.model.encode(Batch(task, ids, ids > -1, blank, blank, blank.long())).sentence[0]

    def cosine(one: int, other: int) -> float:
        x, y = vector(one), vector(other)
        return float(x @ y / (x.norm() * y.norm()))

    ours, theirs = (1, 0) if swapped else (0, 1)
    said = [tuple(table.sentence(index).tolist()) for index in range(2 * len(table))]
    for i in similar:
        x, y = 2 * i + ours, 2 * i + theirs
        own = {said[x], said[y]}
        others = [j for j in range(len(table)) if j != i and said[2 * j + theirs] not in own]
        others = [j for j in others if j not in similar or said[2 * j + ours] not in own]
        negatives = [2 * j + theirs for j in others] + [j for j in extra if said[j] not in own]
        mass = sum(math.exp(scale * cosine(x, j)) for j in [y, *negatives])
        total -= scale * cosine(x, y) - math.log(mass)
    return total


LABELS = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0]
SIMILAR = [0, 2, 5, 6]


@pytest.mark.parametrize("scale", [1.0, 20.0])
@pytest.mark.parametrize("same", [0, 3])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_papers_formula_written_out(scale: float, same: int, symmetric: bool) -> None:
    table = pairs(LABELS, same=same)
    made = objective(table, scale=scale, symmetric=symmetric)
    with torch.no_grad():
        total, count = made.loss(whole(made), Place())
    expected = by_loops(made, SIMILAR, [], scale)
    if symmetric:
        expected = (expected + by_loops(made, SIMILAR, [], scale, swapped=True)) / 2
    assert int(count) == len(SIMILAR)
    assert float(total) == pytest.approx(expected, rel=1e-9)


def test_the_same_sentence_twice_is_no_negative() -> None:
    """The cases above, told apart: masking the repeated sentences changes the loss, and only downwards."""
    apart, again = (objective(pairs(LABELS, same=same), scale=1.0) for same in (0, 3))
    keys = whole(again).keys
    assert keys is not None and len(keys.unique()) == 11
    batch = whole(again)
    with torch.no_grad():
        masked, _ = again.loss(batch, Place())
        batch.keys = torch.arange(14)
        unmasked, _ = again.loss(batch, Place())
    assert masked < unmasked
    assert len(whole(apart).keys.unique()) == 14


@pytest.mark.parametrize("symmetric", [False, True])
def test_hard_negatives_are_candidates_of_all_anchors(symmetric: bool) -> None:
    table = pairs(LABELS, same=3)  # sentences 4, 7, 8 are 0, 1, 2: pairs 2, 3, 4 share one with pairs 0, 0, 1
    made = objective(table, scale=5.0, symmetric=symmetric, hard_negatives=True)
    extra = made.negatives["quora"].draw(np.array(SIMILAR), derive_seed(3, "stage", "epoch 0", "quora")).tolist()
    assert extra
    batch = whole(made)
    assert len(batch) == 7 and len(batch.input_ids) == 14 + len(extra)
    with torch.no_grad():
        total, _ = made.loss(batch, Place())
    expected = by_loops(made, SIMILAR, extra, 5.0)
    if symmetric:
        expected = (expected + by_loops(made, SIMILAR, extra, 5.0, swapped=True)) / 2
    assert float(total) == pytest.approx(expected, rel=1e-9)


def test_similar_is_what_the_tasks_label_says() -> None:
    made = objective(pairs([5.0, 4.0, 3.9, 0.0]), task="sts")
    with torch.no_grad():
        _, count = made.loss(whole(made, "sts"), Place())
    assert int(count) == 2


@pytest.mark.slow  # its import alone takes ten seconds
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_sentence_transformers_loss_at_k_equal_to_k_s(scale: float, symmetric: bool) -> None:
    peer = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers for parity")
    losses = pytest.importorskip("sentence_transformers.losses")
    made = objective(pairs([1.0] * 9), scale=scale, symmetric=symmetric)
    batch = whole(made)
    total, count = made.loss(batch, Place())
    (ours,) = torch.autograd.grad(total / count, made.model.encoder.embeddings.word_embeddings.weight)
    way = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"} if symmetric else {}
    theirs = losses.MultipleNegativesRankingLoss(nn.Identity(), scale=scale, similarity_fct=peer.util.cos_sim, **way)
    encoded = made.model.encode(batch).sentence
    expected = theirs.compute_loss_from_embeddings([encoded[:9], encoded[9:]], torch.empty(0))
    (wanted,) = torch.autograd.grad(expected, made.model.encoder.embeddings.word_embeddings.weight)
    assert abs(total / count - expected) < 1e-6
    assert (ours - wanted).abs().max() < 1e-6


def test_the_loss_of_scores_by_hand() -> None:
    scores = torch.tensor([[0.0, math.log(3), 9.0], [1.0, 1.0, 1.0], [5.0, 0.0, 7.0]])
    allowed = torch.tensor([[True, False, False], [True, True, True], [True, True, True]])
    anchors = torch.tensor([True, True, False])
    total = multiple_negatives(scores, torch.tensor([1, 2, 0]), allowed, anchors)
    assert float(total) == pytest.approx(math.log(4 / 3) + math.log(3))  # its own counts though it is not allowed


def test_no_anchor_no_loss() -> None:
    scores = torch.zeros(2, 5, requires_grad=True)
    nothing = torch.zeros(2, 5, dtype=torch.bool)
    total = multiple_negatives(scores, torch.zeros(2, dtype=torch.int64), nothing, nothing[:, 0])
    total.backward()
    assert float(total.detach()) == 0.0 and not scores.grad.any()


@pytest.mark.parametrize("options", [{}, {"symmetric": True, "hard_negatives": True}])
def test_a_batch_without_a_similar_pair_costs_nothing(options: dict[str, bool]) -> None:
    made = objective(pairs([0.0] * 5), **options)
    total, count = made.loss(whole(made), Place())
    total.backward()
    assert (total.item(), count.item()) == (0.0, 0)
    module = module_of({"quora": pairs([0.0] * 5)}, objective="ranking", batch_size=5, ranking=options)
    learned = module.training_step(whole(made), 0)
    module.read_losses()
    assert learned.item() == module.loss == 0.0
    gradients = [weight.grad for weight in made.model.parameters() if weight.requires_grad]
    assert gradients
    assert all(gradient is not None and gradient.eq(0).all() for gradient in gradients)


def on_ranks(table: TokenTable, world: int, **options: Any) -> tuple[float, int, Tensor]:
    """The loss, the number of anchors, and the encoder's gradients of a global batch on so many ranks."""
    made = objective(table, **options)
    slices = [rank_slice(np.arange(len(table)), rank, world) for rank in range(world)]
    batches = [made.batch("quora", rows, weights, "epoch 0") for rows, weights in slices]
    ranks, found = Ranks(world), []
    with pytest.MonkeyPatch.context() as patch:
        for gather in (ranks.note, ranks.hand_out):
            patch.setattr(Gather, "apply", gather)
            found = []
            for ranks.rank, batch in enumerate(batches):
                ranks.turn = 0
                found.append(made.loss(batch, Place(ranks.rank, world)))
    total = torch.stack([loss for loss, _ in found]).sum()
    weights = [weight for weight in made.model.encoder.parameters() if weight.requires_grad]
    gradients = torch.cat([gradient.flatten() for gradient in torch.autograd.grad(total, weights)])
    return total.item(), sum(int(count) for _, count in found), gradients


@pytest.mark.slow
@settings(max_examples=30)
@given(
    st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=11),
    st.integers(2, 4),
    st.booleans(),
    st.booleans(),
    st.integers(0, 4),
)
def test_faked_ranks_cost_what_one_big_batch_does(
    labels: list[float], world: int, symmetric: bool, hard_negatives: bool, same: int
) -> None:
    """Among them ranks without a similar pair, and ranks without any pair."""
    table = pairs(labels, same=min(same, 2 * len(labels)))
    options = {"symmetric": symmetric, "hard_negatives": hard_negatives, "batch_size": 11}
    one, many = (on_ranks(table, ranks, **options) for ranks in (1, world))
    assert one[1] == many[1] == sum(labels)
    assert many[0] == pytest.approx(one[0], abs=1e-9)
    assert (one[2] - many[2]).abs().max() < 1e-9
    assert bool(one[2].any()) == (one[0] > 0)


def test_dropout_is_of_the_sentence_encodings() -> None:
    made = objective(pairs(LABELS))
    made.model.dropout.p = 0.5
    made.model.train()
    torch.manual_seed(1)
    with torch.no_grad():
        one, two = (float(made.loss(whole(made), Place())[0]) for _ in range(2))
        made.model.eval()
        fixed = [float(made.loss(whole(made), Place())[0]) for _ in range(2)]
    assert one != two
    assert fixed[0] == fixed[1]
