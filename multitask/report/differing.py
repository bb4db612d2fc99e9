"""The settings in which two experiments differ: their recipes' keys, data, seeds and versions."""

from __future__ import annotations

import json
from typing import Any

from multitask.experiment.differences import ABSENT, flat
from multitask.report.reading import ENCODER, Evidence

NOT_SETTINGS = ("defaults", "stages", "tables")  # stages have the defaults in them, and are told one by one
SHORT = 12  # of a fingerprint's 64 digits
Apart = dict[str, tuple[Any, Any]]  # path as in --set -> what each has there


def settings_apart(baseline: Evidence, evidence: Evidence) -> Apart:
    """What is not the same, the baseline's first; ABSENT where one has no such thing. A stage that one alone has is one
    line."""
    before, after = _stages(baseline), _stages(evidence)
    found = _apart(_whole(baseline), _whole(evidence))
    for name in {**before, **after}:
        at = f"stages.{name}"
        if name in before and name in after:
            found |= _apart(*({f"{at}.{key}": value for key, value in one[name].items()} for one in (before, after)))
        else:
            found[at] = _in_short(before.get(name)), _in_short(after.get(name))
    return found


def _apart(before: dict[str, Any], after: dict[str, Any]) -> Apart:
    """The values that are not the same; a null is what a key without a value is, or one of another build."""
    values = {key: (before.get(key, ABSENT), after.get(key, ABSENT)) for key in {**before, **after}}
    return {key: pair for key, pair in values.items() if pair[0] != pair[1] and set(map(str, pair)) != {"None", ABSENT}}


def _whole(evidence: Evidence) -> dict[str, Any]:
    """Path -> value of what is not a stage's own."""
    results = evidence.results
    found = flat({key: value for key, value in evidence.recipe.items() if key not in NOT_SETTINGS})
    found["seeds"] = list(dict.fromkeys(run.row["seed"] for run in evidence.runs))
    found["encoder's fingerprint"] = results["encoder"]["fingerprint"][:SHORT]
    for task, facts in results["data"].items():
        for split, sha in facts["fingerprint"].items():
            found[f"data.{task}.{split}"] = f"{facts['source'].get(split, '')} ({sha[:SHORT]})"
    return found | flat(results["versions"], "versions")


def _stages(evidence: Evidence) -> dict[str, dict[str, Any]]:
    """Stage -> its settings by path: with what it starts from and, of a swept one, with what its best trials had."""
    found, above = {}, ENCODER
    for stage in evidence.recipe.get("stages", []):
        settings = flat({**stage, "from": stage.get("from") or above})
        chosen = [run.row["settings"] for run in evidence.stages.get(stage["name"], []) if run.row.get("settings")]
        for key in dict.fromkeys(key for one in chosen for key in one):
            values = list(dict.fromkeys(one[key] for one in chosen))
            settings[key] = values[0] if len(values) == 1 else values  # seeds that choose differently
        found[stage["name"]], above = settings, stage["name"]
    return found


def _in_short(stage: dict[str, Any] | None) -> str:
    if stage is None:
        return ABSENT
    return f"{stage.get('objective')} on {', '.join(stage.get('tasks') or ())}, {stage.get('train')}"


def words(value: Any) -> str:
    """A setting's value as a recipe would have it."""
    return value if isinstance(value, str) else json.dumps(value)
