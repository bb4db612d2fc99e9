"""A task's file, at any fsspec URI -> Examples, and the rows that had to be left out, by line and reason."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from multitask.data.formats import FORMATS, BadRow, Table, Unreadable, shown
from multitask.errors import UserError
from multitask.storage import Storage, join, local_copy
from multitask.tasks import LabelSpec, Split, TaskSpec

MAX_TEXT_CHARS = 100_000
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # lone surrogates stand for bytes that are not UTF-8
_LISTED = 10

__all__ = ["BadRow", "Example", "ReadResult", "find_file", "has_file", "read_examples"]


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

    total, quarantined: of the rows gone through so far.
    """

    uri: str
    path: Path
    spec: TaskSpec
    labelled: bool
    columns: Mapping[str, str] = field(default_factory=dict)
    max_bad_rows: float = 0.01
    total: int = 0
    quarantined: list[BadRow] = field(default_factory=list)

    def sha256(self) -> str:
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def examples(self) -> Iterator[Example]:
        """Malformed rows are left out. Raises UserError as `read_examples`; for too many of those, at the end."""
        ending = self.uri.rsplit(".", 1)[-1].lower()
        if ending not in FORMATS:
            raise UserError(f"{self.uri}: unknown format; the file's name must end in .{', .'.join(FORMATS)}")
        needed = (*self.spec.columns, self.spec.label.column) if self.labelled else self.spec.columns
        names = _file_columns(self.uri, self.spec, needed, self.columns)
        try:
            table = FORMATS[ending](self.path, names.values())
            self._check_columns(table, needed, names)
            yield from self._sound(table, names)
        except Unreadable as error:
            raise UserError(f"{self.uri}: {error}") from error
        if not self.total:
            raise UserError(f"{self.uri}: no rows; expected some with columns {', '.join(names[c] for c in needed)}")
        bad = len(self.quarantined)
        if bad > self.max_bad_rows * self.total:
            reasons = "; ".join(f"line {row.line}: {row.reason}" for row in self.quarantined[:3])
            counts = f"{bad} of {self.total} rows are malformed, more than max_bad_rows {self.max_bad_rows:g} allows"
            raise UserError(f"{self.uri}: {counts}: {reasons}")

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
                example = Example(_id(values[at["id"]] if "id" in at else None, line), texts, label)
            except _MalformedError as error:
                self.quarantined.append(BadRow(line, str(error)))
            else:
                yield example


def read_examples(
    uri: str,
    spec: TaskSpec,
    *,
    labelled: bool,
    columns: Mapping[str, str] | None = None,
    max_bad_rows: float = 0.01,
) -> ReadResult:
    """Reads a CSV, TSV, JSONL or Parquet file; malformed rows go to `quarantined` and reading goes on.

    columns: the task's column -> the file's, for those named otherwise (`id`, text columns, label column).
    max_bad_rows: the share of all rows, 0..1, that may be malformed.
    An `id` that the file lacks is the row's line number; ids may repeat.
    Raises UserError for a file that cannot be read, a missing column, no rows, or too many malformed ones.
    """
    with local(uri) as path:
        reading = Reading(uri, path, spec, labelled, columns or {}, max_bad_rows)
        examples = tuple(reading.examples())
        return ReadResult(uri, reading.sha256(), examples, tuple(reading.quarantined))


def find_file(data_uri: str, spec: TaskSpec, split: Split) -> str:
    """The URI of the task's file for that split in a directory: the first of .csv, .tsv, .jsonl, .parquet.

    Raises UserError, naming the path looked for and what the directory holds.
    """
    names = list_directory(data_uri)
    for ending in FORMATS:
        if (name := f"{spec.files[split]}.{ending}") in names:
            return join(data_uri, name)
    looked_for = join(data_uri, f"{spec.files[split]}.{{{','.join(FORMATS)}}}")
    holds = short_list(names) or "nothing, or is not there"
    raise UserError(f"{looked_for}: no such file ({spec.name} {split}); the directory holds {holds}")


def has_file(data_uri: str, spec: TaskSpec, split: Split) -> bool:
    """Whether `find_file` would find one."""
    return not {f"{spec.files[split]}.{ending}" for ending in FORMATS}.isdisjoint(list_directory(data_uri))


def list_directory(uri: str) -> list[str]:
    """The sorted names in a directory of any file system; none where there is no directory."""
    try:
        return Storage(uri).list()
    except OSError as error:
        raise UserError(f"{uri}: cannot list this data directory ({error})") from error


def short_list(names: Iterable[str]) -> str:
    """The first ten names, and how many there are where there are more."""
    listed = list(names)
    more = f", ... ({len(listed)} in all)" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more


@contextmanager
def local(uri: str) -> Iterator[Path]:
    """The file, or a copy of it here. Raises UserError, naming what its directory holds where it is not there."""
    with ExitStack() as stack:
        try:
            path = stack.enter_context(local_copy(uri))
        except FileNotFoundError as error:
            holds = short_list(list_directory(uri.rpartition("/")[0] or ".")) or "nothing, or is not there"
            raise UserError(f"{uri}: no such file; its directory holds {holds}") from error
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"{uri}: cannot be read ({error})") from error
        yield path


def _file_columns(uri: str, spec: TaskSpec, needed: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """The task's column -> the file's, for `id` and all that is needed."""
    valid = ("id", *spec.columns, spec.label.column)
    unknown = [name for name in columns if name not in valid]
    if unknown:
        raise UserError(f"columns for {uri}: {spec.name} has no '{unknown[0]}'; it has {', '.join(valid)}")
    return {name: columns.get(name, name) for name in ("id", *needed)}


def _id(value: object, line: int) -> str:
    text = "" if value is None else str(value).strip()
    return _clean(text, "id") if text else str(line)


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
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise _MalformedError(f"{column} is not a number: {shown(value)}") from None
    if not spec.low <= number <= spec.high:  # holds for nan too
        raise _MalformedError(f"{column} is not in {spec.low:g}..{spec.high:g}: {shown(value)}")
    if spec.kind in ("classes", "binary") and not number.is_integer():
        raise _MalformedError(f"{column} is not an integer: {shown(value)}")
    return number
