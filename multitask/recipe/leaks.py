"""Texts that files of different splits share, over all tasks: the numbers behind `minibert data check --leaks`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from multitask.data.nearness import Sketcher, Sketches, near
from multitask.data.plain import plain
from multitask.data.progress import Tell, told, untold
from multitask.data.shards import read_examples
from multitask.errors import UserError
from multitask.recipe.data_check import SPLITS
from multitask.recipe.data_maps import Place
from multitask.tasks.table import Split, TaskSpec

Unit = Literal["text", "pair"]
Kind = Literal["exact", "normalised", "near"]

KINDS: tuple[Kind, ...] = ("exact", "normalised", "near")
EXAMPLES = 3  # of each kind


@dataclass(frozen=True)
class Example:
    """A row that shares something with a row of another file.

    mine, other: what is shared, one text or the two of a pair, as each file has it.
    """

    kind: Kind
    id: str
    mine: tuple[str, ...]
    other_id: str
    other: tuple[str, ...]


@dataclass(frozen=True)
class Leak:
    """How many rows of a file share a text, or a whole pair of texts in any order, with any row of another one.

    counts: how many do so exactly; those that do not, but without case, punctuation, white space and Unicode's
    variants (`plain`); those that do neither, but nearly.
    """

    of: str
    rows: int
    with_: str
    unit: Unit
    counts: tuple[int, int, int]
    examples: tuple[Example, ...]

    @property
    def shared(self) -> int:
        return sum(self.counts)

    def to_json(self) -> dict[str, Any]:
        return {
            "of": self.of,
            "rows": self.rows,
            "with": self.with_,
            "unit": self.unit,
            **dict(zip(KINDS, self.counts, strict=True)),
            "shared": self.shared,
            "examples": [vars(example) for example in self.examples],
        }


@dataclass(frozen=True)
class File:
    """One task's file of a split: of each usable row the id and the texts."""

    name: str
    split: Split
    source: str
    ids: Sequence[str]
    texts: Sequence[tuple[str, ...]]

    @property
    def pairs(self) -> bool:
        return bool(self.texts) and len(self.texts[0]) > 1


class Units:
    """A file's texts, or its pairs: the different ones, and which row has which."""

    def __init__(self, file: File, unit: Unit) -> None:
        self.file, self.unit = file, unit
        self.exact: dict[tuple[str, ...], int] = {}  # as they stand -> the first row that has it
        self.keys: dict[tuple[str, ...], int] = {}  # in the form that `plain` gives -> its place among them
        self.firsts: list[tuple[int, tuple[str, ...]]] = []  # of each key, the first row and what stands there
        self.rows: list[list[tuple[tuple[str, ...], int]]] = []  # of each row: (as it stands, its key's place)
        plains = {text: plain(text) for texts in file.texts for text in texts}
        for row, texts in enumerate(file.texts):
            items = [(text,) for text in texts] if unit == "text" else [tuple(sorted(texts))]
            places = []
            for item in items:
                self.exact.setdefault(item, row)
                place = self.keys.setdefault(tuple(sorted(plains[text] for text in item)), len(self.keys))
                if place == len(self.firsts):
                    self.firsts.append((row, item))
                places.append((item, place))
            self.rows.append(places)

    def shown(self, row: int, item: tuple[str, ...]) -> tuple[str, ...]:
        """A unit of a row as its file has it: pairs are compared in any order."""
        return item if self.unit == "text" else self.file.texts[row]

    @cached_property
    def names(self) -> list[tuple[str, ...]]:
        """The keys in the order of their places."""
        return list(self.keys)


def read_files(place: Place, tell: Tell = untold) -> list[File]:
    """All files of a place's tasks. Raises UserError where there are fewer than two splits of them."""
    wanted = [(spec, split) for spec in place.specs().values() for split in SPLITS if place.has(spec, split)]
    if len({split for _, split in wanted}) < 2:
        found = ", ".join(f"{spec.name} {split}" for spec, split in wanted) or "no file of a known task"
        raise UserError(
            f"--leaks: {place.uri} has {found}; nothing can be shared but between two of {', '.join(SPLITS)}"
        )
    files = []
    for spec, split in wanted:
        files.append(_read(place, spec, split))
        tell("files read", len(files), len(wanted))
    return files


def _read(place: Place, spec: TaskSpec, split: Split) -> File:
    columns = place.columns(spec.name, {})
    found = read_examples(
        place.find(spec, split), spec, labelled=split != "test", columns=columns, max_bad_rows=1.0
    ).examples
    uris = ", ".join(place.find(spec, split))
    return File(f"{spec.name} {split}", split, uris, [row.id for row in found], [row.texts for row in found])


