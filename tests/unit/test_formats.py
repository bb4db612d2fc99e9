"""The formats that people have: JSON, compressed files, Parquet, Arrow; columns by place and by path."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import uuid
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from multitask.data import formats
from multitask.data.arrow_files import names_in
from multitask.data.files import expanded, find_file
from multitask.data.shards import read_examples
from multitask.errors import UserError
from multitask.tasks.cells import number_of
from multitask.tasks.own import Definition, spec_of
from multitask.tasks.table import TASKS, TaskSpec

SST = TASKS["sst"]
ROWS = [{"sentence": "fine", "sentiment": 3}, {"sentence": 'poor\n, "really"', "sentiment": 0}]
WANT = [("fine", 3.0), ('poor\n, "really"', 0.0)]
CSV = 'sentence,sentiment\nfine,3\n"poor\n, ""really""",0\n'


def tone(words: list[str], column: str = "label", texts: list[str] | None = None) -> TaskSpec:
    definition = {"columns": texts or ["text"], "label": {"column": column, "words": words}}
    return spec_of("tone", Definition.model_validate(definition), "tone")


def read(file: Path | str, spec: TaskSpec = SST, **options) -> list[tuple[str, float | None]]:
    result = read_examples(str(file), spec, **{"labelled": True, "max_bad_rows": 1.0, **options})
    return [(example.texts[0], example.label) for example in result.examples]


JSON = {
    "an array on one line": json.dumps(ROWS),
    "an array over lines": json.dumps(ROWS, indent=2),
    "lines": "\n".join(map(json.dumps, ROWS)),
    "objects over lines": "\n".join(json.dumps(row, indent=1) for row in ROWS),
    "pandas": pd.DataFrame(ROWS).to_json(orient="records"),
    "pandas, lines": pd.DataFrame(ROWS).to_json(orient="records", lines=True),
    "a byte order mark": "\ufeff" + json.dumps(ROWS),
}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("content", JSON.values(), ids=JSON)
def test_json_as_people_write_it(tmp_path: Path, content: str, name: str) -> None:
    (tmp_path / name).write_text(content)
    assert read(tmp_path / name) == WANT


def test_json_that_breaks_off_is_refused_and_not_read_in_part(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for content, said in {
        json.dumps(ROWS, indent=2)[:-30]: "line 6: the JSON breaks off",
        json.dumps(ROWS)[:-1]: "line 1: the JSON",
        json.dumps(ROWS, indent=2) + "\n[]": "line 11: text behind the JSON array's end",
        pd.DataFrame(ROWS).to_json(): r"an object of columns; pandas' to_json\(orient='records'\) writes one of rows",
    }.items():
        file.write_text(content)
        with pytest.raises(UserError, match=f"a.json: {said}"):
            read(file)
    file.write_text('[3, {"sentence": "fine", "sentiment": 3}]')
    result = read_examples(str(file), SST, labelled=True, max_bad_rows=1.0)
    assert [(row.line, row.reason) for row in result.quarantined] == [(1, "not a JSON object: 3")]


COMPRESSED = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("ending", COMPRESSED)
def test_compressed_files_by_name(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"ids-sst-dev.csv.{ending}").write_bytes(COMPRESSED[ending](CSV.encode()))
    assert find_file(str(tmp_path), SST, "dev").endswith(f"ids-sst-dev.csv.{ending}")
    assert read(tmp_path / f"ids-sst-dev.csv.{ending}") == WANT
    halves = [COMPRESSED[ending](CSV[:30].encode()), COMPRESSED[ending](CSV[30:].encode())]
    (tmp_path / f"two.csv.{ending}").write_bytes(b"".join(halves))
    assert read(tmp_path / f"two.csv.{ending}") == WANT
    (tmp_path / f"not.csv.{ending}").write_text(CSV)
    with pytest.raises(UserError, match=rf"not.csv.{ending}: not a sound .{ending} file"):
        read(tmp_path / f"not.csv.{ending}")
    whole = COMPRESSED[ending](CSV.encode() * 50)
    (tmp_path / f"cut.csv.{ending}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=rf"cut.csv.{ending}: not a sound .{ending} file"):
        read(tmp_path / f"cut.csv.{ending}")


def test_columns_by_place_where_there_is_no_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('3,"fine, really",x\n0,poor,y\n')
    (tmp_path / "a.tsv").write_text("3\tfine, really\tx\n0\tpoor\ty\n")
    places = {"sentence": 1, "sentiment": 0, "id": 2}
    for name in ("a.csv", "a.tsv"):
        result = read_examples(str(tmp_path / name), SST, labelled=True, columns=places)
        assert [(e.id, e.texts[0], e.label) for e in result.examples] == [("x", "fine, really", 3), ("y", "poor", 0)]
    with pytest.raises(UserError, match="no column 7; columns found: 0, 1, 2"):
        read(tmp_path / "a.csv", columns={"sentence": 7, "sentiment": 0})
    with pytest.raises(UserError, match="all by name, or all by place"):
        read(tmp_path / "a.csv", columns={"sentence": 1, "sentiment": "x"})
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]))
    with pytest.raises(UserError, match=r"columns by position are of \.csv and \.tsv files; name them"):
        read(tmp_path / "a.jsonl", columns=places)


