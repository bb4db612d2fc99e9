"""Texts -> a task's labels and probabilities, with a bundle's heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from multitask.bundle.bundle import Bundle
from multitask.bundle.ensemble import Answering, Ensemble
from multitask.data.batches import Batch, padded, segments_of
from multitask.data.progress import Done, silent
from multitask.data.samplers import Rows
from multitask.data.tokens import second_at
from multitask.errors import UserError, near
from multitask.inference.embed import TextEncoder, Vectors
from multitask.measure.ensembles import mixed
from multitask.measure.evaluate import scattered
from multitask.measure.metrics import Floats
from multitask.tasks.labels import KINDS, LabelSpec

BLOCK = 4096  # pairs whose sentences are encoded, and whose head is computed, at a time


@dataclass(frozen=True)
class Answers:
    """What a task's head answers for N texts or pairs.

    labels: (N,) float64 in the task's unit, or (N, W) of W numbers each. probabilities: (N, classes) or (N,) float64;
    None for scores.
    """

    labels: Floats
    probabilities: Floats | None


class Answerer(ABC):
    """What answers a bundle's or an ensemble's tasks, for texts as they come.

    A task of two columns takes a second text for each first one. What it gives differs from what `evaluate.predictions`
    gives for the same rows by float32's rounding alone.
    """

    bundle: Answering
    device: torch.device

    @abstractmethod
    def outputs(
        self, task: str, first: Sequence[str], second: Sequence[str] | None = None, progress: Done = silent
    ) -> Tensor:
        """(N,) or (N, classes) on the CPU: what a head that answers so puts out, in the texts' order. Raises UserError
        as `answer`."""

    @abstractmethod
    def embed(self, texts: Sequence[str], progress: Done = silent) -> Vectors:
        """(N, H) sentence encodings, each of length 1. Raises UserError where there is no one encoder to ask."""

    def predict(
        self, task: str, first: Sequence[str], second: Sequence[str] | None = None, progress: Done = silent
    ) -> Floats:
        """(N,) or (N, W) labels in the task's unit. Raises UserError as `answer`."""
        return self.answer(task, first, second, progress).labels

    def probabilities(
        self, task: str, first: Sequence[str], second: Sequence[str] | None = None, progress: Done = silent
    ) -> Floats:
        """(N, classes), or (N,) that the label is 1. Raises UserError as `answer`, and for a task without any."""
        found = self.answer(task, first, second, progress).probabilities
        if found is None:
            kind = self.bundle.specs[task].label.kind
            raise UserError(f"task {task}: its label is a {kind}, which has no probability; predict gives its value")
        return found

    def answer(
        self, task: str, first: Sequence[str], second: Sequence[str] | None = None, progress: Done = silent
    ) -> Answers:
        """Labels and probabilities. Raises UserError where the bundle has no trained head for the task, or where it
        takes another number of texts."""
        return answers(self.outputs(task, first, second, progress), self.bundle.specs[task].label)


