"""The readers, under files that are sound, damaged and arbitrary."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.data.files import find_file, has_file
from multitask.data.formats import FORMATS
from multitask.data.shards import ReadResult, read_examples
from multitask.data.values import MAX_TEXT_CHARS
from multitask.errors import UserError
from multitask.tasks.table import TASKS

SST, QUORA, STS = TASKS["sst"], TASKS["quora"], TASKS["sts"]
SST_HEADER = b"\tid\tsentence\tsentiment\n"
GOOD = b"0\ta\tfine film\t3\n"

Rows = list[tuple[str, str, str, float]]
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)
sound_texts = texts.filter(lambda text: text.strip())
sound_rows = st.lists(
    st.tuples(st.from_regex(r"[0-9a-f]{4}", fullmatch=True), sound_texts, sound_texts, st.floats(0, 5)),
    min_size=1,
    max_size=8,
)


def read_bytes(tmp_path: Path, data: bytes, spec=SST, name="file.csv", **options) -> ReadResult:
    path = tmp_path / name
    path.write_bytes(data)
    return read_examples(str(path), spec, **{"labelled": True, "max_bad_rows": 1.0, **options})


def bad_lines(result: ReadResult) -> list[int]:
    return [row.line for row in result.quarantined]


def delimited(delimiter: str) -> Callable[[Rows], bytes]:
    def write(rows: Rows) -> bytes:
        out = io.StringIO(newline="")
        writer = csv.writer(out, delimiter=delimiter)
        writer.writerows([("", "id", *STS.columns, STS.label.column), *((0, *row) for row in rows)])
        return out.getvalue().encode()

    return write


def jsonl(rows: Rows) -> bytes:
    names = ("id", *STS.columns, STS.label.column)
    return "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows).encode()


def parquet(rows: Rows) -> bytes:
    names = ("id", *STS.columns, STS.label.column)
    out = io.BytesIO()
    pq.write_table(pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), out)
    return out.getvalue()


WRITERS = [
    ("csv", delimited("\t")),
    ("csv", delimited(",")),
    ("csv", delimited(";")),
    ("tsv", delimited("\t")),
    ("jsonl", jsonl),
    ("parquet", parquet),
]


@pytest.mark.parametrize(("ending", "write"), WRITERS)
@settings(max_examples=40)
@given(rows=sound_rows)
def test_what_was_written_is_read(tmp_path_factory, ending: str, write: Callable[[Rows], bytes], rows: Rows) -> None:
    data = write(rows)
    result = read_bytes(tmp_path_factory.getbasetemp(), data, STS, f"round.{ending}")
    assert [(e.id, *e.texts, e.label) for e in result.examples] == rows
    assert result.quarantined == ()
    assert result.sha256 == hashlib.sha256(data).hexdigest()


SOUND_STARTS = {
    "csv": SST_HEADER,
    "tsv": SST_HEADER,
    "jsonl": b'{"sentence": "x", "sentiment": 1}\n',
    "json": b'[{"sentence": "x", "sentiment": 1},\n',
    "parquet": b"PAR1",
    "arrow": b"ARROW1\0\0",
    "feather": b"\xff\xff\xff\xff",
}


@pytest.mark.parametrize("ending", FORMATS)
@given(data=st.binary(max_size=300), sound_start=st.booleans())
def test_arbitrary_bytes_give_rows_or_a_user_error(
    tmp_path_factory, ending: str, data: bytes, sound_start: bool
) -> None:
    start = SOUND_STARTS[ending] if sound_start else b""
    try:
        result = read_bytes(tmp_path_factory.getbasetemp(), start + data, name=f"any.{ending}")
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert all(example.texts[0].strip() for example in result.examples)
        assert bad_lines(result) == sorted(bad_lines(result))
        assert all(len(row.reason.splitlines()) == 1 and row.reason.isprintable() for row in result.quarantined)


MALFORMED = {
    "too few columns": (b"1\tb\tx\n", "3 columns where the header has 4"),
    "too many columns": (b"1\tb\tx\t3\t4\n", "5 columns where the header has 4"),
    "empty text": (b"1\tb\t\t3\n", "sentence is empty"),
    "white space": (b"1\tb\t \xe2\x80\x83 \t3\n", "empty but for white space"),
    "no label": (b"1\tb\tx\t\n", "sentiment is missing"),
    "label is a word": (b"1\tb\tx\tgood\n", "not a number: 'good'"),
    "label is nan": (b"1\tb\tx\tnan\n", "not a number: 'nan'"),
    "label out of range": (b"1\tb\tx\t5\n", "not in 0..4: '5'"),
    "label between classes": (b"1\tb\tx\t2.5\n", "not an integer: '2.5'"),
    "not UTF-8": (b"1\tb\tcaf\xe9\t3\n", "sentence holds bytes that are not UTF-8"),
    "id not UTF-8": (b"1\t\xff\tx\t3\n", "id holds bytes that are not UTF-8"),
    "NUL": (b"1\tb\tx\0y\t3\n", "sentence holds a NUL byte"),
    "absurd length": (
        b"1\tb\t" + b"x" * (MAX_TEXT_CHARS + 1) + b"\t3\n",
        "100001 characters, at most 100000",
    ),
    "absurd length, quoted": (b'1\tb\t"' + b"x" * 200_000 + b'"\t3\n', "characters, at most 100000"),
}


@pytest.mark.parametrize(("row", "reason"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_row_is_named_and_the_next_one_read(tmp_path: Path, row: bytes, reason: str) -> None:
    result = read_bytes(tmp_path, SST_HEADER + GOOD + row + GOOD * 2)
    assert bad_lines(result) == [3]
    assert reason in result.quarantined[0].reason
    assert len(result.quarantined[0].reason) < 200
    assert len(result.examples) == 3


@given(st.lists(st.sampled_from([GOOD, *(row for row, _ in MALFORMED.values() if len(row) < 99)]), min_size=1))
def test_lines_stay_right_in_any_mixture(tmp_path_factory, rows: list[bytes]) -> None:
    result = read_bytes(tmp_path_factory.getbasetemp(), SST_HEADER + b"".join(rows), name="mixture.csv")
    assert bad_lines(result) == [line for line, row in enumerate(rows, start=2) if row != GOOD]
    assert len(result.examples) == rows.count(GOOD)


@given(st.lists(st.binary(max_size=20).map(lambda raw: raw.replace(b"\n", b"")), max_size=30))
def test_arbitrary_lines_never_cost_the_sound_rows_between_them(tmp_path_factory, junk: list[bytes]) -> None:
    sound = b"7\tkeep\tstill here\t2\n"
    data = SST_HEADER + b"".join(line + b"\n" + sound for line in junk) + sound
    result = read_bytes(tmp_path_factory.getbasetemp(), data, name="junk.csv")
    assert [e.id for e in result.examples].count("keep") == len(junk) + 1
    assert all(line % 2 == 0 for line in bad_lines(result))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_byte_order_mark_line_ends_and_blank_lines(tmp_path: Path, bom: bytes, end: bytes) -> None:
    data = bom + end.join([b"sentence,sentiment", b"fine,3", b"", b"poor,9", b"last,1"])
    result = read_bytes(tmp_path, data)
    assert [(e.id, e.texts, e.label) for e in result.examples] == [
        ("2", ("fine",), 3.0),
        ("5", ("last",), 1.0),
    ]
    assert bad_lines(result) == [4]


def test_ids_may_repeat_and_are_line_numbers_where_missing(tmp_path: Path) -> None:
    result = read_bytes(tmp_path, SST_HEADER + GOOD + GOOD + b"1\t \tx\t2\n")
    assert [e.id for e in result.examples] == ["a", "a", "4"]


def test_unlabelled_files_need_no_label_column(tmp_path: Path) -> None:
    result = read_bytes(tmp_path, b"0\t\tid\tsentence\n1\t0.0\tabc\tfine film\n", labelled=False)
    assert [(e.id, e.label) for e in result.examples] == [("abc", None)]


def test_columns_of_other_names(tmp_path: Path) -> None:
    rows = ['{"key": 7, "text": "fine", "stars": "3"}', '{"text": "odd"}', '{"key"', "[1]", '{"text": 5}']
    data = "\n".join(rows).encode()
    columns = {"id": "key", "sentence": "text", "sentiment": "stars"}
    result = read_bytes(tmp_path, data, name="a.jsonl", columns=columns)
    assert [(e.id, e.texts, e.label) for e in result.examples] == [("7", ("fine",), 3.0)]
    assert bad_lines(result) == [2, 3, 4, 5]
    assert [row.reason for row in result.quarantined] == [
        "stars is missing",
        "not JSON: '{\"key\"\\n'",
        "not a JSON object: [1]",
        "text is not text: 5",
    ]
    with pytest.raises(UserError, match="sst has no 'text'; it has id, sentence, sentiment"):
        read_bytes(tmp_path, data, columns={"text": "sentence"})


def test_parquet_rows_are_judged_one_by_one(tmp_path: Path) -> None:
    sentences = pa.array([b"fine", b"caf\xe9", None, b"x"]).view(pa.string())
    for column in (sentences, sentences.dictionary_encode()):
        out = io.BytesIO()
        pq.write_table(pa.table({"sentence": column, "sentiment": [3, 1, 2, 9]}), out)
        result = read_bytes(tmp_path, out.getvalue(), name="a.parquet")
        assert [(e.id, e.label) for e in result.examples] == [("1", 3.0)]
        assert [row.reason for row in result.quarantined] == [
            "sentence holds bytes that are not UTF-8: 'caf\\udce9'",
            "sentence is empty",
            "sentiment is not in 0..4: 9",
        ]


def test_a_missing_column_stops_and_names_those_found(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"file.csv: no column sentiment; columns found: \(unnamed\), id, sentence$"):
        read_bytes(tmp_path, b"\tid\tsentence\n0\ta\tx\n")
    with pytest.raises(UserError, match="no column sentence"):
        read_bytes(tmp_path, b"")
    with pytest.raises(UserError, match="no column nr"):
        read_bytes(tmp_path, SST_HEADER + GOOD, columns={"id": "nr"})
    with pytest.raises(UserError, match="no rows"):
        read_bytes(tmp_path, SST_HEADER)


def test_too_many_malformed_rows_stop_with_the_first_reasons(tmp_path: Path) -> None:
    data = SST_HEADER + GOOD * 98 + b"1\tb\tx\t9\n"
    assert len(read_bytes(tmp_path, data + GOOD, max_bad_rows=0.01).examples) == 99
    with pytest.raises(UserError) as caught:
        read_bytes(tmp_path, data + b"1\tb\t\t3\n1\tb\tx\t7\nx\n", max_bad_rows=0.01)
    message = str(caught.value)
    assert "file.csv: 4 of 102 rows are malformed" in message
    assert "line 100: sentiment is not in 0..4: '9'; line 101: sentence is empty; line 102" in message
    assert "line 103" not in message


def test_a_missing_file_names_the_path_and_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "ids-sst-train.csv").write_bytes(SST_HEADER + GOOD)
    for number in range(11):
        (tmp_path / f"other-{number:02}.txt").touch()
    assert find_file(str(tmp_path), SST, "train") == f"{tmp_path}/ids-sst-train.csv"
    assert has_file(str(tmp_path), SST, "train")
    assert not has_file(str(tmp_path), QUORA, "train")
    with pytest.raises(
        UserError, match=r"quora-dev\.\{csv,tsv,jsonl,json,parquet,arrow,feather\}.* ids-sst-train.csv, .*12 in all"
    ):
        find_file(str(tmp_path), QUORA, "dev")
    with pytest.raises(UserError, match="nowhere/quora-dev"):
        find_file(str(tmp_path / "nowhere"), QUORA, "dev")
    with pytest.raises(UserError, match="no such file"):
        read_examples(str(tmp_path / "gone.csv"), SST, labelled=True)
    with pytest.raises(
        UserError, match=r"must end in \.csv, \.tsv, \.jsonl, \.json, \.parquet, \.arrow, \.feather, with \.gz, \.zst"
    ):
        read_examples(str(tmp_path / "other-01.txt"), SST, labelled=True)


def test_any_fsspec_uri() -> None:
    with fsspec.open("memory://readers/quora-dev.tsv", "wb") as file:
        file.write(b"id\tsentence1\tsentence2\tis_duplicate\na\tx\ty\t1.0\n")
    uri = find_file("memory://readers", QUORA, "dev")
    assert uri == "memory://readers/quora-dev.tsv"
    assert read_examples(uri, QUORA, labelled=True).examples[0].texts == ("x", "y")


COUNTS = {
    ("sst", "train"): 8544, ("sst", "dev"): 1101, ("sst", "test"): 2210,
    ("cfimdb", "train"): 1707, ("cfimdb", "dev"): 245, ("cfimdb", "test"): 488,
    ("quora", "dev"): 20212,
    ("sts", "train"): 6040, ("sts", "dev"): 863, ("sts", "test"): 1725,
}  # fmt: skip


@pytest.mark.parametrize(("task", "split"), COUNTS)
def test_rows_of_the_real_files(cs224n: Path, task: str, split: str) -> None:
    result = read_examples(find_file(str(cs224n), TASKS[task], split), TASKS[task], labelled=split != "test")
    assert len(result.examples) == COUNTS[task, split]
    assert len(result.quarantined) == (2 if task == "quora" else 0)
