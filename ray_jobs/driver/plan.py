"""What an experiment trains: nodes, each once, with the names and fingerprints that they are known by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from multitask.bundle.bundle import weights_of
from multitask.experiment.differences import encoder_words
from multitask.experiment.experiment_file import Experiment, StageRecord
from multitask.experiment.stage_job import BUNDLE, OUTCOME, node_key, read_outcome, stage_content
from multitask.recipe.stages import Recipe, Stage
from multitask.recipe.sweeps import Trial, trials
from multitask.storage.sealed import is_whole
from ray_jobs.driver.prepare import Lesson, Prepared, Start


@dataclass(frozen=True)
class Node:
    """A stage under one of several seeds, or a trial of its sweep: what is trained once.

    Its key names it in experiment.json. A stage that is swept has a node of its own, which is not trained: it stands
    for the best of its trials.
    """

    stage: Stage
    variant: int
    seed: int
    trial: Trial | None = None

    @property
    def name(self) -> str:
        return f"{self.stage.name}@{self.trial.label}" if self.trial else self.stage.name

    @property
    def key(self) -> str:
        return node_key(self.name, self.variant)


class Plan:
    """The nodes of a recipe in the order in which they are trained, and their records."""

    def __init__(self, recipe: Recipe, prepared: Prepared, experiment: Experiment, seeds: int) -> None:
        self.recipe, self.prepared, self.experiment = recipe, prepared, experiment
        self.nodes = [
            node for variant in range(seeds) for stage in recipe.stages for node in _nodes(recipe, stage, variant)
        ]
        self.records: dict[str, StageRecord] = {}
        self._outcomes: dict[str, dict[str, Any] | None] = {}  # by trainer

    def claim(self, fresh: bool) -> None:
        """Claims a record for every node under its fingerprint, parents first.

        Raises UserError for another stage under a known name, unless it is to be superseded (`fresh`).
        """
        self.experiment.named = self._named()
        for node in self.nodes:
            parent = self.recipe.parent(node.stage)
            content = self._content(node, self._fingerprint(parent, node.variant))
            trial = node.trial.number if node.trial else None if node.stage.sweep else 0
            self.records[node.key] = self.experiment.claim(node.key, content, parent, fresh, node.variant, trial)

    def _content(self, node: Node, parent: str) -> dict[str, Any]:
        if node.stage.sweep:
            chosen_from = {at.name: self.records[at.key].fingerprint for at in self.trials(node)}
            return {"trials": chosen_from, "by": node.stage.sweep.by}
        heads, shas = self.heads(node.stage), self.prepared.shas()
        teachers = {task: lesson.content for task, lesson in self.lessons(node.stage).items()}
        return stage_content(self.recipe, node.stage, heads, shas, parent, node.seed, teachers)

    def _named(self) -> dict[str, str]:
        """Fingerprint or sha256 -> what the recipe and --data call the encoder or the file."""
        files = [(table.sha256, table.source) for splits in self.prepared.tables.values() for table in splits.values()]
        encoder = encoder_words(self.recipe.encoder, self.recipe.pooling)
        teachers = {
            lesson.content["bundle"]: stage.teachers[task].bundle
            for stage in self.recipe.stages
            for task, lesson in self.lessons(stage).items()
        }
        return {**teachers, self.prepared.start.fingerprint: encoder, **dict(files)}

    def trials(self, node: Node) -> list[Node]:
        """The nodes of a swept stage's trials, of the same seed."""
        same = (other for other in self.nodes if other.variant == node.variant and other.trial)
        return [other for other in same if other.stage.name == node.stage.name]

    def heads(self, stage: Stage) -> dict[str, str]:
        return self.recipe.heads(stage, self.prepared.heads())

    def lessons(self, stage: Stage) -> dict[str, Lesson]:
        """Task -> what it learns from beside its labels in that stage."""
        return self.prepared.lessons.get(stage.name, {})

    def above(self, node: Node) -> StageRecord | None:
        """The record of the stage that the node starts from; None where that is no stage of this experiment."""
        return self.records.get(node_key(self.recipe.parent(node.stage), node.variant))

    def start(self, parent: str) -> Start:
        return self.prepared.start if parent == "encoder" else self.prepared.bundles[parent]

    def _fingerprint(self, parent: str, variant: int) -> str:
        above = self.records.get(node_key(parent, variant))
        return above.fingerprint if above else self.start(parent).fingerprint

    def outcome(self, node: Node, wait: bool = False) -> dict[str, Any] | None:
        """The outcome that a finished node has left, read once; None for a node that has not finished.

        wait: the node is known to have finished, and its outcome is waited for where reads lag behind writes.
        """
        return self._left(self.records[node.key], wait)

    def _left(self, record: StageRecord, wait: bool = False) -> dict[str, Any] | None:
        trainer = record.trainer
        if trainer and not self._outcomes.get(trainer):
            self._outcomes[trainer] = read_outcome(self.experiment.folder.at(trainer), wait)
        return self._outcomes.get(trainer)

    def torn(self) -> dict[str, str]:
        """The keys of nodes that have finished, but without a whole outcome and bundle that fit each other, and why."""
        return {node.key: why for node in self.nodes if (why := self._torn(node))}

    def _torn(self, node: Node) -> str:
        record, outcome = self.records[node.key], self.outcome(node)
        if not outcome:  # a damaged one has been named
            gone = record.status == "finished" and not self.experiment.folder.exists(f"{record.trainer}/{OUTCOME}")
            return f"its {OUTCOME} is gone" if gone else ""
        place = f"{record.trainer}/{BUNDLE}"
        if not is_whole(self.experiment.folder, place):
            return "its bundle is not whole"
        ended = outcome.get("weights")  # older builds do not say
        other = ended and ended != weights_of(self.experiment.folder.at(place))
        return "its bundle is not the one that it ended with" if other else ""

    def stale(self) -> dict[str, str]:
        """The keys of finished nodes that started from other weights than their parent has now, and why."""
        return {
            node.key: f"it started from other weights of '{self.recipe.parent(node.stage)}' than lie there now"
            for node in self.nodes
            if self._is_stale(node)
        }

    def _is_stale(self, node: Node) -> bool:
        """Whether it and its parent have finished with other weights between them; older builds' outcomes name none."""
        outcome, above = self.outcome(node), self.above(node)
        parent = self._left(above) if above else None
        started, ended = (outcome or {}).get("start_weights"), (parent or {}).get("weights")
        return bool(started and ended and started != ended)

    def reopen(self, key: str) -> None:
        """Takes a finished node for unfinished: it goes on from its last checkpoint of its start. The outcome is
        removed, or the stage would be taken for done where it runs."""
        record = self.records[key]
        self.experiment.folder.remove(f"{record.trainer}/{OUTCOME}")
        self._outcomes.pop(record.trainer, None)
        record.status = "interrupted"


def _nodes(recipe: Recipe, stage: Stage, variant: int) -> list[Node]:
    """A stage's trials, if it is swept, and itself."""
    seed = recipe.seed + variant
    swept = trials(stage, recipe.seed, f"stages.{stage.name}") if stage.sweep else []
    return [*(Node(trial.stage, variant, seed, trial) for trial in swept), Node(stage, variant, seed)]
