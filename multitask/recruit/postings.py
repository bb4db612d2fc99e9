"""A file of job postings -> Postings. The columns are those of Kaggle's "Online Job Postings"."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass

from multitask.data.files import local
from multitask.data.formats import DOCUMENT_FORMATS, reader_of, table_of
from multitask.data.readers import FileState
from multitask.data.tabular import BadRow, Row, Wanted
from multitask.data.values import MAX_TEXT_CHARS
from multitask.errors import UserError, near, short_list, shown

# Posting's field -> the file's column. The requirements' is spelled as the data set spells it.
COLUMNS = {
    "title": "Title",
    "company": "Company",
    "location": "Location",
    "description": "JobDescription",
    "requirements": "JobRequirment",
    "qualifications": "RequiredQual",
}
NEEDED = ("title",)  # and one of TEXTS
TEXTS = ("description", "requirements", "qualifications")
ONE_LINE = ("title", "company", "location")  # what follows on other lines is other fields' spilled text
MISSING = frozenset({"", "na", "n/a", "none", "null", "nan"})  # of a whole field, in any case
MAX_BAD_ROWS = 0.1


@dataclass(frozen=True)
class Posting:
    """One posting. id: the file's `id`, or the row's line. Fields that the file does not fill are empty."""

    id: str
    title: str
    company: str = ""
    location: str = ""
    description: str = ""
    requirements: str = ""
    qualifications: str = ""

    def text(self, without: Collection[str] = ()) -> str:
        """Title, description, requirements and qualifications, in this order, but for the fields `without`."""
        parts = [getattr(self, name) for name in ("title", *TEXTS) if name not in without]
        return "\n".join(part for part in parts if part)

    def to_json(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Postings:
    """A file's usable postings. sha256: of its bytes. quarantined: the rows left out, by line and reason."""

    source: str
    sha256: str
    items: tuple[Posting, ...]
    quarantined: tuple[BadRow, ...]


def read_postings(uri: str, columns: Mapping[str, str] | None = None, max_bad_rows: float = MAX_BAD_ROWS) -> Postings:
    """Reads a file of DOCUMENT_FORMATS at any fsspec URI. A row needs a title and one text of TEXTS.

    columns: a Posting's field -> the file's column, where it is not that of COLUMNS. max_bad_rows: the share, 0..1,
    of rows that may be unusable. Raises UserError for a file that cannot be used.
    """
    reader_of(uri, DOCUMENT_FORMATS)
    if unknown := sorted(set(columns or {}) - {"id", *COLUMNS}):
        known = f"id, {', '.join(COLUMNS)}{near(unknown[0], COLUMNS)}"
        raise UserError(f"columns for {uri}: postings have no '{unknown[0]}'; they have {known}")
    names = {"id": "id", **COLUMNS, **(columns or {})}
    with local(uri) as path:
        before = FileState.of(path)
        with table_of(uri, path, Wanted(names.values()), DOCUMENT_FORMATS) as table:
            _check_columns(uri, table.columns, names)
            rows = list(_rows(table.rows, list(table.columns), names))
        before.check(path, uri)
    good = tuple(row for row in rows if isinstance(row, Posting))
    bad = tuple(row for row in rows if isinstance(row, BadRow))
    if not rows:
        raise UserError(f"{uri}: no rows; expected postings with {names['title']} and {names['description']}")
    if not good or len(bad) > max_bad_rows * len(rows):
        reasons = "; ".join(f"line {row.line}: {row.reason}" for row in bad[:3])
        raise UserError(f"{uri}: {len(bad)} of {len(rows)} postings cannot be used, {max_bad_rows:.0%} may: {reasons}")
    return Postings(uri, before.sha256, good, bad)


def _check_columns(uri: str, found: Collection[str], names: Mapping[str, str]) -> None:
    lacking = [names[field] for field in NEEDED if names[field] not in found]
    if not lacking and not any(names[field] in found for field in TEXTS):
        lacking = [f"{', '.join(names[field] for field in TEXTS)} (one of them)"]
    if lacking:
        listed = short_list(name or "(unnamed)" for name in found)
        raise UserError(f"{uri}: no column {lacking[0]}; columns found: {listed}{near(lacking[0], found)}")


def _rows(rows: Iterator[Row | BadRow], found: list[str], names: Mapping[str, str]) -> Iterator[Posting | BadRow]:
    at = {field: found.index(column) for field, column in names.items() if column in found}
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        line, values = row
        fields = {field: clean(values[place]) for field, place in at.items()}
        fields |= {name: fields[name].split("\n")[0] for name in ONE_LINE if name in fields}
        fault = _fault(fields)
        yield BadRow(line, fault) if fault else Posting(**{**fields, "id": fields.get("id") or str(line)})


def _fault(fields: Mapping[str, str]) -> str:
    for name, text in fields.items():
        if len(text) > MAX_TEXT_CHARS:
            return f"{name} has {len(text)} characters, at most {MAX_TEXT_CHARS}: {shown(text)}"
    if not fields["title"]:
        return "no title"
    return "" if any(fields.get(name) for name in TEXTS) else f"no text: {', '.join(TEXTS)} are all missing"


# What is no text: control characters but tab and line feed, signs that turn a line's direction, and lone surrogates,
# which stand for bad bytes.
_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(value: object) -> str:
    """The text without control characters and runs of blanks, line breaks kept; empty for what stands for missing."""
    text = _CONTROL.sub(" ", "" if value is None else str(value).replace("\r\n", "\n"))
    lines = [re.sub(r"[ \t\xa0]+", " ", line).strip() for line in text.split("\n")]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return "" if text.casefold() in MISSING else text