class Predictor(TextEncoder, Answerer):
    """A bundle's encoder and heads. Dropout is off."""

    with_heads = True

    def __init__(self, bundle: Bundle, device: torch.device | str = "cpu") -> None:
        super().__init__(bundle, device)
        self.bundle: Bundle = bundle

    def outputs(
        self, task: str, first: Sequence[str], second: Sequence[str] | None = None, progress: Done = silent
    ) -> Tensor:
        """(N,) or (N, classes) float32 on the CPU: what the head puts out, in the texts' order."""
        require(self.bundle, task)
        spec = self.bundle.specs[task]
        if len(spec.columns) != (1 if second is None else 2):
            raise UserError(f"task {task}: takes {' and '.join(spec.columns)}, {len(spec.columns)} texts an example")
        if second is not None and len(first) != len(second):
            raise UserError(
                f"task {task}: {len(first)} first texts and {len(second)} second ones; give as many of each"
            )
        if spec.sentences == 1:
            texts = first if second is None else list(zip(first, second, strict=True))
            return self.of_sequences(task, texts, progress)
        return self._of_pairs(task, first, second or [], progress)

    def of_sequences(self, task: str, texts: Sequence[str] | Sequence[tuple[str, str]], progress: Done) -> Tensor:
        """Head outputs for examples that are one sequence each: a sentence, or a joined pair."""
        spec, encodings = self.bundle.specs[task], self.tokenizer.encode_batch_fast(list(texts))
        ids = [encoding.ids for encoding in encodings]
        seconds = [second_at(encoding) for encoding in encodings] if spec.segments else None
        del encodings  # many times as large as what is kept of them
        found = torch.zeros(len(ids), *spec.label.shape)

        def headed(rows: Rows) -> Tensor:
            input_ids, mask = padded([ids[row] for row in rows])
            segments = None if seconds is None else segments_of([seconds[row] for row in rows], mask)
            return self._headed(task, input_ids, mask, len(rows), segments=segments)

        return scattered(found, self._batches(ids), lambda rows: rows, headed, progress)

    def _of_pairs(self, task: str, first: Sequence[str], second: Sequence[str], progress: Done) -> Tensor:
        """Head outputs for pairs of sentences: each distinct sentence of a block is encoded once. No head of a pair
        reads token states."""
        label, own = self.bundle.specs[task].label, self.model.own_layers(task)
        found = [torch.zeros(0, *label.shape)]
        for start in range(0, len(first), BLOCK):
            texts = [*first[start : start + BLOCK], *second[start : start + BLOCK]]
            place = {text: at for at, text in enumerate(dict.fromkeys(texts))}
            encoded = self.sentences(list(place), own=own)[[place[text] for text in texts]]
            none, size = torch.empty(0, 0, dtype=torch.int64), len(texts) // 2
            found.append(self._headed(task, none, none.bool(), size, encoded))
            progress(start + size)
        return torch.cat(found)

    @torch.no_grad()
    def _headed(
        self,
        task: str,
        input_ids: Tensor,
        mask: Tensor,
        size: int,
        features: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        nothing = torch.zeros(size)
        batch = Batch(task, input_ids, mask, nothing, nothing, nothing, features, segments=segments)
        outputs: Tensor = self.model(batch.to(self.device))
        return outputs.cpu()


class Together(Answerer):
    """An ensemble's members, all in memory; each is asked for what it has a part in."""

    def __init__(self, ensemble: Ensemble, device: torch.device | str = "cpu") -> None:
        self.bundle, self.device = ensemble, torch.device(device)
        self._members = [Predictor(member, device) for member in ensemble.members]

    def outputs(
        self, task: str, first: Sequence[str], second: Sequence[str] | None = None, progress: Done = silent
    ) -> Tensor:
        """(N,) or (N, classes) float64 on the CPU, of which the label's kind makes the mixture's labels and
        probabilities."""
        require(self.bundle, task)
        asked = [(one, share) for one, share in zip(self._members, self.bundle.shares(task), strict=True) if share]
        outputs = [one.outputs(task, first, second, progress if one is asked[-1][0] else silent) for one, _ in asked]
        return mixed(outputs, [share for _, share in asked], self.bundle.specs[task].label)

    def embed(self, texts: Sequence[str], progress: Done = silent) -> Vectors:
        raise UserError(f"{self.bundle.called}: its members have encoders of their own; embed with one of them")


def answerer(model: Answering, device: torch.device | str = "cpu") -> Answerer:
    """What answers a bundle's or an ensemble's tasks on that device."""
    return Together(model, device) if isinstance(model, Ensemble) else Predictor(model, device)


def answers(outputs: Tensor, label: LabelSpec) -> Answers:
    """What a head's outputs, (N,) or (N, classes), say: labels and probabilities."""
    kind = KINDS[label.kind]
    probabilities = kind.probability(outputs).numpy() if kind.probability else None
    return Answers(kind.prediction(outputs, label).double().numpy(), probabilities)


def require(bundle: Answering, task: str, advice: str = "") -> None:
    """Raises UserError where there is no trained head for the task. advice: how to get what is wanted."""
    if task in (found := bundle.answers):
        return
    has = f"it has those of {', '.join(found)}" if found else "it has none"
    advice += near(task, found)
    raise UserError(
        f"{bundle.called}: no trained head for task {task}, {has}; "
        f"a supervised stage with tasks: [{task}] makes one{advice}"
    )
