"""A task of one's own: its definition as YAML or JSON says it, and the TaskSpec that it makes.

Nothing is registered. A recipe, a job, a bundle and a model each carry the specs of their tasks; as plain JSON those
of own tasks, and of built-in ones whose pairs are read otherwise than there, are the definitions here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, ValidationError

from multitask.errors import UserError, near, short_list, shown
from multitask.tasks.labels import KINDS, MAX_CLASSES, KindName, LabelSpec, Metric, word_or_number
from multitask.tasks.schema import Strict
from multitask.tasks.table import TASKS, TaskSpec

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # of files, of weights and of metrics
# First parts of other metrics' names, and prediction files' stems.
TAKEN = {"overall", "mlm", "completion", *TASKS, *(spec.prediction[0] for spec in TASKS.values())}


def _word(value: Any) -> Any:
    """A class's word. YAML reads yes, no, on, off and null as something else than words; a number may be meant
    as one."""
    if value is None or isinstance(value, bool):
        raise ValueError("no word: YAML reads yes, no, on, off, true, false and null as values; put it in quotes")
    return str(value) if isinstance(value, int | float) else value


Pairing = Literal["separate", "joined"]
PAIR = "pair"  # a definition's key for its Pairing, where that is not the task's own

Number = Annotated[float, Field(strict=True)]
Word = Annotated[str, BeforeValidator(_word), Field(pattern=r"^[^\s](?:[^\t\r\n\x00]*[^\s])?$")]


class Label(Strict):
    """The label of an own task."""

    column: str = "label"
    """The label's column in the files."""
    kind: KindName | None = None
    """What kind of label it is: docs/own-task.md has them all; `classes` where words are given and nothing is said."""
    words: list[Word] = []
    """The classes as the files say them, that of class 0 first; predictions say them too."""
    low: Number | None = None
    """The least label, of scores and of classes that are numbers; of classes 0 unless said."""
    high: Number | None = None
    """The greatest label, of scores and of classes that are numbers."""
    similar: Number | str | None = None
    """The least label, or word, of a pair that means the same, for ranking."""
    threshold: Number | dict[Word, Number] | None = None
    """The probability above which a label of yes or no is predicted as a yes; 0.5 unless said."""


class Definition(Strict):
    """What an own task is; docs/own-task.md is a walk."""

    columns: Annotated[list[str], Field(min_length=1, max_length=2)]
    """The text columns in the files: one, or two for pairs."""
    label: Label = Label()
    """What is to be predicted."""
    metric: Metric | None = None
    """What dev is measured by, of the metrics that the kind of label has; its first one unless said."""
    joined: bool = False
    """The encoder reads both texts of a pair as one sequence, all of it the first segment, and the head compares the
    means of the texts' states. A task's `pair: joined` makes two segments of them."""


def spec_of(name: str, definition: Definition, at: str) -> TaskSpec:
    """The task of that name. Raises UserError, naming the key below `at`, for what makes no task."""
    _check_name(name, at)
    label, columns = _label(definition.label, at + ".label"), tuple(definition.columns)
    label = replace(label, thresholds=_thresholds(definition.label.threshold, label, at + ".label.threshold"))
    if len({*columns, label.column, "id"}) < len(columns) + 2 or not all([*columns, label.column]):
        raise UserError(
            f"{at}.columns: {', '.join(columns)}, with the label in {label.column or 'none'}: "
            f"every column needs a name of its own, not 'id'"
        )
    pair = len(columns) == 2
    if definition.joined and not pair:
        raise UserError(f"{at}.joined: two texts are joined, columns has one")
    if label.similar is not None and (not pair or definition.joined):
        raise UserError(f"{at}.label.similar: of pairs that are encoded each by itself; columns: two, joined: false")
    spec = TaskSpec(
        name=name,
        columns=columns,
        label=label,
        metric=KINDS[label.kind].metrics[0],
        head=_head(pair, definition.joined, label),
        files={"train": f"{name}-train", "dev": f"{name}-dev", "test": f"{name}-test"},
        prediction=(name, f"Predicted_{name}"),
        joined=definition.joined,
    )
    metric = definition.metric or spec.metric
    if metric not in spec.metrics:
        valid = f"{', '.join(spec.metrics)}{near(metric, spec.metrics)}"
        raise UserError(f"{at}.metric: '{metric}' of a {label.kind} label; valid: {valid}")
    return replace(spec, metric=metric)