def test_nested_columns_by_their_path(tmp_path: Path) -> None:
    rows = [{"text": {"en": "fine", "de": "fein"}, "meta": {"label": {"tone": "good"}}},
            {"text": {"en": "poor", "de": "arm"}, "meta": {"label": {"tone": "bad"}}}]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    pa.feather.write_feather(pa.Table.from_pylist(rows), tmp_path / "a.feather")
    columns = {"text": "text.en", "label": "meta.label.tone"}
    for name in ("a.jsonl", "a.parquet", "a.feather"):
        assert read(tmp_path / name, tone(["bad", "good"]), columns=columns) == [("fine", 1), ("poor", 0)]
        with pytest.raises(UserError, match=r"no column text\.fr"):
            read(tmp_path / name, tone(["bad", "good"]), columns={**columns, "text": "text.fr"})


def test_a_path_that_is_not_there_is_not_read_as_the_column_above_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": {"en": "fine"}, "label": "good"}')
    with pytest.raises(UserError, match=r"no column text\.fr"):
        read(tmp_path / "a.jsonl", tone(["bad", "good"]), columns={"text": "text.fr"})


def test_a_column_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    table = pa.table([["fine"], ["good"], ["bad"]], names=["text", "label", "label"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: column label stands there 2 times; rename the others"):
        read(tmp_path / "a.parquet", tone(["bad", "good"]))


def arrow_files(folder: Path, table: pa.Table) -> list[Path]:
    pq.write_table(table, folder / "a.parquet")
    pa.feather.write_feather(table, folder / "a.feather")
    with pa.ipc.new_file(folder / "file.arrow", table.schema) as out:
        out.write_table(table)
    with pa.ipc.new_stream(folder / "stream.arrow", table.schema) as out:
        out.write_table(table)
    return [folder / name for name in ("a.parquet", "a.feather", "file.arrow", "stream.arrow")]


def test_a_file_that_unpacks_to_very_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here much is 100 kB: the bound below which the ratio does not count is a gigabyte otherwise."""
    monkeypatch.setattr(formats, "LARGE", 100_000)
    rows = "".join(f"{at}\tthe same words again and again and again\t1\n" for at in range(20))
    sound, wide = tmp_path / "sound.tsv.gz", tmp_path / "wide.tsv.gz"
    sound.write_bytes(gzip.compress(f"id\tsentence\tsentiment\n{rows}".encode()))
    wide.write_bytes(gzip.compress(b"id\tsentence\tsentiment\n" + b" " * 1_000_000))
    assert len(read_examples(str(sound), TASKS["sst"], labelled=True).examples) == 20
    with pytest.raises(UserError, match=r"wide\.tsv\.gz.*more than 200 times its size when it is unpacked"):
        read_examples(str(wide), TASKS["sst"], labelled=True)


@pytest.mark.parametrize("index", [pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.int64()])
def test_dictionary_columns_of_any_index(tmp_path: Path, index: pa.DataType) -> None:
    """More values than an index of 8 bits counts, over several chunks of a dictionary each, with a null."""
    chunks = [
        pa.DictionaryArray.from_arrays(pa.array([*range(100), None], index), [f"{part}-{n}" for n in range(100)])
        for part in range(3)
    ]
    table = pa.table({"text": pa.chunked_array(chunks), "label": ["good", "bad", *["good"] * 99] * 3})
    if index.bit_width == 8:  # the parts' dictionaries do not fit into one
        pq.write_table(table, tmp_path / "a.parquet")
        files = [tmp_path / "a.parquet"]
    else:
        files = arrow_files(tmp_path, table.unify_dictionaries())
    for file in files:
        found = read(file, tone(["bad", "good"]))
        assert [text for text, _ in found] == [f"{part}-{number}" for part in range(3) for number in range(100)]
        assert [label for _, label in found[:3]] == [1, 0, 1]


def test_extension_types_by_their_meaning(tmp_path: Path) -> None:
    table = pa.table({
        "text": pa.array(['"a fine film"', '"\\u00e9t\\u00e9"', "300", '{"a": 1}', None], pa.string()).cast(pa.json_()),
        "label": pa.array([1, 0, 1, 1, 1], pa.int8()).cast(pa.bool8()),
        "id": pa.array([uuid.UUID(int=n).bytes for n in range(5)], pa.binary(16)).cast(pa.uuid()),
    })  # fmt: skip
    for file in arrow_files(tmp_path, table):
        result = read_examples(str(file), tone(["false", "true"]), labelled=True, max_bad_rows=1.0)
        assert [(e.id, e.texts[0], e.label) for e in result.examples] == [
            ("00000000-0000-0000-0000-000000000000", "a fine film", 1),
            ("00000000-0000-0000-0000-000000000001", "été", 0),
        ]
        assert [row.reason for row in result.quarantined] == [
            "text is not text: 300", "text is not text: {'a': 1}", "text is empty",
        ]  # fmt: skip


def test_other_extension_types_are_refused_by_name(tmp_path: Path) -> None:
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(pd.Series([1.0, 2.0]).to_numpy().reshape(2, 1))
    pq.write_table(pa.table({"text": tensor, "label": ["good", "bad"]}), tmp_path / "a.parquet")
    said = "column text is of the extension type arrow.fixed_shape_tensor; read are arrow.json, arrow.bool8, arrow.uuid"
    with pytest.raises(UserError, match=said):
        read(tmp_path / "a.parquet", tone(["bad", "good"]))


def test_feather_of_old_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.feather").write_bytes(b"FEA1" + bytes(60))
    with pytest.raises(UserError, match=r"a\.feather: Feather version 1; "):
        read(tmp_path / "a.feather")


# Names of classes.

FEATURES = {"text": {"dtype": "string", "_type": "Value"},
            "label": {"names": ["entailment", "neutral", "contradiction"], "_type": "ClassLabel"}}  # fmt: skip
NLI = ["contradiction", "entailment", "neutral"]


def of_datasets(names: list[str], labels: list[int | None]) -> pa.Table:
    features = {**FEATURES, "label": {"names": names, "_type": "ClassLabel"}}
    table = pa.table({"text": [f"text {n}" for n in range(len(labels))], "label": pa.array(labels, pa.int64())})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def test_the_files_own_names_of_classes_decide(tmp_path: Path) -> None:
    for file in arrow_files(tmp_path, of_datasets(FEATURES["label"]["names"], [2, 0, 1, -1, None])):
        result = read_examples(str(file), tone(NLI), labelled=True, max_bad_rows=1.0)
        assert [NLI[int(e.label or 0)] for e in result.examples] == ["contradiction", "entailment", "neutral"]
        assert [row.reason for row in result.quarantined] == [
            "label is -1, the file names classes 0 to 2", "label is missing",
        ]  # fmt: skip
        assert result.classes == ("entailment", "neutral", "contradiction")


@pytest.mark.parametrize(
    "wrap", [lambda features: {"features": features}, lambda features: {"default": {"features": features}}]
)
def test_names_in_the_json_beside_the_file(tmp_path: Path, wrap) -> None:
    (tmp_path / "dataset_info.json").write_text(json.dumps(wrap(FEATURES)))
    (tmp_path / "a.csv").write_text("text,label\na,2\nb,0\nc,neutral\n")
    assert read(tmp_path / "a.csv", tone(NLI)) == [("a", 0), ("b", 1), ("c", 2)]
    before = read_examples(str(tmp_path / "a.csv"), tone(NLI), labelled=True).sha256
    other = {**FEATURES, "label": {"names": NLI, "_type": "ClassLabel"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(wrap(other)))
    assert read(tmp_path / "a.csv", tone(NLI))[:2] == [("a", 2), ("b", 0)]
    assert read_examples(str(tmp_path / "a.csv"), tone(NLI), labelled=True).sha256 != before, "other labels, other data"


@pytest.mark.parametrize("kind", ["Sequence", "List", "LargeList", None])
def test_names_of_the_elements_of_lists(kind: str | None) -> None:
    inner = FEATURES["label"]
    feature = {"feature": inner, "length": -1, "_type": kind} if kind else [inner]
    assert names_in({"text": FEATURES["text"], "labels": feature}) == {"labels": inner["names"]}
    assert names_in({"texts": [FEATURES["text"]], "none": [], "odd": {"_type": kind, "feature": 3}}) == {}


@pytest.mark.parametrize("name", ["dataset_info.json", "dataset_infos.json"])
def test_names_one_folder_up(tmp_path: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / name).write_text(json.dumps({"default": {"features": FEATURES}}))
    (tmp_path / "data" / "a.csv").write_text("text,label\na,2\nb,0\n")
    assert read(tmp_path / "data" / "a.csv", tone(NLI)) == [("a", 0), ("b", 1)]


def test_names_that_do_not_fit_are_refused_or_left_out(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(of_datasets(["pos", "neg"], [0, 1]), file)
    with pytest.raises(
        UserError, match="label: the file calls its classes pos, neg, the task contradiction, entailment"
    ):
        read(file, tone(NLI))
    pq.write_table(of_datasets(["neutral", "off-topic"], [0, 1]), file)
    result = read_examples(str(file), tone(NLI), labelled=True, max_bad_rows=1.0)
    assert [e.label for e in result.examples] == [2]
    assert "label is class 1, 'off-topic', none of contradiction" in result.quarantined[0].reason


def test_names_that_are_numbers(tmp_path: Path) -> None:
    stars = spec_of(
        "stars",
        Definition.model_validate({"columns": ["text"], "label": {"kind": "classes", "low": 1, "high": 5}}), "stars",
    )  # fmt: skip
    file = tmp_path / "a.parquet"
    pq.write_table(of_datasets(["1", "2", "3", "4", "5"], [0, 4]), file)
    assert read(file, stars) == [("text 0", 0), ("text 1", 4)]  # class 0 is the word 1
    pq.write_table(of_datasets(["0", "1"], [0, 1]), file)
    assert read(file, tone(["bad", "good"])) == [("text 0", 0), ("text 1", 1)]  # the names say no more than numbers do


def test_arrows_dictionaries_are_words(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"], "label": pa.array(["good", "bad"]).dictionary_encode()})
    for file in arrow_files(tmp_path, table):
        assert read(file, tone(["bad", "good"])) == [("a", 1), ("b", 0)]


# Numbers.

NUMBERS = {"3": 3, " 3 ": 3, "3.0": 3, "+3": 3, "-.5": -0.5, "3.": 3, "1e3": 1000, "1E-2": 0.01,
           "1_000": None, "1,5": None, "٣": None, "nan": None, "inf": None, "Infinity": None, "0x1": None, "": None,
           "1 000": None, "3f": None, "½": None, "e3": None, ".": None}  # fmt: skip


@pytest.mark.parametrize(("said", "number"), NUMBERS.items())
def test_what_a_number_is(said: str, number: float | None) -> None:
    assert number_of(said) == number


def test_what_a_number_is_in_formats_that_have_types() -> None:
    assert [number_of(value) for value in (3, 3.5, Decimal("2.5"))] == [3, 3.5, 2.5]
    assert [number_of(value) for value in (True, None, b"3", [3], 10**400)] == [None] * 5


def test_a_number_is_one_in_every_format(tmp_path: Path) -> None:
    said = ["3", "1_0", "٣", " 2 ", "true"]
    table = pa.table({"sentence": [f"t{n}" for n in range(len(said))], "sentiment": said})
    (tmp_path / "a.csv").write_text(table.to_pandas().to_csv(index=False))
    (tmp_path / "a.json").write_text(table.to_pandas().to_json(orient="records"))
    for file in [tmp_path / "a.csv", tmp_path / "a.json", *arrow_files(tmp_path, table)]:
        assert read(file) == [("t0", 3), ("t3", 2)]


def test_true_and_false_are_one_and_zero_of_two(tmp_path: Path) -> None:
    quora = TASKS["quora"]
    (tmp_path / "a.jsonl").write_text('{"sentence1": "a", "sentence2": "b", "is_duplicate": true}')
    (tmp_path / "a.csv").write_text("sentence1,sentence2,is_duplicate\na,b,True\na,c,false\n")
    assert read(tmp_path / "a.jsonl", quora) == [("a", 1)]
    assert read(tmp_path / "a.csv", quora) == [("a", 1), ("a", 0)]


# Names of files.


def test_patterns_in_folders_with_signs_in_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "data [2024] {a} (v1?)"
    (folder / "in").mkdir(parents=True)
    for name in ("a-1.csv", "a-2.csv", "b [x].csv", "in/a-3.csv"):
        (folder / name).write_text("sentence,sentiment\nx,1\n")
    assert expanded(f"{folder}/a-*.csv") == [f"{folder}/a-1.csv", f"{folder}/a-2.csv"]
    assert expanded(f"{folder}/* [x].csv") == [f"{folder}/b [x].csv"]
    assert expanded(f"{folder}/*/a-*.csv") == [f"{folder}/in/a-3.csv"]
    assert [name.rsplit("/", 1)[-1] for name in expanded(f"{folder}/**/a-*.csv")] == ["a-1.csv", "a-2.csv", "a-3.csv"]
    assert len(read_examples(expanded(f"{folder}/a-*.csv"), SST, labelled=True).examples) == 2
    with pytest.raises(UserError, match="no file fits"):
        expanded(f"{folder}/c-*.csv")
