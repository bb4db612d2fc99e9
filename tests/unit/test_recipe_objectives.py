"""Recipes with several objectives, tasks and branches: what is refused, inherited, content."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from multitask.errors import UserError
from multitask.experiment.stage_job import stage_content
from multitask.recipe.checks import build_recipe
from multitask.recipe.loading import apply_override
from multitask.recipe.stages import APPLIES, Recipe, Stage

WHERE = "recipe.yaml"
TEXT = """
name: many
encoder: tiny
tasks:
  sst:   {head: linear}
  quora: {head: linear}
  sts:   {head: cosine}
defaults: {epochs: 3, batch_size: 16, lr: 1.0e-4}
stages:
  - {name: mlm, objective: mlm, tasks: [sst, quora, sts], train: full-model}
  - {name: rank, objective: ranking, tasks: [quora, sts], train: full-model}
  - {name: joint, tasks: [sst, quora, sts], train: full-model}
  - {name: last, tasks: [sst, quora], train: last-linear-layer}
  - {name: role, objective: completion, tasks: [quora], train: full-model, from: encoder}
"""


def build(*overrides: str) -> Recipe:
    tree: Any = yaml.safe_load(TEXT)
    for override in overrides:
        apply_override(tree, override)
    return build_recipe(tree, WHERE)


def stage_of(recipe: Recipe, name: str) -> Stage:
    return next(stage for stage in recipe.stages if stage.name == name)


# What is set -> the YAML path, the value, what would be valid.
BAD = {
    "stages.joint.mixing={sst: 1.0}": ["stages.joint.mixing: weights for sst", "are sst, quora, sts"],
    "stages.joint.mixing={sst: 1.0, quora: 1.0, sts: 1.0, cfimdb: 1.0}": ["weights for sst, quora, sts, cfimdb"],
    "stages.joint.mixing={}": ["stages.joint.mixing", "are sst, quora, sts"],
    "stages.joint.mixing={sst: 0, quora: 1, sts: 1}": ["stages.joint.mixing.sst: 0: ", "greater than 0"],
    "stages.joint.mixing=zigzag": ["stages.joint.mixing", "'zigzag'", "'round-robin', 'proportional' or 'annealed'"],
    "stages.joint.loss_weights={cfimdb: 2.0}": ["stages.joint.loss_weights: 'cfimdb'", "sst, quora, sts"],
    "stages.rank.loss_weights={sst: 2.0}": ["stages.rank.loss_weights: 'sst'", "quora, sts"],
    "stages.joint.loss_weights={sst: -1.0}": ["stages.joint.loss_weights.sst", "-1.0", "greater than 0"],
    "stages.role.log={conflict: 50}": ["stages.role.log.conflict", "has one, quora; two or more"],
    "stages.last.log={conflict: 50}": ["stages.last.log.conflict", "heads alone; full-model"],
    "stages.role.surgery=pcgrad": ["stages.role.surgery", "has one, quora; two or more"],
    "stages.last.surgery=gradvac": ["stages.last.surgery", "heads alone; full-model"],
    "stages.joint.surgery=cagrad": ["stages.joint.surgery: 'cagrad'", "'none', 'pcgrad' or 'gradvac'"],
    "stages.rank.batch_size=1": ["stages.rank.batch_size: 1: ranking learns from the other examples", "2 or more"],
    "stages.last.copy_top=1": ["stages.last.copy_top", "last-linear-layer trains none", "leave it out"],
    "stages.mlm.copy_top=1": ["stages.mlm.copy_top", "mlm trains no task's head"],
    "stages.joint.copy_top=0": ["stages.joint.copy_top: 0", "greater than or equal to 1"],
    "stages.role.loss_weights=uncertainty": ["stages.role.loss_weights", "has one, quora; two or more"],
    "stages.last.loss_weights=uncertainty": ["stages.last.loss_weights", "heads alone; full-model"],
    "stages.joint.loss_weights=uncertain": ["stages.joint.loss_weights: 'uncertain'", "'uncertainty'"],
    "stages.joint.log={conflict: 0}": ["stages.joint.log.conflict: 0", "greater than or equal to 1"],
    "stages.joint.log={conflicts: 50}": ["stages.joint.log.conflicts: unknown key", "conflict"],
    "stages.joint.tasks=[sst, quora, sst]": ["stages.joint.tasks: [sst, quora, sst]", "twice", "mixing"],
    "stages.rank.tasks=[quora, sst]": ["stages.rank.tasks: 'sst'", "no similar pairs", "quora, sts"],
    "stages.role.tasks=[sst]": ["stages.role.tasks: 'sst'", "no similar pairs for completion", "quora, sts"],
    "stages.role.smart={}": ["stages.role.smart", "supervised", "full-model"],
    "stages.rank.teachers.quora.bundle=a/b": ["stages.rank.teachers: ", "ranking learns from no teacher", "supervised"],
    "stages.joint.teachers.cfimdb.bundle=a/b": ["stages.joint.teachers: 'cfimdb'", "sst, quora, sts"],
    "stages.joint.teachers.sst.temperature=2": ["stages.joint.teachers.sst.bundle: missing"],
    "stages.joint.teachers.sst.bundle=rank": ["stages.joint.teachers.sst.bundle: 'rank' is a stage of this recipe"],
    "stages.joint.teachers.sst={bundle: a/b, weight: 1.5}": ["joint.teachers.sst.weight: 1.5", "or equal to 1"],
    "stages.joint.teachers.sst={bundle: a/b, alpha: 1}": ["teachers.sst.alpha: unknown key", "temperature, unlabelled"],
    "stages.joint.teachers.sts={bundle: a/b, temperature: 2}": [
        "stages.joint.teachers.sts.temperature: 2: a score has no probabilities",
    ],
    "stages.joint.teachers.sst={bundle: a/b, temperature: 2, embeddings: true}": ["encodings have no probabilities"],
    "stages.last.teachers.sst={bundle: a/b, embeddings: true}": ["stages.last.teachers.sst.embeddings", "full-model"],
    "stages.role.keep={best: mlm/perplexity}": ["stages.role.keep.best: 'mlm/perplexity'", "completion/perplexity"],
    "stages.rank.train=last-linear-layer": ["stages.rank.train: last-linear-layer", "nothing to train", "full-model"],
    "stages.rank.ranking={scale: 0}": ["stages.rank.ranking.scale", "0", "greater than 0"],
    "stages.rank.ranking={temperature: 1}": ["ranking.temperature: unknown key", "hard_negatives, scale, symmetric"],
    "stages.mlm.mlm={rate: 1.0}": ["stages.mlm.mlm.rate", "1.0", "less than 1"],
    "stages.mlm.mlm={rate: 0.0}": ["stages.mlm.mlm.rate", "0.0", "greater than 0"],
    "stages.mlm.mlm={replace: roberta}": ["stages.mlm.mlm.replace", "'roberta'", "'mask' or 'bert'"],
    "stages.mlm.mlm={head: big}": ["stages.mlm.mlm.head", "'big'", "'tied' or 'untied'"],
    "stages.mlm.mlm={mask_rate: 0.1}": ["stages.mlm.mlm.mask_rate: unknown key", "head, rate, replace"],
    "stages.mlm.smart={}": ["stages.mlm.smart", "supervised", "full-model"],
    "stages.rank.smart={}": ["stages.rank.smart", "supervised", "full-model"],
    "stages.last.smart={}": ["stages.last.smart", "supervised", "full-model"],
    "defaults.mlm={rate: 0.2}": ["defaults.mlm: unknown key", "known keys", "dropout"],  # what a stage says for itself
    "stages.joint.smart={epsilon: 1}": ["stages.joint.smart.epsilon: unknown key", "radius", "momentum"],
    "stages.joint.smart={weight: -1.0}": ["stages.joint.smart.weight", "-1.0", "greater than or equal to 0"],
    "stages.joint.keep={best: mlm/perplexity}": ["stages.joint.keep.best: 'mlm/perplexity'", "sst/accuracy"],
    "stages.mlm.keep={best: loss}": ["stages.mlm.keep.best: 'loss'", "sts/pearson", "mlm/perplexity"],
    "stages.joint.keep={bset: sts/pearson}": ["stages.joint.keep.bset: unknown key", "best"],
    "stages.joint.heads={cfimdb: linear}": ["stages.joint.heads: 'cfimdb'", "sst, quora, sts"],
    "stages.joint.heads={sst: cosine}": ["stages.joint.heads: head 'cosine' cannot serve", "bilstm"],
    "stages.joint.heads={quora: bilstm}": ["stages.joint.heads: head 'bilstm' cannot serve", "interaction"],
    "stages.last.tasks=[sst, sts]": ["stages.last.train", "'cosine' of sts", "no weights"],
    "stages.last.from=nowhere": ["stages.last.from: 'nowhere'", "encoder, mlm, rank, joint", "EXPERIMENT/STAGE"],
    "tables=[{title: T, source: S, metrics: {sst/accuracy: a}, conditions: {Base: {stage: nil}}}]": [
        "tables.T.conditions.Base.stage: no stage 'nil'", "encoder, mlm, rank, joint, last",
    ],
    "tables=[{title: T, source: S, metrics: {}, conditions: {Base: {stage: mlm}}}]": ["tables.0.metrics", "at least 1"],
    "tables=[{title: T, source: S, rows: 3, metrics: {a: b}, conditions: {B: {stage: mlm}}}]": [
        "rows: unknown key", "conditions, layout, metrics",
    ],
}  # fmt: skip


@pytest.mark.parametrize("override", BAD)
def test_what_is_wrong_is_refused_with_its_path_its_value_and_what_is_valid(override: str) -> None:
    with pytest.raises(UserError) as caught:
        build(override)
    message = str(caught.value)
    assert message.startswith(f"{WHERE}: ") and len(message.splitlines()) == 1
    for part in BAD[override]:
        assert part in message


def test_a_head_of_a_stage_below_is_refused_where_it_leaves_nothing_to_train() -> None:
    build("stages.last.tasks=[sts]", "stages.rank.heads={sts: linear}")
    with pytest.raises(UserError, match=r"stages\.last\.train.*'cosine' of sts"):
        build("stages.last.tasks=[sts]", "stages.rank.heads={sts: linear}", "stages.last.heads={sts: cosine}")


GOOD = [
    "stages.joint.mixing={sts: 2, sst: 1.0, quora: 0.5}",
    "stages.joint.mixing=annealed",
    "stages.joint.loss_weights={sst: 0.5}",
    "stages.joint.log={conflict: 50}",
    "stages.joint.loss_weights=uncertainty",
    "stages.joint.copy_top=2",
    "stages.mlm.log={conflict: 50}",
    "stages.mlm.surgery=gradvac",
    "stages.rank.surgery=pcgrad",
    "stages.mlm.keep={best: mlm/perplexity}",
    "stages.mlm.train=last-linear-layer",
    "stages.role.train=last-linear-layer",
    "stages.role.keep={best: completion/perplexity}",
    "stages.joint.smart={}",
    "stages.last.from=other-experiment/para",
    "stages.last.from=s3://bucket/bundle",
    "stages.last.heads={sst: bilstm}",
    "tables=[{title: T, source: S, metrics: {sst/accuracy: a}, conditions: {Base: {stage: encoder}}}]",
]


@pytest.mark.parametrize("override", GOOD)
def test_what_is_right_is_taken_and_survives_its_own_dump(override: str) -> None:
    recipe = build(override)
    assert build_recipe(recipe.model_dump(mode="json", by_alias=True), WHERE) == recipe


def test_heads_are_inherited_down_the_tree() -> None:
    recipe = build(
        "stages.mlm.heads={sst: bilstm}",
        "stages.joint.heads={quora: interaction, sst: mlp}",
        "stages.last.from=rank",
        "stages.last.heads={quora: mlp}",
    )
    own = {"sst": "linear", "quora": "linear", "sts": "cosine"}
    assert {stage.name: recipe.heads(stage) for stage in recipe.stages} == {
        "mlm": own | {"sst": "bilstm"},
        "rank": own | {"sst": "bilstm"},
        "joint": own | {"sst": "mlp", "quora": "interaction"},
        "last": own | {"sst": "bilstm", "quora": "mlp"},  # rank's, not joint's
        "role": own,
    }
    fresh = build("stages.mlm.heads={sst: bilstm}", "stages.joint.from=encoder")
    assert fresh.heads(stage_of(fresh, "last")) == own


def test_children_and_leaves() -> None:
    recipe = build("stages.joint.from=mlm")
    found = {stage.name: [child.name for child in recipe.children(stage)] for stage in recipe.stages}
    assert found == {"mlm": ["rank", "joint"], "rank": [], "joint": ["last"], "last": [], "role": []}


# A setting -> the stages to whose outcome it says something.
SETTINGS = {
    "mlm={rate: 0.2}": {"mlm"},
    "mlm={head: untied}": {"mlm"},
    "ranking={scale: 1.0}": {"rank"},
    "ranking={symmetric: true}": {"rank"},
    "mixing=annealed": {"mlm", "rank", "joint", "last"},
    "dropout=0.1": {"rank", "joint", "last", "alone"},  # of sentence encodings, which mlm has none of
    "validate=stage": set(),
    "checkpoint_steps=9": set(),
}


def contents(*overrides: str) -> dict[str, Any]:
    """Each stage's content as if all had the same parent; `alone` has one task."""
    tree: Any = yaml.safe_load(TEXT)
    tree["stages"].append({"name": "alone", "tasks": ["sst"], "train": "full-model", "from": "last"})
    for override in overrides:
        apply_override(tree, override)
    recipe = build_recipe(tree, WHERE)
    return {stage.name: stage_content(recipe, stage, recipe.heads(stage), {}, "parent", 1) for stage in recipe.stages}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_of_another_objective_does_not_make_a_stage_another_one(setting: str) -> None:
    before = contents()
    after = contents(*(f"stages.{name}.{setting}" for name in before))
    assert {name for name in before if before[name] != after[name]} == SETTINGS[setting]


