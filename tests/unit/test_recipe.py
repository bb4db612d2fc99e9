"""The recipe: strict where it is wrong, in one line that says where; defaults and overrides where it is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask.errors import UserError
from multitask.recipe.checks import build_recipe
from multitask.recipe.loading import apply_override, load_recipe
from multitask.recipe.packaged import packaged_recipes
from multitask.recipe.parsing import parse_yaml
from multitask.recipe.stages import Recipe, Stage

WHERE = "recipe.yaml"
TEXT = """
name: three
encoder: tiny
data: sample
tasks:
  sst:   {head: mlp}
  quora: {head: mlp}
  sts:   {head: cosine}
defaults: {epochs: 3, batch_size: 16, lr: 1e-4}
stages:
  - {name: para, tasks: [quora], train: full-model, lr: 1e-5}
  - {name: sts, tasks: [sts], train: full-model, epochs: 5}
  - {name: sst, tasks: [sst], train: last-linear-layer, from: encoder}
"""


def build(*overrides: str, text: str = TEXT) -> Recipe:
    tree: Any = parse_yaml(text, WHERE)
    for override in overrides:
        apply_override(tree, override)
    return build_recipe(tree, WHERE)


def stage_of(recipe: Recipe, name: str) -> Stage:
    return next(stage for stage in recipe.stages if stage.name == name)


def refusal(*overrides: str, text: str = TEXT) -> str:
    with pytest.raises(UserError) as caught:
        build(*overrides, text=text)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# What is set -> the YAML path, the value, what would be valid.
BAD = {
    "colour=blue": ["colour: unknown key", "encoder", "stages", "max_length"],
    "defaults.epoch=3": ["defaults.epoch: unknown key", "epochs", "batch_size", "validate"],
    "stages.sts.learning_rate=1": ["stages.sts.learning_rate: unknown key", "lr", "from", "tasks"],
    "tasks.sst.hed=mlp": ["tasks.sst.hed: unknown key", "head", "loss", "columns"],
    "tasks.sst.head=transformer": ["tasks.sst", "'transformer'", "linear, mlp"],
    "tasks.sst.head=cosine": ["tasks.sst", "'cosine'", "cannot serve", "linear, mlp"],
    "tasks.quora.head=cosine": ["tasks.quora", "'cosine'", "cannot serve", "linear, mlp"],
    "tasks.quora.loss=mse": ["tasks.quora", "'mse'", "does not fit", "bce"],
    "tasks.sst.columns={text: body}": ["tasks.sst.columns", "'text'", "sentence, sentiment, id"],
    "tasks.jobz={head: mlp}": ["tasks.jobz", "unknown task 'jobz'", "sst, cfimdb, quora, sts"],
    "tasks.sst=mlp": ["tasks.sst", "'mlp'", "dictionary"],
    "tasks={}": ["tasks", "{}", "at least 1"],
    "stages.sts.tasks=[cfimdb]": ["stages.sts.tasks", "'cfimdb'", "sst, quora, sts"],
    "stages.sts.tasks=[]": ["stages.sts.tasks", "[]", "at least 1"],
    "stages.sts.tasks=sts": ["stages.sts.tasks", "'sts'", "list"],
    "stages.sts.name=para": ["stages.para.name", "'para' is taken"],
    "stages.sts.name=encoder": ["stages.encoder.name", "'encoder' is taken"],
    "stages.sts.name=a/b": ["stages.a/b.name", "'a/b'", "pattern"],
    "stages.sts.from=sst": ["stages.sts.from", "'sst'", "encoder, para", "bundle"],
    "stages.sts.from=sts": ["stages.sts.from", "'sts'", "encoder, para", "bundle"],
    "stages.sts.objective=poetry": ["stages.sts.objective", "'poetry'", "'supervised'"],
    "stages.sts.train=half": ["stages.sts.train", "'half'", "'full-model' or 'last-linear-layer'"],
    "stages.sts.train=last-linear-layer": ["stages.sts.train", "last-linear-layer", "'cosine'", "no weights"],
    "stages.sts.keep={best: cfimdb/accuracy}": ["stages.sts.keep.best", "'cfimdb/accuracy'", "sts/pearson"],
    "stages.sts.keep=first": ["stages.sts.keep", "'first'", "'last'"],
    "stages.sts.epochs=many": ["stages.sts.epochs", "'many'", "integer"],
    "stages.sts.epochs=0": ["stages.sts.epochs", "0", "greater than or equal to 1"],
    "stages.sts.epochs=1.5": ["stages.sts.epochs", "1.5", "integer"],
    "stages.sts.lr=": ["stages.sts.lr", "None", "number"],
    "stages.sts.lr=-1e-3": ["stages.sts.lr", "-0.001", "greater than 0"],
    "stages.sts.lr=.nan": ["stages.sts.lr", "nan"],
    "stages.sts.lr=.inf": ["stages.sts.lr", "inf"],
    "stages.sts.lr=1e999": ["stages.sts.lr", "inf"],
    "stages.sts.dropout=1": ["stages.sts.dropout", "1", "less than 1"],
    "stages.sts.precision=8-bit": ["stages.sts.precision", "'8-bit'", "'bf16-mixed'"],
    "stages.sts.schedule=step": ["stages.sts.schedule", "'step'", "'constant', 'linear' or 'cosine'"],
    "stages.sts.betas=[0.9]": ["stages.sts.betas"],
    "defaults.batch_size=0": ["defaults.batch_size", "0", "greater than or equal to 1"],
    "defaults=[1]": ["defaults", "[1]", "dictionary"],
    "seed=-1": ["seed", "-1", "greater than or equal to 0"],
    "pooling=middle": ["pooling", "'middle'", "'pooler', 'cls', 'mean', 'max'"],
    "data=DATA": ["data", "'DATA'", "'sample'"],
    "encoder=": ["encoder", "None", "string"],
    "name=a b": ["name", "'a b'", "pattern"],
    "stages=[]": ["stages", "[]", "at least 1"],
    "stages=[5]": ["stages.0", "5", "dictionary"],
}


@pytest.mark.parametrize("override", BAD)
def test_what_is_wrong_is_refused_with_its_path_its_value_and_what_is_valid(override: str) -> None:
    message = refusal(override)
    assert message.startswith(f"{WHERE}: ")
    for part in BAD[override]:
        assert part in message


BAD_OVERRIDES = {
    "defaults.epochs": ["--set 'defaults.epochs'", "key=value"],
    "=3": ["--set '=3'", "key=value"],
    "stages.nli.lr=1": ["--set stages.nli", "no stage 'nli'", "para, sts, sst"],
    "stages.0.lr=1": ["no stage '0'", "para, sts, sst"],
    "stages.sts=1": ["--set stages.sts", "'stages' is not a mapping"],
    "seed.value=1": ["--set seed.value", "'seed' is not a mapping"],
    "encoder.a.b=1": ["--set encoder.a", "not a mapping"],
    "seed=[1": ["--set seed", "not YAML"],
}


@pytest.mark.parametrize("override", BAD_OVERRIDES)
def test_an_override_that_leads_nowhere_is_refused(override: str) -> None:
    message = refusal("seed=1", override)
    for part in BAD_OVERRIDES[override]:
        assert part in message


def test_the_best_epoch_needs_a_measurement_each_epoch() -> None:
    message = refusal("stages.sts.keep={best: sts/pearson}", "stages.sts.validate=stage")
    assert "stages.sts.keep" in message
    assert "validate: epoch" in message


@pytest.mark.parametrize("key", ["name", "encoder", "tasks", "stages"])
def test_what_is_missing_is_named(key: str) -> None:
    tree = parse_yaml(TEXT, WHERE)
    del tree[key]
    with pytest.raises(UserError, match=rf"^{WHERE}: {key}: missing$"):
        build_recipe(tree, WHERE)


def test_a_stage_needs_a_learning_rate_of_its_own_or_of_the_defaults() -> None:
    tree = parse_yaml(TEXT, WHERE)
    del tree["defaults"]["lr"]
    with pytest.raises(UserError, match=r"stages\.sts\.lr: missing"):
        build_recipe(tree, WHERE)


def test_further_problems_are_counted() -> None:
    assert refusal("stages.sts.colour=1", "seed=x").endswith("(and 1 more)")


def test_python_names_are_no_keys() -> None:
    """`from` and `validate` are the YAML's words; the fields behind them have others."""
    assert "unknown key" in refusal("stages.sts.from_=encoder")
    assert "unknown key" in refusal("defaults.validate_every=stage")


