"""MLflow, wherever its own environment variables say: a file, a database, a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multitask.errors import UserError
from ray_jobs.trackers.base import Fact, Stage

if TYPE_CHECKING:
    from mlflow import MlflowClient

TRAINER = "minibert.trainer"  # the tag by which a stage's run is found again
MOST = 900  # points a request; MLflow takes 1,000
LONGEST = 6000  # characters of a parameter that MLflow takes
STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED", "interrupted": "KILLED"}


class Mlflow:
    """Sends stages to MLflow: an experiment is an experiment there, a trainer a run, found again by a tag. MLflow is
    asked what it has, so that nothing is kept twice by whoever sends."""

    name = "mlflow"

    def __init__(self) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            self.client: MlflowClient = MlflowClient()
            self.client.search_experiments(max_results=1)  # a store that it refuses, it refuses at its first use
        except MlflowException as error:
            raise UserError(f"mlflow: {error}") from error
        self._runs: dict[str, str] = {}  # trainer -> id of its run
        self._there: dict[str, set[tuple[str, int]]] = {}  # id of a run -> (tag, steps) that it has

    def send(self, stage: Stage, facts: Sequence[Fact]) -> None:
        from mlflow.entities import Metric

        run = self._run(stage)
        known = self._there[run]
        new = [fact for fact in facts if (fact.tag, fact.steps) not in known]
        for at in range(0, len(new), MOST):
            part = new[at : at + MOST]
            metrics = [Metric(fact.tag, fact.value, round(fact.time * 1000), fact.steps) for fact in part]
            self.client.log_batch(run, metrics=metrics)
            known |= {(fact.tag, fact.steps) for fact in part}
        if stage.has_ended and self.client.get_run(run).info.status != STATUS[stage.status]:
            last = max((fact.time for fact in facts), default=None)
            self.client.set_terminated(run, STATUS[stage.status], None if last is None else round(last * 1000))

    def has(self, stage: Stage, name: str, content: str) -> bool:
        return self.client.get_run(self._run(stage)).data.tags.get(f"minibert.{name}") == content

    def attach(self, stage: Stage, name: str, content: str, folder: Path) -> None:
        run = self._run(stage)
        self.client.log_artifacts(run, str(folder), name)
        self.client.set_tag(run, f"minibert.{name}", content)  # last: a kill amid the files has them sent again

    def close(self) -> None:
        """Nothing is left: every request was answered."""

    def _run(self, stage: Stage) -> str:
        """The id of the stage's run, which is begun where there is none."""
        if stage.trainer in self._runs:
            return self._runs[stage.trainer]
        experiment = self._experiment(stage.experiment)
        found = self.client.search_runs([experiment], f"tags.`{TRAINER}` = '{stage.trainer}'")
        run = found[0] if found else self._begun(experiment, stage)
        self._runs[stage.trainer] = run.info.run_id
        self._there[run.info.run_id] = {
            (tag, point.step)
            for tag in run.data.metrics
            for point in self.client.get_metric_history(run.info.run_id, tag)
        }
        if found and not stage.has_ended:
            self.client.update_run(run.info.run_id, "RUNNING")
        return self._runs[stage.trainer]

    def _experiment(self, name: str) -> str:
        there = self.client.get_experiment_by_name(name)
        return str(there.experiment_id if there else self.client.create_experiment(name))

    def _begun(self, experiment: str, stage: Stage) -> Any:
        from mlflow.entities import Param

        run = self.client.create_run(experiment, run_name=stage.name, tags={TRAINER: stage.trainer})
        said = [Param(name, value[:LONGEST]) for name, value in stage.parameters.items()]
        self.client.log_batch(run.info.run_id, params=said)
        return run
