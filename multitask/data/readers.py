"""A task's file, at any fsspec URI -> Examples, and the rows that had to be left out, by line and reason."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

from multitask.data.class_names import names_beside
from multitask.data.file_parts import Part, key_of
from multitask.data.formats import FORMATS, table_of
from multitask.data.tabular import BadRow, Reader, Row, Table, Wanted
from multitask.data.values import classes_of, id_of, text_of, weight_of
from multitask.errors import UserError, near, short_list
from multitask.tasks.cells import Classes, LabelValue, MalformedError
from multitask.tasks.labels import KINDS
from multitask.tasks.table import TaskSpec

# Stand for the column by which rows are told apart, and for that of their weights; no task's column is called so.
BY, WEIGHT = " part by", " weight"


@dataclass(frozen=True)
class Example:
    """One usable row. texts: one, or two for a pair task; label: None where the file has none. weight: what it counts
    for in a loss."""

    id: str
    texts: tuple[str, ...]
    label: LabelValue | None
    weight: float = 1.0


@dataclass(frozen=True)
class FileState:
    """What tells a file from what it was before: its size in bytes, when it was written in nanoseconds, its inode, and
    the sha256 of its bytes, hexadecimal."""

    size: int
    modified: int
    inode: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileState:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(found.st_size, found.st_mtime_ns, found.st_ino, sha256)

    def check(self, path: Path, uri: str) -> None:
        """Raises UserError where the file has changed since this state was taken."""
        self.refuse(FileState.of(path), uri)

    def refuse(self, now: FileState, uri: str) -> None:
        """Raises UserError, with what has changed, where the file's state `now` is not this one."""
        moved = [
            f"{field.name} {getattr(self, field.name)} -> {getattr(now, field.name)}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(now, field.name)
        ]
        if moved:
            said = ", ".join(moved)
            raise UserError(f"{uri}: changed while it was read ({said}); run again when nothing writes to it")


