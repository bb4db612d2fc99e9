"""Files that are read as one: their rows, and how many of them may be malformed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from multitask.data.file_parts import parted
from multitask.data.files import local
from multitask.data.readers import Example, Reading
from multitask.data.tabular import BadRow
from multitask.errors import UserError
from multitask.tasks.table import TaskSpec


@dataclass(frozen=True)
class ReadResult:
    """What a file gave. sha256: of its bytes, hexadecimal. quarantined: by line. form: how it was read, for people.
    classes: what it calls the classes that it numbers, where it does."""

    source: str
    sha256: str
    examples: tuple[Example, ...]
    quarantined: tuple[BadRow, ...]
    form: str = ""
    classes: tuple[str, ...] = ()


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
        columns: Mapping[str, str | int] | None = None,
        max_bad_rows: float = 0.01,
        unlabelled: Sequence[str] = (),
        weight: str | None = None,
    ) -> Iterator[Shards]:
        """Copies here of files that are elsewhere, for as long as they are wanted. unlabelled: files that follow, of
        which no label is read. weight: the files' column that says what a row counts for."""
        uris = [*([uris] if isinstance(uris, str) else uris), *unlabelled]
        labels = [labelled] * (len(uris) - len(unlabelled)) + [False] * len(unlabelled)
        with ExitStack() as stack:
            yield cls(
                [
                    Reading(
                        uri,
                        stack.enter_context(local(uri)),
                        spec,
                        has_labels,
                        columns or {},
                        max_bad_rows,
                        f"{number}:" if len(uris) > 1 else "",
                        part=part,
                        weight=weight if has_labels else None,
                    )
                    for number, ((uri, part), has_labels) in enumerate(zip(map(parted, uris), labels, strict=True), 1)
                ]
            )

    @property
    def source(self) -> str:
        return ", ".join(f"{one.uri}{one.part.mark if one.part else ''}" for one in self.parts)

    @property
    def quarantined(self) -> tuple[BadRow, ...]:
        """The malformed rows among those gone through so far."""
        return tuple(
            BadRow(row.line, f"{part.uri}: {row.reason}" if len(self.parts) > 1 else row.reason)
            for part in self.parts
            for row in part.quarantined
        )

    @property
    def form(self) -> str:
        """How the files are read: each way once."""
        return "; ".join(dict.fromkeys(part.form for part in self.parts if part.form))

    def sha256(self) -> str:
        """The sha256 of the file's bytes; of several files the hash of their hashes."""
        found = [part.sha256() for part in self.parts]
        return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()

    def check_unchanged(self) -> None:
        """Raises UserError where one of the files is another than when `sha256` was first asked for."""
        for part in self.parts:
            part.check_unchanged()

    def examples(self) -> Iterator[Example]:
        """The usable rows of all files, malformed ones left out. Raises UserError as `read_examples` does; for too many
        malformed rows, or no rows, at the end: one of several files may be empty."""
        for part in self.parts:
            yield from part.usable()
        self._check_enough()

    def _check_enough(self) -> None:
        first, bad, total = self.parts[0], self.quarantined, sum(part.total for part in self.parts)
        if not total:
            names = [str(first.columns.get(name, name)) for name in first.needed]
            raise UserError(f"{self.source}: no rows; expected some with columns {', '.join(names)}")
        if not sum(part.kept for part in self.parts) and first.part and not bad:
            raise UserError(f"{self.source}: none of {total} rows is of this part; larger shares or more rows")
        own = total - sum(part.elsewhere for part in self.parts)
        if len(bad) > first.max_bad_rows * own:
            reasons = "; ".join(f"line {row.line}: {row.reason}" for row in bad[:3])
            counts = f"{len(bad)} of {own} rows are malformed, more than max_bad_rows {first.max_bad_rows:g} allows"
            raise UserError(f"{self.source}: {counts}: {reasons}")


def read_examples(
    uri: str | Sequence[str],
    spec: TaskSpec,
    *,
    labelled: bool,
    columns: Mapping[str, str | int] | None = None,
    max_bad_rows: float = 0.01,
    weight: str | None = None,
) -> ReadResult:
    """Reads a file of one of FORMATS, or several as one; malformed rows go to `quarantined`.

    columns: the task's column -> the file's, for those named otherwise (`id`, text columns, label column); a file that
    has none of these, but the task's own ones, is read by those. Places from 0 instead of names: it has no header.
    max_bad_rows: the share of all rows, 0..1, that may be malformed. weight: the column that says what rows count for.
    An `id` that the file lacks is the row's line number; ids may repeat.
    Raises UserError for a file that cannot be read, a missing column, no rows, or too many malformed ones.
    """
    with Shards.opened(uri, spec, labelled, columns, max_bad_rows, weight=weight) as shards:
        sha256, examples, first = shards.sha256(), tuple(shards.examples()), shards.parts[0]
        shards.check_unchanged()
        return ReadResult(shards.source, sha256, examples, shards.quarantined, shards.form, first.classes)
