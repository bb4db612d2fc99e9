"""A model's parts: learning rates of their own, freezing, gradual unfreezing, layers that start anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from multitask.bundle.bundle import read_bundle
from multitask.errors import UserError
from multitask.experiment.stage_job import StageJob, stage_content
from multitask.model.parts import depth_of, part_of
from multitask.recipe.checks import build_recipe
from multitask.recipe.sweeps import SWEEPABLE, trials
from multitask.storage.storage import Storage
from tests.helpers import (
    module_of,
    newest,
    random_sentences,
    recipe_tree,
    refused_stage,
    run,
    small_driver,
    small_job,
    table_of,
    tiny,
)

PLACES = {
    "heads.sst.layers.0.weight": ("heads", 0),
    "mlm.dense.weight": ("heads", 0),
    "encoder.pooler.dense.bias": ("pooler", 0),
    "encoder.encoder.layer.11.output.dense.weight": ("layer_11", 1),
    "encoder.encoder.layer.0.attention.self.query.bias": ("layer_0", 12),
    "encoder.embeddings.LayerNorm.weight": ("embeddings", 13),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_weights_place_follows_from_its_name(name: str) -> None:
    assert (part_of(name), depth_of(name, 12)) == PLACES[name]


def module(**stage: Any) -> Any:
    return module_of({"sst": table_of(random_sentences(4), [0, 1, 2, 3], per=1)}, tasks=["sst"], **stage)


def rates(**stage: Any) -> dict[str, float]:
    """Part -> the factor on its learning rate; each trained weight is in one group, matrices apart from vectors."""
    made = module(**stage)
    groups = made.configure_optimizers().param_groups
    held = [id(weight) for group in groups for weight in group["params"]]
    trained = {id(weight): name for name, weight in made.model.named_parameters() if weight.requires_grad}
    assert sorted(held) == sorted(trained)
    for group in groups:
        assert {part_of(trained[id(weight)]) for weight in group["params"]} == {group["part"]}
        assert len({weight.ndim > 1 for weight in group["params"]}) == 1
    return {group["part"]: group["scale"] for group in groups}


def test_learning_rates_fall_with_depth_and_differ_by_part() -> None:
    assert rates(layer_decay=0.5) == {"heads": 1.0, "layer_1": 0.5, "layer_0": 0.25, "embeddings": 0.125}
    scale = {"encoder": 0.1, "heads": 3.0}
    assert rates(lr_scale=scale) == {"heads": 3.0, "layer_1": 0.1, "layer_0": 0.1, "embeddings": 0.1}
    both = rates(lr_scale={**scale, "embeddings": 0.4}, layer_decay=0.5)
    assert both == pytest.approx({"heads": 3.0, "layer_1": 0.05, "layer_0": 0.025, "embeddings": 0.05})


def test_without_them_there_are_the_two_groups_of_old() -> None:
    groups = module(weight_decay=0.1).configure_optimizers().param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert not any({"part", "scale"} & group.keys() for group in groups)


@pytest.mark.slow
def test_each_part_has_a_curve_of_its_learning_rate(tmp_path: Path) -> None:
    """Ten steps, so one point."""
    jobs = small_job(tmp_path, "plain"), small_job(tmp_path, "decayed", layer_decay=0.5, schedule="linear")
    found = []
    for job in jobs:
        assert run(job)
        events = EventAccumulator(job.events.uri)
        events.Reload()
        tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("train/lr")]
        found.append({tag.removeprefix("train/"): events.Scalars(tag)[0].value for tag in tags})
    assert found[0] == pytest.approx({"lr": 1e-3})
    assert found[1] == pytest.approx(
        {"lr": 1e-4, "lr_heads": 1e-4, "lr_layer_1": 5e-5, "lr_layer_0": 2.5e-5, "lr_embeddings": 1.25e-5}
    )


def start_of(job: StageJob) -> dict[str, Tensor]:
    return read_bundle(Storage(job.owner.storage), job.model.start).tensors


def moved(job: StageJob) -> set[str]:
    """The parts of the encoder whose weights are others in the finished stage's bundle than in its start."""
    before, after = start_of(job), read_bundle(job.folder, "bundle").tensors
    return {part_of(name) for name in before if not torch.equal(before[name], after[name])}