@dataclass
class Reading:
    """A file's usable rows, one at a time: memory does not grow with the file. path: the file, or a copy of it here.

    columns: the task's column -> the file's, by its name or, in a file without a header, its place from 0. prefix: of
    ids that are line numbers. total, quarantined: of the rows gone through so far. form, classes: as in ReadResult,
    once rows are gone through. part: whose rows alone are read. kept, elsewhere: how many of those gone through are
    usable, and of another part. weight: the column that says what a row counts for; None where all count alike.
    """

    uri: str
    path: Path
    spec: TaskSpec
    labelled: bool
    columns: Mapping[str, str | int] = field(default_factory=dict)
    max_bad_rows: float = 0.01
    prefix: str = ""
    formats: Mapping[str, Reader] = field(default_factory=lambda: FORMATS)
    total: int = 0
    quarantined: list[BadRow] = field(default_factory=list)
    form: str = ""
    classes: tuple[str, ...] = ()
    part: Part | None = None
    kept: int = 0
    elsewhere: int = 0
    weight: str | None = None

    def sha256(self) -> str:
        """The sha256 of the file's bytes, and of the class names beside it and the part that is meant, where there are
        some; hexadecimal."""
        more = [*self._beside, *([self.part.mark] if self.part else [])]
        found = self._state.sha256
        return hashlib.sha256(json.dumps([found, *more]).encode()).hexdigest() if more else found

    def check_unchanged(self) -> None:
        """Raises UserError where the file is another by now than when `sha256` was first asked for, which belongs to be
        before its rows are gone through."""
        self._state.check(self.path, self.uri)

    def check_untouched(self) -> None:
        """The part of `check_unchanged` that does not read the file: its size, its time, its inode."""
        found = os.stat(self.path)
        now = replace(self._state, size=found.st_size, modified=found.st_mtime_ns, inode=found.st_ino)
        self._state.refuse(now, self.uri)

    @cached_property
    def _state(self) -> FileState:
        return FileState.of(self.path)

    @cached_property
    def _beside(self) -> Sequence[str]:
        column = self.columns.get(self.spec.label.column, self.spec.label.column)
        return names_beside(self.uri, str(column)) if self.labelled else ()

    def usable(self) -> Iterator[Example]:
        """The usable rows, however many malformed ones there are beside them. Raises UserError as `read_examples` does,
        but not for too many malformed rows."""
        asked = {BY: self.part.by if self.part else None, WEIGHT: self.weight}
        own = {name: column for name, column in asked.items() if column}
        names = _file_columns(self.uri, self.spec, self.needed, self.columns) | own
        header = not any(isinstance(name, int) for name in self.columns.values())
        judge = self._judge(names) if self.labelled else None
        with table_of(self.uri, self.path, Wanted({*names, *names.values()}, header, judge), self.formats) as table:
            if self._in_own_columns({*table.columns}):
                names = {name: name for name in names} | own
            self._check_columns(table, (*self.needed, *own), names)
            self.form = table.form
            yield from self._sound(table, names)

    @property
    def needed(self) -> tuple[str, ...]:
        return (*self.spec.columns, self.spec.label.column) if self.labelled else self.spec.columns

    def _judge(self, names: Mapping[str, str]) -> Callable[[Sequence[str]], Callable[[Sequence[object]], bool]]:
        """What tells a usable row from another by its texts and its label."""

        def of_columns(columns: Sequence[str]) -> Callable[[Sequence[object]], bool]:
            task = {name: column for name, column in names.items() if name not in (BY, WEIGHT)}
            own = names if {*task.values()} & {*columns} - {"id"} else {**names, **{name: name for name in task}}
            rows = self._examples(columns, own, (), None)
            return lambda values: isinstance(rows((0, values)), Example)

        return of_columns

    def _in_own_columns(self, found: set[str]) -> bool:
        """Whether a file whose columns were said to be called otherwise has the task's own ones instead."""
        renamed = {*self.columns} - {"id"}
        nested = any(str(name).partition(".")[0] in found for name in self.columns.values() if "." in str(name))
        own = found.isdisjoint(self.columns.values()) and found.issuperset(self.needed)
        return bool(renamed) and own and not nested  # a path into one of them that is not there is a mistake

    def _check_columns(self, table: Table, needed: Sequence[str], names: Mapping[str, str]) -> None:
        missing = [names[c] for c in (*needed, *self.columns) if c in names and names[c] not in table.columns]
        if missing:
            there = table.all_columns or table.columns
            found = short_list(name or "(unnamed)" for name in there)
            meant = near(missing[0], {*there} - {*names.values()})
            raise UserError(f"{self.uri}: no column {', '.join(dict.fromkeys(missing))}; columns found: {found}{meant}")

        listed = list(table.columns)
        if twice := [names[c] for c in needed if listed.count(names[c]) > 1]:
            raise UserError(
                f"{self.uri}: column {twice[0]} stands there {listed.count(twice[0])} times; rename the others"
            )

    def _sound(self, table: Table, names: Mapping[str, str]) -> Iterator[Example]:
        judged = self._examples(table.columns, names, self._classes(table, names), self.part)
        for row in table.rows:
            self.total += 1
            found = row if isinstance(row, BadRow) else judged(row)
            if isinstance(found, BadRow):
                self.quarantined.append(found)
            elif found is None:
                self.elsewhere += 1
            else:
                self.kept += 1
                yield found

    def _classes(self, table: Table, names: Mapping[str, str]) -> Classes:
        """What the file's class numbers are, where it names its classes."""
        column = names.get(self.spec.label.column)
        if not self.labelled or column is None:
            return ()
        self.classes = tuple(table.classes.get(column) or self._beside)
        return classes_of(self.classes, self.spec.label, f"{self.uri}: {column}") if self.classes else ()

    def _examples(
        self, columns: Sequence[str], names: Mapping[str, str], classes: Classes, part: Part | None
    ) -> Callable[[Row], Example | BadRow | None]:
        """What makes an example of a row, or says why it is none; None of a row that is of another part."""
        found, spec, target = list(columns), self.spec, self.spec.label.column
        at = {name: found.index(column) for name, column in names.items() if column in found}
        label_of = KINDS[spec.label.kind].read

        def judged(row: Row) -> Example | BadRow | None:
            line, values = row
            try:
                texts = tuple(text_of(values[at[name]], names[name]) for name in spec.columns)
                if part and not part.holds(str(values[at[BY]]) if BY in at else key_of(texts)):
                    return None
                label = label_of(values[at[target]], names[target], spec.label, classes) if self.labelled else None
                weight = weight_of(values[at[WEIGHT]], names[WEIGHT]) if WEIGHT in at else 1.0
                id_ = id_of(values[at["id"]] if "id" in at else None, f"{self.prefix}{line}")
                return Example(id_, texts, label, weight)
            except MalformedError as error:
                return BadRow(line, str(error))

        return judged


def _file_columns(uri: str, spec: TaskSpec, needed: Sequence[str], columns: Mapping[str, str | int]) -> dict[str, str]:
    """The task's column -> the file's, for `id` and all that is needed; a place in a file without header as its
    number."""
    valid = ("id", *spec.columns, spec.label.column)
    unknown = [name for name in columns if name not in valid]
    if unknown:
        raise UserError(
            f"columns for {uri}: {spec.name} has no '{unknown[0]}'; it has {', '.join(valid)}{near(unknown[0], valid)}"
        )
    if len({type(name) for name in columns.values()}) > 1:
        raise UserError(f"columns for {uri}: {dict(columns)}: all by name, or all by place where it has no header")
    return {name: str(columns.get(name, name)) for name in ("id", *needed)}
