"""What a user's own objective has to keep to, tried on random sentences with the tiny encoder: two ranks equal one, and
a stage that goes on one that was never stopped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multitask.bundle.bundle import Bundle, source_bundle
from multitask.data.samplers import Rows, rank_slice
from multitask.data.tokens import TokenTable
from multitask.model.heads import loss_for
from multitask.model.sources import load_source
from multitask.objectives.base import Objective, Place, Setup
from multitask.objectives.table import OBJECTIVES
from multitask.recipe.agreements import Agreement, differ, kept, labels_of
from multitask.tasks.table import TASKS, TaskSpec

TRIED = ("sst", "quora", "sts")  # one class of several, a yes or no of pairs, a score of pairs
EXAMPLES, LONGEST = 8, 9
SEED, WHEN = 3, "epoch 0, step 0"


def of_objective(path: str) -> Iterator[Agreement]:
    """An objective need not serve every task: those on which it fails at once are left out, unless all do."""
    objective, bundle = OBJECTIVES[path], source_bundle(load_source("tiny"))
    tried = [list(_of_task(objective, bundle, TASKS[name])) for name in TRIED]
    for found in [found for found in tried if found and found[0].kept] or tried:
        yield from found


def _of_task(objective: type[Objective], bundle: Bundle, spec: TaskSpec) -> Iterator[Agreement]:
    try:
        options = objective.Options() if objective.Options else None
        if objective.wants_similar(options) and spec.label.similar is None:
            return
        table = _table(bundle, spec)
        made, other = (_made(objective, options, bundle, spec, table) for _ in range(2))
    except Exception as error:
        yield Agreement(spec.name, "it can be made", False, f"{type(error).__name__}: {error}".splitlines()[0])
        return
    rows = made.setup.rows[spec.name]

    def loss(some: Rows = rows, rank: int = 0, world: int = 1, by: Objective = made) -> tuple[Tensor, Tensor]:
        mine, weights = rank_slice(some, rank, world)
        return by.loss(by.batch(spec.name, mine, weights, WHEN), Place(rank, world))

    def shapes() -> str:
        total, count = loss()
        if total.shape or count.shape:
            return f"{tuple(total.shape)} and {tuple(count.shape)}"
        return "" if torch.isfinite(total) else f"the sum is {float(total)}"

    def gradients() -> str:
        weights = {name: weight for name, weight in made.model.named_parameters() if weight.requires_grad}
        found = torch.autograd.grad(loss()[0], list(weights.values()), allow_unused=True)
        for name, gradient in zip(weights, found, strict=True):
            if gradient is None:
                return f"{name} has none, which ranks would wait for; `reached` says what has"
            if not torch.isfinite(gradient).all():
                return f"that of {name} is not finite"
        return ""

    def unseen() -> str:
        batch = made.batch(spec.name, rows[:3], np.array([1, 1, 0], np.float32), WHEN)
        return differ(loss(rows[:2]), made.loss(batch, Place()))

    def ranks() -> str:
        one, two = loss(rank=0, world=2), loss(rank=1, world=2)
        return differ(loss(), (one[0] + two[0], one[1] + two[1]))

    def nothing() -> str:
        total, count = made.loss(made.batch(spec.name, rows[:1], np.zeros(1, np.float32), WHEN), Place())
        if not total.requires_grad:
            return "there is no graph"
        return "" if total.item() == 0 and count.item() == 0 else f"{total.item():g} and {count.item():g}"

    def resumed() -> str:
        made.stepped()
        other.restore({name: tensor.clone() for name, tensor in made.state().items()})
        return differ(loss(), loss(by=other))

    yield kept(spec.name, "(batch, place) gives two numbers of shape ()", shapes)
    yield kept(spec.name, "every weight that it says it reaches has a finite gradient", gradients)
    yield kept(spec.name, "the same batch gives the same loss", lambda: differ(loss(), loss()))
    yield kept(spec.name, "an example of weight 0 changes nothing", unseen)
    if not objective.compares(options):  # such a loss is computed of all ranks' examples
        yield kept(spec.name, "two ranks' sums and counts add up to one's", ranks)
    yield kept(spec.name, "a rank without examples gives 0 and 0, with a graph", nothing)
    yield kept(spec.name, "one made anew, given what `state` keeps, gives the same loss", resumed)


def _made(objective: type[Objective], options: Any, bundle: Bundle, spec: TaskSpec, table: TokenTable) -> Objective:
    """The objective over one task's table, in double precision and without dropout."""
    name, heads = spec.name, {spec.name: spec.head}
    mlm = objective.token_head(options, None)
    model = bundle.model(heads, dropout=0.0, encoder_dropout=0.0, seed=SEED, mlm=mlm).double().train()
    table, rows = objective.examples(options, spec, table, np.arange(EXAMPLES))
    setup = Setup(
        model,
        "stage",
        SEED,
        [name],
        options,
        EXAMPLES,
        {name: table},
        {name: rows},
        losses={name: loss_for(spec.head, spec, None, "")},
        tokenizer_json=bundle.tokenizer_json,
    )
    made = objective(setup)
    model.set_trainable({name: objective.reached(model, name)}, full_model=True)
    return made


def _table(bundle: Bundle, spec: TaskSpec) -> TokenTable:
    """EXAMPLES random ones; every other one has the greatest label, so that some pairs are similar, and the first is of
    equal sentences, where a distance is 0 and a root of it has no gradient."""
    drawn = np.random.default_rng(SEED)
    lengths = drawn.integers(3, LONGEST + 1, EXAMPLES * spec.sentences)
    lengths[: spec.sentences] = LONGEST
    ids = drawn.integers(5, bundle.tokenizer.get_vocab_size(), int(lengths.sum()))
    ids[: LONGEST * spec.sentences] = np.tile(ids[:LONGEST], spec.sentences)
    labels = labels_of(spec.label, EXAMPLES).float()
    labels[::2] = spec.label.high
    offsets = torch.from_numpy(np.concatenate(([0], np.cumsum(lengths))))
    names = [str(at) for at in range(EXAMPLES)]
    return TokenTable(torch.from_numpy(ids).int(), offsets, labels, names, spec.sentences, "random", "", [])
