"""What a stage tells TensorBoard beside its scalars: its settings, its results, curves of yes and no, and where its
encoder puts sentences. From rank 0 alone; nothing that training waits for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict

import numpy as np
from tokenizers import Tokenizer
from torch import Tensor

from lightning_modules.module import StageModule
from lightning_modules.tensorboard import EventLog
from multitask import markdown
from multitask.data.samplers import subset
from multitask.data.tokens import TokenTable
from multitask.experiment.records import Record
from multitask.experiment.results import Rows, cell
from multitask.experiment.stage_job import StageJob
from multitask.measure.evaluate import Autocast, EvalSet, encode_sentences
from multitask.measure.metrics import Predicted
from multitask.tasks.table import TaskSpec

SHOWN = 100  # dev rows a task in the projector: a second's work for a small BERT on a CPU
SEED = 11711
BEST = "sweep/best"  # a scalar that the best of a sweep's trials alone has
Metadata = list[list[str]]  # a sentence each: task, label, text


def tell_settings(events: EventLog, module: StageModule) -> None:
    """Tells the stage and its settings, and lays out a page of charts for each task."""
    job, stage = module.job, module.stage
    facts = {"trainer": job.owner.trainer, "seed": job.seed, "heads": job.model.heads, **stage.content()}
    events.text("stage/settings", markdown.table(("setting", "value"), list(facts.items())), 0)
    charts = {task: {"dev": ["Multiline", [rf"dev/{task}/.*"]]} for task in job.data.dev}
    if len(stage.tasks) > 1:
        charts = {task: {**found, "loss": ["Multiline", [f"train/loss_{task}$"]]} for task, found in charts.items()}
    events.layout(charts)


def tell_results(events: EventLog, record: Record, tables: Mapping[str, TokenTable]) -> None:
    """Tells the metrics of a measurement, with what they rest on."""
    rows = []
    for name, found in record.scores.items():
        facts, table = asdict(found), tables.get(name.partition("/")[0])
        rows.append((name, markdown.number(facts), markdown.interval(facts), len(table) if table else ""))
    header = ("metric on dev", "value", "95 % interval", "rows")
    events.text("stage/results", f"epoch {record.epoch}\n\n{markdown.table(header, rows)}", record.steps)


def tell_best(job: StageJob, trials: Rows) -> None:
    """Says in the run of a sweep's best trial, when all trials have ended, that it is the best, by what, and among
    which.

    job: the trial's. trials: their rows of results.json.
    """
    mine = next(row for row in trials if row["name"] == job.label)
    rows = [(row["name"], cell(row["metrics"].get(job.by)) + "*" * (row is mine), row["status"]) for row in trials]
    events = EventLog(job.events, purge=mine["steps"] + 1)  # nothing of what the trial told is hidden
    table = markdown.table(("trial", job.by, "status"), rows)
    content = f"{job.label} is the best of {len(rows)} trials by {job.by}\n\n{table}"
    events.text("stage/sweep", content, mine["steps"], again=True)
    events.scalars({BEST: mine["metrics"][job.by]}, mine["steps"])
    events.close()


def tell_curves(
    events: EventLog, predicted: Mapping[str, Predicted], tables: Mapping[str, TokenTable], steps: int
) -> None:
    """Tells curves of precision over recall, of the tasks that ask for yes or no."""
    for task, found in predicted.items():
        if found.logits is not None and found.logits.shape == found.labels.shape:
            events.curve(f"{task}/precision_recall", tables[task].labels, found.logits.sigmoid(), steps)


def tell_sentences(
    events: EventLog, module: StageModule, tables: Mapping[str, TokenTable], autocast: Autocast, steps: int
) -> None:
    """Tells the projector the encodings of some dev sentences of each task that was trained."""
    tokenizer, specs = Tokenizer.from_str(module.objective.setup.tokenizer_json), module.model.specs
    vectors: list[Tensor] = []
    metadata: Metadata = []
    for task in module.stage.tasks:
        if specs[task].joined:  # one sequence of two texts is no sentence
            continue
        table = tables[task]
        rows = np.sort(subset(len(table), SHOWN, SEED))
        data = EvalSet.of(task, table, module.device.type, rows=rows)
        vectors.append(encode_sentences(module.model, data, rows, device=module.device, autocast=autocast).float())
        metadata += described(table, rows, specs[task], tokenizer)
    if vectors:
        events.projector(vectors, metadata, ["task", "label", "text"], steps)


def described(table: TokenTable, rows: Iterable[int], spec: TaskSpec, tokenizer: Tokenizer) -> Metadata:
    """What the projector shows beside each sentence; the text is what the encoder was given of it."""
    found = []
    for row in rows:
        label = table.labels[row].tolist()
        for sentence in range(table.sentences):
            text = tokenizer.decode(table.sentence(row * table.sentences + sentence).tolist())
            found.append([spec.name, spec.label.says(label), " ".join(text.split())])
    return found
