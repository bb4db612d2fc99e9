"""What is fuzzed: each target takes bytes as a user, or a file from elsewhere, could give them, and may only refuse.

A target returns, or raises UserError (one line, exit status 2); for the command line, an exit with status 0 or 2.
Whatever else comes out is a finding. Nothing here trains, serves or uses a network.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest.mock import Mock, patch

import typer
from safetensors.torch import save
from typer.exceptions import TyperException

from multitask.bundle.bundle import read_bundle, save_bundle, source_bundle
from multitask.bundle.found import read_model
from multitask.data.sample import sample_uri
from multitask.data.shards import read_examples
from multitask.errors import UserError
from multitask.model.config import BertConfig
from multitask.model.sources import load_source, parse_tokenizer
from multitask.recipe.data_maps import mapped, place_of
from multitask.recipe.loading import load_recipe, load_sweep
from multitask.recruit.postings import read_postings
from multitask.report.reading import read_evidence
from multitask.storage.sealed import Damaged, read_sealed, write_sealed
from multitask.storage.storage import MANIFEST, Storage
from multitask.storage.uris import open_fs
from multitask.tasks.table import TASKS
from ray_jobs.options import sweep_settings, workers_span

CORPUS = Path(__file__).parent / "corpus"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Target:
    """run: what takes the bytes. seeds: sound ones to start from. inputs: how many `make fuzz` tries."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    inputs: int


@cache
def _scratch() -> Path:
    """A folder for this process, gone with it."""
    folder = tempfile.TemporaryDirectory(prefix="minibert-fuzz-")
    _scratch.kept = folder  # type: ignore[attr-defined]
    return Path(folder.name)


def _file(name: str, data: bytes) -> str:
    path = _scratch() / name
    path.write_bytes(data)
    return str(path)


# Readers: the first byte chooses the format, the second the task and whether labels are wanted.


ROW_ENDINGS = ("csv", "tsv", "jsonl", "parquet", "json", "arrow", "csv.gz")


def _read_rows(data: bytes) -> None:
    ending = ROW_ENDINGS[data[0] % len(ROW_ENDINGS)] if data else "csv"
    spec = list(TASKS.values())[data[1] % 4] if len(data) > 1 else TASKS["sst"]
    path = _file(f"rows.{ending}", data[2:])
    result = read_examples(path, spec, labelled=bool(data[1:2] and data[1] & 8), max_bad_rows=1.0)
    assert all(example.texts and all(text.strip() for text in example.texts) for example in result.examples)


def _row_seeds() -> list[bytes]:
    files = [Path(sample_uri()) / f"{stem}.csv" for stem in ("ids-sst-dev", "quora-dev", "sts-dev")]
    heads = [b"".join(file.read_bytes().splitlines(keepends=True)[:5]) for file in files]
    rows = [{"id": "1", "sentence": "A film.", "sentiment": 3}, {"id": 2, "sentence": 'a "b"\tc', "sentiment": "4"}]
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    arrays = json.dumps(rows, indent=1).encode()
    packed = gzip.compress(heads[0], mtime=0)
    return [
        *(bytes([0, 8]) + heads[0], bytes([1, 10]) + heads[1], b"\0\3" + heads[2], bytes([2, 8]) + lines),
        *(bytes([4, 8]) + arrays, bytes([6, 8]) + packed, *_arrow()),
    ]


def _arrow() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"id": ["1", "2"], "sentence": pa.array(["one", "two"]).dictionary_encode(), "sentiment": [0, 4]})
    stored, streamed = io.BytesIO(), io.BytesIO()
    pq.write_table(table, stored)
    with pa.ipc.new_stream(streamed, table.schema) as out:
        out.write_table(table)
    return [bytes([3, 8]) + stored.getvalue(), bytes([5, 8]) + streamed.getvalue()]


def _read_postings(data: bytes) -> None:
    ending = ("csv", "tsv", "jsonl", "parquet")[data[0] % 4] if data else "csv"
    read_postings(_file(f"postings.{ending}", data[1:]), max_bad_rows=1.0)


def _posting_seeds() -> list[bytes]:
    header = "Title,Company,Location,JobDescription,JobRequirment,RequiredQual\n"
    return [b"\0" + (header + 'Nurse,Clinic,Yerevan,"Care for\npatients",NA,Diploma\n').encode()]


# Recipes, overrides, maps.


def _read_recipe(data: bytes) -> None:
    load_recipe(_file("recipe.yaml", data))


def _override(data: bytes) -> None:
    words = data.decode("utf-8", "surrogateescape").split("\n")
    load_recipe("demo", words[:4])
    load_sweep("demo", words[4:6], None, sweep_settings(words[6:7], words[7:8], 3, "sts/pearson", False))


def _options(data: bytes) -> None:
    words = [*data.decode("utf-8", "surrogateescape").split("\n"), "", ""]
    workers_span(words[0], words[1])


