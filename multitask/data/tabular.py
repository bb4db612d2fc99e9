"""What every reader of a file gives: a Table of columns and rows, read as one goes through them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Row = tuple[int, Sequence[object]]  # where it starts, one value a column
# (the file's columns) -> whether a row's values, one a column, are those of a usable row
Judge = Callable[[Sequence[str]], Callable[[Sequence[object]], bool]]


class Unreadable(Exception):
    """Not a file of its format at all."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used. line: where it starts, from 1 (Parquet, Arrow: the row's number); reason: why."""

    line: int
    reason: str


@dataclass(frozen=True)
class Table:
    """A file's content.

    columns: names in file order, or of the wanted ones alone. rows: in file order, once; those without structure as
    BadRow. form: how the file is read, for people. classes: column -> the names of its classes by number, where the
    file says them. all_columns: the names of all of the file's, where `columns` are the wanted ones alone.
    """

    columns: Sequence[str]
    rows: Iterator[Row | BadRow]
    form: str
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    all_columns: Sequence[str] = ()


@dataclass(frozen=True)
class Wanted:
    """What is looked for in a file.

    columns: names of the columns. header: False where the file has none, and its columns are called 0, 1, 2, ... judge:
    what tells a usable row, for what the file's form alone leaves open; None where nothing does.
    """

    columns: Collection[str]
    header: bool = True
    judge: Judge | None = None


Reader = Callable[[Path, Wanted], Table]  # (a local file's path, what is looked for in it) -> its content
