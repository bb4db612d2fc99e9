"""A sweep's trials: the stages that it trains, known before any of them starts."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from multitask.errors import UserError, near
from multitask.measure.metrics import goodness
from multitask.recipe.settings import Settings, Span
from multitask.recipe.stages import NOT_CONTENT, Stage

# What a sweep may vary: what makes a stage another one, and is one plain value.
SWEEPABLE = sorted(set(Settings.model_fields) - NOT_CONTENT - {"betas", "keep", "average", "lr_scale"})

WHOLE = ("epochs", "batch_size", "max_examples", "freeze", "unfreeze", "reinit", "patience")


@dataclass(frozen=True)
class Trial:
    """One trial of a stage's sweep."""

    number: int
    """Its place among the sweep's trials, from 0; it stands in the trainer's name."""
    label: str
    """The settings that it tries, `lr=0.001,epochs=3`."""
    by: str
    """The metric by which the best trial is chosen."""
    settings: dict[str, Any]
    """Setting -> the value that it tries."""
    stage: Stage
    """What it trains: the swept stage with these settings and no sweep."""


def trials(stage: Stage, seed: int, where: str) -> list[Trial]:
    """Every trial of the stage's sweep, the same ones each time. Raises UserError for a setting that is none."""
    sweep = stage.sweep
    assert sweep is not None
    named = [*sweep.grid, *sweep.random]
    if not named:
        raise UserError(f"{where}.sweep: neither grid nor random; name settings to vary, such as grid: {{lr: [...]}}")
    options = type(stage.options).model_fields if stage.options else {}
    valid = [*SWEEPABLE, *(f"{stage.options_key}.{name}" for name in options)]
    for name in named:
        if name not in valid:
            raise UserError(f"{where}.sweep: '{name}' cannot be swept; valid: {', '.join(valid)}{near(name, valid)}")
    combined = [dict(zip(sweep.grid, values, strict=True)) for values in itertools.product(*sweep.grid.values())]
    if sweep.random:
        draw = random.Random(f"{seed} {stage.name}")
        combined = [
            {**draw.choice(combined), **{name: _drawn(draw, span, name, where) for name, span in sweep.random.items()}}
            for _ in range(sweep.samples)
        ]
    distinct = {_label(settings): settings for settings in combined}  # a value may be given, or drawn, twice
    return [_trial(stage, number, label, settings, where) for number, (label, settings) in enumerate(distinct.items())]


def _label(settings: dict[str, Any]) -> str:
    return ",".join(f"{key}={said(value)}" for key, value in settings.items())


def said(value: Any) -> str:
    """A setting's value as a trial's name has it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def stage_of(name: str) -> str:
    """The stage of a trial, `sts` of `sts@lr=0.001`; a stage's own name is its own."""
    return name.partition("@")[0]


def varied(name: str) -> list[str]:
    """The settings that a trial's name, `sts@lr=0.001,epochs=3`, gives a value."""
    return [pair.partition("=")[0] for pair in name.partition("@")[2].split(",")]


def _drawn(draw: random.Random, span: Span, name: str, where: str) -> float | int:
    """A value drawn between both ends of a span, of three digits; a whole number where the setting is one."""
    if not span.low < span.high or (span.log and span.low <= 0):
        raise UserError(f"{where}.sweep.random.{name}: {span.low:g} to {span.high:g}: low < high, and above 0 with log")
    if span.log:
        value = math.exp(draw.uniform(math.log(span.low), math.log(span.high)))
    else:
        value = draw.uniform(span.low, span.high)
    return round(value) if name in WHOLE else float(f"{value:.3g}")


def _trial(stage: Stage, number: int, label: str, settings: dict[str, Any], where: str) -> Trial:
    tree = {**stage.model_dump(by_alias=True), "sweep": None}
    for name, value in settings.items():
        options, _, option = name.rpartition(".")  # an option of the objective, or a setting of the stage
        tree |= {options: {**tree[options], option: value}} if options else {name: value}
    try:
        return Trial(number, label, stage.sweep.by if stage.sweep else "", settings, Stage.model_validate(tree))
    except ValidationError as error:
        problem = error.errors()[0]
        raise UserError(f"{where}.sweep: {label}: {problem['loc'][0]}: {problem['msg']}") from None


def best(metrics: dict[str, float | None], by: str) -> str | None:
    """The name with the best value of metric `by`; the first of equals, None where none has a value."""
    known = {name: good for name, value in metrics.items() if (good := goodness(by, value)) > -math.inf}
    return max(known, key=known.__getitem__, default=None)
