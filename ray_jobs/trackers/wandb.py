"""Weights & Biases, online or offline as its own environment variables say."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from multitask.errors import UserError
from ray_jobs.trackers.base import Fact, Ledger, Stage

if TYPE_CHECKING:
    from wandb import Run


class Wandb:
    """Sends stages to Weights & Biases: an experiment is a project there, a trainer a run.

    A run takes its steps in their order, all that belongs to one together, and offline it cannot be asked for them: a
    step is sent when a later one is there or the stage is done, and the ledger says which was the last.
    """

    name = "wandb"

    def __init__(self, ledger: Ledger) -> None:
        import wandb  # noqa: F401 (that it is missing is said before anything is trained)

        self.ledger = ledger
        self._runs: dict[str, Run] = {}

    def send(self, stage: Stage, facts: Sequence[Fact]) -> None:
        newest = max((fact.steps for fact in facts), default=0)
        done = self.ledger.sent.get(stage.trainer, {}).get("steps", -1)
        until = newest if stage.is_whole else newest - 1
        new = [fact for fact in facts if done < fact.steps <= until]
        if new:
            run = self._run(stage)
            for steps, row in groupby(new, key=lambda fact: fact.steps):
                run.log({fact.tag: fact.value for fact in row}, step=steps)
            self.ledger.note(stage.trainer, steps=max(fact.steps for fact in new))

    def has(self, stage: Stage, name: str, content: str) -> bool:
        return bool(self.ledger.sent.get(stage.trainer, {}).get(name) == content)

    def attach(self, stage: Stage, name: str, content: str, folder: Path) -> None:
        import wandb

        artifact = wandb.Artifact(f"{stage.trainer}-{name}", type=name)
        artifact.add_dir(str(folder))
        self._run(stage).log_artifact(artifact)
        self.ledger.note(stage.trainer, **{name: content})

    def close(self) -> None:
        for run in self._runs.values():
            run.finish()
        self._runs.clear()

    def _run(self, stage: Stage) -> Run:
        """The stage's run, gone on with where it was begun before."""
        import wandb

        if stage.trainer not in self._runs:
            key = hashlib.sha256(f"{stage.experiment}/{stage.trainer}".encode()).hexdigest()[:16]
            # This process is the driver, whose output and load say nothing of the stage.
            settings = wandb.Settings(console="off", silent=True, x_disable_stats=True)
            try:
                self._runs[stage.trainer] = wandb.init(
                    project=stage.experiment, id=key, name=stage.name, config=dict(stage.parameters),
                    resume="allow", reinit="create_new", settings=settings,
                )  # fmt: skip
            except wandb.Error as error:
                raise UserError(f"wandb: {error}") from error
        return self._runs[stage.trainer]
