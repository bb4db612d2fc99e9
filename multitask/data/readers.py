"""A task's file, at any fsspec URI -> Examples, and the rows that had to be left out, by line and reason."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from multitask.data.files import ending, find_file, has_file, list_directory, local, short_list
from multitask.data.formats import FORMATS, BadRow, Table, Unreadable, shown
from multitask.errors import UserError
from multitask.tasks import LabelSpec, TaskSpec

MAX_TEXT_CHARS = 100_000
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # lone surrogates stand for bytes that are not UTF-8

__all__ = [
    "BadRow",
    "Example",
    "ReadResult",
    "find_file",
    "has_file",
    "list_directory",
    "local",
    "read_examples",
    "short_list",
]


@dataclass(frozen=True)
class Example:
    """One usable row. texts: one, or two for a pair task; label: None where the file has none."""

    id: str
    texts: tuple[str, ...]
    label: float | None


@dataclass(frozen=True)
class ReadResult:
    """What a file gave. sha256: of its bytes, hexadecimal; quarantined: by line."""

    source: str
    sha256: str
    examples: tuple[Example, ...]
    quarantined: tuple[BadRow, ...]


class _MalformedError(ValueError):
    """The reason why a row cannot be used."""


@dataclass
class Reading:
    """A file's usable rows, one at a time: memory does not grow with the file. path: the file, or a copy of it here.

    prefix: of ids that are line numbers. total, quarantined: of the rows gone through so far.
    """

    uri: str
    path: Path
    spec: TaskSpec
    labelled: bool
    columns: Mapping[str, str] = field(default_factory=dict)
    max_bad_rows: float = 0.01
    prefix: str = ""
    formats: Mapping[str, Callable[[Path, Collection[str]], Table]] = field(default_factory=lambda: FORMATS)
    total: int = 0
    quarantined: list[BadRow] = field(default_factory=list)

    def sha256(self) -> str:
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def examples(self) -> Iterator[Example]:
        """Malformed rows are left out. Raises UserError as `read_examples`; for too many of those, at the end."""
        yield from self.usable()
        self.check(self.uri, self.total, self.quarantined)

    def check(self, uri: str, total: int, quarantined: Sequence[BadRow]) -> None:
        """Whether that many rows are enough."""
        if not total:
            names = [self.columns.get(name, name) for name in self._needed]
            raise UserError(f"{uri}: no rows; expected some with columns {', '.join(names)}")
        bad = len(quarantined)
        if bad > self.max_bad_rows * total:
            reasons = "; ".join(f"line {row.line}: {row.reason}" for row in quarantined[:3])
            counts = f"{bad} of {total} rows are malformed, more than max_bad_rows {self.max_bad_rows:g} allows"
            raise UserError(f"{uri}: {counts}: {reasons}")

    def usable(self) -> Iterator[Example]:
        """The same, however many or few of the rows they are."""
        if (form := ending(self.uri)) not in self.formats:
            raise UserError(f"{self.uri}: unknown format; the file's name must end in .{', .'.join(self.formats)}")
        names = _file_columns(self.uri, self.spec, self._needed, self.columns)
        try:
            table = self.formats[form](self.path, {*names, *names.values()})
            if (
                self.columns
                and {*table.columns}.isdisjoint(self.columns.values())
                and {*self._needed} <= {*table.columns}
            ):
                names = {name: name for name in names}  # a file of the task's own columns
            self._check_columns(table, self._needed, names)
            yield from self._sound(table, names)
        except Unreadable as error:
            raise UserError(f"{self.uri}: {error}") from error

    @property
    def _needed(self) -> tuple[str, ...]:
        return (*self.spec.columns, self.spec.label.column) if self.labelled else self.spec.columns

    def _check_columns(self, table: Table, needed: Sequence[str], names: Mapping[str, str]) -> None:
        missing = [names[c] for c in (*needed, *self.columns) if c in names and names[c] not in table.columns]
        if missing:
            found = short_list(name or "(unnamed)" for name in table.columns)
            raise UserError(f"{self.uri}: no column {', '.join(dict.fromkeys(missing))}; columns found: {found}")

    def _sound(self, table: Table, names: Mapping[str, str]) -> Iterator[Example]:
        found, spec = list(table.columns), self.spec
        at = {name: found.index(column) for name, column in names.items() if column in found}
        target = spec.label.column
        for row in table.rows:
            self.total += 1
            if isinstance(row, BadRow):
                self.quarantined.append(row)
                continue
            line, values = row
            try:
                texts = tuple(_text(values[at[name]], names[name]) for name in spec.columns)
                label = _label(values[at[target]], names[target], spec.label) if self.labelled else None
                example = Example(_id(values[at["id"]] if "id" in at else None, f"{self.prefix}{line}"), texts, label)
            except _MalformedError as error:
                self.quarantined.append(BadRow(line, str(error)))
            else:
                yield example


@dataclass
class Shards:
    """Files that are one, in their order; a file alone is the usual case. Their rows have their file's number from 1 in
    what would be a line number alone."""

    parts: Sequence[Reading]

    @classmethod
    @contextmanager
    def opened(
        cls,
        uris: str | Sequence[str],
        spec: TaskSpec,
        labelled: bool,
        columns: Mapping[str, str] | None = None,
        max_bad_rows: float = 0.01,
    ) -> Iterator[Shards]:
        """Copies here of files that are elsewhere, for as long as they are wanted."""
        uris = [uris] if isinstance(uris, str) else uris
        with ExitStack() as stack:
            yield cls(
                [
                    Reading(
                        uri,
                        stack.enter_context(local(uri)),
                        spec,
                        labelled,
                        columns or {},
                        max_bad_rows,
                        f"{number}:" if len(uris) > 1 else "",
                    )
                    for number, uri in enumerate(uris, start=1)
                ]
            )

    @property
    def source(self) -> str:
        return ", ".join(part.uri for part in self.parts)

    @property
    def quarantined(self) -> tuple[BadRow, ...]:
        """Of the rows gone through so far."""
        return tuple(
            BadRow(row.line, f"{part.uri}: {row.reason}" if len(self.parts) > 1 else row.reason)
            for part in self.parts
            for row in part.quarantined
        )

    def sha256(self) -> str:
        """Of the file's bytes; of several the hash of theirs."""
        found = [part.sha256() for part in self.parts]
        return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()

    def examples(self) -> Iterator[Example]:
        """As `Reading.examples`, of all rows together: one of several may be empty."""
        for part in self.parts:
            yield from part.usable()
        self.parts[0].check(self.source, sum(part.total for part in self.parts), self.quarantined)


