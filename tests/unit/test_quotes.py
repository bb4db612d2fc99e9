"""Whether a file quotes: one decision a file, made from the whole of it; and what its rows then are."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.data.csv_records import MAX_RECORD_BYTES
from multitask.data.shards import ReadResult, read_examples
from multitask.errors import UserError
from multitask.tasks.own import Definition, spec_of
from multitask.tasks.table import TASKS, TaskSpec

SPAM = spec_of(
    "spam",
    Definition.model_validate({"columns": ["text"], "label": {"column": "label", "words": ["ham", "spam"]}}),
    "spam",
)
SST, QUORA = TASKS["sst"], TASKS["quora"]
ENCLOSE, TEXT = "quotes enclose fields (RFC 4180)", "quotes are text"
NIGHTLY = 10_000


def read(folder: Path, name: str, data: bytes | str, spec: TaskSpec = SPAM, labelled: bool = True) -> ReadResult:
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_examples(str(folder / name), spec, labelled=labelled, max_bad_rows=1.0)


def rows_of(result: ReadResult) -> list[tuple[str, str]]:
    return [
        (example.texts[0], SPAM.label.says(example.label)) for example in result.examples if example.label is not None
    ]


def lines_of(result: ReadResult) -> list[int]:
    return [row.line for row in result.quarantined]


# GLUE's files: a quote in a text is a quote, and stands where it stands.
GLUE = (
    "id\tsentence1\tsentence2\tis_duplicate\n"
    '1\t"What is love?\tWhat is "love"?\t0\n'
    '2\t"Yes" is one word.\tYes is one word.\t1\n'
    '3\t" open only\tclosed only "\t1\n'
    "4\tplain\tplain\t1\n"
    '5\t"He left.\tHe left.\t1\n'
)


def test_quotes_are_text_in_a_tsv_that_does_not_quote(tmp_path: Path) -> None:
    result = read(tmp_path, "a.tsv", GLUE, QUORA)
    assert [example.texts for example in result.examples] == [
        ('"What is love?', 'What is "love"?'),
        ('"Yes" is one word.', "Yes is one word."),
        ('" open only', 'closed only "'),
        ("plain", "plain"),
        ('"He left.', "He left."),
    ]
    assert [example.label for example in result.examples] == [0, 1, 1, 1, 1]
    assert TEXT in result.form


def test_quotes_enclose_in_a_tsv_that_doubles_those_inside(tmp_path: Path) -> None:
    """CS224N's files are written so, by pandas."""
    data = 'id\tsentence\tsentiment\n1\t" """""" I vaguely remember"\t3\n2\tplain\t1\n'
    result = read(tmp_path, "a.csv", data, SST)
    assert [example.texts[0] for example in result.examples] == [' """ I vaguely remember', "plain"]
    assert ENCLOSE in result.form


def test_unclosed_quotes_of_two_rows_make_no_row_of_three(tmp_path: Path) -> None:
    lines = ["id\tsentence\tsentiment", "1\tfine\t3", '2\t"an opening quote only\t0', "3\tbetween them\t1",
             '4\ta closing quote only"\t4', "5\tlast\t2"]  # fmt: skip
    result = read(tmp_path, "a.tsv", "\n".join(lines) + "\n", SST)
    assert [(example.texts[0], example.label) for example in result.examples] == [
        ("fine", 3), ('"an opening quote only', 0), ("between them", 1), ('a closing quote only"', 4), ("last", 2),
    ]  # fmt: skip
    result = read(tmp_path, "a.csv", "\n".join(lines).replace("\t", ",") + "\n", SST)
    assert [(example.texts[0], example.label) for example in result.examples] == [("fine", 3), ("last", 2)]
    assert [(row.line, "which nothing tells" in row.reason) for row in result.quarantined] == [(3, True)]


@pytest.mark.parametrize("quoted", ['"say ""so""",ham\n', '"one, two",ham\n', '"one\ntwo",ham\n'])
def test_an_unclosed_quote_costs_its_own_row(tmp_path: Path, quoted: str) -> None:
    result = read(tmp_path, "a.csv", 'text,label\nfirst,ham\n"never closed,spam\nnext,ham\n' + quoted + "last,spam\n")
    assert rows_of(result) == [("first", "ham"), ("next", "ham"), next(csv_rows(quoted)), ("last", "spam")]
    assert lines_of(result) == [3]
    assert "unbalanced quote" in result.quarantined[0].reason