def test_smart_and_loss_weights_are_content_where_they_are_given() -> None:
    plain, smart = contents(), contents("stages.joint.smart={}")
    weighted = contents("stages.joint.loss_weights={sst: 0.5}")
    assert not {"smart", "loss_weights", "surgery"} & plain["joint"]["stage"].keys()
    assert contents("stages.joint.surgery=pcgrad")["joint"]["stage"]["surgery"] == "pcgrad"
    assert weighted["joint"]["stage"]["loss_weights"] == {"sst": 0.5}
    assert smart["joint"]["stage"]["smart"]["weight"] == 1.0
    assert {*APPLIES} <= set(Stage.model_fields)


def test_what_a_stage_tells_is_no_content() -> None:
    assert contents("stages.joint.log={conflict: 9}") == contents()


def test_a_head_is_content_of_the_stages_that_have_it() -> None:
    before, after = contents(), contents("stages.joint.heads={sst: bilstm}")
    assert {name for name in before if before[name] != after[name]} == {"joint", "last", "alone"}
    assert contents("stages.mlm.heads={sst: linear}") == before  # the task's own, said again


keys = st.sampled_from(["mixing", "loss_weights", "mlm", "ranking", "smart", "keep", "heads", "tasks", "objective"])


@given(keys, st.text(max_size=30))
def test_an_arbitrary_value_is_taken_or_refused(key: str, text: str) -> None:
    try:
        assert isinstance(build(f"stages.joint.{key}={text}"), Recipe)
    except UserError as error:
        assert str(error)
