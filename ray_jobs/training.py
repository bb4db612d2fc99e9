"""`minibert train` and `minibert sweep`: a driver with its log and its signals, and what is told of its results."""

from __future__ import annotations

import logging
from typing import Any

from multitask.predictions import FOLDER
from multitask.recipe import Recipe
from multitask.results import table_rows
from multitask.storage import Storage, join
from ray_jobs.logs import DriverLog
from ray_jobs.options import Workers
from ray_jobs.screen import Screen
from ray_jobs.stopping import StopRequest
from ray_jobs.submission import how_to_go_on, submission_id

logger = logging.getLogger(__name__)


def run_training(
    recipe: Recipe,
    data: str | None,
    storage: Storage,
    experiment: str,
    screen: Screen,
    *,
    workers: Workers,
    fresh: bool,
    seeds: int,
) -> dict[str, Any] | None:
    """Trains; returns the results, None where the user stopped it."""
    from lightning_modules.progress import Interrupted
    from ray_jobs.driver import Driver, Request

    again = how_to_go_on()
    storage.probe()
    with DriverLog(storage.at(experiment)) as log, StopRequest(again) as stop:
        request = Request(recipe, data, storage, experiment, workers, fresh, log.path, seeds, submission_id())
        try:
            return Driver(request, screen).run(stop)
        except Interrupted:
            logger.info("interrupted; what was saved is safe")
            screen.say(f"interrupted; what was saved is safe; {again}")
            return None


def tell_results(screen: Screen, storage: Storage, results: dict[str, Any]) -> None:
    """The result table, what the numbers rest on, and where things are."""
    header, rows = table_rows(results)
    screen.table(header, rows, title=results["experiment"])
    trained = [stage for stage in results["stages"] if stage["trainer"]]
    for stage in trained:
        seed = f" (seed {stage['seed']})" if trained[-1]["variant"] else ""
        screen.say(f"{stage['name']}{seed}: {stage['trainer']}")
    for task, facts in results["data"].items():
        used = ", ".join(f"{rows} {split}" for split, rows in facts["rows_used"].items())
        left_out = sum(len(lines) for lines in facts["quarantined"].values())
        base = facts["majority_baseline"]
        about = f"rows {used}; {left_out} quarantined" + (f"; majority class {base:.3f}" if base else "")
        screen.say(f"{task}: {about}")
    place = join(storage.uri, results["experiment"])
    screen.say(f"results:     {join(place, 'results.json')}")
    parents = {stage["from"] for stage in trained}
    for stage in trained:
        if stage["name"] not in parents and "@" not in stage["name"]:  # a leaf of the recipe's tree, and no trial
            screen.say(f"bundle:      {join(place, stage['bundle'])}")
            if storage.exists(join(results["experiment"], stage["trainer"], FOLDER)):
                screen.say(f"predictions: {join(place, stage['trainer'], FOLDER)}")
    screen.say(f"report:      minibert report {place}")
    screen.say(f"TensorBoard: tensorboard --logdir {place}")