def paired(spec: TaskSpec, pairing: Pairing, at: str) -> TaskSpec:
    """The task with its pairs encoded separately, or joined as two segments; then no label says what is similar, which
    is asked of texts that are encoded each by itself. Raises UserError, naming the key `at`, for a task of one text."""
    if len(spec.columns) != 2:
        raise UserError(f"{at}: {pairing}: of pairs; task '{spec.name}' has one text, {spec.columns[0]}")
    if pairing == "joined":
        label = replace(spec.label, similar=None)
        return replace(spec, joined=True, segments=True, head="linear", label=label)
    return replace(spec, joined=False, segments=False, head=_head(True, False, spec.label)) if spec.joined else spec


def definition_of(spec: TaskSpec) -> dict[str, Any]:
    """The definition that makes a task, as plain JSON with every default said: equal for equal tasks. Of a built-in one
    it is how its pairs are read."""
    if spec.name in TASKS:
        return {PAIR: "joined" if spec.segments else "separate"}
    label = spec.label
    bounds = {} if label.words or KINDS[label.kind].bounds else {"low": label.low, "high": label.high}
    words = {"words": list(label.words)} if label.words else {}
    similar = label.similar if label.similar is None or not words else label.says(label.similar)
    said = {"column": label.column, "kind": label.kind, **words, **bounds, "similar": similar, **_threshold(label)}
    segments = {PAIR: "joined"} if spec.segments else {}
    return {"columns": list(spec.columns), "label": said, "metric": spec.metric, "joined": spec.by_text, **segments}


def definitions(specs: Mapping[str, TaskSpec]) -> dict[str, dict[str, Any]]:
    """The definitions of the specs that are not built in as they are, as plain JSON; `known` makes specs of them
    again."""
    return {name: definition_of(spec) for name, spec in specs.items() if spec != TASKS.get(name)}


def known(found: Mapping[str, Any], where: str) -> dict[str, TaskSpec]:
    """The built-in tasks, and the own ones that some definitions make. Raises UserError, naming `where`."""
    if not isinstance(found, Mapping):
        raise UserError(f"{where}: its tasks' definitions are no mapping")
    specs = dict(TASKS)
    for name, definition in found.items():
        try:
            specs[name] = _known(name, definition, f"{where}: {name}")
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(f"{where}: {'.'.join(map(str, (name, *first['loc'])))}: {first['msg']}") from None
    return specs


def _known(name: str, definition: Any, at: str) -> TaskSpec:
    """The task that a definition makes, or the built-in one whose pairing it says."""
    if not isinstance(definition, Mapping) or PAIR not in definition:
        return spec_of(name, Definition.model_validate(definition), at)
    rest = {key: value for key, value in definition.items() if key != PAIR}
    built_in = name in TASKS and not rest
    spec = TASKS[name] if built_in else spec_of(name, Definition.model_validate(rest), at)
    if (pairing := definition[PAIR]) not in get_args(Pairing):
        raise UserError(f"{at}.{PAIR}: {shown(pairing)}; valid: {', '.join(get_args(Pairing))}")
    return paired(spec, pairing, f"{at}.{PAIR}")


def _check_name(name: str, at: str) -> None:
    from torch.nn import ModuleDict  # the heads' home, whose own attributes cannot be names

    if not NAME.fullmatch(name):
        raise UserError(
            f"{at}: '{name}' names files: letters, digits, '_' and '-', 64 at most, a letter or digit first"
        )
    if name.lower() in TAKEN or hasattr(ModuleDict(), name):
        built_in = f"; built in are {', '.join(TASKS)}" if name.lower() in TASKS else ""
        raise UserError(f"{at}: the name '{name}' is taken; give the task another one{built_in}")


def _label(label: Label, at: str) -> LabelSpec:
    kind = label.kind or ("classes" if label.words else None)
    if kind is None:
        raise UserError(f"{at}.kind: missing; valid: {', '.join(KINDS)}, or words: [...] for classes")
    if label.similar is not None and not KINDS[kind].ordered:
        raise UserError(f"{at}.similar: of a {kind} label, which has no order: none is the least of a similar pair")
    if label.words:
        return _of_words(label, kind, at)
    low, high = _bounds(label, kind, at)
    similar = label.similar
    if isinstance(similar, str) or (similar is not None and not low <= similar <= high):
        said = similar if isinstance(similar, str) else f"{similar:g}"
        raise UserError(f"{at}.similar: '{said}' is no label; valid: {low:g} to {high:g}")
    if KINDS[kind].words and low:  # classes are counted from 0: what the file says is a word
        words = tuple(str(number) for number in range(int(low), int(high) + 1))
        return LabelSpec(kind, label.column, 0, high - low, None if similar is None else similar - low, words)
    return LabelSpec(kind, label.column, low, high, similar)


