"""A uniform soup: the mean of several bundles' weights (Wortsman et al., 2022, "Model soups", section 2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from multitask.bundle.bundle import Bundle, facts_of
from multitask.bundle.fitting import fitted_on, with_fitting
from multitask.bundle.found import Found
from multitask.errors import UserError

OWN = ("trainer", "fingerprint", "epoch", "steps")  # what a bundle says of its own training alone


def averaged(found: Iterable[tuple[str, Found[Bundle]]]) -> Bundle:
    """The bundle whose weights are the mean of others', summed in float64.

    found: what the user calls each, and the bundle; they are taken one after the other, and no two are held together.
    What the result says of itself is what all of them say; of rows that something was fitted to, what any of them says.
    Raises UserError where two differ in a tensor's shape, the encoder's config, the tokenizer or the tasks, and where
    one is there twice.
    """
    first: Bundle | None = None
    totals: dict[str, Tensor] = {}
    members: list[dict[str, str]] = []
    for name, one in found:
        if twice := [other["bundle"] for other in members if other["fingerprint"] == one.fingerprint]:
            raise UserError(f"bundle '{name}': the same as '{twice[0]}'; name each once")
        members.append({"bundle": name, "fingerprint": one.fingerprint})
        if first is None:
            totals = {key: value.double() for key, value in one.bundle.tensors.items()}
            first = replace(one.bundle, tensors={})
        else:
            _check_shapes(totals, one.bundle, members)
            _check_facts(first, one.bundle, members)
            for key, total in totals.items():
                total += one.bundle.tensors[key]
            first = replace(first, about=_agreed(first, one.bundle))
    if first is None or len(members) < 2:
        raise UserError("average: one bundle is its own mean; name two or more")
    about = {key: value for key, value in first.about.items() if key not in OWN} | {"average_of": members}
    return replace(first, about=about, tensors={key: (total / len(members)).float() for key, total in totals.items()})


def _check_shapes(totals: dict[str, Tensor], bundle: Bundle, members: Sequence[dict[str, str]]) -> None:
    for key in sorted(totals.keys() | bundle.tensors.keys()):
        was, now = (tuple(some[key].shape) if key in some else "absent" for some in (totals, bundle.tensors))
        if was != now:
            raise UserError(f"{_between(members)}: {key} is {now}, not {was}; weights are averaged of equal shapes")


def _check_facts(first: Bundle, other: Bundle, members: Sequence[dict[str, str]]) -> None:
    """Raises UserError where equal shapes do not mean equal things."""
    was, now = _facts(first), _facts(other)
    for key in was | now:
        if was.get(key) != now.get(key):
            raise UserError(f"{_between(members)}: {key} is {_shown(now.get(key))}, not {_shown(was.get(key))}")
    if first.tokenizer_json != other.tokenizer_json:
        raise UserError(f"{_between(members)}: another tokenizer; averaged weights need one")


def _facts(bundle: Bundle) -> dict[str, Any]:
    """What weights rest on, by the names that model.json has for it."""
    facts: dict[str, Any] = {"max_length": bundle.max_length, "prompt": bundle.about.get("prompt")}
    for key, value in facts_of(bundle).items():
        if key != "about":
            inner = value if isinstance(value, dict) else {"": value}
            facts |= {f"{key}.{name}".rstrip("."): one for name, one in inner.items()}
    return facts


def _between(members: Sequence[dict[str, str]]) -> str:
    return f"average: '{members[-1]['bundle']}' beside '{members[0]['bundle']}'"


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _agreed(first: Bundle, other: Bundle) -> dict[str, Any]:
    """What both say of themselves. A head that only one of them has trained is the other's as it was drawn, and counts
    as untrained."""
    trained = [set(bundle.about.get("trained", bundle.heads)) for bundle in (first, other)]
    same = {key: value for key, value in first.about.items() if other.about.get(key) == value}
    seen = {task: fitted_on(first.about, task) + fitted_on(other.about, task) for task in first.heads}
    return with_fitting(same, seen) | {"trained": sorted(trained[0] & trained[1])}
