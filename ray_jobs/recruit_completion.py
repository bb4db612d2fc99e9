"""`minibert recruit complete`, and what completion is worth on held-out postings."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from multitask.data.readers import find_file, read_examples
from multitask.embed import TextEncoder
from multitask.errors import UserError
from multitask.recruit.completion import PROMPT, Completer, Pair, measure
from multitask.results import cell
from multitask.tasks import TASKS, Split
from ray_jobs.bundles import bundle_at, device
from ray_jobs.screen import Screen

FILES = (".txt", ".md")


def run_complete(bundle: str, text: str, k: int, as_json: bool) -> None:
    """Prints the k likeliest titles. text: a description, the path of a .txt or .md file, or - for standard input."""
    description = _description(text)
    titles = Completer(bundle_at(bundle), device()).complete([description], k)[0]
    if as_json:
        print(json.dumps({"bundle": bundle, "titles": [asdict(title) for title in titles]}, indent=2))
        return
    rows = [[title.text, cell(title.probability)] for title in titles]
    Screen().table(["title", "probability"], rows, title=f"{PROMPT} ...")


def _description(text: str) -> str:
    """Raises UserError where it is empty, or its file cannot be read."""
    found = text
    try:
        if text == "-":
            found = sys.stdin.read()
        elif text.endswith(FILES) and "\n" not in text:
            found = Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"description '{text}': cannot be read as a text file: {error}") from error
    if not found.strip():
        raise UserError(f"description '{text}': it is empty; give a text, a .txt or .md file, or - for standard input")
    return found


def measure_completion(bundle: str, data: str, as_json: bool) -> None:
    """Prints exact match and token F1 on dev of a directory of `minibert recruit prepare`, beside two baselines."""
    opened = bundle_at(bundle)
    completer, encoder = Completer(opened, device()), TextEncoder(opened, device())
    rows = measure(completer, encoder, _pairs(data, "train"), _pairs(data, "dev"))
    if as_json:
        print(json.dumps({"bundle": bundle, "data": data, "rows": [asdict(row) for row in rows]}, indent=2))
        return
    body = [
        [row.method, row.metric, cell(row.value), " .. ".join(map(cell, row.interval)), str(row.rows)] for row in rows
    ]
    Screen().table(["method", "metric", "value", "95 % interval", "rows"], body, title=f"{bundle} on dev of {data}")


def _pairs(data: str, split: Split) -> list[Pair]:
    """(title, posting without it) of those that belong together."""
    spec = TASKS["jobs"]
    file = find_file(data, spec, split)
    least, read = spec.label.similar, read_examples(file, spec, labelled=True)
    pairs = [(e.texts[0], e.texts[1]) for e in read.examples if e.label is not None and e.label >= (least or 0)]
    if not pairs:
        raise UserError(f"{file}: no row whose {spec.label.column} is {least or 0:g} or more; nothing to complete")
    return pairs
