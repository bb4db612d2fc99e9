"""Models of the reference libraries: one reader, the same embeddings at every door, and theirs to 1e-5."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from multitask import load_bundle
from multitask.bundle.bundle import read_bundle, save_bundle
from multitask.bundle.found import found_at
from multitask.data.tokens import load_tokens
from multitask.errors import UserError
from multitask.measure.evaluate import EvalSet, predictions
from multitask.model.sources import load_source
from multitask.recipe.checks import build_recipe
from multitask.recipe.stages import Recipe
from multitask.storage.storage import Storage
from ray_jobs.batch.table_job import TableRequest, embed_table
from ray_jobs.bundles.export import export_bundle, import_model
from ray_jobs.bundles.scoring import evaluate_bundle, predict_bundle
from ray_jobs.driver.prepare import prepare
from ray_jobs.screen import Screen
from tests.exports import bundle_with
from tests.model_folders import KINDS, LONG, TEXTS, Reference, Vectors, small

pytest.importorskip("transformers")
pytest.importorskip("sentence_transformers")

PAIRS = [(TEXTS[0], TEXTS[1]), (TEXTS[0], LONG), ("a cat", "a cat ran fast"), ("the man", "a guitar"), (LONG, "bad !")]
SCORES = [1.0, 0.5, 4.0, 2.0, 3.0]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Reference]:
    folder = tmp_path / "model"
    return str(folder), KINDS[request.param](folder)


def close(found: object, wanted: Vectors) -> bool:
    return float(np.abs(np.asarray(found, np.float64) - wanted).max()) < 1e-5


def pairs_file(folder: Path) -> Path:
    folder.mkdir()
    rows = [[str(at), f"id{at}", *pair, str(score)] for at, (pair, score) in enumerate(zip(PAIRS, SCORES, strict=True))]
    lines = ["\t".join(row) for row in [["", "id", "sentence1", "sentence2", "similarity"], *rows]]
    for split in ("train", "dev"):
        (folder / f"sts-{split}.csv").write_text("\n".join(lines) + "\n")
    return folder


def recipe_on(encoder: str, head: str, max_length: int, pooling: str | None = None) -> Recipe:
    tree = {
        "name": "small",
        "encoder": encoder,
        "pooling": pooling,
        "max_length": max_length,
        "tasks": {"sts": {"head": head}},
        "stages": [{"name": "sts", "tasks": ["sts"], "train": "full-model", "lr": 1e-3, "epochs": 1}],
    }
    return build_recipe(tree, "test")


def evaluated(uri: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What `minibert evaluate --json` says of sts."""
    capsys.readouterr()
    with Screen(as_json=True) as screen:
        evaluate_bundle(str(uri), str(data), "dev", screen)
    (task,) = json.loads(capsys.readouterr().out)["tasks"]
    return dict(task)


def similarities(reference: Reference) -> Vectors:
    """What the cosine head of the sts task makes of PAIRS: 5 * max(0, cosine)."""
    first, second = (reference.embed(side) for side in zip(*PAIRS, strict=True))
    return np.maximum(5.0 * (first * second).sum(axis=1), 0.0)