def trained(folder: Path, **stage: Any) -> StageJob:
    job = small_job(folder, "-".join(f"{key}-{value}" for key, value in stage.items()), **stage)
    assert run(job)
    return job


@pytest.mark.slow
def test_what_is_frozen_neither_moves_nor_lies_in_checkpoints(tmp_path: Path) -> None:
    job = trained(tmp_path, epochs=1, freeze=1)
    assert moved(job) == {"layer_1"}
    assert {part_of(name) for name in newest(job).weights} == {"layer_1", "heads"}
    assert moved(trained(tmp_path, epochs=1, freeze=0)) == {"layer_1", "layer_0"}
    assert moved(trained(tmp_path, epochs=1, freeze=2)) == set()


@pytest.mark.slow
def test_gradual_unfreezing_comes_to_a_layer_an_epoch(tmp_path: Path) -> None:
    """Five steps an epoch. A weight that does not learn yet is not stepped, so that its moments begin when it does."""
    assert moved(trained(tmp_path, epochs=1, unfreeze=1, weight_decay=0.1)) == {"layer_1"}
    taken = newest(trained(tmp_path, epochs=3, unfreeze=1)).optimizer
    steps = {part_of(name): value.item() for name, value in taken.items() if name.endswith("/step")}
    assert steps == {"heads": 15, "layer_1": 15, "layer_0": 10, "embeddings": 5}
    taken = newest(trained(tmp_path, epochs=2, unfreeze=2, freeze=1)).optimizer
    assert {part_of(name) for name in taken} == {"heads", "layer_1"}


