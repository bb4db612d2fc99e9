"""The project's own sample data: small, learnable, in the CS224N formats, the same bytes on every run.

    python -m multitask.data.sample multitask/assets/sample

sst and cfimdb: reviews whose adjectives carry the label. quora: questions of a few intents, duplicates where
the intent is the same. sts: scenes of four slots, scored by how much of the slots' weight two scenes share.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import TypeVar

from multitask.data import sample_words as words
from multitask.tasks.table import TASKS, Split, TaskSpec

T = TypeVar("T")
SampleRow = tuple[str, ...]  # the text columns, then the label

ROWS: dict[Split, int] = {"train": 600, "dev": 150, "test": 60}
SEED = 11711
ID_CHARS = 25  # hexadecimal, as CS224N's ids

# What a slot of a scene is worth: 5 in all, STS's highest score. A near synonym keeps most of it.
_SLOTS: tuple[tuple[list[list[str]], float], ...] = (
    (words.SUBJECTS, 1.5),
    (words.ACTIONS, 2.0),
    (words.PLACES, 1.0),
    (words.TIMES, 0.5),
)
_SYNONYM_WORTH = 0.9


def sample_uri() -> str:
    """The directory of the packaged sample data."""
    return str(files("multitask") / "assets" / "sample")


class Dice(random.Random):
    """Choices by `random()` alone, the one method whose values Python promises to keep between versions."""

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.random() * len(items))]

    def pick_other(self, items: Sequence[T], taken: Sequence[T]) -> T:
        return self.pick([item for item in items if item not in taken])

    def pick_some(self, items: Sequence[T], size: int) -> list[T]:
        """`size` different ones of `items`."""
        picked: list[T] = []
        while len(picked) < size:
            picked.append(self.pick_other(items, picked))
        return picked


def _sentence(text: str) -> str:
    """The text with its first letter in upper case and `a` or `an` as it has to be."""
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    return text[0].upper() + text[1:]


def _fill(dice: Dice, pattern: str, lists: Mapping[str, Sequence[str]]) -> str:
    """The pattern with each `{list}` replaced by a word of that list, none twice; `{list2}` is of `list`."""
    used: list[str] = []
    for slot in re.findall(r"\{\w+\}", pattern):
        used.append(dice.pick_other(lists[slot.strip("{23}")], used))
        pattern = pattern.replace(slot, used[-1], 1)
    return _sentence(pattern)


def _sst(dice: Dice) -> SampleRow:
    grade = dice.pick(range(len(words.GRADES)))
    lists = {**words.FILM, "grade": words.GRADES[grade]}
    return _fill(dice, dice.pick(words.REVIEW_PATTERNS), lists), str(grade)


def _cfimdb(dice: Dice) -> SampleRow:
    """A review of three to six sentences: some tell of the plot, at least two judge."""
    label = dice.pick((0, 1))
    low, high = words.GRADES[:2], words.GRADES[3:]
    grades = [word for grade in (low, high)[label] for word in grade]
    lists = {**words.FILM, "grade": grades, "kind": [dice.pick(words.FILM["kind"])]}
    plot = dice.pick_some(words.PLOT_PATTERNS, dice.pick((1, 2, 3)))
    verdict = dice.pick_some(words.VERDICT_PATTERNS, dice.pick((2, 2, 3)))
    return " ".join(_fill(dice, pattern, lists) for pattern in plot + verdict), str(label)


def _question(dice: Dice, intent: list[str]) -> str:
    prefix, suffix = dice.pick(words.QUESTION_PREFIXES), dice.pick(words.QUESTION_SUFFIXES)
    question = f"{dice.pick(intent)} {suffix}".strip()
    return f"{prefix} {question[0].lower()}{question[1:]}?" if prefix else f"{question}?"


def _quora(dice: Dice) -> SampleRow:
    """Pairs of questions, half of them duplicates, all of common intents: which intents they are tells much, their
    equality the rest."""
    duplicate = dice.pick((0, 1))
    intents = words.COMMON_INTENTS if duplicate else words.COMMON_INTENTS + words.RARE_INTENTS
    first = dice.pick(intents)
    second = first if duplicate else dice.pick_other(intents, [first])
    return _question(dice, first), _question(dice, second), f"{duplicate}.0"


def _sts(dice: Dice) -> SampleRow:
    keep = dice.random()  # how alike the two scenes shall be: scores over the whole range
    left: list[str] = []
    right: list[str] = []
    score = 0.0
    for groups, worth in _SLOTS:
        group = dice.pick(groups)
        same = dice.random() < keep
        left.append(dice.pick(group))
        right.append(dice.pick(group if same else dice.pick_other(groups, [group])))
        score += worth * same * (1.0 if left[-1] == right[-1] else _SYNONYM_WORTH)
    return f"{' '.join(left)}.", f"{' '.join(right)}.", f"{score:.1f}"


GENERATORS: dict[str, Callable[[Dice], SampleRow]] = {"sst": _sst, "cfimdb": _cfimdb, "quora": _quora, "sts": _sts}


def generate(task: str) -> dict[Split, list[SampleRow]]:
    """The task's rows of each split; no text, or pair of texts, occurs twice."""
    dice = Dice(f"{SEED}/{task}")
    rows: dict[SampleRow, SampleRow] = {}
    while len(rows) < sum(ROWS.values()):
        row = GENERATORS[task](dice)
        rows.setdefault(row[:-1], row)
    stream = iter(rows.values())
    return {split: list(islice(stream, size)) for split, size in ROWS.items()}


def csv_bytes(spec: TaskSpec, split: Split, rows: Sequence[SampleRow]) -> bytes:
    """The file's content: tab separated, with an unnamed index column; test files have no labels."""
    columns = (*spec.columns, spec.label.column) if split != "test" else spec.columns
    lines = ["\t".join(("", "id", *columns))]
    for index, row in enumerate(rows):
        name = hashlib.sha256(f"{SEED}/{spec.name}/{split}/{index}".encode()).hexdigest()[:ID_CHARS]
        lines.append("\t".join((str(index), name, *row[: len(columns)])))
    return "\n".join([*lines, ""]).encode()


def sample_files() -> dict[str, bytes]:
    """File name -> content of the whole sample."""
    return {
        f"{TASKS[task].files[split]}.csv": csv_bytes(TASKS[task], split, rows)
        for task in GENERATORS
        for split, rows in generate(task).items()
    }


def main() -> None:
    """Writes the sample's files to a directory."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in sample_files().items():
        (directory / name).write_bytes(content)


if __name__ == "__main__":
    main()
