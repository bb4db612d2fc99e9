"""Layers that are a task's own: what its sentences go through, what trains them, and where they are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from multitask import load_bundle
from multitask.bundle.bundle import Bundle, bundle_of, facts_of, read_bundle, save_bundle
from multitask.data.samplers import Rows
from multitask.errors import UserError
from multitask.experiment.features import encoder_key
from multitask.experiment.teachers import teacher_model
from multitask.export.graphs import SentenceGraph
from multitask.export.model_card import model_card
from multitask.export.provenance import Provenance
from multitask.inference.embed import TextEncoder
from multitask.inference.predict import Predictor
from multitask.measure.evaluate import EvalSet, head_outputs
from multitask.objectives.base import Place
from multitask.objectives.distillation import Teacher
from multitask.storage.storage import Storage
from ray_jobs.bundles.export import export_bundle, import_model
from ray_jobs.screen import Screen
from tests.helpers import newest, objective_of, random_sentences, run, small_job, table_of, tiny

HEADS = {"sst": "mlp", "quora": "linear", "sts": "cosine"}
TEXTS = ["A warm film.", "Two hours of nothing, with a fine end.", "No."]
TOP = "encoder.encoder.layer.1."


def branched(**copy_top: int) -> Bundle:
    """A model of which tasks own layers, which have moved since they were copied."""
    model = tiny().model(HEADS, seed=3, copy_top=copy_top)
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in model.branches.parameters():
            weight += 0.1 * torch.randn(weight.shape)
    return bundle_of(model, tiny().tokenizer_json, {"trained": list(HEADS)})


def dev_outputs(bundle: Bundle, task: str) -> Tensor:
    """What `evaluate` measures, of TEXTS."""
    model, tokenizer = bundle.model().eval(), bundle.tokenizer
    sides = [TEXTS] if task == "sst" else [TEXTS, TEXTS[::-1]]
    per_row = [tokenizer.encode(side[row]).ids for row in range(len(TEXTS)) for side in sides]
    table = table_of(per_row, [0.0] * len(TEXTS), per=len(sides))
    return head_outputs(model, EvalSet.of(task, table, "cpu"), device=torch.device("cpu"))


def answers(bundle: Bundle, task: str) -> Tensor:
    sides = [TEXTS] if task == "sst" else [TEXTS, TEXTS[::-1]]
    return Predictor(bundle).outputs(task, *sides)


@pytest.mark.parametrize("count", [3, 300])
def test_a_copy_answers_as_the_encoder_did(count: int) -> None:
    """Padded, and packed, as larger batches are."""
    plain, copied = tiny().model(HEADS, seed=3).eval(), tiny().model(HEADS, seed=3, copy_top={"sst": 2}).eval()
    objective = objective_of({"sst": table_of(random_sentences(count), [0.0] * count, per=1)})
    batch = objective.batch("sst", np.arange(count), np.ones(count, np.float32), "now")
    assert torch.equal(plain(batch), copied(batch))


def test_a_task_goes_through_its_own_layers_and_others_do_not() -> None:
    bundle, before = branched(sst=1), tiny().model(HEADS, seed=3)
    plain = bundle_of(before, tiny().tokenizer_json, {"trained": list(HEADS)})
    own = {
        f"{TOP}{name.removeprefix('branches.sst.1.')}": t for name, t in bundle.tensors.items() if "branches" in name
    }
    expected = replace(plain, tensors={**plain.tensors, **own})
    assert len(own) == 16 and not torch.equal(answers(bundle, "sst"), answers(plain, "sst"))
    assert torch.equal(answers(bundle, "sst"), answers(expected, "sst"))
    assert torch.equal(answers(bundle.of_task("sst"), "sst"), answers(expected, "sst"))
    for task in ("quora", "sts"):
        assert torch.equal(answers(bundle, task), answers(plain, task))
    assert np.array_equal(TextEncoder(bundle).embed(TEXTS), TextEncoder(plain).embed(TEXTS))


@pytest.mark.parametrize("task", HEADS)
def test_texts_are_answered_as_dev_rows_are_measured(task: str) -> None:
    bundle = branched(sst=1, quora=1, sts=2)
    torch.testing.assert_close(answers(bundle, task), dev_outputs(bundle, task).float(), atol=1e-5, rtol=1e-5)
    assert (answers(bundle, task) - answers(replace(bundle, branches={}), task)).abs().max() > 1e-3


def test_a_batch_reaches_all_that_ddp_waits_for_and_no_other_tasks_layers() -> None:
    tables = {
        task: table_of(random_sentences(sides * 4), [0.0] * 4, per=sides) for task, sides in (("sst", 1), ("quora", 2))
    }
    objective = objective_of(tables, copy_top=1)
    for task in tables:
        objective.model.zero_grad(set_to_none=True)
        rows: Rows = np.arange(4)
        objective.loss(objective.batch(task, rows, np.ones(4, np.float32), "now"), Place())[0].backward()
        reached = {name for name, weight in objective.model.named_parameters() if weight.grad is not None}
        told = objective.reached(objective.model, task)
        trained = {name for name, weight in objective.model.named_parameters() if weight.requires_grad}
        assert reached == {name for name in trained if name.startswith(tuple(f"{part}." for part in told))}
        assert any(name.startswith(f"branches.{task}.1.") for name in reached)
        assert not any(name.startswith(TOP) for name in trained)


def test_more_layers_become_its_own_and_never_fewer() -> None:
    bundle = branched(sst=1)
    for size, names in ((2, {"0", "1"}), (1, {"1"}), (0, {"1"})):
        model = bundle.model(copy_top={"sst": size})
        assert set(model.own_layers("sst")) == {int(name) for name in names}
        state = {name: value for name, value in model.state_dict().items() if name.startswith("branches.sst.1.")}
        assert all(torch.equal(value, bundle.tensors[name]) for name, value in state.items()) and len(state) == 16
    grown = bundle.model(copy_top={"sst": 2}).state_dict()
    first = "encoder.encoder.layer.0.output.dense.weight"
    assert torch.equal(grown["branches.sst.0.output.dense.weight"], bundle.tensors[first])
    assert not bundle.model({}).branches


def test_a_bundle_keeps_them(tmp_path: Path) -> None:
    bundle, place = branched(sst=1, sts=2), Storage(str(tmp_path))
    save_bundle(place, "own", bundle)
    found = read_bundle(place, "own")
    assert found.branches == {"sst": 1, "sts": 2}
    for task in HEADS:
        assert torch.equal(answers(found, task), answers(bundle, task))
    assert [facts_of(some)["schema"] for some in (bundle, branched())] == [2, 1], "older builds refuse the former"
    assert "branches" not in facts_of(branched())


DAMAGED = [
    ({"branches": {"cfimdb": 1}}, "layers of its own for task 'cfimdb', which has no head"),
    ({"branches": {"sst": 3}}, "3 layers of its own for task 'sst'; the encoder has 2"),
    ({"branches": {"sst": 0}}, r"branches\.sst: Input should be greater than or equal to 1"),
    ({"branches": {"quora": 1}}, r"branches\.quora\.1\.\S+ is absent, by model.json \("),
    ({"branches": {}}, r"branches\.sst\.1\.\S+ is \(\S+\), by model.json absent"),
    ({"branches": {"sst": 2}}, r"branches\.sst\.0\.\S+ is absent"),
]


@pytest.mark.parametrize(("told", "said"), DAMAGED)
def test_what_a_damaged_bundle_claims_is_refused(tmp_path: Path, told: dict[str, Any], said: str) -> None:
    place, bundle = Storage(str(tmp_path)), branched(sst=1)
    of_sst = told["branches"].keys() <= {"sst"}
    tensors = {name: t for name, t in bundle.tensors.items() if of_sst or "branches" not in name}
    save_bundle(place, "own", replace(bundle, tensors=tensors, branches=told["branches"]))
    with pytest.raises(UserError, match=said):
        read_bundle(place, "own")


def test_an_export_comes_back_and_graphs_have_them(tmp_path: Path) -> None:
    bundle, place = branched(sst=1), Storage(str(tmp_path))
    save_bundle(place, "own", bundle)
    export_bundle(str(tmp_path / "own"), "transformers", str(tmp_path / "out"), "float32", None, Screen(quiet=True))
    import_model(str(tmp_path / "out"), str(tmp_path / "back"), Screen(quiet=True))
    back = read_bundle(place, "back")
    assert torch.equal(answers(back, "sst"), answers(bundle, "sst"))
    ids = torch.tensor(random_sentences(3, low=5, high=5))
    graph, model = SentenceGraph(bundle, "sst").eval(), bundle.model().eval()
    mask = torch.ones_like(ids, dtype=torch.bool)
    objective = objective_of({"sst": table_of(ids.tolist(), [0.0] * 3, per=1)})
    batch = objective.batch("sst", np.arange(3), np.ones(3, np.float32), "now")
    torch.testing.assert_close(graph(ids, mask), model(batch), atol=1e-6, rtol=0)


def test_encodings_of_a_frozen_encoder_are_kept_by_whose_layers_made_them() -> None:
    keys = {encoder_key(some.model(), "32-true") for some in (branched(), branched(sst=1), branched(sst=2))}
    assert len(keys) == 3


def test_layers_that_are_not_trained_are_not_renewed() -> None:
    """Neither another task's own nor those that a stage's copies were made of."""
    model = branched(sst=1).model(copy_top={"quora": 2})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.set_trainable({"quora": model.sentence_modules("quora", through_head=True)}, full_model=True)
    model.reinitialise(2, seed=1)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".dense")[0] for name in moved if "output.dense.weight" in name} == {
        f"branches.quora.{number}{part}" for number in (0, 1) for part in (".output", ".attention.output")
    }
    assert not any(name.startswith(("branches.sst", "encoder.encoder")) for name in moved)


def test_tasks_that_share_no_trained_layer_cannot_conflict(tmp_path: Path) -> None:
    for more in ({"surgery": "pcgrad"}, {"log": {"conflict": 1}}):
        stage = {"tasks": ["sst", "quora"], "max_examples": 20, "epochs": 1, "freeze": 1, "copy_top": 1, **more}
        with pytest.raises(UserError, match=r"stages\.\w+: .* share a trained layer; .* a smaller freeze or copy_top"):
            run(small_job(tmp_path, next(iter(more)), **stage))


def test_a_teachers_encodings_are_those_of_the_layers_that_learned_the_task() -> None:
    bundle, teacher = branched(sst=1), Teacher(bundle="somewhere", embeddings=True)
    model = teacher_model(bundle, bundle.specs["sst"], teacher, torch.device("cpu"))
    own = bundle.tensors["branches.sst.1.output.dense.weight"]
    assert torch.equal(model.state_dict()[f"{TOP}output.dense.weight"], own) and not model.branches


def test_a_card_says_whose_layers_are_not_the_encoders() -> None:
    page = model_card(branched(sst=1), "transformers", Provenance(), ".")
    assert "which are not the encoder's and go with their heads: sst (its last 1)." in page


def test_a_stage_trains_copies_and_leaves_what_they_are_copies_of(tmp_path: Path) -> None:
    job = small_job(tmp_path, tasks=["sst", "quora"], max_examples=20, epochs=1, copy_top=1)
    assert run(job)
    start = read_bundle(Storage(job.owner.storage), job.model.start).tensors
    made = read_bundle(job.folder, "bundle")
    assert made.branches == {"sst": 1, "quora": 1}
    moved = {name for name in start if not torch.equal(made.tensors[name], start[name])}
    assert any(name.startswith("encoder.encoder.layer.0.") for name in moved)
    assert not any(name.startswith(TOP) for name in moved)
    weight = "output.dense.weight"
    copies = [made.tensors[f"branches.{task}.1.{weight}"] for task in ("sst", "quora")]
    assert not any(torch.equal(one, start[TOP + weight]) for one in copies) and not torch.equal(*copies)
    assert {name.split(".")[1] for name in newest(job).weights if name.startswith("branches.")} == {"sst", "quora"}
    model = load_bundle(f"{job.folder.uri}/bundle")
    assert json.dumps(model.predict("sst", TEXTS).tolist())