def csv_rows(text: str):
    return (tuple(row) for row in csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_quoted_text_may_be_a_long_document(tmp_path: Path, ending: str) -> None:
    mail = "Subject: hello\n" + "".join(f'line {number}, he said "so".\n' for number in range(1500))
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter="\t" if ending == "tsv" else ",")
    writer.writerows([("text", "label"), (mail, "spam"), ("short", "ham"), (mail[:9000], "ham")])
    result = read(tmp_path, f"mails.{ending}", out.getvalue())
    assert rows_of(result) == [(mail, "spam"), ("short", "ham"), (mail[:9000], "ham")]
    assert not result.quarantined


def test_lines_of_a_text_that_look_like_rows_are_none(tmp_path: Path) -> None:
    """Whole as one text or left out whole: what the lines are, nothing tells."""
    inner = "to whom it may concern\n" + "lovely spam,ham\n" * 150
    result = read(tmp_path, "a.csv", f'text,label\n"{inner}",spam\nshort,ham\n')
    assert rows_of(result) == [("short", "ham")]
    assert lines_of(result) == [2]
    assert "one quoted text over 152 lines or rows with stray quotes" in result.quarantined[0].reason
    assert read(tmp_path, "a.csv", f'text,label\n"{inner}",spam\n', labelled=False).examples[0].texts == (inner,)


@pytest.mark.slow
def test_a_record_too_large_is_left_out_whole(tmp_path: Path) -> None:
    long = "line of a book, and so on\n" * (MAX_RECORD_BYTES // 26 + 1)
    result = read(tmp_path, "a.csv", f'text,label\nfirst,ham\n"{long}",spam\nlast,ham\n')
    assert rows_of(result) == [("first", "ham"), ("last", "ham")]
    assert "bytes, at most 16777216" in result.quarantined[0].reason


def test_stray_quotes_of_a_csv_that_never_quotes_are_text(tmp_path: Path) -> None:
    result = read(tmp_path, "a.csv", 'text,label\nHe said "no",ham\n5\'10" tall,ham\nplain,spam\n')
    assert rows_of(result) == [('He said "no"', "ham"), ("5'10\" tall", "ham"), ("plain", "spam")]
    assert TEXT in result.form
    result = read(tmp_path, "a.csv", 'text,label\nHe said "no",ham\n"a, b",ham\nplain,spam\n')
    assert rows_of(result) == [("a, b", "ham"), ("plain", "spam")]
    assert lines_of(result) == [2]
    assert ENCLOSE in result.form


def test_backslashes_before_quotes(tmp_path: Path) -> None:
    """What MySQL, and R's write.table, write."""
    result = read(tmp_path, "a.csv", 'text,label\n"He said \\"no, no\\"","ham"\n"a \\\\ b","spam"\n')
    assert rows_of(result) == [('He said "no, no"', "ham"), ("a \\ b", "spam")]
    assert "backslash" in result.form


def test_line_ends_of_old(tmp_path: Path) -> None:
    assert rows_of(read(tmp_path, "a.csv", 'text,label\r"a, ""b""",ham\rplain,spam\r')) == [
        ('a, "b"', "ham"), ("plain", "spam"),
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"a.csv: UTF-16 text; save it as UTF-8"):
        read(tmp_path, "a.csv", "text,label\na,ham\n".encode("utf-16"))


def test_lines_of_a_text_that_look_like_rows_here_and_there_are_text(tmp_path: Path) -> None:
    bill = "Dear Bob\nwe offer:\nlovely,ham\nthanks, yours"
    result = read(tmp_path, "a.csv", f'text,label\n"{bill}",spam\nshort,ham\n')
    assert rows_of(result) == [(bill, "spam"), ("short", "ham")]


def test_headers_of_odd_files(tmp_path: Path) -> None:
    assert rows_of(read(tmp_path, "a.csv", '\r\n\n"text",label\na,ham\n')) == [("a", "ham")]
    with pytest.raises(UserError, match=r'columns found: "text, label'):
        read(tmp_path, "b.csv", '"text,label\na,ham\n')
    with pytest.raises(UserError, match=r"c\.csv: column text stands there 2 times; rename the others"):
        read(tmp_path, "c.csv", "text,label,text\na,ham,b\n")
    result = read(tmp_path, "d.csv", 'text\n"only ""one"", yes"\n\nplain\n', labelled=False)
    assert [example.texts[0] for example in result.examples] == ['only "one", yes', "plain"]
    assert result.form == "one column, quotes enclose fields (RFC 4180)"


def test_what_data_check_says_of_it(tmp_path: Path) -> None:
    forms = {
        "a.tsv": ('text\tlabel\n"a,ham\tham\n', "columns between tabs, quotes are text"),
        "b.csv": ('text;label\n"a;b";ham\n', "columns between semicolons, quotes enclose fields (RFC 4180)"),
        "c.csv": ("text,label\na,ham\n", "columns between commas, no quotes"),
    }
    assert {name: read(tmp_path, name, data).form for name, (data, _) in forms.items()} == {
        name: form for name, (_, form) in forms.items()
    }


# What others write comes back cell for cell.

cells = st.text(st.one_of(st.sampled_from('",;\t\n\r \\a'), st.characters(exclude_categories=["Cs"])), min_size=1)
texts = cells.filter(lambda text: text.strip() and "\0" not in text)
tables = st.lists(st.tuples(texts, texts, st.sampled_from(["0", "1"])), min_size=1, max_size=6)
COLUMNS = ("sentence1", "sentence2", "is_duplicate")
Rows = Sequence[tuple[str, str, str]]
Writer = Callable[[Rows], bytes]


def by_csv(**options) -> Writer:
    def write(rows: Rows) -> bytes:
        out = io.StringIO(newline="")
        csv.writer(out, **options).writerows([COLUMNS, *rows])
        return out.getvalue().encode()

    return write


def by_pandas(**options) -> Writer:
    return lambda rows: pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False, **options).encode()


