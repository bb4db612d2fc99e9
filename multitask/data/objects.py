"""Tables that are objects, a frame, a data set, rows, -> the bytes of an Arrow file. pyarrow is imported where it is
needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multitask.data.arrow_files import class_names, noted_names
from multitask.errors import UserError, shown


def arrow_of(table: Any, where: str) -> bytes:
    """The table as an Arrow file. where: what it is called in a UserError, which is raised for what is no table, or
    holds what no column of a file does."""
    import pyarrow as pa

    try:
        return _arrow(_table(table, where))
    except (pa.ArrowException, OverflowError, ValueError) as error:
        why = str(error.args[0] if error.args else error).splitlines()[0]
        raise UserError(f"{where}: a column holds what no file of texts and labels does: {why}") from error


def _table(table: Any, where: str) -> Any:
    """A pyarrow Table of what was given."""
    import pyarrow as pa

    if isinstance(table, pa.Table):
        return table
    if hasattr(table, "flatten_indices"):  # a datasets.Dataset, which may be a view of other rows
        return table.flatten_indices().data.table
    if hasattr(table, "iloc") and hasattr(table, "columns"):
        return pa.Table.from_pandas(table, preserve_index=False)
    if isinstance(table, Sequence) and not isinstance(table, str) and all(isinstance(row, Mapping) for row in table):
        columns = dict.fromkeys(column for row in table for column in row)
        return pa.table({column: [row.get(column) for row in table] for column in columns})
    valid = "a path, a pandas frame, a datasets.Dataset, a pyarrow Table or a list of dicts"
    raise UserError(f"{where} is {shown(table)}; valid: {valid}")


def _arrow(table: Any) -> bytes:
    """The table as an Arrow stream, of equal bytes for equal content, whichever library made it: of what they note in a
    table only the names of classes stay, and texts are of one type."""
    import pyarrow as pa

    noted = noted_names(class_names(table.schema.metadata))
    plain = pa.schema([pa.field(field.name, _plain(field.type)) for field in table.schema], noted)
    table = table.cast(plain).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _plain(kind: Any) -> Any:
    """The Arrow type as which a column is kept."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind
