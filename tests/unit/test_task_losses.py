"""Losses that compare pairs, and the settings of a task's loss: parity, written out, over ranks, refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multitask.data.batches import Batch
from multitask.data.samplers import rank_slice
from multitask.errors import UserError
from multitask.experiment.differences import differences
from multitask.experiment.stage_job import stage_content
from multitask.objectives.base import Place
from multitask.objectives.losses import LOSSES, angle, balanced, bce, cosent, cosine, cross_entropy, focal, ordinal
from multitask.objectives.ranks import Gather
from multitask.recipe.checks import build_recipe
from tests.helpers import Ranks, objective_of, random_sentences, recipe_tree, table_of


def made(count: int, width: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two encodings of each of some pairs, float64."""
    random = torch.Generator().manual_seed(seed)
    one, two = torch.randn(2, count, width, dtype=torch.float64, generator=random)
    return one.requires_grad_(), two


# Losses of pairs.


def by_loops(similar: list[float], labels: list[float], scale: float) -> float:
    pairs = [(i, j) for i in range(len(labels)) for j in range(len(labels)) if labels[i] > labels[j]]
    return math.log(1 + sum(math.exp(scale * (similar[j] - similar[i])) for i, j in pairs))


def test_cosent_written_out() -> None:
    similar, labels = [0.1, 0.7, 0.4, 0.35], [1.0, 3.5, 1.0, 2.0]
    weights = torch.ones(4, dtype=torch.float64)
    total, count = cosent(torch.tensor(similar, dtype=torch.float64), torch.tensor(labels), weights, scale=5.0)
    assert count.item() == 4
    assert total.item() == pytest.approx(4 * by_loops(similar, labels, 5.0), rel=1e-12)


def test_an_example_of_weight_0_is_in_no_pair_and_equal_labels_make_none() -> None:
    similar = torch.tensor([0.2, 0.9, 0.4], requires_grad=True)
    labels = torch.tensor([1.0, 5.0, 3.0])
    total, count = cosent(similar, labels, torch.tensor([1.0, 0.0, 1.0]))
    assert total.item() == pytest.approx(2 * by_loops([0.2, 0.4], [1.0, 3.0], 20.0), rel=1e-5)
    assert count.item() == 2
    (gradient,) = torch.autograd.grad(total, similar)
    assert gradient[1] == 0 and gradient[0] > 0 > gradient[2]
    total, _ = cosent(similar, torch.full((3,), 2.0), torch.ones(3))
    assert total.item() == 0 and torch.autograd.grad(total, similar)[0].eq(0).all()
    assert cosent(similar, labels, torch.zeros(3))[0].item() == 0


@pytest.mark.parametrize("width", [6, 7])
def test_angles_are_of_complex_numbers(width: int) -> None:
    halves = [F.pad(F.normalize(side, dim=1), (0, width % 2)).chunk(2, dim=1) for side in made(5, width)]
    z, w = (torch.complex(real, imaginary) for real, imaginary in halves)
    product = (z * w.conj()).sum(dim=1)
    one, two = made(5, width)
    torch.testing.assert_close(angle(one, two), (product.real + product.imag).abs(), rtol=1e-12, atol=0)
    torch.testing.assert_close(product.real, cosine(one, two), rtol=1e-12, atol=0)


@pytest.mark.slow  # its import alone takes ten seconds
@pytest.mark.parametrize(("name", "width"), [("cosent", 6), ("angle", 6), ("angle", 7)])
def test_losses_of_pairs_are_sentence_transformers(name: str, width: int) -> None:
    pytest.importorskip("sentence_transformers", reason="needs sentence-transformers for parity")
    losses = pytest.importorskip("sentence_transformers.losses")
    peer = {"cosent": losses.CoSENTLoss, "angle": losses.AnglELoss}[name](nn.Identity())
    one, two = made(12, width)
    labels = torch.tensor([0.0, 1.0, 2.5, 5.0] * 3, dtype=torch.float64)
    theirs = peer.compute_loss_from_embeddings([one, two], labels)
    similarity = LOSSES[name].similarity
    assert similarity is not None
    total, count = LOSSES[name].sums(similarity(one, two), labels, torch.ones(12, dtype=torch.float64))
    assert (total / count).item() == pytest.approx(theirs.item(), rel=1e-10)
    mine, peers = (torch.autograd.grad(loss, one)[0] for loss in (total / count, theirs))
    torch.testing.assert_close(mine, peers, rtol=1e-8, atol=1e-12)


