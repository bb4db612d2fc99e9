"""What is told of an experiment's results when `minibert train` or `minibert sweep` ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multitask.experiment.results import Rows, leaves, sweep_lines, table_rows
from multitask.experiment.stage_job import node_key
from multitask.inference.submission import FOLDER
from multitask.storage.storage import Storage
from multitask.storage.uris import join, shown
from ray_jobs.screen import Screen


def tell_results(screen: Screen, storage: Storage, results: dict[str, Any]) -> None:
    """Shows the result table, how each sweep ended, what the numbers rest on, and what may be typed next."""
    rows = results["stages"]
    screen.table(*table_rows(results), title=results["experiment"])
    for line in sweep_lines(rows):
        screen.say(f"* {line}")
    place = shown(join(storage.uri, results["experiment"]))
    for row in rows:
        if row["trainer"]:
            screen.say(f"{_typed(place, row, rows)}: {row['trainer']}")
    if "overall" in results:
        screen.say(f"overall: of {', '.join(results['overall'])}")
    for task, facts in results["data"].items():
        screen.say(f"{task}: {_rests_on(facts)}")
    screen.say(f"results:     {join(place, 'results.json')}")
    final = leaves(rows)
    for row in final:
        screen.say(f"bundle:      {_typed(place, row, rows)}, in {row['bundle']}")
        if storage.exists(join(results["experiment"], row["trainer"], FOLDER)):
            screen.say(f"predictions: {join(place, row['trainer'], FOLDER)}")
    screen.say(f"evaluate:    minibert evaluate {join(place, final[0]['name'])}")
    screen.say(f"report:      minibert report {place}")
    screen.say(f"TensorBoard: tensorboard --logdir {place}")


def _typed(place: str, row: Mapping[str, Any], rows: Rows) -> str:
    """The name that `evaluate` and other commands take for a row's bundle, with its seed where there are several."""
    seed = f" (seed {row['seed']})" if any(other["variant"] for other in rows) else ""
    return join(place, node_key(row["name"], row["variant"])) + seed


def _rests_on(facts: dict[str, Any]) -> str:
    used = ", ".join(f"{rows} {split}" for split, rows in facts["rows_used"].items())
    left_out, base = sum(len(lines) for lines in facts["quarantined"].values()), facts["majority_baseline"]
    return f"rows {used}; {left_out} quarantined" + (f"; majority class {base:.3f}" if base else "")
