"""Distillation: a student learns what a teacher says of its examples, beside their labels or without any.

The loss of an example is (1 - weight) * label's loss + weight * teacher's; one without a label has the second part
alone. Of a head's outputs the teacher's part is T^2 KL(teacher || student) of probabilities at temperature T (Hinton et
al., 2015, section 2), or the squared difference of scores on the scale 0..1 of the label's range; of sentence encodings
it is their mean squared error (Reimers and Gurevych, 2020, section 3).

Shapes: B examples, S their sentences, F numbers of a sentence's encoding, W numbers of a head's outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field
from torch import Tensor

from multitask.data.batches import Batch
from multitask.data.samplers import Rows, stacked
from multitask.tasks.labels import KINDS, LabelSpec
from multitask.tasks.schema import Above0, Strict


class Teacher(Strict):
    """What a task of a supervised stage learns from beside its labels (Hinton et al., 2015): a trained model, which may
    have another tokenizer, encoder, pairing and head."""

    bundle: str
    """The teacher: EXPERIMENT/STAGE, the URI of a bundle or an ensemble, or a folder that `minibert export` wrote."""
    weight: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.5
    """The teacher's share of the loss; the label's has the rest."""
    temperature: Above0 = 1.0
    """What both models' logits are divided by before they become probabilities: above 1, more is learned of what the
    teacher holds for less likely."""
    embeddings: bool = False
    """Learn the teacher's sentence encodings instead of its head's outputs; any encoder of the same size will do."""
    unlabelled: str | Annotated[list[str], Field(min_length=1)] | None = None
    """Files of more texts, written like a task's `train`, which are learned from the teacher alone; no label in them is
    read."""


@dataclass(frozen=True)
class Taught:
    """What a teacher says of a table's examples."""

    values: Tensor
    """(M, ...) float32, a row for each example that is used, or for each of its sentences."""
    places: Tensor
    """(N * sentences,) where in `values` each example of the table, or each of its sentences, stands; -1 for none."""
    sentences: int = 1
    """How many rows of `values` an example has."""

    def of(self, rows: Rows) -> Tensor:
        """(B, ...) or (S, ...) of some examples, which all have to be there, in a batch's order."""
        return self.values[self.places[stacked(rows, self.sentences)]]


def with_labels(batch: Batch) -> Batch:
    """The batch in which examples without a label have weight 0, and 0 for a label."""
    missing = batch.labels.isnan()
    known = ~(missing if missing.ndim == 1 else missing[:, 0])
    return replace(batch, labels=batch.labels.nan_to_num(), weights=batch.weights * known)


def distilled(
    teacher: Teacher, batch: Batch, outputs: Tensor, label: LabelSpec, of_labels: Tensor
) -> tuple[Tensor, Tensor]:
    """The (sum, count) of a batch's losses.

    outputs: (B,) or (B, W), the student's. of_labels: the sum of the label's losses over the examples that have one.
    The teacher's encodings are compared with `batch.features`, the student's own, (S, F).
    """
    assert batch.taught is not None
    if teacher.embeddings:
        assert batch.features is not None
        apart = squares(batch.features, batch.taught).view(-1, len(batch)).mean(dim=0)
    else:
        apart = KINDS[label.kind].taught(outputs, batch.taught, label, teacher.temperature)
    total = (1 - teacher.weight) * of_labels + teacher.weight * (apart * batch.weights).sum()
    return total, batch.weights.sum()


def squares(encodings: Tensor, teacher: Tensor) -> Tensor:
    """(S,) the mean squared difference of (S, F) encodings; subtracting float32 ones widens halves."""
    return (encodings - teacher).square().mean(dim=-1)