def objective(name: str, count: int = 9, **settings: Any) -> Any:
    table = table_of(random_sentences(2 * count, seed=2, low=2, high=7), [float(at % 4) for at in range(count)])
    return objective_of(
        {"sts": table}, losses={"sts": name}, batch_size=count, loss_settings={"sts": settings} if settings else {}
    )


def batch_of(objective: Any, rank: int = 0, world: int = 1) -> Batch:
    rows, weights = rank_slice(objective.setup.rows["sts"], rank, world)
    batch: Batch = objective.batch("sts", rows, weights, "epoch 0")
    return batch


@pytest.mark.parametrize("name", ["cosent", "angle"])
def test_the_cosine_head_learns_by_its_sides_unclipped(name: str) -> None:
    made, batch = objective(name), None
    batch = batch_of(made)
    found = made.model.encode(batch).sentence
    alike = {"cosent": cosine, "angle": angle}[name](found[:9], found[9:])
    total, count = made.loss(batch, Place())
    expected = by_loops(alike.tolist(), batch.labels.tolist(), 20.0)
    assert (total / count).item() == pytest.approx(expected, rel=1e-9)
    calmer, count = objective(name, scale=2.0).loss(batch, Place())
    assert (calmer / count).item() == pytest.approx(by_loops(alike.tolist(), batch.labels.tolist(), 2.0), rel=1e-9)


def test_a_head_with_weights_learns_by_what_it_predicts_on_the_labels_scale() -> None:
    made = objective("cosent")
    made.model.heads["sts"], made.model.head_names["sts"] = nn.Linear(1, 1), "mlp"
    outputs = torch.tensor([1.0, 4.0, 2.0], dtype=torch.float64)
    assert made._similarities("sts", cosine, [], outputs).tolist() == [0.2, 0.8, 0.4]


@pytest.mark.parametrize("world", [2, 3, 10])
@pytest.mark.parametrize("name", ["cosent", "angle"])
def test_faked_ranks_compare_the_pairs_of_all(name: str, world: int) -> None:
    """Nine pairs: slices differ in length, and the tenth rank has none."""
    alone = objective(name)
    total, count = alone.loss(batch_of(alone), Place())
    weights = [weight for weight in alone.model.encoder.parameters() if weight.requires_grad]
    expected = torch.autograd.grad(total / count, weights)
    found = []
    ranks = Ranks(world)
    with pytest.MonkeyPatch.context() as patch:
        for gather in (ranks.note, ranks.hand_out):
            patch.setattr(Gather, "apply", gather)
            found = []
            for ranks.rank in range(world):
                ranks.turn = 0
                found.append(alone.loss(batch_of(alone, ranks.rank, world), Place(ranks.rank, world)))
    sums, counts = (torch.stack(parts).sum() for parts in zip(*found, strict=True))
    assert counts.item() == count.item() == 9
    assert sums.item() == pytest.approx(total.item(), rel=1e-12)
    # Each faked rank's graph holds all ranks' encodings, as Gather's summed gradients make it over real ones.
    for mine, theirs in zip(torch.autograd.grad(sums / counts, weights), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


# Settings.

LOGITS = torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(40) % 3  # nobody has the last class
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)
ONES = torch.ones(40, dtype=torch.float64)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_settings_of_classes_are_torchs(smoothing: float, weights: Tensor | None) -> None:
    total, count = cross_entropy(LOGITS, LABELS.float(), ONES, label_smoothing=smoothing, class_weights=weights)
    theirs = F.cross_entropy(LOGITS, LABELS, weight=weights, label_smoothing=smoothing)
    assert (total / count).item() == pytest.approx(theirs.item(), rel=1e-12)
    half = cross_entropy(LOGITS, LABELS.float(), ONES / 2, label_smoothing=smoothing, class_weights=weights)
    assert [it.item() for it in half] == pytest.approx([total.item() / 2, count.item() / 2], rel=1e-12)


