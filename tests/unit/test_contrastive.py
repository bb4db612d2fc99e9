"""SimCSE's loss: written out, over several ranks, against sentence-transformers; what counts as a negative."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from multitask.data.batches import Batch
from multitask.data.samplers import rank_slice
from multitask.data.tokens import TokenTable
from multitask.errors import UserError
from multitask.objectives.base import Place
from multitask.objectives.ranks import Gather
from multitask.recipe.checks import build_recipe
from tests.helpers import Ranks, objective_of, random_sentences, recipe_tree, table_of

PAIRS = {"positives": "pairs"}


def pairs(count: int, same: int = 0, labels: list[float] | None = None) -> TokenTable:
    """Pairs of random sentences; the first sentences of `same` of them come again as second ones of the next pair."""
    sentences = random_sentences(2 * count, seed=1, low=2, high=7)
    for at in range(same):
        sentences[2 * at + 3] = sentences[2 * at]
    return table_of(sentences, labels or [1.0] * count)


def made(table: TokenTable, **options: Any) -> Any:
    size = options.pop("batch_size", 64)
    return objective_of({"quora": table}, objective="contrastive", batch_size=size, contrastive=options)


def whole(objective: Any) -> Batch:
    rows = objective.setup.rows["quora"]
    batch: Batch = objective.batch("quora", rows, np.ones(len(rows), np.float32), "epoch 0")
    return batch


def by_loops(one: Tensor, two: Tensor, keys: list[tuple[int, int]], temperature: float) -> float:
    """Gao et al., equation 1 (equation 4 for pairs), example by example; an anchor's own sentences are no negatives."""
    total = 0.0
    for at, (mine, partner) in enumerate(keys):
        others = [other for other in range(len(keys)) if other == at or keys[other][1] not in (mine, partner)]
        scores = {other: float(torch.cosine_similarity(one[at], two[other], dim=0)) for other in others}
        exponents = {other: math.exp(score / temperature) for other, score in scores.items()}
        total -= math.log(exponents[at] / sum(exponents.values()))
    return total


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize("same", [0, 2])
@pytest.mark.parametrize("options", [{}, PAIRS])
def test_the_papers_formula_written_out(options: dict[str, str], same: int, temperature: float) -> None:
    objective = made(pairs(6, same), temperature=temperature, **options)
    batch = whole(objective)
    with torch.no_grad():
        total, count = objective.loss(batch, Place())
        found = objective.model.encode(batch).sentence
    assert batch.keys is not None
    keys = batch.keys.tolist()
    size = len(batch)
    sides = [(first, second) for first, second in zip(keys[:size], keys[-size:], strict=True)]
    expected = by_loops(found[:size], found[-size:], sides, temperature)
    assert int(count) == size == (6 if options else 12)
    assert float(total) == pytest.approx(expected, rel=1e-9)


def test_two_dropout_masks_make_two_encodings() -> None:
    objective = made(pairs(4))
    batch = whole(objective)
    objective.model.dropout.p = 0.5
    objective.model.train()
    torch.manual_seed(1)
    one, two = objective._encodings(batch)
    assert not torch.equal(one, two)
    objective.model.eval()
    one, two = objective._encodings(batch)
    assert torch.equal(one, two)


def test_labels_are_needed_for_pairs_alone() -> None:
    table = pairs(4, labels=[1.0, 0.0, 0.0, 1.0])
    assert len(made(table).setup.rows["quora"]) == 8
    assert made(table, **PAIRS).setup.rows["quora"].tolist() == [0, 3]
    stage = {"objective": "contrastive", "tasks": ["sst"]}
    assert build_recipe(recipe_tree(**stage), "x").stages[0].options.temperature == 0.05
    with pytest.raises(UserError, match=r"tasks: 'sst' has no similar pairs for contrastive"):
        build_recipe(recipe_tree(**stage, contrastive=PAIRS), "x")
    with pytest.raises(UserError, match="contrastive has no head; full-model"):
        build_recipe(recipe_tree(**stage, train="last-linear-layer"), "x")


def on_ranks(table: TokenTable, world: int, **options: Any) -> tuple[float, int, Tensor]:
    """The loss, the number of examples, and the encoder's gradients of a global batch on so many ranks."""
    objective = made(table, batch_size=12, **options)
    rows = objective.setup.rows["quora"]
    slices = [rank_slice(np.arange(len(rows)), rank, world) for rank in range(world)]
    batches = [objective.batch("quora", rows[at], weights, "epoch 0") for at, weights in slices]
    ranks, found = Ranks(world), []
    with pytest.MonkeyPatch.context() as patch:
        for gather in (ranks.note, ranks.hand_out):
            patch.setattr(Gather, "apply", gather)
            found = []
            for ranks.rank, batch in enumerate(batches):
                ranks.turn = 0
                found.append(objective.loss(batch, Place(ranks.rank, world)))
    total = torch.stack([loss for loss, _ in found]).sum()
    weights = [weight for weight in objective.model.encoder.parameters() if weight.requires_grad]
    gradients = torch.cat([gradient.flatten() for gradient in torch.autograd.grad(total, weights)])
    return total.item(), sum(int(count) for _, count in found), gradients


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("options", [{}, PAIRS])
def test_faked_ranks_cost_what_one_big_batch_does(options: dict[str, str], world: int) -> None:
    table = pairs(11 if options else 6, same=2)
    one, many = (on_ranks(table, ranks, **options) for ranks in (1, world))
    assert one[1] == many[1] == (11 if options else 12)
    assert many[0] == pytest.approx(one[0], abs=1e-9)
    assert (one[2] - many[2]).abs().max() < 1e-9


@pytest.mark.slow  # its import alone takes ten seconds
def test_sentence_transformers_loss() -> None:
    """Its in-batch loss at scale 1 / temperature is SimCSE's supervised one without hard negatives."""
    peer = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers for parity")
    losses = pytest.importorskip("sentence_transformers.losses")
    objective = made(pairs(9), temperature=0.1, **PAIRS)
    batch = whole(objective)
    total, count = objective.loss(batch, Place())
    theirs = losses.MultipleNegativesRankingLoss(nn.Identity(), scale=10.0, similarity_fct=peer.util.cos_sim)
    encoded = objective.model.encode(batch).sentence
    expected = theirs.compute_loss_from_embeddings([encoded[:9], encoded[9:]], torch.empty(0))
    assert float((total / count - expected).detach().abs()) < 1e-9