def _read_map(data: bytes) -> None:
    path = _file("map.yaml", data)
    mapped(path)
    place_of(path).specs()


def _recipe_seeds() -> list[bytes]:
    root = ROOT / "configs" / "recipes"
    return [(root / name).read_bytes() for name in ("demo.yaml", "joint.yaml", "mlm-mnrl/ablation.yaml")]


def _map_seeds() -> list[bytes]:
    own = b"tasks:\n  tone: {define: {columns: [a], label: {column: b, words: [x, y]}}, train: t.csv, dev: d.csv}\n"
    return [own, *(file.read_bytes() for file in sorted((ROOT / "configs" / "data").glob("*.yaml")))]


# Models: files of a bundle, each behind a true checksum, or the manifest itself.


@cache
def _sound() -> dict[str, bytes]:
    storage = Storage(str(_scratch() / "sound"))
    save_bundle(storage, "", source_bundle(load_source("tiny")))
    return read_sealed(storage)


def _read_bundle(data: bytes) -> None:
    """The first byte chooses the file that is replaced; of the weights, only the header is."""
    files, names = dict(_sound()), sorted(_sound())
    name = names[data[0] % len(names)] if data else names[0]
    files[name] = data[1:] if name != "weights.safetensors" else data[1:] + files[name][max(0, len(data) - 1) :]
    storage = Storage(str(_scratch() / "bundle"))
    write_sealed(storage, "", files, {"schema": 1})
    read_bundle(storage)


def _bundle_seeds() -> list[bytes]:
    names = sorted(_sound())
    tokenizer = json.loads(_sound()["tokenizer.json"])
    tokenizer["model"]["vocab"] = dict(list(tokenizer["model"]["vocab"].items())[:8])
    contents = {**_sound(), "tokenizer.json": json.dumps(tokenizer).encode()}
    return [bytes([at]) + contents[name][:3000] for at, name in enumerate(names)]


def _read_manifest(data: bytes) -> None:
    storage = Storage(str(_scratch() / "manifest"))
    if not storage.exists("model.json"):
        write_sealed(storage, "", _sound(), {"schema": 1})
    storage.write_bytes(MANIFEST, data)
    with contextlib.suppress(Damaged):
        read_sealed(storage)
    with contextlib.suppress(UserError):
        read_bundle(storage)


def _manifest_seeds() -> list[bytes]:
    _read_manifest(b"")
    storage = Storage(str(_scratch() / "sealed"))
    write_sealed(storage, "", {"a": b"1"}, {"schema": 1})
    return [storage.read_bytes(MANIFEST)]


def _read_config(data: bytes) -> None:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(values, dict):
        BertConfig.from_dict(values, "config.json")


def _import(data: bytes) -> None:
    """A Hugging Face folder of which one file is replaced: the first byte says which."""
    names = ("config.json", "modules.json", "1_Pooling/config.json", "tokenizer_config.json", "minibert.json")
    folder = Storage(str(_scratch() / "folder"))
    name = names[data[0] % len(names)] if data else names[0]
    sound = {"config.json": _config(), "tokenizer.json": _sound()["tokenizer.json"], "model.safetensors": _encoder()}
    for file, content in {**sound, **dict.fromkeys(names[1:], b""), name: data[1:]}.items():
        if content:
            folder.write_bytes(file, content)
        elif folder.exists(file):
            folder.remove(file)
    read_model(folder.uri)


@cache
def _encoder() -> bytes:
    return save(load_source("tiny").state)


def _config() -> bytes:
    return json.dumps(json.loads(_sound()["model.json"])["config"]).encode()


def _import_seeds() -> list[bytes]:
    pooling = b'{"word_embedding_dimension": 64, "pooling_mode_mean_tokens": true}'
    modules = b'[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]'
    return [b"\0" + _config(), b"\1" + modules, b"\2" + pooling, b"\3" + b'{"do_lower_case": true}']


def _read_tokenizer(data: bytes) -> None:
    parse_tokenizer(data, "tokenizer.json")


# A run's folder, as the report reads it.


def _read_results(data: bytes) -> None:
    folder = Storage(str(_scratch() / "runs"))
    folder.write_bytes("results.json", data)
    read_evidence(folder)


def _result_seeds() -> list[bytes]:
    stage = {"name": "sst", "trainer": "TorchTrainer_x", "variant": 0, "seed": 1, "objective": "supervised"}
    stage |= {"train": "full-model", "from": "encoder", "status": "finished", "metrics": {"sst/accuracy": 0.5}}
    found = {"schema": 1, "experiment": "x", "recipe": "x", "encoder": "tiny", "data": {}, "stages": [stage]}
    return [json.dumps(found).encode()]


def _open(data: bytes) -> None:
    open_fs(data.decode("utf-8", "surrogateescape"))


