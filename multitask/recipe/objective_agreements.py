"""What a user's own objective has to keep to, tried on random sentences with the tiny encoder: two ranks equal one, and
a stage that goes on one that was never stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multitask.bundle.bundle import Bundle, source_bundle
from multitask.data.samplers import Rows, rank_slice
from multitask.data.tokens import TokenTable
from multitask.model.heads import loss_for
from multitask.model.sources import load_source
from multitask.objectives.base import Objective, Place, Setup
from multitask.objectives.table import OBJECTIVES
from multitask.recipe.agreements import Agreement, differ, kept, labels_of, not_nothing, not_two_numbers
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
    tried = Tried(spec.name, made)
    yield kept(spec.name, "(batch, place) gives two numbers of shape ()", lambda: not_two_numbers(*tried.loss()))
    yield kept(spec.name, "every weight that it says it reaches has a finite gradient", tried.gradients)
    yield kept(spec.name, "the same batch gives the same loss", lambda: differ(tried.loss(), tried.loss()))
    yield kept(spec.name, "an example of weight 0 changes nothing", tried.unseen)
    if not objective.compares(options):  # such a loss is computed of all ranks' examples
        yield kept(spec.name, "two ranks' sums and counts add up to one's", tried.ranks)
    yield kept(spec.name, "a rank without examples gives 0 and 0, with a graph", tried.nothing)
    yield kept(spec.name, "one made anew, given what `state` keeps, gives the same loss", lambda: tried.resumed(other))


@dataclass(frozen=True)
class Tried:
    """An objective over one task's random examples. What is tried of it gives what was seen where it fails, else ""."""

    task: str
    made: Objective

    @property
    def rows(self) -> Rows:
        return self.made.setup.rows[self.task]

    def loss(self, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
        """The sum and the count of a rank's share of the examples."""
        return self._of(*rank_slice(self.rows, rank, world), Place(rank, world))

    def _of(self, rows: Rows, weights: NDArray[np.float32], place: Place) -> tuple[Tensor, Tensor]:
        return self.made.loss(self.made.batch(self.task, rows, weights, WHEN), place)

    def gradients(self) -> str:
        weights = {name: weight for name, weight in self.made.model.named_parameters() if weight.requires_grad}
        found = torch.autograd.grad(self.loss()[0], list(weights.values()), allow_unused=True)
        for name, gradient in zip(weights, found, strict=True):
            if gradient is None:
                return f"{name} has none, which ranks would wait for; `reached` says what has"
            if not torch.isfinite(gradient).all():
                return f"that of {name} is not finite"
        return ""

    def unseen(self) -> str:
        two, three = np.ones(2, np.float32), np.array([1, 1, 0], np.float32)
        return differ(self._of(self.rows[:2], two, Place()), self._of(self.rows[:3], three, Place()))

    def ranks(self) -> str:
        one, two = self.loss(0, 2), self.loss(1, 2)
        return differ(self.loss(), (one[0] + two[0], one[1] + two[1]))

    def nothing(self) -> str:
        return not_nothing(*self._of(self.rows[:1], np.zeros(1, np.float32), Place()))

    def resumed(self, other: Objective) -> str:
        """Whether another, made anew, goes on as this one does."""
        self.made.stepped()
        other.restore({name: tensor.clone() for name, tensor in self.made.state().items()})
        return differ(self.loss(), replace(self, made=other).loss())


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