def by_pyarrow(delimiter: str, style: str) -> Writer:
    def write(rows: Rows) -> bytes:
        out = io.BytesIO()
        table = pa.table(dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))
        options = pyarrow.csv.WriteOptions(delimiter=delimiter, quoting_style=style)
        pyarrow.csv.write_csv(table, out, options)
        return out.getvalue()

    return write


WRITERS: dict[str, tuple[str, Writer]] = {
    **{f"csv.writer {name}": ("csv", by_csv(dialect=name)) for name in ("excel", "unix")},
    "csv.writer excel-tab": ("tsv", by_csv(dialect="excel-tab")),
    "csv.writer all, tabs": ("tsv", by_csv(delimiter="\t", quoting=csv.QUOTE_ALL)),
    "csv.writer not numbers, semicolons": ("csv", by_csv(delimiter=";", quoting=csv.QUOTE_NONNUMERIC)),
    **{f"pandas {sep!r}": (end, by_pandas(sep=sep)) for sep, end in ((",", "csv"), (";", "csv"), ("\t", "tsv"))},
    "pandas all": ("csv", by_pandas(quoting=csv.QUOTE_ALL)),
    "pandas all, tabs": ("tsv", by_pandas(sep="\t", quoting=csv.QUOTE_ALL)),
    "pyarrow needed": ("csv", by_pyarrow(",", "needed")),
    "pyarrow all, tabs": ("tsv", by_pyarrow("\t", "all_valid")),
}


@pytest.mark.parametrize("writer", WRITERS)
@settings(max_examples=60)
@given(rows=tables)
def test_what_others_write_comes_back_cell_for_cell(tmp_path_factory, writer: str, rows: Rows) -> None:
    ending, write = WRITERS[writer]
    result = read(tmp_path_factory.getbasetemp(), f"round.{ending}", write(rows), QUORA)
    assert [(*example.texts, f"{example.label:g}") for example in result.examples] == list(rows)
