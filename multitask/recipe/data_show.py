"""What a task's file looks like: the numbers and examples behind `minibert data show`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from multitask.data.readers import Example
from multitask.data.shards import read_examples
from multitask.errors import UserError, near
from multitask.recipe.data_check import SPLITS, place_to_check
from multitask.recipe.data_maps import Place
from multitask.tasks.labels import KINDS
from multitask.tasks.table import Split, TaskSpec

LENGTHS = (4, 8, 16, 32, 64, 128, 256, 512)  # words of an example, at most, of each bar but the last
SHOWN = 2  # examples of each label
BAR = 30  # characters of the longest bar
TEXT_SHOWN = 100  # characters of a text


@dataclass(frozen=True)
class FileLook:
    """What one file holds."""

    task: str
    split: str
    source: str
    rows: int
    labels: dict[str, int]
    """Label, as files say it, -> its rows; scores rounded. Empty where there are none."""
    lengths: dict[str, int]
    """Words of an example -> how many examples have as many."""
    repeated: int
    """Rows whose texts stand in an earlier row."""
    torn: int
    """Texts that stand there with several labels."""
    examples: dict[str, list[str]]
    """Label -> some of its rows' texts."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def show_data(uri: str, data: str | None, task: str | None, split: str | None) -> list[FileLook]:
    """A look at each file of the tasks in a directory, a map or a recipe. task, split: one alone. Raises UserError
    where there is no such file."""
    place = place_to_check(uri, data)
    specs = place.specs()
    if task is not None and task not in specs:
        raise UserError(f"--task '{task}': {uri} has {', '.join(specs)}{near(task, specs)}")
    if split is not None and split not in SPLITS:
        raise UserError(f"--split '{split}': valid: {', '.join(SPLITS)}{near(split, SPLITS)}")
    wanted = [
        (spec, of)
        for spec in specs.values()
        for of in SPLITS
        if task in (None, spec.name) and split in (None, of) and place.has(spec, of)
    ]
    if not wanted:
        raise UserError(f"{uri}: no file of {task or 'a known task'}{f', {split}' if split else ''}")
    return [_look(place, spec, of) for spec, of in wanted]


def _look(place: Place, spec: TaskSpec, split: Split) -> FileLook:
    columns = place.columns(spec.name, {})
    uris = place.find(spec, split)
    found = read_examples(uris, spec, labelled=split != "test", columns=columns, max_bad_rows=1.0)
    by_text: dict[tuple[str, ...], set[Any]] = defaultdict(set)
    for example in found.examples:
        by_text[example.texts].add(example.label)
    names = spec.label.words or found.classes
    labels, examples = Counter[int](), defaultdict[int, list[str]](list)
    for example in found.examples:
        for at in KINDS[spec.label.kind].counted(example.label) if example.label is not None else ():
            labels[at] += 1
            if len(examples[at]) < SHOWN:
                examples[at].append(_said(example))
    return FileLook(
        spec.name,
        split,
        found.source,
        len(found.examples),
        {_name(at, names): count for at, count in sorted(labels.items())},
        _lengths(found.examples),
        len(found.examples) - len(by_text),
        sum(len(known) > 1 for known in by_text.values()),
        {_name(at, names): said for at, said in sorted(examples.items())},
    )


def _name(label: int, names: Sequence[str]) -> str:
    return names[label] if label < len(names) else str(label)


def _said(example: Example) -> str:
    return " / ".join(text if len(text) <= TEXT_SHOWN else f"{text[:TEXT_SHOWN]} ..." for text in example.texts)


def _lengths(examples: Iterable[Example]) -> dict[str, int]:
    """Bars of words an example, those at the ends that nothing falls into left out."""
    words = [sum(len(text.split()) for text in example.texts) for example in examples]
    ends = [0, *LENGTHS]
    named = [f"{low + 1} .. {high}" for low, high in zip(ends, LENGTHS, strict=False)] + [f"over {LENGTHS[-1]}"]
    counts = Counter(next((at for at, most in enumerate(LENGTHS) if count <= most), len(LENGTHS)) for count in words)
    if not counts:
        return {}
    return {named[at]: counts[at] for at in range(min(counts), max(counts) + 1)}


def render_looks(looks: Iterable[FileLook]) -> str:
    """The looks as plain text."""
    return "\n\n".join("\n".join(_lines(look)) for look in looks)


def _lines(look: FileLook) -> list[str]:
    lines = [f"{look.task} {look.split}: {look.rows:,} rows  {look.source}"]
    if look.labels:
        lines += ["  labels", *_bars(look.labels, look.rows)]
    lines += ["  words an example", *_bars(look.lengths, look.rows)]
    lines.append(f"  {look.repeated:,} rows whose texts stand there before; {look.torn:,} texts with several labels")
    for label, texts in look.examples.items():
        lines += [f"  {label}: {text}" for text in texts]
    return lines


def _bars(counts: dict[str, int], rows: int) -> list[str]:
    width, most = max(map(len, counts), default=0), max(counts.values(), default=1) or 1
    return [
        f"    {name:<{width}}  {'#' * round(BAR * count / most):<{BAR}}  {count:,} ({count / max(rows, 1):.1%})"
        for name, count in counts.items()
    ]
