"""Parquet and Arrow IPC (Feather) files -> Tables, the wanted columns alone, a batch at a time. pyarrow is imported
where it is needed."""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from multitask.data.tabular import Row, Table, Unreadable, Wanted

EXTENSION = b"ARROW:extension:name"
ARROW_SCHEMA = b"ARROW:schema"
PARQUET_END = b"PAR1"
FEATHER_1 = b"FEA1"
ARROW_FILE = b"ARROW1"

Values = Callable[[Any], list[object]]  # a pyarrow array -> Python values, a text that is not UTF-8 with surrogates


def parquet(file: Path, wanted: Wanted) -> Table:
    import pyarrow.parquet as pq

    with _reading("Parquet"):
        opened = pq.ParquetFile(file)
        schema = opened.schema_arrow
        columns = _Columns(schema, wanted.columns)
        if columns.has_dictionaries:
            opened = pq.ParquetFile(file, metadata=_without_arrow_schema(file))
    batches = opened.iter_batches(columns=columns.paths) if columns.paths else ()
    return Table(columns.names, columns.rows(batches, "Parquet"), "Parquet", class_names(schema.metadata), schema.names)


def arrow(file: Path, wanted: Wanted) -> Table:
    """Feather and Arrow's file format, and the stream format, which datasets keeps its tables in."""
    import pyarrow as pa

    with _reading("Arrow"):
        with open(file, "rb") as opened:
            start = opened.read(len(ARROW_FILE))
        if start.startswith(FEATHER_1):
            raise Unreadable("Feather version 1; pandas.read_feather(...).to_parquet(...) writes what is read here")
        source = pa.memory_map(str(file))
        reader = pa.ipc.open_file(source) if start == ARROW_FILE else pa.ipc.open_stream(source)
        columns = _Columns(reader.schema, wanted.columns)
    rows, schema = columns.rows(_batches(reader), "Arrow"), reader.schema
    return Table(columns.names, rows, "Arrow", class_names(schema.metadata), schema.names)


def _batches(reader: Any) -> Iterator[Any]:
    """A file's record batches. Each is checked before its values are believed: pyarrow maps them as they lie in the
    file."""
    if hasattr(reader, "get_batch"):
        batches: Iterable[Any] = (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        batches = reader
    for batch in batches:
        batch.validate(full=True)
        yield batch


@contextmanager
def _reading(form: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError, struct.error) as error:
        raise Unreadable(f"not a readable {form} file ({(str(error).splitlines() or [''])[0][:200]})") from error


def _without_arrow_schema(file: Path) -> Any:
    """The file's metadata without the types that Arrow had when it was written.

    They say that a column is a dictionary, with indices as wide as it was written; one with more values than those
    count is refused by pyarrow 26. Without them the column is what Parquet stores: strings.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        size = struct.unpack("<I", data[-8:-4])[0]
        footer = data[-8 - size : -8].replace(ARROW_SCHEMA, ARROW_SCHEMA.lower())
    return pq.read_metadata(pa.BufferReader(PARQUET_END + footer + struct.pack("<I", size) + PARQUET_END))


class _Columns:
    """The wanted columns of a schema; the file's other ones are named but empty.

    names: the wanted ones that are there, else all. paths: of the wanted ones.
    """

    def __init__(self, schema: Any, wanted: Iterable[str]) -> None:
        wanted = {*wanted}
        if twice := [name for name in schema.names if name in wanted and schema.names.count(name) > 1]:
            raise Unreadable(f"column {twice[0]} stands there {len(twice)} times; rename the others")
        fields = {name: [schema.field(name)] for name in dict.fromkeys(schema.names) if name in wanted}
        for name in sorted(wanted - {*schema.names}):
            if "." in name and (found := _nested(schema, name.split("."))):
                fields[name] = found
        self.names: Sequence[str] = list(fields) or list(schema.names)
        self.paths = list(fields)
        self._readers = {name: (found[0].name, _reader(name, found)) for name, found in fields.items()}
        self.has_dictionaries = any(_is_dictionary(found[-1].type) for found in fields.values())

    def rows(self, batches: Iterable[Any], form: str) -> Iterator[Row]:
        number = 0
        with _reading(form):
            for batch in batches if self.paths else ():
                columns = [read(batch.column(first)) for first, read in self._readers.values()]
                for row in zip(*columns, strict=True):
                    number += 1
                    yield number, row


def _nested(schema: Any, parts: Sequence[str]) -> list[Any]:
    """The fields on the way to that of the path, structs but for the last; none where there is no such path."""
    import pyarrow as pa

    found: list[Any] = []
    at: Any = schema
    for part in parts:
        index = at.get_field_index(part) if isinstance(at, pa.Schema | pa.StructType) else -1
        if index < 0:
            return []
        found.append(at.field(index))
        at = found[-1].type
    return found


def _reader(name: str, fields: Sequence[Any]) -> Values:
    """What reads a column: through its structs, then by its type's meaning."""
    import pyarrow.compute as pc

    last = _values_of(name, fields[-1])
    if len(fields) == 1:
        return last
    inner = [field.name for field in fields[1:]]
    return lambda column: last(pc.struct_field(column, inner))


def _values_of(name: str, field: Any) -> Values:
    import pyarrow as pa

    kind = field.type
    said = kind.extension_name if isinstance(kind, pa.BaseExtensionType) else (field.metadata or {}).get(EXTENSION)
    if said is not None:
        said = said.decode(errors="replace") if isinstance(said, bytes) else said
        if said not in EXTENSIONS:
            raise Unreadable(f"column {name} is of the extension type {said}; read are {', '.join(EXTENSIONS)}")
        return EXTENSIONS[said]
    return _plain


def _is_dictionary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_dictionary(kind))


