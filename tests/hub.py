"""Small files of the hub's columns and types, and servers of them: a plain web server, and as much of the hub as
huggingface_hub's file system asks for."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from multitask.data.files import find_file
from multitask.data.sample import sample_uri
from multitask.data.shards import read_examples
from multitask.tasks.table import TASKS, Split

# Task -> its folder on the hub, the files of its splits, the texts' columns.
FILES: dict[str, tuple[str, dict[Split, str], tuple[str, ...]]] = {
    "sst": ("SetFit/sst5", {split: f"{split}.jsonl" for split in ("train", "dev", "test")}, ("text",)),
    "quora": (
        "nyu-mll/glue/qqp",
        {"train": "train-00000-of-00001.parquet", "dev": "validation-00000-of-00001.parquet"},
        ("question1", "question2"),
    ),
    "sts": (
        "nyu-mll/glue/stsb",
        {
            "train": "train-00000-of-00001.parquet",
            "dev": "validation-00000-of-00001.parquet",
            "test": "test-00000-of-00001.parquet",
        },
        ("sentence1", "sentence2"),
    ),
    "cfimdb": (
        "stanfordnlp/imdb/plain_text",
        {"train": "train-00000-of-00001.parquet", "dev": "test-00000-of-00001.parquet"},
        ("text",),
    ),
}
WORDS = ("very negative", "negative", "neutral", "positive", "very positive")


def write_hub(folder: Path) -> None:
    """The sample's rows as the hub's data sets have them; what is withheld of a test split is -1."""
    for task, (place, files, columns) in FILES.items():
        (folder / place).mkdir(parents=True)
        for split, name in files.items():
            spec = TASKS[task]
            found = read_examples(find_file(sample_uri(), spec, split), spec, labelled=split != "test").examples
            labels = [-1.0 if example.label is None else example.label for example in found]
            texts = dict(zip(columns, zip(*(example.texts for example in found), strict=True), strict=True))
            write = _jsonl if name.endswith("jsonl") else partial(_parquet, indexed=task in ("quora", "sts"))
            write(folder / place / name, texts, labels)


def _jsonl(file: Path, texts: dict[str, tuple[str, ...]], labels: list[float]) -> None:
    rows = zip(texts["text"], labels, strict=True)
    lines = [{"text": text, "label": int(label), "label_text": WORDS[int(label)]} for text, label in rows]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _parquet(file: Path, texts: dict[str, tuple[str, ...]], labels: list[float], indexed: bool) -> None:
    score = any(not label.is_integer() for label in labels) or "sentence1" in texts
    columns = {name: pa.array(values, pa.string()) for name, values in texts.items()}
    columns["label"] = pa.array(labels, pa.float32() if score else pa.float64()).cast(
        pa.float32() if score else pa.int64()
    )
    if indexed:
        columns["idx"] = pa.array(range(len(labels)), pa.int32())
    features = {"label": {"names": ["0", "1"], "_type": "ClassLabel"}}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file)


@contextmanager
def web(folder: Path) -> Iterator[str]:
    """A web server of the folder; its URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with _serving(partial(Quiet, directory=str(folder))) as url:
        yield url


@contextmanager
def hub(folder: Path, status: int = 200) -> Iterator[str]:
    """A hub whose data sets lie in the folder as `owner/name/...`; its endpoint. status: what it answers instead."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0].removeprefix("/api").removeprefix("/datasets/")
            owner, name, *rest = path.split("/")
            data_set = folder / owner / name
            if status != 200 or not data_set.is_dir():
                return self._say(b"{}", status if status != 200 else 404)
            if not rest:
                return self._say(json.dumps({"id": f"{owner}/{name}", "sha": "1" * 40, "siblings": []}).encode())
            what, _, *below = rest
            if what == "tree":
                files = sorted(data_set.joinpath(*below).iterdir())
                return self._say(json.dumps([_entry(file, data_set) for file in files]).encode())
            return self._say(data_set.joinpath(*below).read_bytes())

        def _say(self, body: bytes, status: int = 200) -> None:
            self.send_response(status)
            if status in (401, 404):
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with _serving(Hub) as url:
        yield url


def _entry(file: Path, data_set: Path) -> dict[str, object]:
    kind = {"type": "directory"} if file.is_dir() else {"type": "file", "size": file.stat().st_size}
    return {**kind, "oid": "0" * 40, "path": str(file.relative_to(data_set))}


@contextmanager
def _serving(handler: object) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)  # type: ignore[arg-type]
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
