"""A task's file, at any fsspec URI -> Examples, and the rows that had to be left out, by line and reason."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from multitask.data.files import ending, local, short_list
from multitask.data.formats import FORMATS, BadRow, Table, Unreadable
from multitask.data.values import MalformedError, id_of, label_of, text_of
from multitask.errors import UserError
from multitask.tasks import TaskSpec


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

    def usable(self) -> Iterator[Example]:
        """The rows but for malformed ones, however many or few they are. Raises UserError as `read_examples` but for
        that."""
        if (form := ending(self.uri)) not in self.formats:
            raise UserError(f"{self.uri}: unknown format; the file's name must end in .{', .'.join(self.formats)}")
        names = _file_columns(self.uri, self.spec, self.needed, self.columns)
        try:
            table = self.formats[form](self.path, {*names, *names.values()})
            if self._in_own_columns({*table.columns}):
                names = {name: name for name in names}
            self._check_columns(table, self.needed, names)
            yield from self._sound(table, names)
        except Unreadable as error:
            raise UserError(f"{self.uri}: {error}") from error

    @property
    def needed(self) -> tuple[str, ...]:
        return (*self.spec.columns, self.spec.label.column) if self.labelled else self.spec.columns

    def _in_own_columns(self, found: set[str]) -> bool:
        """Whether a file whose columns were said to be called otherwise has the task's own ones instead."""
        renamed = {*self.columns} - {"id"}
        return bool(renamed) and found.isdisjoint(self.columns.values()) and found.issuperset(self.needed)

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
                texts = tuple(text_of(values[at[name]], names[name]) for name in spec.columns)
                label = label_of(values[at[target]], names[target], spec.label) if self.labelled else None
                example = Example(id_of(values[at["id"]] if "id" in at else None, f"{self.prefix}{line}"), texts, label)
            except MalformedError as error:
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
        """Malformed rows are left out. Raises UserError as `read_examples`; for too many of those, or no rows, at
        the end: one of several files may be empty."""
        for part in self.parts:
            yield from part.usable()
        self._check_enough()

    def _check_enough(self) -> None:
        first, bad, total = self.parts[0], self.quarantined, sum(part.total for part in self.parts)
        if not total:
            names = [first.columns.get(name, name) for name in first.needed]
            raise UserError(f"{self.source}: no rows; expected some with columns {', '.join(names)}")
        if len(bad) > first.max_bad_rows * total:
            reasons = "; ".join(f"line {row.line}: {row.reason}" for row in bad[:3])
            counts = f"{len(bad)} of {total} rows are malformed, more than max_bad_rows {first.max_bad_rows:g} allows"
            raise UserError(f"{self.source}: {counts}: {reasons}")


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
