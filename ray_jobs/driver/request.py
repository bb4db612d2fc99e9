"""What the command line asks of an experiment's driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ray_jobs.options import Workers

if TYPE_CHECKING:
    from multitask.recipe.stages import Recipe
    from multitask.storage.storage import Storage


@dataclass(frozen=True)
class TrainingRequest:
    """An experiment to run, or to go on with."""

    recipe: Recipe
    data: str | None
    """A directory, its URI or a map, where the recipe does not say where its tasks' files are."""
    storage: Storage
    experiment: str
    """The experiment's name."""
    workers: Workers
    fresh: bool = False
    """Whether stages that differ from those under their names supersede them."""
    seeds: int = 1
    """How many seeds are trained: the recipe's and those after it."""
    log: str | None = None
    """Where the driver's log lies in the experiment."""
    submission_id: str | None = None
    """The id of the Ray job that the driver is, if it is one."""
    trackers: tuple[str, ...] = ()
    """Who is sent what the stages tell, beside TensorBoard: names of ray_jobs/trackers/mirror.py."""
    own_process: bool = True
    """Whether the process is the driver's alone. In a notebook's, which has other work, no import is made lighter than
    others may need it, garbage is collected as ever, and freed memory is given back."""
