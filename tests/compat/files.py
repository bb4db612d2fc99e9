"""Tables: files as other programs write them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

from multitask.data.files import expanded
from multitask.data.shards import read_examples
from multitask.inference.submission import write_predictions
from multitask.storage.storage import Storage
from multitask.tasks.own import Definition, spec_of
from tests.compat.table import Row

Run = Callable[[Path], None]
Cells = Sequence[tuple[str, str]]

TONES = ["bad", "good"]
TONE = spec_of(
    "tone",
    Definition.model_validate({"columns": ["text"], "label": {"column": "tone", "words": TONES}}),
    "tone",
)
CELLS = [("fine, really", "good"), ('he said "no"', "bad"), ("two\nlines", "good")]
LINES = [(text.replace("\n", " "), tone) for text, tone in CELLS]  # for files that do not quote
FRAME = pd.DataFrame(CELLS, columns=["text", "tone"])
TABLE = pa.table({"text": [text for text, _ in CELLS], "tone": [tone for _, tone in CELLS]})


def read(name: str, **options) -> list[tuple[str, str]]:
    result = read_examples(name, TONE, **{"labelled": True, "max_bad_rows": 1.0, **options})
    return [(example.texts[0], TONES[int(example.label or 0)]) for example in result.examples]


def reads(name: str, content: bytes | str, rows: Cells = CELLS, **options) -> Run:
    """What writes the file and asserts that these are its rows."""

    def run(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        assert read(name, **options) == list(rows)

    return run


def by_csv(**options) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, **options).writerows([("text", "tone"), *CELLS])
    return out.getvalue()


def joined(delimiter: str, rows: Cells = LINES) -> str:
    return "".join(delimiter.join(row) + "\n" for row in [("text", "tone"), *rows])


def arrow(write: Run, name: str, rows: Cells = CELLS) -> Run:
    def run(folder: Path) -> None:
        write(folder / name)
        assert read(name) == list(rows)

    return run


def stream(file: Path) -> None:
    with pa.ipc.new_stream(file, TABLE.schema) as out:
        out.write_table(TABLE)


def of_datasets(names: list[str], called: Mapping[str, str] | None = None) -> Run:
    """Parquet as datasets writes it: classes by number, their names in the schema's metadata.

    called: what it calls a tone, where it calls it otherwise.
    """
    features = {"text": {"dtype": "string", "_type": "Value"}, "tone": {"names": names, "_type": "ClassLabel"}}
    table = pa.table(
        {
            "text": [text for text, _ in CELLS],
            "tone": [names.index((called or {}).get(tone, tone)) for _, tone in CELLS],
        }
    )
    described = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    return lambda file: pq.write_table(described, file)


def many_words(file: Path) -> None:
    parts = [
        pa.DictionaryArray.from_arrays(pa.array(range(100), pa.int8()), [f"{p} {n}" for n in range(100)]) for p in "ab"
    ]
    pq.write_table(pa.table({"text": pa.chunked_array(parts), "tone": ["good"] * 200}), file)


def extended(file: Path) -> None:
    texts = pa.array([json.dumps(text) for text, _ in CELLS]).cast(pa.json_())
    pq.write_table(TABLE.set_column(0, "text", texts), file)


def tensor(file: Path) -> None:
    values = pa.FixedShapeTensorArray.from_numpy_ndarray(pd.Series([1.0]).to_numpy().reshape(1, 1))
    pq.write_table(pa.table({"text": values, "tone": ["good"]}), file)


def patterns(folder: Path) -> None:
    (folder / "data [2024]").mkdir()
    for number in (1, 2):
        (folder / "data [2024]" / f"part-{number}.csv").write_text(by_csv())
    assert read(expanded(f"{folder}/data [2024]/part-*.csv")) == CELLS * 2


def long_text(folder: Path) -> None:
    text = "".join(f'line {number}, he said "so"\n' for number in range(3000))
    (folder / "a.csv").write_text(by_csv() + '"' + text.replace('"', '""') + '",bad\n')
    assert read("a.csv") == [*CELLS, (text, "bad")]


def odd_ids(folder: Path) -> None:
    ids = ["a,b", 'say "so"', "two\nlines"]
    (folder / "a.json").write_text(json.dumps([{"id": id_, "text": "x", "tone": "bad"} for id_ in ids]))
    examples = read_examples("a.json", TONE, labelled=True).examples
    path = write_predictions(Storage(str(folder)), TONE, "dev", [e.id for e in examples], [0, 0, 0])
    with open(folder / path, newline="") as file:
        rows = [*csv.reader(file, skipinitialspace=True)][1:]
    assert [row[0].removesuffix(" ") for row in rows] == ids


def quarantines(name: str, content: str, line: int, reason: str, rows: Cells) -> Run:
    def run(folder: Path) -> None:
        (folder / name).write_text(content)
        result = read_examples(name, TONE, labelled=True, max_bad_rows=1.0)
        assert [(e.texts[0], TONES[int(e.label or 0)]) for e in result.examples] == list(rows)
        assert [row.line for row in result.quarantined] == [line]
        assert reason in result.quarantined[0].reason

    return run


def glue(folder: Path) -> None:
    (folder / "a.tsv").write_text(joined("\t", [('"open only', "good"), ('"Yes" is a word', "bad")]))
    assert read("a.tsv") == [('"open only', "good"), ('"Yes" is a word', "bad")]


STRAY = [("a", "good"), ('"open', "bad"), ("between", "good"), ('close"', "bad")]

ROWS: Sequence[Row] = (
    Row("CSV by csv.writer or pandas: quotes, delimiters and line feeds in cells", "read", reads("a.csv", by_csv())),
    Row("CSV with every field quoted", "read", reads("a.csv", by_csv(quoting=csv.QUOTE_ALL))),
    Row("CSV between semicolons (a European Excel)", "read", reads("a.csv", by_csv(delimiter=";"))),
    Row("CSV with a byte order mark (Excel's UTF-8)", "read", reads("a.csv", "\ufeff" + by_csv())),
    Row("CSV whose lines end in CR alone (an old Mac's)", "read",
        reads("a.csv", by_csv(lineterminator="\r").replace("two\nlines", "two lines"), LINES)),
    Row("CSV with backslashes before quotes (MySQL, R)", "read",
        reads("a.csv", 'text,tone\n"fine, \\"really\\"",good\n', [('fine, "really"', "good")])),
    Row("CSV without a header, columns by place", "read",
        reads("a.csv", by_csv().split("\r\n", 1)[1], columns={"text": 0, "tone": 1})),
    Row("CSV with a text of 3,000 lines in quotes", "read", long_text),
    Row("CSV in UTF-16 (Excel's Unicode text)", "refused", reads("a.csv", by_csv().encode("utf-16")),
        "a.csv: UTF-16 text; save it as UTF-8"),
    Row("CSV in which a quote is never closed: that row is quarantined, the next are read", "read",
        quarantines("a.csv", 'text,tone\n"a ""b""",good\n"open,bad\nlast,good\n', 3, "unbalanced quote",
                    [('a "b"', "good"), ("last", "good")])),
    Row("CSV in which a record may be one text or several rows: quarantined whole", "read",
        quarantines("a.csv", 'text,tone\nfirst,good\n"open,bad\nbetween,good\nclose",bad\n', 3,
                    "one quoted text over 3 lines or rows with stray quotes", [("first", "good")])),
    Row("TSV by csv.writer or pandas, quoted as CSV is", "read", reads("a.tsv", by_csv(dialect="excel-tab"))),
    Row("TSV whose quotes are text (GLUE's QQP, MRPC, STS-B)", "read", glue),
    Row("TSV with two rows that each hold one quote", "read",
        reads("a.tsv", joined("\t", STRAY), STRAY)),
    Row("JSON lines", "read", reads("a.jsonl", FRAME.to_json(orient="records", lines=True))),
    Row("JSON array (pandas' orient=\"records\")", "read", reads("a.json", FRAME.to_json(orient="records"))),
    Row("JSON objects over several lines, one behind the other", "read",
        reads("a.json", "\n".join(json.dumps(dict(zip(FRAME, row, strict=True)), indent=2) for row in CELLS))),
    Row("JSON by columns (pandas' default)", "refused", reads("a.json", FRAME.to_json()),
        "a.json: an object of columns; pandas' to_json(orient='records') writes one of rows"),
    Row("JSON array that is cut off", "refused", reads("a.json", FRAME.to_json(orient="records")[:-5]),
        "a.json: line 1: the JSON breaks off..."),
    Row("CSV, JSON and others behind gzip, zstd, bzip2 or xz, by name", "read",
        reads("a.csv.gz", gzip.compress(by_csv().encode()))),
    Row("A .gz that is none, or is cut", "refused", reads("a.csv.gz", by_csv()), "a.csv.gz: not a sound .gz file..."),
    Row("Parquet", "read", arrow(lambda file: pq.write_table(TABLE, file), "a.parquet")),
    Row("Parquet with a categorical column of more values than its index counts", "read",
        arrow(many_words, "a.parquet", [(f"{p} {n}", "good") for p in "ab" for n in range(100)])),
    Row("Parquet with texts of the type arrow.json (datasets, after a text that was a number)", "read",
        arrow(extended, "a.parquet")),
    Row("Parquet with texts of another extension type", "refused", arrow(tensor, "a.parquet"),
        "a.parquet: column text is of the extension type arrow.fixed_shape_tensor; read are arrow.json, ..."),
    Row("Parquet by datasets, its ClassLabel names in another order than the recipe's words: mapped by name", "read",
        arrow(of_datasets(["good", "bad"]), "a.parquet")),
    Row("Parquet by datasets whose ClassLabel names are none of the recipe's words", "refused",
        arrow(of_datasets(["pos", "neg"], {"good": "pos", "bad": "neg"}), "a.parquet"),
        "a.parquet: tone: the file calls its classes pos, neg, the task bad, good"),
    Row("Arrow's stream format (data-00000-of-00001.arrow of datasets)", "read", arrow(stream, "a.arrow")),
    Row("Feather", "read", arrow(lambda file: pa.feather.write_feather(TABLE, file), "a.feather")),
    Row("Feather version 1", "refused", reads("a.feather", b"FEA1" + bytes(60)), "a.feather: Feather version 1; ..."),
    Row("Excel's .xlsx", "refused", reads("a.xlsx", b"PK\x03\x04"), "a.xlsx: unknown format; ..."),
    Row("A pattern in a folder with brackets in its name", "read", patterns),
    Row("Ids with commas, quotes and line feeds come back whole from prediction files", "read", odd_ids),
)  # fmt: skip