def _of_words(label: Label, kind: KindName, at: str) -> LabelSpec:
    words, similar, counts = label.words, label.similar, KINDS[kind].words
    if counts is None:
        raise UserError(f"{at}.words: of a {kind} label, which is a number; kind: classes, or binary for two words")
    if label.low is not None or label.high is not None:
        raise UserError(f"{at}: words and low or high; words are numbered from 0 to {len(words) - 1}")
    if twice := sorted(word for word in words if words.count(word) > 1):
        raise UserError(f"{at}.words: '{twice[0]}' stands there twice")
    least, most = counts
    if not least <= len(words) <= most:
        valid = "two, that of 0 first" if most == 2 else f"{least} to {most}"
        raise UserError(f"{at}.words: {len(words)} of them; valid for {kind}: {valid}")
    if similar is not None:
        said = similar if isinstance(similar, str) else f"{similar:g}"
        if said not in words and not (isinstance(similar, float) and similar in range(len(words))):
            raise UserError(f"{at}.similar: '{said}' is none of {', '.join(words)}{near(said, words)}")
        similar = float(words.index(said) if said in words else similar)
    return LabelSpec(kind, label.column, 0, len(words) - 1, similar, tuple(words))


def _outputs(label: LabelSpec) -> list[str]:
    """What a definition calls a head's outputs; none where there is one."""
    return [word_or_number(at, label) for at in range(label.outputs)] if label.shape else []


def _thresholds(said: float | Mapping[str, float] | None, label: LabelSpec, at: str) -> tuple[float, ...]:
    if said is None:
        return ()
    if not KINDS[label.kind].decides:
        valid = ", ".join(name for name, kind in KINDS.items() if kind.decides)
        raise UserError(f"{at}: of a {label.kind} label, which is no yes or no; valid for {valid}")
    names = _outputs(label)
    if isinstance(said, Mapping):
        if not names:
            raise UserError(f"{at}: a {label.kind} label has one, a number")
        if unknown := sorted({*said} - {*names}):
            raise UserError(f"{at}: '{unknown[0]}' is none of {short_list(names)}{near(unknown[0], names)}")
    found = [said.get(name, 0.5) for name in names] if isinstance(said, Mapping) else [said] * label.outputs
    if wrong := [value for value in found if not 0 < value < 1]:
        raise UserError(f"{at}: {wrong[0]:g}; valid: a probability between 0 and 1")
    return tuple(found) if {*found} != {0.5} else ()


def _threshold(label: LabelSpec) -> dict[str, Any]:
    """What a definition says of the label's thresholds: nothing where all are 0.5, as definitions of older builds."""
    found = label.thresholds
    if not found:
        return {}
    if len({*found}) == 1:
        return {"threshold": found[0]}
    return {"threshold": {name: at for name, at in zip(_outputs(label), found, strict=True) if at != 0.5}}


def _bounds(label: Label, kind: KindName, at: str) -> tuple[float, float]:
    low, high, facts = label.low, label.high, KINDS[kind]
    if facts.bounds:
        least, most = facts.bounds
        if (low or least) != least or (most if high is None else high) != most:
            raise UserError(f"{at}: a {kind} label is in {least:g}..{most:g}, and needs no low and high")
        return facts.bounds
    low = 0.0 if low is None and facts.words else low
    if low is None or high is None:
        missing = "low" if low is None else "high"
        raise UserError(f"{at}.{missing}: missing: a {kind} label has a least and a greatest number, low and high")
    if not low < high:
        raise UserError(f"{at}: low {low:g} is not below high {high:g}")
    if facts.words and not (low.is_integer() and high.is_integer() and high - low < MAX_CLASSES):
        raise UserError(f"{at}: classes from {low:g} to {high:g}; valid: whole numbers, {MAX_CLASSES} at most")
    return low, high


def _head(pair: bool, joined: bool, label: LabelSpec) -> str:
    """The default head of a task. A cosine gives one number in 0..high."""
    if not pair:
        return "linear"
    one_number = KINDS[label.kind].scaled and not label.shape
    return "cosine" if one_number and label.low == 0 and not joined else "interaction"