def test_settings_of_yes_or_no_are_those_of_two_classes() -> None:
    """A logit is what two classes' logits differ by."""
    logits, labels = LOGITS[:, 0], LABELS.clamp(max=1)
    settings = {"label_smoothing": 0.2, "class_weights": torch.tensor([2.0, 2.0], dtype=torch.float64)}
    two = torch.stack((torch.zeros_like(logits), logits), dim=1)
    ours, theirs = bce(logits, labels, ONES, **settings), cross_entropy(two, labels, ONES, **settings)
    assert [it.item() for it in ours] == pytest.approx([it.item() for it in theirs], rel=1e-12)
    total, count = bce(logits, labels, ONES, class_weights=torch.tensor([1.0, 3.0]))
    by_hand = F.binary_cross_entropy_with_logits(logits, labels.double(), weight=1.0 + 2 * labels, reduction="sum")
    assert total.item() == pytest.approx(by_hand.item(), rel=1e-12)
    assert count.item() == (1 + 2 * labels).sum()


def test_focal_without_focus_is_cross_entropy_and_with_it_stays_finite() -> None:
    plain = focal(LOGITS, LABELS, ONES, gamma=0.0, class_weights=WEIGHTS)
    assert [it.item() for it in plain] == pytest.approx(
        [it.item() for it in cross_entropy(LOGITS, LABELS, ONES, class_weights=WEIGHTS)], rel=1e-12
    )
    for gamma in (0.0, 0.5, 2.0):
        sure = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
        total, _ = focal(sure, torch.zeros(2), torch.ones(2), gamma=gamma)
        total.backward()
        assert sure.grad is not None and torch.isfinite(sure.grad).all() and total.item() == pytest.approx(400.0)


def test_ordinal_asks_whether_a_label_is_above_each_class() -> None:
    p = LOGITS.softmax(dim=1)
    expected = torch.zeros(40, dtype=torch.float64)
    for at in range(3):
        above = p[:, at + 1 :].sum(dim=1)
        expected += F.binary_cross_entropy(above, (at < LABELS).double(), reduction="none") / 3
    total, count = ordinal(LOGITS, LABELS.float(), ONES, class_weights=WEIGHTS)
    assert total.item() == pytest.approx((expected * WEIGHTS[LABELS]).sum().item(), rel=1e-10)
    assert count.item() == pytest.approx(WEIGHTS[LABELS].sum().item())
    two = LOGITS[:, :2]
    ours, theirs = ordinal(two, LABELS.clamp(max=1), ONES), cross_entropy(two, LABELS.clamp(max=1), ONES)
    assert ours[0].item() == pytest.approx(theirs[0].item(), rel=1e-12)
    near, far = (ordinal(torch.eye(4)[None, at] * 9, torch.zeros(1), torch.ones(1))[0] for at in (1, 3))
    assert near < far


def test_balanced_weights_give_classes_an_equal_share_and_are_of_the_rows_in_use() -> None:
    labels = torch.tensor([0.0, 0.0, 0.0, 1.0, 3.0, 3.0])
    found = balanced(labels, 4)
    assert found.tolist() == pytest.approx([6 / 9, 6 / 3, 0.0, 6 / 6])
    assert found[labels.long()].mean().item() == pytest.approx(1.0)
    table = table_of(random_sentences(8), [0, 0, 0, 1, 4, 4, 4, 4], per=1)
    made = objective_of({"sst": table}, loss_settings={"sst": {"class_weights": "balanced"}})
    assert made.settings["sst"]["class_weights"].tolist() == pytest.approx([8 / 9, 8 / 3, 0, 0, 8 / 12])
    made.setup.rows["sst"] = np.arange(4)
    assert made._settings("sst")["class_weights"].tolist() == pytest.approx([4 / 6, 4 / 2, 0, 0, 0])


def test_terms_beside_the_loss_count_examples_as_the_loss_does() -> None:
    table = table_of(random_sentences(4), [0, 1, 1, 4], per=1)
    made = objective_of({"sst": table}, loss_settings={"sst": {"class_weights": {"1": 3.0}}})
    batch: Batch = made.batch("sst", np.arange(4), np.array([1, 1, 0.5, 1], np.float32), "epoch 0")
    assert made._weights(batch).tolist() == [1.0, 3.0, 1.5, 1.0]
    assert made.loss(batch, Place())[1].item() == 6.5