def find_leaks(files: Sequence[File], tell: Tell = untold) -> list[Leak]:
    """What each file shares with each file of another split, where it shares anything: of the later split's rows with
    the earlier one first, then the other way round; whole pairs behind single texts."""
    leaks: list[Leak] = []
    for unit in ("text", "pair"):
        some = [file for file in files if unit == "text" or file.pairs]
        sketcher, units, sketches = Sketcher(), [], []
        for file in some:
            units.append(found := Units(file, unit))
            sketches.append(sketcher.of(found.names, told(tell, f"{file.name} {unit}s", len(found.names))))
        pairs = [(at, to) for at, to in combinations(range(len(some)), 2) if some[at].split != some[to].split]
        for done, (at, to) in enumerate(pairs, start=1):
            early, late = sorted((at, to), key=lambda place: SPLITS.index(some[place].split))
            for mine, other in ((late, early), (early, late)):
                leaks.append(_leak(unit, units[mine], sketches[mine], units[other], sketches[other]))
            tell(f"{unit}s of files compared", done, len(pairs))
    return [leak for leak in leaks if leak.shared]


def _leak(unit: Unit, mine: Units, sketched: Sketches, other: Units, others: Sketches) -> Leak:
    nearest = _nearest(mine, sketched, other, others)
    counts, examples = dict.fromkeys(KINDS, 0), []
    for row, items in enumerate(mine.rows):
        found = min(
            (found for item, place in items if (found := _shared(item, mine.names[place], int(nearest[place]), other))),
            key=lambda one: KINDS.index(one[0]),
            default=None,
        )
        if found:
            kind, item, (other_row, theirs) = found
            counts[kind] += 1
            if counts[kind] <= EXAMPLES:
                ids = mine.file.ids[row], other.file.ids[other_row]
                here, there = mine.shown(row, item), other.shown(other_row, theirs)
                examples.append(Example(kind, ids[0], here, ids[1], there))
    ordered = sorted(examples, key=lambda example: KINDS.index(example.kind))
    numbers = (counts["exact"], counts["normalised"], counts["near"])
    return Leak(mine.file.name, len(mine.rows), other.file.name, unit, numbers, tuple(ordered))


def _shared(
    item: tuple[str, ...], key: tuple[str, ...], nearest: int, other: Units
) -> tuple[Kind, tuple[str, ...], tuple[int, tuple[str, ...]]] | None:
    """How another file has that text or pair, and the row and the words there; None where it has not."""
    if item in other.exact:
        return "exact", item, (other.exact[item], item)
    if key in other.keys:
        return "normalised", item, other.firsts[other.keys[key]]
    return ("near", item, other.firsts[nearest]) if nearest >= 0 else None


def _nearest(mine: Units, sketched: Sketches, other: Units, others: Sketches) -> NDArray[np.int64]:
    """(keys,) the place of a key of another file that each key is near to; -1 where none is, or where the file has the
    key itself."""
    asked = np.array([place for place, key in enumerate(mine.names) if key not in other.keys], dtype=np.int64)
    found = np.full(len(mine.names), -1)
    found[asked] = near(sketched, asked, others)
    return found


HEADER = ("rows of", "that share a", "with", *KINDS, "in all", "share of the rows")


def table_rows(leaks: Sequence[Leak]) -> list[list[str]]:
    """The leaks as a table's rows, under HEADER."""
    return [
        [
            *(leak.of, leak.unit, leak.with_),
            *(f"{count:,}" for count in leak.counts),
            *(f"{leak.shared:,}", f"{leak.shared / leak.rows:.1%}"),
        ]
        for leak in leaks
    ]


def example_lines(leaks: Sequence[Leak]) -> Iterator[str]:
    """The examples as text, of the later split's rows alone: those the other way round are the same texts."""
    for leak in leaks:
        if SPLITS.index(leak.of.rpartition(" ")[2]) > SPLITS.index(leak.with_.rpartition(" ")[2]):
            yield f"{leak.of} with {leak.with_}, {leak.unit}s:"
            for found in leak.examples:
                mine, other = (" | ".join(texts) for texts in (found.mine, found.other))
                says = f" ~ {other}" if found.kind != "exact" else ""
                yield f"  {found.kind}: {found.id} = {found.other_id}: {mine}{says}"