# The command line: each line is an argument; one that begins with a control character is a word of WORDS.

WORDS = (
    *("train", "sweep", "evaluate", "predict", "report", "data", "check", "export", "import", "embed", "recruit"),
    *("search", "complete", "suitability", "index", "prepare", "measure", "card", "audit", "--help", "--data"),
    *("--storage", "--workers", "--set", "--grid", "--by", "--output", "--json", "--split", "--stage", "--format"),
    *("demo", "tiny", "none.csv", "texts.txt", ".", "", "-", "--", "0", "-1", "1e999", "a=b", "stages.sts.lr=x"),
    *("transformers", "dev", "k", "-k", "--mode", "--seeds", "--experiment", "../x", "runs", "--column", "--input"),
)


def _command_line(data: bytes) -> None:
    lines = data.decode("utf-8", "replace").replace("\0", "").split("\n")[:12]
    words = [WORDS[ord(line[0]) % len(WORDS)] if line and ord(line[0]) < 32 else line for line in lines]
    run_command([word for word in words if "://" not in word])


def run_command(words: list[str]) -> None:
    """In a folder of its own. Raises what is neither status 0 nor a refusal."""
    from ray_jobs import cli

    (_scratch() / "here").mkdir(exist_ok=True)
    (_scratch() / "here" / "texts.txt").write_text("one text\n")
    before = Path.cwd()
    os.chdir(_scratch() / "here")
    try:
        with _harmless(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            status = cli.app(words, standalone_mode=False)
        assert status in (None, 0, 2, 3), status
    except (UserError, TyperException, typer.Exit, typer.Abort):
        return
    except SystemExit as end:
        assert end.code in (None, 0, 2, 3), end.code
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    """Commands that would train, serve, wait or start Ray do nothing."""
    import ray_jobs.doctor
    import ray_jobs.driver.driver
    import ray_jobs.recruit.folds
    import ray_jobs.recruit.serve
    import ray_jobs.runners.cluster

    no_cluster = Mock(side_effect=UserError("no Ray here"))
    serving = [name for name in vars(ray_jobs.recruit.serve) if name.startswith(("serve", "run_"))]
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, {"HF_HUB_OFFLINE": "1", "COLUMNS": "80"}))
        stack.enter_context(patch.object(ray_jobs.runners.cluster.Cluster, "__enter__", no_cluster))
        stack.enter_context(
            patch.object(ray_jobs.driver.driver, "run_training", side_effect=UserError("no training here"))
        )
        stack.enter_context(patch.object(ray_jobs.doctor, "examine", return_value=[]))
        stack.enter_context(patch.object(ray_jobs.recruit.folds, "run_folds", return_value=0))
        for name in serving:
            stack.enter_context(patch.object(ray_jobs.recruit.serve, name, return_value=0))
        yield


def _command_seeds() -> list[bytes]:
    lines = [
        ["train", "demo", "--set", "defaults.epochs=1"],
        ["sweep", "demo", "--stage", "sts", "--grid", "lr=1e-3", "--by", "sts/pearson"],
        ["evaluate", "runs/demo/sst", "--split", "dev"],
        ["predict", "tiny", "--input", "texts.txt", "--output", "out"],
        ["embed", "tiny", "texts.txt", "out", "--workers", "0"],
        ["data", "check", "glue"],
        ["recruit", "prepare", "none.csv", "--output", "jobs"],
        ["export", "tiny", "--format", "transformers", "--output", "exported"],
    ]
    return ["\n".join(words).encode() for words in lines]


TARGETS: dict[str, Target] = {
    "readers": Target(_read_rows, _row_seeds, 30_000),
    "postings": Target(_read_postings, _posting_seeds, 10_000),
    "recipes": Target(_read_recipe, _recipe_seeds, 10_000),
    "overrides": Target(_override, lambda: [b"defaults.epochs=1\nstages.sts.lr=1e-3\ndata=null\na=[1"], 5_000),
    "options": Target(_options, lambda: [b"2:6\ngpu", b"0\nauto"], 10_000),
    "maps": Target(_read_map, _map_seeds, 10_000),
    "bundles": Target(_read_bundle, _bundle_seeds, 5_000),
    "manifests": Target(_read_manifest, _manifest_seeds, 10_000),
    "configs": Target(_read_config, lambda: [_config()], 20_000),
    "imports": Target(_import, _import_seeds, 5_000),
    "tokenizers": Target(_read_tokenizer, lambda: [_bundle_seeds()[1][1:]], 5_000),
    "results": Target(_read_results, _result_seeds, 5_000),
    "uris": Target(_open, lambda: [b"s3://bucket/key", b"hf://datasets/a/b", b"../x", b"memory://a"], 10_000),
    "commands": Target(_command_line, _command_seeds, 5_000),
}