def test_every_door_gives_the_librarys_embeddings(
    kind: tuple[str, Reference], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, reference = kind
    caplog.set_level(logging.WARNING, logger="multitask")
    wanted, bundle = reference.embed(TEXTS), str(tmp_path / "bundle")
    import_model(folder, bundle, Screen(), reference.pooling)
    notes = [record.getMessage() for record in caplog.records if record.name.startswith("multitask")]
    assert [reference.note in note for note in notes] == ([True] if reference.note else [])
    assert close(load_bundle(bundle).embed(TEXTS), wanted)
    if reference.pooling is None:
        assert close(load_bundle(folder).embed(TEXTS), wanted)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    opened = bundle if reference.pooling else folder
    embed_table(TableRequest(opened, str(tmp_path / "texts.jsonl"), str(tmp_path / "vectors")), Screen())
    assert close(pq.read_table(tmp_path / "vectors")["embedding"].to_pylist(), wanted)


@pytest.mark.slow
def test_training_starts_from_what_evaluate_and_predict_measure(
    kind: tuple[str, Reference], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, reference = kind
    data, wanted = pairs_file(tmp_path / "data"), similarities(reference)
    import_model(folder, str(tmp_path / "bundle"), Screen(), reference.pooling)
    longest = read_bundle(Storage(str(tmp_path / "bundle"))).max_length
    storage = Storage(str(tmp_path / "runs"))
    prepared = prepare(recipe_on(folder, "cosine", longest, reference.pooling), str(data), storage)
    start, table = read_bundle(storage, prepared.start.path), load_tokens(storage, prepared.caches["sts"]["dev"])
    model, dev = start.model({"sts": "cosine"}).eval(), EvalSet.of("sts", table, "cpu")
    assert np.abs(predictions(model, dev, device=torch.device("cpu")).labels.numpy() - wanted).max() < 5e-5  # of 5

    trained = replace(start, heads={"sts": "cosine"}, about={"max_length": longest, "trained": ["sts"]})
    save_bundle(Storage(str(tmp_path / "trained")), "", trained)
    predict_bundle(str(tmp_path / "trained"), str(data), str(tmp_path / "out"), Screen())
    lines = (tmp_path / "out" / "predictions" / "sts-dev-output.csv").read_text().splitlines()[1:]
    assert np.abs(np.array([float(line.split(" , ")[1]) for line in lines]) - wanted).max() < 5e-5
    value = evaluated(tmp_path / "trained", data, capsys)["value"]
    assert abs(value - np.corrcoef(wanted, SCORES)[0, 1]) < 1e-5


@pytest.mark.parametrize("form", ["transformers", "sentence-transformers"])
def test_an_export_with_heads_is_read_by_every_command(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, bundle, exported = pairs_file(tmp_path / "data"), tmp_path / "bundle", tmp_path / "exported"
    made = bundle_with({"sts": "interaction"}, pooling="mean", mlm=None)
    save_bundle(Storage(str(bundle)), "", replace(made, about={**made.about, "trained": ["sts"]}))
    export_bundle(str(bundle), form, str(exported), "float32", None, Screen())
    assert np.array_equal(load_bundle(str(exported)).embed(TEXTS), load_bundle(str(bundle)).embed(TEXTS))
    assert evaluated(exported, data, capsys) == evaluated(bundle, data, capsys)

    storage = Storage(str(tmp_path / "runs"))
    start = prepare(recipe_on(str(exported), "interaction", 48), str(data), storage).start
    assert (start.heads, start.trained) == ({"sts": "interaction"}, ["sts"])
    stored = read_bundle(storage, start.path)
    assert stored.pooling == "mean" and all(stored.tensors[name].equal(made.tensors[name]) for name in made.tensors)


def test_heads_that_come_along_are_part_of_what_is_trained_from(tmp_path: Path) -> None:
    found = set()
    for seed in (1, 2):
        made = bundle_with({"sts": "interaction"}, mlm=None)
        made.tensors["heads.sts.layers.0.bias"][0] = float(seed)
        save_bundle(Storage(str(tmp_path / f"bundle{seed}")), "", made)
        exported = str(tmp_path / f"exported{seed}")
        export_bundle(str(tmp_path / f"bundle{seed}"), "transformers", exported, "float32", None, Screen())
        found.add(found_at(exported).fingerprint)
    assert len(found) == 2


def test_a_recipe_that_cuts_later_than_its_encoder_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    KINDS["max_seq_length"](tmp_path / "model")
    data, storage = str(pairs_file(tmp_path / "data")), Storage(str(tmp_path / "runs"))
    prepare(recipe_on(str(tmp_path / "model"), "cosine", 64), data, storage)
    assert "its own files cut texts to 8 tokens, this recipe to 64; max_length: 8 does as they do" in caplog.text
    caplog.clear()
    prepare(recipe_on(str(tmp_path / "model"), "cosine", 8), data, storage)
    assert not caplog.text


def test_a_pooler_that_is_not_there_is_not_used(tmp_path: Path) -> None:
    KINDS["BertForMaskedLM"](tmp_path / "model")
    data, storage = str(pairs_file(tmp_path / "data")), Storage(str(tmp_path / "runs"))
    import_model(str(tmp_path / "model"), str(tmp_path / "bundle"), Screen(), "mean")
    for encoder, said in (("model", "valid: pooling mean or cls"), ("bundle", "has no pooler; valid: cls, mean, max")):
        with pytest.raises(UserError, match=said):
            prepare(recipe_on(str(tmp_path / encoder), "cosine", 64, "pooler"), data, storage)


def test_embeddings_under_another_setting_are_other_work(tmp_path: Path) -> None:
    KINDS["BertModel"](tmp_path / "model")
    (tmp_path / "texts.txt").write_text("the cat\n")
    request = TableRequest(str(tmp_path / "model"), str(tmp_path / "texts.txt"), str(tmp_path / "vectors"))
    embed_table(request, Screen())
    (tmp_path / "model" / "1_Pooling").mkdir()
    (tmp_path / "model" / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    with pytest.raises(UserError, match="vectors"):
        embed_table(request, Screen())


def test_a_head_behind_a_prefix_of_all_names_is_called_by_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """transformers#406: a state dict of model.module under DataParallel, saved as pytorch_model.bin."""
    model = small(tmp_path / "qa", "BertForQuestionAnswering")
    (tmp_path / "qa" / "model.safetensors").unlink()
    torch.save({f"module.{n}": t for n, t in model.state_dict().items()}, tmp_path / "qa" / "pytorch_model.bin")
    load_source(str(tmp_path / "qa"), pooling="mean")
    assert "a BertForQuestionAnswering; its encoder is taken and its head left: qa_outputs (2 tensors)" in caplog.text