def _plain(column: Any) -> list[object]:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        return list(column.to_pylist())
    # As strings, one that is not UTF-8 would fail the whole column.
    raw = column.cast(pa.binary_view() if pa.types.is_string_view(kind) else pa.large_binary()).to_pylist()
    return [None if value is None else value.decode("utf-8", "surrogateescape") for value in raw]


def _storage(column: Any) -> Any:
    import pyarrow as pa

    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _json(column: Any) -> list[object]:
    """The values of a column that stores them as JSON texts; a value that is no JSON comes through as it stands."""
    return [_of_json(value) for value in _plain(_storage(column))]


def _of_json(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _bool8(column: Any) -> list[object]:
    return [None if value is None else bool(value) for value in _storage(column).to_pylist()]


def _uuid(column: Any) -> list[object]:
    import uuid

    raw = _storage(column).to_pylist()
    return [str(uuid.UUID(bytes=value)) if isinstance(value, bytes) else value for value in raw]


# What is read of a column of an extension type, by the type's name.
EXTENSIONS: Mapping[str, Values] = {"arrow.json": _json, "arrow.bool8": _bool8, "arrow.uuid": _uuid}


def class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Column -> its classes' names by number, as datasets writes them into a schema's metadata."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return names_in(features)


def noted_names(names: Mapping[str, Sequence[str]]) -> dict[str, str] | None:
    """A schema's metadata of which `class_names` makes those names; None where there are none."""
    features = {column: {"names": [*names[column]], "_type": "ClassLabel"} for column in sorted(names)}
    return {"huggingface": json.dumps({"info": {"features": features}})} if names else None


def names_in(features: Any) -> dict[str, list[str]]:
    """Column -> its classes' names by number, of datasets' `features`; those of nested columns by their path.

    A column of lists has those of its elements.
    """
    found: dict[str, list[str]] = {}
    for column, said in features.items() if isinstance(features, dict) else ():
        feature = _of_elements(said)
        if not isinstance(feature, dict):
            continue
        names = feature.get("names")
        if feature.get("_type") == "ClassLabel" and isinstance(names, list):
            found[column] = [str(name) for name in names]
        elif "_type" not in feature:
            found |= {f"{column}.{inner}": names for inner, names in names_in(feature).items()}
    return found


def _of_elements(feature: Any) -> Any:
    """The elements' feature of a list, which datasets writes in three ways; of anything else its own."""
    if isinstance(feature, list):
        return feature[0] if len(feature) == 1 else None
    is_list = isinstance(feature, dict) and feature.get("_type") in ("Sequence", "List", "LargeList")
    return feature.get("feature") if is_list else feature
