"""Options of the command line that are more than a word: what they mean, or one line of what they should be."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from multitask.errors import UserError, near

DEVICES = ("auto", "cpu", "gpu")
MOST_AN_HOUR = 1e6  # whatever the currency, more than a machine costs
ALSO_CALLED = {"cuda": "gpu"}


class Workers(NamedTuple):
    """The fewest and the most Ray workers of a stage, (0, 0) for none but this process, and what they train on.

    device: auto is a GPU each where the cluster has them now; gpu waits for nodes that have one.
    """

    low: int = 0
    high: int = 0
    device: str = "auto"


def workers_span(text: str, device: str = "auto") -> Workers:
    """`--workers`: a number, or the fewest and the most of an elastic run; `--device`."""
    found = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if low > high or (low == 0 and high > 0):
        raise UserError(f"--workers '{text}': a number, or MIN:MAX with 1 <= MIN <= MAX")
    device = ALSO_CALLED.get(device, device)
    if device not in DEVICES:
        raise UserError(f"--device '{device}': one of {', '.join(DEVICES)}{near(device, [*DEVICES, *ALSO_CALLED])}")
    return Workers(low, high, device)


def experiment_name(name: str) -> str:
    """The experiment's name. Raises UserError where no folder of a storage could have it."""
    from multitask.recipe.stages import NAME

    if not re.fullmatch(NAME, name) or name == "cache":
        raise UserError(f"--experiment '{name}': letters, digits, '.', '_' and '-', and not 'cache', which is taken")
    return name


def hourly_price(text: str) -> float:
    """`--price`: what a worker costs in an hour, in any currency. Raises UserError where it is no such number."""
    if not re.fullmatch(r"[0-9]*\.?[0-9]+", text) or not 0 < (price := float(text)) < MOST_AN_HOUR:
        raise UserError(f"--price '{text}': what a worker costs in an hour, a number such as 2.5, in any currency")
    return price


def sweep_settings(grid: list[str], random: list[str], samples: int, by: str | None, asha: bool) -> dict[str, Any]:
    """A recipe's `sweep:` from the command line's words; empty where it says nothing."""
    if not grid and not random:
        if by or asha:
            raise UserError("--by and --asha: nothing to sweep; give --grid lr=1e-3,1e-4 or --random lr=1e-5..1e-3")
        return {}
    if not by:
        raise UserError("--by: missing; the dev metric that decides between trials, such as sts/pearson")
    found: dict[str, Any] = {"by": by, "asha": asha, "samples": samples}
    found["grid"] = {key: text.split(",") for key, text in (_pair("--grid", word) for word in grid)}
    found["random"] = {key: _span(key, text) for key, text in (_pair("--random", word) for word in random)}
    return found


def _pair(option: str, word: str) -> tuple[str, str]:
    key, equals, text = word.partition("=")
    if not (key and equals and text):
        raise UserError(f"{option} '{word}': expected key=values, such as lr=1e-3,1e-4 or lr=1e-5..1e-3")
    return key, text


def _span(key: str, text: str) -> dict[str, str]:
    low, dots, high = text.partition("..")
    if not (low and dots and high):
        raise UserError(f"--random '{key}={text}': expected LOW..HIGH, such as lr=1e-5..1e-3")
    return {"low": low, "high": high}
