"""What makes a stage another one than before, in the words of whoever wrote the recipe: no fingerprints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from multitask.errors import well_formed
from multitask.recipe.parsing import parse_yaml
from multitask.storage.sealed import Damaged, read_document
from multitask.storage.storage import Storage
from multitask.storage.uris import join
from multitask.tasks.own import PAIR

StageContent = Mapping[str, Any]  # stage_job.py: stage_content; or of a swept stage its trials, and what decides
SHOWN = 4  # changes in one line
ABSENT = "absent"
OWN_FILE = "the file of"  # and the import path that a recipe names
OF_A_TASK = ("head", "loss", "columns", "define")  # as stage_content lists them; how pairs are read is in the last


class Digest(str):
    """The sha256 of something that a person knows by another name."""


# A part of a content -> what it says under paths as in a recipe or in --set; `at` is the stage's own.
PARTS: dict[str, Callable[[str, Any], dict[str, Any]]] = {
    "stage": lambda at, settings: {at: settings},
    "trials": lambda at, trials: {f"{at}.sweep": " | ".join(name.partition("@")[2] for name in trials)},
    "by": lambda at, metric: {f"{at}.sweep.by": metric},
    "recipe": lambda at, settings: settings,
    "tasks": lambda at, tasks: {f"tasks.{task}": _of_task(facts) for task, facts in tasks.items()},
    "weights": lambda at, columns: {f"tasks.{task}": {"weight": column} for task, column in columns.items()},
    "code": lambda at, files: {f"{OWN_FILE} {path}": Digest(sha) for path, sha in files.items()},
    "losses": lambda at, losses: {f"tasks.{task}": settings for task, settings in losses.items()},
    "teachers": lambda at, found: {f"{at}.teachers": {task: _of_a_teacher(facts) for task, facts in found.items()}},
    "parent": lambda at, sha: {f"{at}.from": Digest(sha)},
    "data": lambda at, data: {
        f"data.{task}.{split}": Digest(sha) for task, splits in data.items() for split, sha in splits.items()
    },
}


def _of_task(facts: list[Any]) -> dict[str, Any]:
    """A task's facts under the keys of a recipe's task."""
    found = dict(zip(OF_A_TASK, facts, strict=False))
    define = dict(found.pop("define", {}))
    return found | {key: define.pop(key) for key in (PAIR,) if key in define} | ({"define": define} if define else {})


def _of_a_teacher(facts: dict[str, Any]) -> dict[str, Any]:
    """A teacher's facts under the keys of a recipe's, its bundle and its texts by content."""
    return {key: Digest(value) if key in ("bundle", "unlabelled") else value for key, value in facts.items()}


def encoder_words(source: str, pooling: str | None) -> str:
    """An encoder as a recipe names it, with its pooling where the recipe gives one."""
    return f"{source} (pooling: {pooling})" if pooling else source


def named_before(experiment: Storage) -> dict[str, str]:
    """sha256 -> the encoder and the files that an experiment's last run had."""
    if not all(experiment.exists(name) for name in ("results.json", "recipe.yaml")):
        return {}
    try:
        results = read_document(experiment, "results.json")
    except Damaged:  # which the next run writes again
        return {}
    with well_formed(join(experiment.uri, "results.json")):
        pooling = parse_yaml(experiment.read_bytes("recipe.yaml").decode(), "recipe.yaml").get("pooling")
        named = {results["encoder"]["fingerprint"]: encoder_words(results["encoder"]["source"], pooling)}
        for facts in results["data"].values():
            named |= {sha: facts["source"][split] for split, sha in facts["fingerprint"].items()}
        return named


def differences(name: str, was: StageContent, now: StageContent, named: Mapping[str, str]) -> str:
    """What has changed between two contents of a stage: `stages.sts.lr: 0.001 -> 0.0003; seed: 1 -> 2`.

    name: the stage's in experiment.json, or a trial's. named: sha256 -> what a person calls it: a file, an encoder, a
    stage.
    """
    at = f"stages.{name.partition('#')[0].partition('@')[0]}"
    before, after = _said(at, was), _said(at, now)
    keys = {**after, **before}
    if "trials" in was or "trials" in now:  # one settled stage, or a sweep: the other's settings all are new then
        keys = {key: None for key in keys if key.startswith(f"{at}.sweep")}
    changed = [key for key in keys if before.get(key, ABSENT) != after.get(key, ABSENT)]
    told = [_change(key, before.get(key, ABSENT), after.get(key, ABSENT), named) for key in changed[:SHOWN]]
    return "; ".join([*told, *([f"and {len(changed) - SHOWN} more"] if len(changed) > SHOWN else [])])


def _said(at: str, content: StageContent) -> dict[str, Any]:
    """Path -> value, in the order of PARTS."""
    found: dict[str, Any] = {}
    for part, says in PARTS.items():
        if part in content:
            found |= flat(says(at, content[part]))
    return found | flat({key: value for key, value in content.items() if key not in PARTS})


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Path -> value of a tree's leaves."""
    if not isinstance(value, dict):
        return {prefix: value}
    pairs = [flat(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items()]
    return {key: item for pair in pairs for key, item in pair.items()}


def _change(key: str, old: Any, new: Any, named: Mapping[str, str]) -> str:
    before, after = (_words(value, named) for value in (old, new))
    if before == after:  # known by one name, and not what it was
        what = "weights" if key.endswith(".from") else "content" if key.startswith(OWN_FILE) else "rows"
        return f"{key}: {after}, with other {what} than before"
    return f"{key}: {before} -> {after}"


def _words(value: Any, named: Mapping[str, str]) -> str:
    if isinstance(value, Digest):
        return named.get(value, "another one")
    return value if isinstance(value, str) else json.dumps(value)