def read_examples(
    uri: str | Sequence[str],
    spec: TaskSpec,
    *,
    labelled: bool,
    columns: Mapping[str, str] | None = None,
    max_bad_rows: float = 0.01,
) -> ReadResult:
    """Reads a CSV, TSV, JSONL or Parquet file, or several as one; malformed rows go to `quarantined`.

    columns: the task's column -> the file's, for those named otherwise (`id`, text columns, label column); a file that
    has none of these, but the task's own ones, is read by those.
    max_bad_rows: the share of all rows, 0..1, that may be malformed.
    An `id` that the file lacks is the row's line number; ids may repeat.
    Raises UserError for a file that cannot be read, a missing column, no rows, or too many malformed ones.
    """
    with Shards.opened(uri, spec, labelled, columns, max_bad_rows) as shards:
        examples = tuple(shards.examples())
        return ReadResult(shards.source, shards.sha256(), examples, shards.quarantined)


def _file_columns(uri: str, spec: TaskSpec, needed: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """The task's column -> the file's, for `id` and all that is needed."""
    valid = ("id", *spec.columns, spec.label.column)
    unknown = [name for name in columns if name not in valid]
    if unknown:
        raise UserError(f"columns for {uri}: {spec.name} has no '{unknown[0]}'; it has {', '.join(valid)}")
    return {name: columns.get(name, name) for name in ("id", *needed)}


def _id(value: object, otherwise: str) -> str:
    text = "" if value is None else str(value).strip()
    return _clean(text, "id") if text else otherwise


def _text(value: object, column: str) -> str:
    if value is None or value == "":
        raise _MalformedError(f"{column} is empty")
    if not isinstance(value, str):
        raise _MalformedError(f"{column} is not text: {shown(value)}")
    if not value.strip():
        raise _MalformedError(f"{column} is empty but for white space: {shown(value)}")
    return _clean(value, column)


def _clean(text: str, column: str) -> str:
    """The text itself, where it is of sane length and content."""
    if len(text) > MAX_TEXT_CHARS:
        raise _MalformedError(f"{column} has {len(text)} characters, at most {MAX_TEXT_CHARS}: {shown(text)}")
    if found := _NOT_TEXT.search(text):
        what = "a NUL byte" if found[0] == "\0" else "bytes that are not UTF-8"
        raise _MalformedError(f"{column} holds {what}: {shown(text[max(0, found.start() - 10) :])}")
    return text


def _label(value: object, column: str, spec: LabelSpec) -> float:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise _MalformedError(f"{column} is missing")
    if spec.words:
        return _class(value, column, spec.words)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise _MalformedError(f"{column} is not a number: {shown(value)}") from None
    if not spec.low <= number <= spec.high:  # holds for nan too
        raise _MalformedError(f"{column} is not in {spec.low:g}..{spec.high:g}: {shown(value)}")
    if spec.kind in ("classes", "binary") and not number.is_integer():
        raise _MalformedError(f"{column} is not an integer: {shown(value)}")
    return number


def _class(value: object, column: str, words: Sequence[str]) -> float:
    """A class by its word; by its number too, where no word is a number itself."""
    said = str(value).strip().lower() if isinstance(value, bool) else str(value).strip()
    number = _whole(value)
    if said not in words and number is not None:
        if str(number) in words:  # 3.0 in a column with gaps is the word 3
            said = str(number)
        elif 0 <= number < len(words) and not any(_whole(word) is not None for word in words):
            return number
    if said not in words:
        raise _MalformedError(f"{column} is none of {short_list(words)}: {shown(value)}")
    return words.index(said)


def _whole(value: object) -> int | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() else None
