"""`overall:` in a recipe: which tasks and metrics its overall scores are made of."""

from __future__ import annotations

from typing import Any

import pytest

from multitask.errors import UserError
from multitask.recipe.checks import build_recipe
from multitask.recipe.stages import Recipe
from tests.helpers import recipe_tree

OWN = ["tone", "same", "tones"]


def recipe(overall: dict[str, Any] | None, **stage: Any) -> Recipe:
    """The small recipe, with own tasks beside sst, quora and sts."""
    return build_recipe({**recipe_tree(tasks=OWN, **stage), "overall": overall}, "test")


def test_a_recipe_names_its_tasks_and_their_metrics() -> None:
    made = recipe({"tasks": ["tone", "tones", "sts"], "measure": {"tones": "f1_macro"}})
    assert made.overall_of == ["tone/accuracy", "tones/f1_macro", "sts/pearson"]
    assert recipe(None).overall_of == []


def test_what_is_named_can_decide() -> None:
    named = {"tasks": ["tone", "tones"], "measure": {"tones": "f1_macro"}}
    for metric in ("overall/mean", "overall/normalised", "tones/f1_macro", "tones/f1_micro"):
        recipe(named, keep={"best": metric})
        recipe(named, sweep={"grid": {"lr": [1e-3, 1e-4]}, "by": metric})
    with pytest.raises(UserError, match="'tones/f1_macro' is not measured"):
        recipe(None, keep={"best": "tones/f1_macro"})


def test_a_recipe_without_the_papers_three_has_overall_scores_where_it_names_them() -> None:
    tree = {**recipe_tree(tasks=["tone"], keep={"best": "overall/mean"})}
    tree["tasks"] = {"tone": tree["tasks"]["tone"]}
    with pytest.raises(UserError, match="'overall/mean' is not measured"):
        build_recipe(tree, "test")
    build_recipe({**tree, "overall": {"tasks": ["tone"]}}, "test")


@pytest.mark.parametrize(
    ("overall", "said"),
    [
        ({"tasks": ["tonne"]}, "'tonne' is not among the recipe's tasks: sst, quora, sts, tone, same, tones; "),
        ({"tasks": ["tone", "tone"]}, "overall.tasks: [tone, tone] names a task twice"),
        ({"tasks": []}, "overall.tasks: []"),
        ({"tasks": ["tone"], "measure": {"sst": "accuracy"}}, "measure: 'sst' is not among the tasks that count: tone"),
        ({"tasks": ["tone"], "measure": {"tone": "f1"}},
         "overall.measure.tone: 'f1' is no score of classes; valid: accuracy, pearson, balanced_accuracy, f1_macro"),
        ({"tasks": ["tone"], "measure": {"tone": "accurracy"}}, "; did you mean accuracy?"),
        ({"of": ["tone"]}, "overall.of: unknown key; known keys: measure, tasks"),
    ],
)  # fmt: skip
def test_unknown_names_are_refused_in_a_line(overall: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        recipe(overall)
    assert said in str(error.value), str(error.value)
