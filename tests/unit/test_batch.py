"""Tables of texts to Parquet, in this process: what is read, what parts hold, going on, what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from multitask.bundle.bundle import Bundle, bundle_of, save_bundle
from multitask.errors import UserError
from multitask.inference.embed import TextEncoder
from multitask.inference.predict import Predictor
from multitask.storage.storage import Storage
from multitask.tasks.table import TASKS
from ray_jobs.batch.input import Shard
from ray_jobs.batch.parts import Writer
from ray_jobs.batch.table_job import MANIFEST, WORK, TableRequest, embed_table, predict_table
from ray_jobs.cli import app
from ray_jobs.screen import Screen
from tests.helpers import tiny
from tests.s3 import S3

TEXTS = [f"a good film about {'music ' * (at % 7)}{at}" for at in range(50)]
HEADS = {"sst": "mlp", "quora": "interaction", "sts": "cosine", "suitability": "mlp"}


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_jobs.batch.table_job.default_device", lambda: "cpu")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return written(tmp_path / "texts.jsonl", TEXTS)


def written(file: Path, texts: list[str], first: int = 0) -> Path:
    """The texts as a file of the format that its name says, with ids where the format has columns."""
    rows = [{"id": f"row {at}", "text": text} for at, text in enumerate(texts, first)]
    file.parent.mkdir(exist_ok=True)
    match file.suffix:
        case ".txt":
            file.write_text("".join(text + "\n" for text in texts))
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), file)
        case ".jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ending:
            sign = {".csv": ",", ".tsv": "\t"}[ending]
            lines = [f"id{sign}text", *(f"{row['id']}{sign}{row['text']}" for row in rows)]
            file.write_text("".join(line + "\n" for line in lines))
    return file


def request(source: Path | str, **other: Any) -> TableRequest:
    folder = Path(source).parent if isinstance(source, Path) else None
    return TableRequest(**{"bundle": "tiny", "input": str(source), "output": f"{folder}/out", "rows": 16, **other})


def part(output: Path, number: int) -> Any:
    return pq.read_table(output / f"part-{number:05d}.parquet")


def manifest(output: Path) -> dict[str, Any]:
    return json.loads((output / MANIFEST).read_text())


def vectors(output: Path, name: str = "embedding") -> Any:
    column = pq.read_table(output)[name].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


# What is written.


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet", "txt"])
def test_embeddings_of_every_format_in_the_files_order(tmp_path: Path, ending: str) -> None:
    embed_table(request(written(tmp_path / f"texts.{ending}", TEXTS)), Screen())
    output = tmp_path / "out"
    names = sorted(file.name for file in output.iterdir())
    assert names == [MANIFEST, WORK, *(f"part-0000{at}.parquet" for at in range(4))]
    assert [part(output, number).num_rows for number in range(4)] == [16, 16, 16, 2]
    found = pq.read_table(output)  # a Parquet reader passes over the notes
    assert found.schema.names == ["id", "embedding"]
    assert found.schema.field("embedding").type == pa.list_(pa.field("element", pa.float32()), 64)
    expected = [str(at + 1) for at in range(50)] if ending == "txt" else [f"row {at}" for at in range(50)]
    assert found["id"].to_pylist() == expected
    np.testing.assert_allclose(vectors(output), TextEncoder(tiny()).embed(TEXTS), atol=1e-6)
    said = manifest(output)
    assert (said["rows"], said["parts"], said["quarantined"]) == (50, 4, {"rows": 0, "first": []})
    assert said["bundle"] == tiny().about["fingerprint"] and said["columns"] == ["text"] and said["part_rows"] == 16


def test_several_columns_and_the_texts_themselves(tmp_path: Path) -> None:
    rows = [{"question": text, "answer": text[::-1]} for text in TEXTS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    embed_table(request(tmp_path / "pairs.parquet", columns=("answer", "question"), keep=True), Screen())
    found = pq.read_table(tmp_path / "out")
    assert found.schema.names == ["id", "answer", "question", "embedding_answer", "embedding_question"]
    assert found["answer"].to_pylist() == [text[::-1] for text in TEXTS]
    assert found["id"].to_pylist()[:2] == ["1", "2"]
    expected = TextEncoder(tiny()).embed(TEXTS)
    np.testing.assert_allclose(vectors(tmp_path / "out", "embedding_question"), expected, atol=1e-6)


@pytest.mark.parametrize("given_as", ["", "/*.txt"])
def test_a_directory_or_a_glob_is_one_table_and_says_where_rows_are_from(tmp_path: Path, given_as: str) -> None:
    folder = tmp_path / "many"
    written(folder / "b.txt", TEXTS[20:])
    written(folder / "a.txt", TEXTS[:20])
    (folder / "empty.txt").touch()
    (folder / "_SUCCESS.txt").write_text("not of the table\n")
    (folder / "notes.pdf").touch()
    embed_table(request(f"{folder}{given_as}", output=str(tmp_path / "out")), Screen())
    found = pq.read_table(tmp_path / "out")
    assert found["file"].to_pylist() == ["a.txt"] * 20 + ["b.txt"] * 30
    assert found["id"].to_pylist() == [*map(str, range(1, 21)), *map(str, range(1, 31))]
    assert part(tmp_path / "out", 1).num_rows == 16  # across the files
    np.testing.assert_allclose(vectors(tmp_path / "out"), TextEncoder(tiny()).embed(TEXTS), atol=1e-6)


def test_any_file_system_at_both_ends() -> None:
    with fsspec.open("memory://tables/texts.txt", "w") as file:
        file.write("".join(text + "\n" for text in TEXTS))
    embed_table(request("memory://tables/*.txt", output="memory://vectors"), Screen())
    storage = Storage("memory://vectors")
    said = storage.read_json(MANIFEST)
    assert said["rows"] == 50 and said["input"][0]["bytes"] == sum(len(text) + 1 for text in TEXTS)
    found = pq.read_table(pa.BufferReader(storage.read_bytes("part-00003.parquet")))
    assert found["file"].to_pylist() == ["texts.txt"] * 2 and found["id"].to_pylist() == ["49", "50"]


@pytest.mark.slow
def test_an_object_store_that_fails_now_and_then_at_both_ends(s3: S3) -> None:
    Storage(s3.uri).write_bytes("texts/a.txt", "\n".join(TEXTS).encode())
    given = request(f"{s3.uri}/texts", output=f"{s3.uri}/vectors")
    s3.fail("some", share=0.3, seed=1)
    embed_table(given, Screen())
    embed_table(given, Screen())  # the same work: its version marks are stable
    s3.heal()
    storage = Storage(given.output)
    said = storage.read_json(MANIFEST)
    assert said["rows"] == 50 and said["input"][0].keys() == {"file", "bytes", "etag"}
    Storage(s3.uri).write_bytes("texts/a.txt", b"others\n")
    with pytest.raises(UserError, match=r"vectors: holds parts of other work: input was .*etag"):
        embed_table(given, Screen())


def test_rows_that_cannot_be_used_are_left_out_and_told_of(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}) for text in TEXTS]
    lines[3], lines[30], lines[49] = '{"text": 7}', "no JSON", '{"text": " "}'
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    embed_table(request(tmp_path / "texts.jsonl"), Screen())
    said = manifest(tmp_path / "out")
    assert (said["rows"], said["parts"], said["quarantined"]["rows"]) == (47, 3, 3)
    assert said["quarantined"]["first"] == [
        "texts.jsonl:4: text is not text: 7",
        "texts.jsonl:31: not JSON: 'no JSON\\n'",
        "texts.jsonl:50: text is empty but for white space: ' '",
    ]
    ids = pq.read_table(tmp_path / "out")["id"].to_pylist()
    assert [str(at) for at in range(1, 51) if str(at) not in ids] == ["4", "31", "50"]


def with_heads(folder: Path, **about: object) -> tuple[str, Bundle]:
    bundle = bundle_of(tiny().model(HEADS, seed=3), tiny().tokenizer_json, {"max_length": 24, **about})
    save_bundle(Storage(str(folder)), "bundle", bundle)
    return str(folder / "bundle"), bundle


@pytest.mark.parametrize("task", HEADS)
def test_predictions_are_the_predictors(tmp_path: Path, task: str) -> None:
    uri, bundle = with_heads(tmp_path)
    columns = ("one",) if task == "sst" else ("one", "other")
    rows = [{"one": text, "other": text[::-1]} for text in TEXTS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "texts.parquet")
    predict_table(request(tmp_path / "texts.parquet", bundle=uri, task=task, columns=columns), Screen())
    found = pq.read_table(tmp_path / "out").to_pydict()
    texts = [[row[name] for row in rows] for name in columns]
    expected = Predictor(bundle).answer(task, *texts)
    np.testing.assert_allclose(found["prediction"], expected.labels, atol=1e-6)
    probabilities = {"sst": "probabilities", "quora": "probability"}.get(task)
    assert list(found) == ["id", "prediction", *([probabilities] if probabilities else [])]
    if probabilities:
        assert isinstance(found["prediction"][0], int)
        np.testing.assert_allclose(found[probabilities], expected.probabilities, atol=1e-6)


def test_the_only_head_needs_no_name_and_its_columns_are_those_of_its_training(tmp_path: Path) -> None:
    uri, _ = with_heads(tmp_path, trained=["sst"], columns={"sst": {"sentence": "review"}})
    (tmp_path / "reviews.csv").write_text("review,stars\ngood,1\nbad,2\n")
    with pytest.raises(UserError, match=r"--task: missing; bundle '.*' predicts sst, sts"):
        predict_table(request(tmp_path / "reviews.csv", bundle=uri), Screen())  # a cosine has nothing to train
    predict_table(request(tmp_path / "reviews.csv", bundle=uri, task="sst"), Screen())
    assert pq.read_table(tmp_path / "out").num_rows == 2
    only = bundle_of(tiny().model({"sst": "linear"}), tiny().tokenizer_json, {})
    save_bundle(Storage(str(tmp_path)), "only", only)
    predict_table(request(tmp_path / "reviews.csv", bundle=str(tmp_path / "only"), columns=("review",),
                          output=str(tmp_path / "other")), Screen())  # fmt: skip


def test_a_task_of_ones_own_is_predicted_in_its_words(table: Path) -> None:
    label = replace(TASKS["sst"].label, high=2, words=("bad", "fair", "good"))
    specs = {**TASKS, "mine": replace(TASKS["sst"], name="mine", label=label)}
    own = bundle_of(replace(tiny(), specs=specs).model({"mine": "linear"}, seed=1), tiny().tokenizer_json, {})
    save_bundle(Storage(str(table.parent)), "bundle", own)
    predict_table(request(table, bundle=str(table.parent / "bundle"), columns=("text",)), Screen())
    found = pq.read_table(table.parent / "out").to_pydict()
    assert found["label"] == [label.words[at] for at in found["prediction"]] and len(found["probabilities"][0]) == 3


# Going on.


def test_work_that_was_stopped_makes_the_parts_that_are_not_there(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, made, write = table.parent / "out", [], Writer.write

    def stopping(writer: Writer, shard: Shard) -> None:
        if shard.number in stops:
            stops.remove(shard.number)
            raise KeyboardInterrupt
        made.append(shard.number)
        write(writer, shard)

    monkeypatch.setattr(Writer, "write", stopping)
    stops = [2, 3]
    while stops:
        with pytest.raises(KeyboardInterrupt):
            embed_table(request(table), Screen())
        assert not (output / MANIFEST).exists()
    embed_table(request(table), Screen())
    assert made == [0, 1, 2, 3]
    assert "3 parts are in" in capsys.readouterr().out
    np.testing.assert_allclose(vectors(output), TextEncoder(tiny()).embed(TEXTS), atol=1e-6)
    assert manifest(output)["rows"] == 50
    embed_table(request(table), Screen())
    assert made == [0, 1, 2, 3] and "all 4 parts are in" in capsys.readouterr().out


def flipped(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 1]) + data[41:]


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        (
            "part-00001.parquet",
            flipped,
            "part-00001.parquet: damaged, of other work, or of a build without checksums; made again",
        ),
        (
            "part-00001.parquet",
            lambda data: data[:-100],
            "part-00001.parquet: damaged, of other work, or of a build without checksums; made again",
        ),
        (MANIFEST, flipped, f"{MANIFEST}: damaged: .*; made again"),
        (WORK, flipped, f"{WORK}: damaged: .*; written again"),
    ],
)
def test_what_was_damaged_meanwhile_is_made_again(
    table: Path, complete: bool, name: str, damage: Callable[[bytes], bytes], said: str, caplog: Any
) -> None:
    output = table.parent / "out"
    embed_table(request(table), Screen())
    before = {file.name: file.read_bytes() for file in output.iterdir()}
    (output / name).write_bytes(damage(before[name]))
    if not complete:
        (output / MANIFEST).unlink()
    caplog.clear()
    embed_table(request(table), Screen())
    assert {file.name: file.read_bytes() for file in output.iterdir()} == before
    assert bool(re.search(said, caplog.text)) == (complete or name != MANIFEST)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("part-00009.parquet", r"part-00009\.parquet: the work has 4 parts, and this is none of them; remove it"),
        ("part-00001-copy.parquet", r"part-00001-copy\.parquet: no part of this work"),
    ],
)
def test_a_file_that_readers_would_take_for_a_part_is_refused(
    name: str, said: str, finished: bool, table: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    embed_table(request(table), Screen())
    (output / name).write_bytes((output / "part-00001.parquet").read_bytes())
    if not finished:
        (output / MANIFEST).unlink()
    with pytest.raises(UserError, match=said):
        embed_table(request(table), Screen())
    (output / name).unlink()
    embed_table(request(table), Screen())
    assert manifest(output)["parts"] == 4


def test_a_part_that_is_gone_is_said(table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    embed_table(request(table), Screen())
    (tmp_path / "out" / "part-00002.parquet").unlink()
    embed_table(request(table), Screen())
    assert "part-00002.parquet: gone; made again" in caplog.text
    assert len(part(tmp_path / "out", 2)) == 16


def test_a_part_of_other_work_is_made_again(table: Path, tmp_path: Path) -> None:
    """Sound, of the same name, and of other texts; and one that is another part of this work."""
    embed_table(request(table), Screen())
    output = table.parent / "out"
    before = {file.name: file.read_bytes() for file in output.iterdir()}
    other = request(table, output=str(tmp_path / "other"), rows=17)
    embed_table(other, Screen())
    (output / "part-00000.parquet").write_bytes((tmp_path / "other" / "part-00000.parquet").read_bytes())
    (output / "part-00002.parquet").write_bytes(before["part-00001.parquet"])
    embed_table(request(table), Screen())
    assert {file.name: file.read_bytes() for file in output.iterdir()} == before


def test_the_same_table_elsewhere_is_the_same_work(table: Path) -> None:
    embed_table(request(table), Screen())
    moved = table.rename(table.parent.joinpath("elsewhere").with_suffix(".jsonl"))
    with pytest.raises(UserError, match=r"other work: input was .*texts.jsonl.*, is now .*elsewhere.jsonl"):
        embed_table(request(moved), Screen())  # rows' files are named by it
    (table.parent / "folder").mkdir()
    embed_table(
        request(moved.rename(table.parent / "folder" / "texts.jsonl"), output=str(table.parent / "out")), Screen()
    )


def other_text(given: TableRequest) -> TableRequest:
    file = Path(given.input)
    file.write_text(file.read_text().replace("music", "mucis"))
    return given


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: replace(r, rows=17), "part_rows was 16, is now 17"),
        (lambda r: replace(r, columns=("id",)), r"columns was \['text'\], is now \['id'\]"),
        (lambda r: replace(r, keep=True), "keep was False, is now True"),
        (lambda r: replace(r, bundle=with_heads(Path(r.input).parent)[0]), "bundle was"),
        (other_text, r"input was \[.*sha256"),
    ],
)
def test_other_work_in_the_same_place_is_refused(
    table: Path, change: Callable[[TableRequest], TableRequest], said: str
) -> None:
    embed_table(request(table), Screen())
    with pytest.raises(UserError, match=f"out: holds parts of other work: {said}") as caught:
        embed_table(change(request(table)), Screen())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_mistake_before_the_first_part_takes_no_place(table: Path) -> None:
    with pytest.raises(UserError, match=r"no column txet; columns found: id, text"):
        embed_table(request(table, columns=("txet",)), Screen())
    embed_table(request(table), Screen())


def test_a_directory_with_anything_else_in_it_is_refused(table: Path) -> None:
    with pytest.raises(UserError, match=r"holds texts.jsonl, which is not of this work; name an empty directory"):
        embed_table(request(table, output=str(table.parent)), Screen())


# What is refused.


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("texts.pdf", "", r"texts.pdf: unknown format; .* \.csv, \.tsv, \.jsonl, .*\.txt"),
        ("absent.csv", None, r"absent.csv: no such file; its directory holds"),
        ("texts.txt", "", r"texts.txt: no usable row with text"),
        ("texts.csv", "text\n\0\n", r"texts.csv: no usable row with text: texts.csv:2: text holds a NUL byte"),
        ("texts.parquet", "text\n", r"texts.parquet: not a readable Parquet file"),
        ("*.csv", None, r"\*.csv: no file fits"),
    ],
)
def test_a_table_that_cannot_be_read_is_said_in_a_line(
    tmp_path: Path, name: str, content: str | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said) as caught:
        embed_table(request(tmp_path / name), Screen())
    assert "\n" not in str(caught.value)


def test_two_columns_of_one_name_are_refused(table: Path) -> None:
    for columns, keep in ((("text", "text"), False), (("id",), True)):
        with pytest.raises(UserError, match=f"--column {columns[0]}: a part would have two columns of that name"):
            embed_table(request(table, columns=columns, keep=keep), Screen())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "sst"], "--task, --column, --keep and --workers go with --input"),
        (["--data", "d", "--input", "i.txt"], "--data and --input: give one of them"),
        (["--input", "i.txt", "--task", "jobs"], "no trained head for task jobs"),
        (["--input", "i.txt", "--task", "sts", "--column", "a"], "--column: a; task sts takes 2: its sentence1, sent"),
    ],
)
def test_predict_says_which_options_go_together(tmp_path: Path, words: list[str], said: str) -> None:
    uri, _ = with_heads(tmp_path)
    done = CliRunner().invoke(app, ["predict", uri, "--output", str(tmp_path / "out"), *words])
    assert isinstance(done.exception, UserError) and said in str(done.exception)
