"""What `minibert embed` and `minibert predict` read: a table of texts at any URI, in shards of rows.

Memory holds a shard, however long the table is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from multitask.data.files import expanded, is_pattern, local
from multitask.data.formats import TEXT_FORMATS, endings, reader_of
from multitask.data.readers import Example, Reading
from multitask.errors import UserError, short_list
from multitask.storage.retries import persist
from multitask.storage.storage import Storage
from multitask.storage.uris import join, open_fs
from multitask.tasks.labels import LabelSpec
from multitask.tasks.table import TaskSpec


@dataclass
class Shard:
    """N rows of a table, which one part is made of; a worker sends it back without their texts."""

    number: int
    """Its place in the input, from 0."""
    ids: list[str] = field(default_factory=list)
    """(N,)"""
    files: list[str] = field(default_factory=list)
    """(N,) names of the rows' files, none where the input is one file."""
    texts: list[list[str]] = field(default_factory=list)
    """The texts of each column, each (N,)."""
    bad: list[str] = field(default_factory=list)
    """The rows left out since the shard before, `file:line: reason`."""
    made: bool = False
    """Its part is there already; ids, files and texts are left empty."""
    rows: int = 0
    """N"""
    vectors: bytes = b""
    """(N, H) float32 of the only column, where they are sent back and no part is written."""
    fault: str = ""
    """What the user has to mend before the work can go on, instead of rows."""


@dataclass(frozen=True)
class TableSource:
    """The files of a table of texts, and how they are read."""

    files: tuple[str, ...]
    """URIs, in the order of their rows."""
    several: bool
    """Whether the input was a directory or a pattern, so that a row's file says something."""
    columns: tuple[str, ...]
    """The columns of texts."""
    rows: int
    """How many rows a shard has; the last may have fewer."""
    known: Mapping[str, str] = field(default_factory=dict)
    """File on this machine -> its sha256 when the work began."""

    def shards(self, made: Collection[int] = ()) -> Iterator[Shard]:
        """All usable rows, in order. made: numbers of shards whose parts are there: read, but not kept.

        Raises UserError where a file cannot be read, changes while it is, or none of them has a usable row.
        """
        shard = Shard(0)
        for file in self.files:
            with local(file) as path:
                reading = Reading(file, path, self._spec(), labelled=False, formats=TEXT_FORMATS)
                if (was := self.known.get(file, reading.sha256())) != reading.sha256():
                    raise UserError(f"{file}: changed since the work began (sha256 {was} -> {reading.sha256()})")
                for example in reading.usable():
                    if shard.rows == self.rows:
                        reading.check_untouched()
                        yield shard
                        shard = Shard(shard.number + 1)
                    self._add(shard, example, file, made)
                    _take_bad(shard, reading)
                _take_bad(shard, reading)
                reading.check_unchanged()
        if not shard.rows and not shard.number:
            why = f": {'; '.join(shard.bad[:3])}" if shard.bad else ""
            raise UserError(f"{self.files[0]}: no usable row with {', '.join(self.columns)}{why}")
        yield shard

    def first_bytes(self) -> int:
        """How many bytes the first shard's texts have; 0 where the input would have to be fetched to know.

        Raises UserError for what is wrong with the input, before workers are started.
        """
        if not isinstance(open_fs(self.files[0])[0], LocalFileSystem):
            return 0
        return sum(len(text.encode()) for texts in next(self.shards()).texts for text in texts)

    def _add(self, shard: Shard, example: Example, file: str, made: Collection[int]) -> None:
        if not shard.rows:
            shard.made = shard.number in made
            shard.texts = [[] for _ in self.columns]
        shard.rows += 1
        if shard.made:
            return
        shard.ids.append(example.id)
        if self.several:
            shard.files.append(_name(file))
        for column, text in zip(shard.texts, example.texts, strict=True):
            column.append(text)

    def _spec(self) -> TaskSpec:
        """The table as a task without labels."""
        return TaskSpec("the table", self.columns, LabelSpec("score", "", 0, 1), "pearson", "", {}, ("", ""))

    def content(self) -> list[dict[str, Any]]:
        """Name and bytes of each file, and its sha256 or, elsewhere, the storage's own mark of a version."""
        return [{"file": _name(file), **_identity(file)} for file in self.files]

    def held_to(self, content: Sequence[Mapping[str, Any]]) -> TableSource:
        """The source whose files have to be what `content` said of them."""
        known = {file: facts["sha256"] for file, facts in zip(self.files, content, strict=True) if "sha256" in facts}
        return replace(self, known=known)


def _take_bad(shard: Shard, reading: Reading) -> None:
    """Moves the rows left out so far from the reading, which would keep those of the whole file, to the shard."""
    shard.bad += [f"{_name(reading.uri)}:{row.line}: {row.reason}" for row in reading.quarantined]
    reading.quarantined.clear()


def source_of(uri: str, columns: tuple[str, ...], rows: int) -> TableSource:
    """The source of a file, a directory, or a pattern with `*`.

    Raises UserError where there is no such file, or none of a known format.
    """
    if is_pattern(uri):
        return TableSource(_readable(uri, expanded(uri)), True, columns, rows)
    fs, path = open_fs(uri)
    try:
        is_directory = persist(fs, "read", uri, partial(fs.info, path))["type"] == "directory"
    except FileNotFoundError:
        is_directory = False  # reading it says what is there instead
    if is_directory:
        return TableSource(_readable(uri, [join(uri, name) for name in Storage(uri).list()]), True, columns, rows)
    reader_of(uri, TEXT_FORMATS)
    return TableSource((uri,), False, columns, rows)


def _readable(uri: str, found: list[str]) -> tuple[str, ...]:
    """The found files of a known format; names that begin with . or _ are other tools' notes on the files beside them.

    Raises UserError where there is none.
    """
    files = [file for file in found if endings(file)[0] in TEXT_FORMATS and _name(file)[0] not in "._"]
    if not files:
        holds = short_list(map(_name, found)) or "nothing, or is not there"
        raise UserError(f"{uri}: no file that ends in .{', .'.join(TEXT_FORMATS)}; it holds {holds}")
    return tuple(files)


def _identity(uri: str) -> dict[str, Any]:
    fs, path = open_fs(uri)
    if isinstance(fs, LocalFileSystem):
        with local(uri) as file, open(file, "rb") as opened:
            return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}
    try:
        info = persist(fs, "read", uri, partial(fs.info, path))
    except FileNotFoundError:
        with local(uri):  # says what is there instead
            raise
    etag = info.get("ETag") or info.get("etag")
    return {"bytes": info.get("size"), **({"etag": etag} if etag else {"version": fs.ukey(path)})}


def _name(uri: str) -> str:
    return uri.rsplit("/", 1)[-1]


def to_arrow(shard: Shard) -> Any:
    """The shard as a table of one row, to be sent."""
    import pyarrow as pa

    return pa.Table.from_pylist([asdict(shard)], schema=_schema())


def of_arrow(table: Any) -> list[Shard]:
    return [Shard(**row) for row in table.to_pylist()]


def _schema() -> Any:
    import pyarrow as pa

    texts = pa.large_list(pa.large_string())
    return pa.schema(
        {"number": pa.int64(), "ids": texts, "files": texts, "texts": pa.large_list(texts), "bad": texts,
         "made": pa.bool_(), "rows": pa.int64(), "vectors": pa.large_binary(), "fault": pa.string()}
    )  # fmt: skip
