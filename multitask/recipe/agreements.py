"""What a user's own head, loss or measure has to keep to, tried on random numbers: shapes, gradients, and that two
ranks equal one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from multitask.measure.metrics import METRICS, Predicted, Undefined, measured
from multitask.model.dropout import token_keys
from multitask.model.encoding import Encoding
from multitask.model.heads import HeadSpec, build_head
from multitask.objectives.losses import Loss
from multitask.tasks.imported import imported
from multitask.tasks.labels import KINDS, KindName, LabelSpec
from multitask.tasks.table import TaskSpec

EXAMPLES, HIDDEN, TOKENS = 6, 16, 5
CLOSE = 1e-9  # of float64 numbers that are sums of few others
LABELS: dict[KindName, LabelSpec] = {
    name: LabelSpec(name, "label", 0, 2 if KINDS[name].one_class or name == "multilabel" else 1) for name in KINDS
}


@dataclass(frozen=True)
class Agreement:
    """One thing that was tried."""

    of: str
    """What it was tried on: a kind of label."""
    what: str
    kept: bool
    why: str = ""
    """What was seen, where it is not kept."""

    def line(self) -> str:
        return f"{'ok     ' if self.kept else 'BROKEN '} {self.of}: {self.what}{f': {self.why}' if self.why else ''}"


def kept(of: str, what: str, test: Callable[[], str]) -> Agreement:
    """Tries an agreement. test: gives what was seen where it is not kept, else ""."""
    try:
        why = test()
    except Exception as error:  # whatever the user's code raises
        why = f"{type(error).__name__}: {error}".splitlines()[0]
    return Agreement(of, what, not why, why)


def apart(one: Tensor, other: Tensor) -> float:
    return float((one.detach().double() - other.detach().double()).abs().max())


# Losses


def labels_of(label: LabelSpec, count: int) -> Tensor:
    """(count,) random labels of a kind, or (count, W)."""
    if KINDS[label.kind].one_class:
        top = label.high if label.kind != "binary" else 1
        return torch.randint(0, int(top) + 1, (count,)).double()
    if label.kind == "multilabel":
        return torch.randint(0, 2, (count, *label.shape)).double()
    return torch.rand(count).double()


def of_loss(loss: Loss) -> Iterator[Agreement]:
    """A loss need not serve every kind of label: those on which it fails at once are left out, unless all do."""
    tried = {kind: list(_of_kind(loss, kind)) for kind in KINDS}
    serving = {kind: found for kind, found in tried.items() if found[0].kept} or tried
    for found in serving.values():
        yield from found


def _of_kind(loss: Loss, kind: KindName) -> Iterator[Agreement]:
    label = LABELS[kind]
    outputs = torch.randn(EXAMPLES, *label.shape, dtype=torch.float64, requires_grad=True)
    labels, weights = labels_of(label, EXAMPLES), torch.ones(EXAMPLES, dtype=torch.float64)
    weights[2] = 0

    def sums(rows: slice | list[int] = slice(None), given: Tensor = outputs) -> tuple[Tensor, Tensor]:
        total, count = loss.sums(given[rows], labels[rows], weights[rows])
        return total, count

    def gradient() -> str:
        (found,) = torch.autograd.grad(sums()[0], outputs)
        if not torch.isfinite(found).all():
            return "a part of it is not finite"
        return "" if float(found[2].abs().max()) == 0 else "an example of weight 0 has one"

    def unseen() -> str:
        other = outputs.detach().clone()
        other[2] += 3
        return differ(sums(), sums(given=other))

    def ranks() -> str:
        halves = [sums(slice(None, 3)), sums(slice(3, None))]
        return differ(sums(), (halves[0][0] + halves[1][0], halves[0][1] + halves[1][1]))

    def halves() -> str:
        found = sums(given=outputs.detach().bfloat16())[0].dtype
        return "" if found in (torch.float32, torch.float64) else f"it is {found}"

    yield kept(kind, "(outputs, labels, weights) give two numbers of shape ()", lambda: not_two_numbers(*sums()))
    yield kept(kind, "the gradient is finite, and 0 for one of weight 0", gradient)
    yield kept(kind, "an example of weight 0 changes nothing", unseen)
    if loss.similarity is None:  # one of pairs is computed of all ranks' examples
        yield kept(kind, "two ranks' sums and counts add up to one's", ranks)
    yield kept(kind, "a rank without examples gives 0 and 0, with a graph", lambda: not_nothing(*sums([2])))
    yield kept(kind, "outputs in half precision are summed in float32", halves)


def not_two_numbers(total: Tensor, count: Tensor) -> str:
    """What is wrong with a sum and a count, which are to be of shape (); "" where nothing is."""
    if total.shape or count.shape:
        return f"{tuple(total.shape)} and {tuple(count.shape)}"
    return "" if torch.isfinite(total) else f"the sum is {float(total)}"


def not_nothing(total: Tensor, count: Tensor) -> str:
    """What is wrong with the sum and the count of a rank without examples; "" where nothing is."""
    if not total.requires_grad:
        return "there is no graph"
    return "" if total.item() == 0 and count.item() == 0 else f"{total.item():g} and {count.item():g}"


def differ(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> str:
    for what, a, b in zip(("sum", "count"), one, other, strict=True):
        if apart(a, b) > CLOSE:
            return f"the {what} is {a.item():.6g}, and {b.item():.6g}"
    return ""


# Measures


def of_measure(path: str) -> Iterator[Agreement]:
    """A measure need not serve every kind of label: those on which it fails at once are left out, unless all do."""
    metric = METRICS[path]
    tried = {kind: list(_of_measured(path, LABELS[kind])) for kind in KINDS if metric.serves(kind)}
    for found in [found for found in tried.values() if found[0].kept] or tried.values():
        yield from found


def _of_measured(path: str, label: LabelSpec) -> Iterator[Agreement]:
    metric, kind = METRICS[path], KINDS[label.kind]
    outputs = torch.randn(EXAMPLES, *label.shape, dtype=torch.float64)
    given = measured(path, Predicted(kind.prediction(outputs, label).double(), outputs))
    wanted = labels_of(label, EXAMPLES).numpy()

    def value(rows: list[int]) -> str:
        try:
            found = float(metric.function(given, wanted)(given[rows], wanted[rows]))
        except Undefined:
            return ""
        return "" if math.isfinite(found) else f"it gives {found}"

    def again() -> str:
        one, other = (float(metric.function(given, wanted)(given, wanted)) for _ in range(2))
        return "" if one == other else f"{one:g}, then {other:g}"

    yield kept(label.kind, "(predictions, labels) give a finite number", lambda: value([*range(EXAMPLES)]))
    yield kept(label.kind, "the same predictions give the same number", again)
    yield kept(label.kind, "one example gives a number, or raises Undefined", lambda: value([0]))
    yield kept(label.kind, "equal examples give a number, or raise Undefined", lambda: value([0] * EXAMPLES))


# Heads


def of_head(path: str, head: HeadSpec) -> Iterator[Agreement]:
    """A HeadSpec says which tasks it serves. A class alone need not serve all: those for which its outputs have no
    right shape are left out, unless none have."""
    tried = []
    for kind in head.losses:
        for texts in (1, 2):
            columns = ("first", "second")[:texts]
            spec = TaskSpec("own", columns, LABELS[kind], KINDS[kind].metrics[0], path, {}, ("own", "label"))
            if head.serves(spec):
                tried.append(list(_of_task(path, spec, f"{kind}, {'pairs' if texts == 2 else 'single texts'}")))
    serving = [found for found in tried if found[0].kept]
    for found in serving if serving and not isinstance(imported(path), HeadSpec) else tried:
        yield from found


def _of_task(path: str, spec: TaskSpec, of: str) -> Iterator[Agreement]:
    def build() -> nn.Module:
        return build_head(path, HIDDEN, spec, torch.Generator().manual_seed(7)).double().train()

    try:
        head = build()
    except Exception as error:
        yield Agreement(of, "it can be built", False, f"{type(error).__name__}: {error}".splitlines()[0])
        return
    encodings = [_encoding() for _ in range(spec.sides)]
    sides = [*encodings, *[None] * (2 - len(encodings))]  # as training calls it: with no second side for one text

    def shapes() -> str:
        found, wanted = tuple(head(*sides).shape), (EXAMPLES, *spec.label.shape)
        return "" if found == wanted else f"{found}; valid: {wanted}"

    def alone() -> str:
        whole = head(*sides)
        single = torch.cat([head(*(side and _rows(side, at) for side in sides)) for at in range(EXAMPLES)])
        far = apart(whole, single)
        return "" if far <= CLOSE else f"up to {far:.2g} apart; dropout, if it is that, by multitask.model.dropout"

    def padding() -> str:
        far = apart(head(*sides), head(*(side and _longer(side) for side in sides)))
        return "" if far <= CLOSE else f"up to {far:.2g} apart"

    def reached() -> str:
        head.zero_grad()
        head(*sides).square().sum().backward()
        unused = [name for name, weight in head.named_parameters() if weight.grad is None]
        return f"{unused[0]} has none, which ranks would wait for" if unused else ""

    def drawn() -> str:
        pairs = zip(head.state_dict().items(), build().state_dict().values(), strict=True)
        other = [name for (name, weight), again in pairs if not torch.equal(weight, again)]
        return f"{other[0]} is another each time" if other else ""

    yield kept(of, "outputs have the label's shape", shapes)
    yield kept(of, "an example's outputs are its own, whatever the batch is", alone)
    yield kept(of, "padding changes nothing", padding)
    yield kept(of, "every weight has a gradient", reached)
    yield kept(of, "the seed alone draws the weights", drawn)


def _encoding() -> Encoding:
    lengths = torch.arange(EXAMPLES) % TOKENS + 1
    mask = torch.arange(TOKENS) < lengths[:, None]
    tokens = torch.randn(EXAMPLES, TOKENS, HIDDEN, dtype=torch.float64) * mask[..., None]
    keys = token_keys(torch.arange(EXAMPLES) + 1, TOKENS)
    return Encoding(torch.randn(EXAMPLES, HIDDEN, dtype=torch.float64, requires_grad=True), tokens, mask, keys)


def _rows(side: Encoding, at: int) -> Encoding:
    rows, keys = slice(at, at + 1), side.keys
    assert keys is not None
    return Encoding(side.sentence[rows], side.tokens[rows], side.mask[rows], keys[rows])


def _longer(side: Encoding) -> Encoding:
    tokens = torch.cat((side.tokens, torch.full_like(side.tokens[:, :2], 9.0)), dim=1)
    mask = torch.cat((side.mask, torch.zeros_like(side.mask[:, :2])), dim=1)
    return Encoding(side.sentence, tokens, mask, token_keys(torch.arange(EXAMPLES) + 1, TOKENS + 2))
