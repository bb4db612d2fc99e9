"""What a teacher says of a task's training examples: computed once, before the student's first step.

Dropout is off, and the arithmetic is float32 whatever the stage's is: one teacher says the same to all of its students.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from multitask.bundle.bundle import Bundle
from multitask.data.batches import Batch
from multitask.data.progress import Done, silent
from multitask.data.samplers import Rows, stacked
from multitask.data.tokens import TokenTable
from multitask.experiment.stage_job import JobTeacher, digest
from multitask.measure.evaluate import EvalSet, Reduce, alone, encode_sentences, scattered
from multitask.model.multitask import MultitaskModel
from multitask.objectives.distillation import Taught, Teacher
from multitask.tasks.table import TaskSpec


def teacher_key(job: JobTeacher, task: str, teacher: Teacher) -> str:
    """A hash of all that a teacher's words depend on beside its token table and the rows of it."""
    return digest(["teacher", job.fingerprint, task, teacher.embeddings])


def read_as(spec: TaskSpec, bundle: Bundle, teacher: Teacher) -> TaskSpec:
    """The student's task `spec` as the teacher reads it: a head as it was trained, with its pairs separate or joined;
    an encoder as the student does, so that there are as many encodings of an example."""
    if teacher.embeddings:
        return spec
    theirs = bundle.specs[spec.name]
    return replace(spec, joined=theirs.joined, segments=theirs.segments)


def teacher_model(bundle: Bundle, spec: TaskSpec, teacher: Teacher, device: torch.device) -> MultitaskModel:
    """The teacher's model, on that device. spec: the student's task."""
    name = spec.name
    heads = {} if teacher.embeddings else {name: bundle.heads[name]}
    if teacher.embeddings and name in bundle.branches:
        bundle = bundle.of_task(name)  # what the task was trained through
    specs = {**bundle.specs, name: read_as(spec, bundle, teacher)}
    return replace(bundle, specs=specs).model(heads).to(device)


def said_of(
    model: MultitaskModel,
    data: EvalSet,
    rows: Rows,
    teacher: Teacher,
    device: torch.device,
    reduce: Reduce = alone,
    progress: Done = silent,
) -> Tensor:
    """What a teacher says of some rows of a table, on every rank: its head's outputs, (rows, *shape), or its sentence
    encodings, (rows * sentences, F)."""
    if teacher.embeddings:
        return encode_sentences(model, data, rows, device=device, reduce=reduce, progress=progress)
    found = torch.zeros(len(rows), *model.specs[data.task].label.shape)

    def outputs(batch: Batch) -> Tensor:
        found: Tensor = model(batch.to(device))
        return found

    with model.evaluating():
        return reduce(
            scattered(found, data.batches, lambda batch: np.searchsorted(rows, batch.rows.numpy()), outputs, progress)
        )


def taught(values: Tensor, table: TokenTable, rows: Rows, teacher: Teacher) -> Taught:
    """What `said_of` gave, for batches of those rows, which are ascending. table: as the student reads it."""
    sentences = table.sentences if teacher.embeddings else 1
    places = torch.full((len(table) * sentences,), -1)
    places[np.sort(stacked(rows, sentences))] = torch.arange(len(rows) * sentences)
    return Taught(values, places, sentences)