@pytest.mark.parametrize("text", ["", "- a\n- b", "just text", "name: [", "a: b: c", "\t- x"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"broken\.yaml: (a recipe is a mapping|not YAML)"):
        load_recipe(str(file))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(UserError, match=r"latin\.yaml"):
        load_recipe(str(file))


keys = st.sampled_from(["seed", "stages.sts.lr", "stages.sts.keep", "defaults", "tasks.quora.head", "stages", "name"])


@given(st.one_of(st.text(max_size=40), st.builds("{}={}".format, keys, st.text(max_size=40))))
def test_an_arbitrary_override_is_taken_or_refused(override: str) -> None:
    try:
        assert isinstance(build(override), Recipe)
    except UserError as error:
        assert str(error)


NOT_VALUES = {
    "a date that is none": "2024-13-45",
    "a number without digits": "0x_",
    "a tag that does not fit": "!!bool maybe",
    "a moment that is none": "!!timestamp noon",
    "5000 digits": "9" * 5000,
    "1000 brackets": "[" * 1000,
    "itself": "&a [*a]",
    "a list as a key": "{[1]: 2}",
    "a line break": '"a\\nb"',
}


@pytest.mark.parametrize("value", NOT_VALUES.values(), ids=NOT_VALUES)
@pytest.mark.parametrize("key", ["seed", "tasks.quora.head"])
def test_what_yaml_stumbles_over_is_refused_in_one_line(key: str, value: str) -> None:
    assert key.split(".")[0] in refusal(f"{key}={value}")


def test_overrides_reach_stages_defaults_tasks_and_the_recipe() -> None:
    recipe = build("stages.sts.lr=3e-5", "defaults.epochs=1", "tasks.quora.head=linear", "seed=7")
    assert stage_of(recipe, "sts").lr == 3e-5
    assert stage_of(recipe, "para").epochs == 1
    assert stage_of(recipe, "sts").epochs == 5  # the stage's own
    assert recipe.tasks["quora"].head == "linear"
    assert recipe.seed == 7


def test_an_override_makes_the_mapping_it_needs() -> None:
    tree = parse_yaml(TEXT, WHERE)
    del tree["defaults"]
    for override in ("defaults.lr=2e-4", "tasks.sst.columns.sentence=body"):
        apply_override(tree, override)
    recipe = build_recipe(tree, WHERE)
    assert stage_of(recipe, "sst").lr == 2e-4
    assert recipe.tasks["sst"].columns == {"sentence": "body"}


def test_defaults_flow_into_stages_and_a_stage_says_otherwise() -> None:
    recipe = build()
    assert [stage.epochs for stage in recipe.stages] == [3, 5, 3]
    assert [stage.lr for stage in recipe.stages] == [1e-5, 1e-4, 1e-4]
    assert {stage.batch_size for stage in recipe.stages} == {16}


@pytest.mark.parametrize("text", ["1e-5", "1E-5", "1.e-5", "1.0e-5", "0.00001", "+1e-5"])
def test_a_learning_rate_in_any_notation_is_a_number(text: str) -> None:
    assert parse_yaml(f"lr: {text}", WHERE) == {"lr": 1e-5}


def test_what_only_looks_like_a_number_stays_text() -> None:
    assert parse_yaml("[1e-5x, e5, '1e-5', 086a8]", WHERE) == ["1e-5x", "e5", "1e-5", "086a8"]


def test_a_stage_starts_from_the_one_above_unless_it_says_so() -> None:
    recipe = build()
    assert [recipe.parent(stage) for stage in recipe.stages] == ["encoder", "para", "encoder"]
    branched = build("stages.sts.from=s3://models/bundle", "stages.sst.from=para")
    assert [branched.parent(stage) for stage in branched.stages] == ["encoder", "s3://models/bundle", "para"]


def test_a_recipe_survives_its_own_dump() -> None:
    recipe = build("stages.sts.keep={best: sts/pearson}")
    assert build_recipe(recipe.model_dump(mode="json", by_alias=True), WHERE) == recipe


@pytest.mark.parametrize("name", ["demo", "demo.yaml", "recipes/demo.yaml", "configs/recipes/demo.yaml"])
def test_a_packaged_recipe_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe(name, ["seed=3"]).seed == 3


def test_a_file_wins_over_a_packaged_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.yaml").write_text(TEXT)
    assert load_recipe("demo.yaml").name == "three"


def test_an_unknown_recipe_names_the_packaged_ones() -> None:
    assert "demo" in packaged_recipes()
    with pytest.raises(UserError) as caught:
        load_recipe("nosuch.yaml")
    assert all(name in str(caught.value) for name in ("'nosuch.yaml'", *packaged_recipes()))


@pytest.mark.parametrize(
    "text", ["name: x\nlr: 1\nstages: []\nlr: 2\n", "tasks: {sst: {train: {a.csv: 0.5, a.csv: 0.2}}}"]
)
def test_a_key_that_stands_twice_is_refused(text: str) -> None:
    """Failing where the last one silently counts."""
    with pytest.raises(UserError, match=r"^r: not YAML: line \d: the key (lr|a\.csv) stands there twice$"):
        parse_yaml(text, "r")


def test_a_key_beside_a_merged_one_stands_there_once() -> None:
    assert parse_yaml("a: &a {lr: 1, x: 2}\nb: {<<: *a, lr: 3}\n", "r")["b"] == {"lr": 3, "x": 2}