# Recipes.


def build(stage: dict[str, Any] | None = None, **tasks: dict[str, Any]) -> Any:
    tree = recipe_tree(**(stage or {"tasks": ["sst", "quora", "sts"]}))
    for name, settings in tasks.items():
        tree["tasks"][name] = {**tree["tasks"].get(name, {}), **settings}
    return build_recipe(tree, "r.yaml")


SEVERAL = {"columns": ["text"], "label": {"kind": "multilabel", "words": ["a", "b"]}}
BAD: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "no smoothing of scores": ({"sts": {"label_smoothing": 0.1}}, "tasks.sts.label_smoothing: the loss 'cosine_mse'"),
    "no scale": ({"sst": {"scale": 5.0}}, "losses that have: cosent, angle"),
    "no gamma": ({"quora": {"gamma": 1.0}}, "tasks.quora.gamma: the loss 'bce' of task 'quora' has none; .* focal"),
    "no class": ({"sst": {"class_weights": {"5": 2.0}}}, "'5' is no class of task 'sst': 0, 1, 2, 3, 4"),
    "another's loss": ({"quora": {"loss": "ordinal"}}, "loss 'ordinal' does not fit .* valid: bce, focal"),
    "angle": ({"sts": {"head": "mlp", "loss": "angle"}}, "'angle' does not fit .* valid: mse, cosine_mse, cosent"),
    "several": (
        {"about": {"define": SEVERAL, "class_weights": "balanced"}},
        "tasks.about.class_weights: a multilabel label is not one class of several; valid for classes, binary",
    ),
    "none of it": ({"sst": {"class_weights": {"1": 0.0}}}, "class_weights.1: 0.0"),
    "all of it": ({"sst": {"label_smoothing": 1.0}}, "label_smoothing: 1.0"),
    "misspelt": ({"sst": {"class_weights": "balance"}}, "class_weights: 'balance'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_settings_that_make_no_sense_are_refused_in_one_line(name: str) -> None:
    tasks, said = BAD[name]
    with pytest.raises(UserError, match=said) as caught:
        build(**tasks)
    assert len(str(caught.value).splitlines()) == 1


def content(stage: dict[str, Any] | None = None, **tasks: dict[str, Any]) -> dict[str, Any]:
    recipe = build(stage, **tasks)
    at = recipe.stages[0]
    return stage_content(recipe, at, recipe.heads(at), {}, "parent", 1)


def test_settings_are_content_of_the_stages_that_learn_by_them_and_only_where_given() -> None:
    plain = content()
    assert "losses" not in plain
    assert plain == content(sst={"label_smoothing": 0.0, "gamma": 2.0, "scale": 20.0, "class_weights": None})
    given = {"sst": {"label_smoothing": 0.1, "class_weights": {1: 2.0}}}
    assert content(**given) == {**plain, "losses": {"sst": {"label_smoothing": 0.1, "class_weights": {"1": 2.0}}}}
    assert differences("para", plain, content(**given), {}) == (
        "tasks.sst.label_smoothing: absent -> 0.1; tasks.sst.class_weights.1: absent -> 2.0"
    )
    elsewhere = {"tasks": ["quora"]}
    assert content(elsewhere, **given) == content(elsewhere)
    masked = {"objective": "mlm", "tasks": ["sst"]}
    assert content(masked, **given) == content(masked)


def test_class_weights_are_of_words_or_numbers_and_survive_a_dump() -> None:
    recipe = build(sst={"class_weights": {0: 1.5, 4: 2}, "loss": "ordinal"}, quora={"class_weights": "balanced"})
    assert recipe.tasks["sst"].class_weights == {"0": 1.5, "4": 2.0}
    assert build_recipe(recipe.model_dump(mode="json", by_alias=True), "again") == recipe
    own = {"columns": ["text"], "label": {"words": ["bad", "good"]}}
    assert build(tone={"define": own, "class_weights": {"good": 2.0}}).tasks["tone"].loss_settings
    with pytest.raises(UserError, match=r"'god' is no class of task 'tone': bad, good; did you mean good"):
        build(tone={"define": own, "class_weights": {"god": 2.0}})
