"""The form of what each command prints with --json, and the JSON Schema of it.

A form is written as the document is: {"key": form} is an object with these keys, of which one that ends in "?" may be
missing; {str: form} has any keys; [form] is a list; {a, b} is one of these words; (form, form) is either; str, int,
float and bool are values, None is null, object is anything. The name of a file in multitask/assets stands for the
schema in it.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", None: "null"}

NUMBER, TEXT = (float, None), (str, None)
INTERVAL = ([float], None)
SPLIT = {"train", "dev", "test"}

SCORE = {
    "metric": str, "value": NUMBER, "why": TEXT, "interval": INTERVAL, "source": str, "rows": int, "quarantined": int,
    "majority_baseline": NUMBER,
}  # fmt: skip
SCORES = {"tasks": [SCORE], "overall/mean?": NUMBER, "overall/normalised?": NUMBER}
CLASS = {"name": str, "rows": int, "given": int, "precision": NUMBER, "recall": NUMBER, "f1": NUMBER}
CLASSES = {str: {"classes": [CLASS], "confusion": ([[int]], None)}}
MEASURED = {"bundle": str, "data": str, "split": SPLIT, **SCORES, "clean?": SCORES, "classes?": CLASSES}

SIDES = ({"gained": int, "lost": int, "p": float, "p_holm": float}, None)
DIFFERENCE = {"difference": NUMBER, "why": TEXT, "interval": INTERVAL, "p": NUMBER, "p_holm": NUMBER, "sides": SIDES}
COMPARISON = {"bundle": str, "metric": str, "rows": int, "baseline": NUMBER, "value": NUMBER, **DIFFERENCE}
COMPARED = {
    "baseline": str, "data": str, "split": SPLIT, "resamples": int, "comparisons": [COMPARISON],
    "clean?": {"comparisons": [COMPARISON]},
}  # fmt: skip

RESULTS = "results.schema.json"
FOLDS = {
    "schema": int, "recipe": str, "folds": int, "experiments": [str], "out_of_fold": {str: str},
    "stages": {str: {str: {"mean": NUMBER, "sd": NUMBER, "n": int, "values": [NUMBER]}}},
}  # fmt: skip
PARTS = {
    "source": str, "model": str, "schema": int, "bundle": str, "task": TEXT, "columns": [str], "keep": bool,
    "part_rows": int, "input": [{"file": str, "bytes": int, "sha256": str}], "parts": int, "rows": int,
    "quarantined": {"rows": int, "first": [str]}, "pooling?": str, "max_length?": int,
}  # fmt: skip
PREDICTED = {
    "bundle": str, "data": str, "submission": TEXT,
    "files": [{"task": str, "split": SPLIT, "rows": int, "file": str}],
}  # fmt: skip

ON_DEV = {str: {"score": SCORE, "uniform": NUMBER, "members": [NUMBER]}}
ENSEMBLE = {
    "ensemble": str, "members": [{"bundle": str, "fingerprint": str, "tasks": {str: str}}], "weights": {str: [float]},
    "dev": {"data?": str, "folds?": (int, None), "overall?": [str], "metrics?": ON_DEV},
}  # fmt: skip
FITTED = {
    "task": str, "scale": float, "shift": (float, [float]), "metrics": [{"before": NUMBER, **SCORE}],
    "cross_entropy": {"before": NUMBER, "value": NUMBER},
}  # fmt: skip
EXPORTED = {
    "bundle": str, "format": str, "dtype": str, "output": str, "files": {str: int}, "checks": [str], "pushed": TEXT,
}  # fmt: skip
IMPORTED = {
    "source": str, "bundle": str, "heads": {str: str}, "pooling": str, "layers": int, "width": int, "max_length": int,
}  # fmt: skip

FILE = {
    "task": str, "split": SPLIT, "path": str, "problem": TEXT, "rows": int, "form": TEXT, "note": TEXT,
    "labels": {str: int}, "words": {"least?": int, "median?": int, "p95?": int, "most?": int},
    "quarantined": [{"line": int, "reason": str}],
}  # fmt: skip
SHARED_TEXT = {"kind": {"exact", "normalised", "near"}, "id": str, "mine": [str], "other_id": str, "other": [str]}
LEAK = {
    "of": str, "rows": int, "with": str, "unit": str, "exact": int, "normalised": int, "near": int, "shared": int,
    "examples": [SHARED_TEXT],
}  # fmt: skip
LEAKS = {"data": str, "files": [{"name": str, "path": str, "rows": int}], "leaks": [LEAK]}
LOOK = {
    "task": str, "split": SPLIT, "source": str, "rows": int, "labels": {str: int}, "lengths": {str: int},
    "repeated": int, "torn": int, "examples": {str: [str]},
}  # fmt: skip

TRAINER = {"trainer": str, "stage": str, "workers": int, "seconds": NUMBER, "superseded": bool}
COST = {
    "runs": int, "seconds": float, "worker_hours": float, "money": NUMBER, "price": NUMBER, "trainers": [TRAINER],
}  # fmt: skip
STAGE_DIFFERENCE = {
    "stage": str, "baseline_stage": str, "seed": int, "metric": str, "baseline": NUMBER, "value": NUMBER,
    "rows": (int, None), **DIFFERENCE,
}  # fmt: skip
AGAINST = {"experiment": str, "scores": [STAGE_DIFFERENCE], "settings": {str: [object]}, "cost": COST}
REPORT = {"reports": [str], "cost?": COST, "against?": AGAINST}

POSTING = {
    "id": str, "title": str, "company": str, "location": str, "description": str, "requirements": str,
    "qualifications": str,
}  # fmt: skip
HIT = {"posting": POSTING, "score": float, "passage": str, "words": [[int]]}
ESTIMATE = {"value": float, "low": float, "high": float, "queries": int}
SYSTEM = {
    "query": str, "system": str, "recall@1": ESTIMATE, "recall@5": ESTIMATE, "recall@10": ESTIMATE, "mrr": ESTIMATE,
    "ndcg@10": ESTIMATE,
}  # fmt: skip
SEARCH_FOLDS = {
    "postings": str, "recipe": str, "folds": int, "systems": [SYSTEM],
    "differences": [{"query": str, "of": str, "over": str, "ndcg@10": ESTIMATE}],
}  # fmt: skip
CALIBRATION = {"ece": float, "brier": float, "cross_entropy": float}
CALIBRATED = {
    "bundle": str, "figure": str, "temperature": float, "rows_fit": int, "rows_measured": int, "labels": str,
    "before": CALIBRATION, "after": CALIBRATION,
}  # fmt: skip
PREPARED = {"postings": str, "rows": int, "repeats": int, "labels": str, "files": [{"file": str, "rows": int}]}
INDEXED = {"index": str, "postings": int, "passages": int, "quarantined": int, "approximate": ({str: object}, None)}
METRIC = {"metric": str, "value": NUMBER, "interval": INTERVAL, "rows": int, "why": str}
FINDING = {
    "what": str, "group": str, "value": NUMBER, "interval": INTERVAL, "bound": str, "why": str,
    "verdict": {"ok", "broken", "undefined", "shown"},
}  # fmt: skip
AUDIT = {
    "schema": int, "suitability": TEXT, "index": TEXT, "sentiment": TEXT, "labels": str, "left_out": [str],
    "applications": ({"source": str, "rows": int, "used": int, "note": str}, None), "broken": int,
    "bounds": {str: float}, "sources": {str: str}, "findings": [FINDING],
}  # fmt: skip

DOCUMENTS: dict[str, Any] = {
    "train": (RESULTS, FOLDS),
    "sweep": RESULTS,
    "evaluate": (MEASURED, COMPARED),
    "predict": (PREDICTED, PARTS),
    "embed": PARTS,
    "average": {"bundle": str, "of": [str], "heads": {str: str}},
    "ensemble": ENSEMBLE,
    "calibrate": {"bundle": str, "data": str, "folds": int, "tasks": [FITTED]},
    "export": EXPORTED,
    "import": IMPORTED,
    "report": REPORT,
    "track": {"experiment": str, "to": [{"mlflow", "wandb"}], "sent": bool},
    "doctor": [{"verdict": {"ok", "note", "problem"}, "subject": str, "fact": str}],
    "check": {"kept": bool, "agreements": [{"of": str, "what": str, "kept": bool, "why": str}]},
    "new": {"folder": str, "files": [str]},
    "data check": ([FILE], LEAKS),
    "data show": [LOOK],
    "recruit prepare": PREPARED,
    "recruit index": INDEXED,
    "recruit search": {"index": str, "mode": {"hybrid", "dense", "bm25"}, "hits": [HIT]},
    "recruit complete": {"bundle": str, "titles": [{"text": str, "probability": float}]},
    "recruit suitability": {"qualified": bool, "labels": str, "probability?": float},
    "recruit calibrate": CALIBRATED,
    "recruit measure": {"bundle": str, "data": str, "metrics": [METRIC]},
    "recruit folds": SEARCH_FOLDS,
    "recruit audit": AUDIT,
    "recruit card": {"card": str, "bundle": str},
}
"""Command -> the form of its document."""


def schema_of(command: str) -> dict[str, Any]:
    """The JSON Schema of a command's document."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"minibert {command} --json"}
    return {**head, **_schema(DOCUMENTS[command])}


def _schema(form: Any) -> dict[str, Any]:
    """A form's JSON Schema."""
    if form is object:
        return {}
    if isinstance(form, str):
        # With a name of its own, what its references name is looked for in it.
        file = resources.files("multitask") / "assets" / form
        return {"$id": f"minibert:{form}", **json.loads(file.read_text(encoding="utf-8"))}
    if isinstance(form, tuple):
        return {"anyOf": [_schema(one) for one in form]}
    if isinstance(form, list):
        return {"type": "array", "items": _schema(form[0])}
    if isinstance(form, set):
        return {"enum": sorted(form)}
    if isinstance(form, dict):
        return _object(form)
    return {"type": TYPES[form]}


def _object(form: dict[Any, Any]) -> dict[str, Any]:
    """The schema of an object, whose keys are all known unless any will do."""
    if str in form:
        return {"type": "object", "additionalProperties": _schema(form[str])}
    properties = {key.removesuffix("?"): _schema(one) for key, one in form.items()}
    required = [key for key in form if not key.endswith("?")]
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}
