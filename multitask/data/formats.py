"""A file -> its Table, by its name's ending: a format, with or without a compression behind it (`train.csv.gz`)."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from multitask.data.arrow_files import arrow, parquet
from multitask.data.delimited import csv, documents_csv, tsv
from multitask.data.json_files import json_objects, text_lines
from multitask.data.tabular import Reader, Table, Unreadable, Wanted
from multitask.errors import UserError, near
from multitask.storage.owners import kept_in

WEB = ("http://", "https://")
MAX_EXPANSION = 200  # times a compressed file's size, of more than
LARGE = 2**30  # bytes

FORMATS: dict[str, Reader] = {
    "csv": csv,
    "tsv": tsv,
    "jsonl": json_objects,
    "json": json_objects,
    "parquet": parquet,
    "arrow": arrow,
    "feather": arrow,
}
WITH_POSITIONS = ("csv", "tsv")  # may have no header: columns by position


def _txt(file: Path, wanted: Wanted) -> Table:
    """A text a line, in a column `text`."""
    lines = ((number, line.rstrip("\r\n")) for number, line in enumerate(text_lines(file), start=1))
    return Table(["text"], ((number, [text]) for number, text in lines if text), "a text a line")


# For files of documents, such as postings: a comma is tried before a tab.
DOCUMENT_FORMATS: dict[str, Reader] = FORMATS | {"csv": documents_csv}
# For any table of texts.
TEXT_FORMATS: dict[str, Reader] = DOCUMENT_FORMATS | {"txt": _txt}


def _zstd(file: Path) -> Any:
    import pyarrow as pa

    return pa.input_stream(str(file), compression="zstd")


COMPRESSIONS: dict[str, Callable[[Path], Any]] = {"gz": gzip.open, "zst": _zstd, "bz2": bz2.open, "xz": lzma.open}


def endings(uri: str) -> tuple[str, str]:
    """The format and the compression ("" for none) that a file's name says; what is asked of a web server is no part
    of it."""
    path = re.split(r"[?#]", uri, maxsplit=1)[0] if uri.startswith(WEB) else uri
    name = path.rsplit("/", 1)[-1].lower()
    stem, _, last = name.rpartition(".")
    if last in COMPRESSIONS and stem:
        return stem.rpartition(".")[-1], last
    return last, ""


def reader_of(uri: str, formats: Mapping[str, Reader]) -> Reader:
    """Raises UserError, naming the valid endings."""
    form, _ = endings(uri)
    if form not in formats:
        raise UserError(
            f"{uri}: unknown format; the file's name must end in .{', .'.join(formats)}, "
            f"with .{', .'.join(COMPRESSIONS)} behind it or not{near(form, formats)}"
        )
    return formats[form]


@contextmanager
def table_of(uri: str, file: Path, wanted: Wanted, formats: Mapping[str, Reader]) -> Iterator[Table]:
    """The table in a file, as long as it is wanted.

    uri: what the user calls the file, whose name says its format. file: it, or a copy of it here. Raises UserError for
    an unknown format, and for a file that is not of it, also while its rows are gone through.
    """
    read = reader_of(uri, formats)
    form, compression = endings(uri)
    if not wanted.header and form not in WITH_POSITIONS:
        raise UserError(f"{uri}: columns by position are of .{' and .'.join(WITH_POSITIONS)} files; name them")
    try:
        with _plain(file, compression) as plain:
            yield read(plain, wanted)
    except Unreadable as error:
        raise UserError(f"{uri}: {error}") from error


@contextmanager
def _plain(file: Path, compression: str) -> Iterator[Path]:
    """The file without its compression."""
    if not compression:
        yield file
        return
    with tempfile.TemporaryDirectory(prefix=kept_in("plain")) as folder:
        plain = Path(folder) / "file"
        _expand(file, compression, plain)
        yield plain


def _expand(file: Path, compression: str, plain: Path) -> None:
    most, size = max(LARGE, MAX_EXPANSION * file.stat().st_size), 0
    try:
        with COMPRESSIONS[compression](file) as packed, open(plain, "wb") as out:
            while some := packed.read(2**20):
                size += len(some)
                if size > most:
                    raise Unreadable(
                        f"more than {MAX_EXPANSION} times its size when it is unpacked, unpack it yourself"
                    )
                out.write(some)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError) as error:
        raise Unreadable(f"not a sound .{compression} file ({(str(error).splitlines() or [''])[0][:200]})") from error