def test_last_layers_start_anew_by_the_seed(tmp_path: Path) -> None:
    model, before = tiny().model(), tiny().tensors
    model.reinitialise(1, seed=3)
    found = {name: weight.detach() for name, weight in model.named_parameters()}
    assert {part_of(name) for name in before if not torch.equal(before[name], found[name])} == {
        "layer_1", "pooler",
    }  # fmt: skip
    layer = "encoder.encoder.layer.1."
    assert found[f"{layer}output.dense.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert found[f"{layer}output.dense.bias"].eq(0).all() and found[f"{layer}output.LayerNorm.weight"].eq(1).all()
    double = tiny().model().double()
    double.reinitialise(1, seed=3)
    assert all(torch.equal(weight.float(), found[name]) for name, weight in double.named_parameters())
    other = tiny().model()
    other.reinitialise(1, seed=4)
    query = f"{layer}attention.self.query.weight"
    assert not torch.equal(other.get_parameter(query), found[query])


@pytest.mark.slow
def test_what_a_stage_starts_from_is_measured_before_layers_start_anew(tmp_path: Path) -> None:
    records = []
    for reinit in (0, 2):
        job = replace(small_job(tmp_path, f"reinit-{reinit}", epochs=1, reinit=reinit), measure_start=True)
        assert run(job)
        records.append(job.folder.read_json("outcome.json")["records"])
    assert records[0][0]["steps"] == 0
    assert records[0][0]["metrics"] == records[1][0]["metrics"]
    assert records[0][1]["metrics"] != records[1][1]["metrics"]


FROZEN = {"train": "last-linear-layer", "tasks": ["sst"]}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "layer_decay": ({"layer_decay": 0.0}, "layer_decay: 0.0"),
    "more than all": ({"layer_decay": 1.1}, "layer_decay: 1.1"),
    "part": ({"lr_scale": {"pooler": 1.0}}, "lr_scale.pooler: unknown key; known keys: embeddings, encoder, heads"),
    "no factor": ({"lr_scale": {"encoder": 0.0}}, "lr_scale.encoder: 0.0"),
    "no layers": ({"unfreeze": 0}, "unfreeze: 0"),
    **{
        f"frozen {key}": ({**FROZEN, key: value}, f"para.{key}: train: last-linear-layer .* or {key}: {default}")
        for key, value, default in (
            ("layer_decay", 0.9, "1.0"), ("lr_scale", {"heads": 2.0}, "null"), ("freeze", 1, "null"),
            ("unfreeze", 1, "null"), ("reinit", 1, "0"),
        )
    },
    "swept": ({"sweep": {"grid": {"lr_scale": [None]}, "by": "sst/accuracy"}}, "'lr_scale' cannot be swept"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_sense_is_refused_in_one_line(name: str) -> None:
    stage, said = BAD[name]
    refused_stage(said, **stage)


RANKING = {"objective": "ranking", "tasks": ["quora"]}
LAYERS: list[tuple[dict[str, Any], str]] = [
    ({"freeze": 3}, "stages.para.freeze: 3: the encoder has 2 layers"),
    ({"reinit": 3}, "stages.para.reinit: 3: the encoder has 2 layers"),
    ({"copy_top": 3}, "stages.para.copy_top: 3: the encoder has 2 layers"),
    ({"freeze": 1, "copy_top": 2}, "stages.para.copy_top: 2: the encoder has 2 layers, of which 1 are frozen"),
    ({"freeze": 1, "reinit": 2}, "stages.para.reinit: 2: the encoder has 2 layers, of which 1 are frozen"),
    ({**RANKING, "freeze": 2}, "stages.para.freeze: 2: all layers of the encoder: a batch has nothing to train"),
    ({"tasks": ["sst", "sts"], "freeze": 2}, "a batch has nothing to train"),
    (
        {"tasks": ["sst", "quora"], "freeze": 2, "surgery": "gradvac"},
        "stages.para.surgery: it is between tasks that train an encoder, and freeze: 2 leaves all of its layers",
    ),
    (
        {"tasks": ["sst", "quora"], "freeze": 2, "log": {"conflict": 5}},
        "stages.para.log.conflict: it is between tasks that train an encoder, and freeze: 2",
    ),
    ({"sweep": {"grid": {"freeze": [0, 9]}, "by": "quora/accuracy"}}, "stages.para.freeze: 9: the encoder has 2"),
]


@pytest.mark.parametrize(("stage", "said"), LAYERS)
def test_layers_that_the_encoder_has_not_are_refused_before_any_work(
    tmp_path: Path, stage: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        small_driver(tmp_path, **stage)
    assert len(str(caught.value).splitlines()) == 1


DEFAULTS = {"layer_decay": 1.0, "lr_scale": None, "freeze": None, "unfreeze": None, "reinit": 0}
OTHERS = {"layer_decay": 0.9, "lr_scale": {"encoder": 0.5}, "freeze": 0, "unfreeze": 1, "reinit": 1}


def content(**stage: Any) -> dict[str, Any]:
    recipe = build_recipe(recipe_tree(**stage), "r.yaml")
    at = recipe.stages[0]
    return stage_content(recipe, at, recipe.heads(at), {}, "parent", 1)


def test_they_are_content_only_where_they_are_given() -> None:
    plain = content()
    assert not {*DEFAULTS} & plain["stage"].keys() and content(**DEFAULTS) == plain
    for key, value in OTHERS.items():
        found = content(**{key: value})["stage"]
        assert found.pop(key) is not None and found == plain["stage"]
    assert {*DEFAULTS} - {*SWEEPABLE} == {"lr_scale"}


def test_whole_numbers_are_drawn_whole() -> None:
    span = {"low": 1, "high": 2, "log": False}
    sweep = {"random": {"unfreeze": span, "freeze": span}, "by": "quora/accuracy", "samples": 3}
    found = trials(build_recipe(recipe_tree(sweep=sweep), "r.yaml").stages[0], 1, "r.yaml")
    assert {type(value) for trial in found for value in (trial.stage.unfreeze, trial.stage.freeze)} == {int}
