"""What a kind of label is: all that the program knows of one stands in its object of KINDS.

A new kind is its name in KindName and its object here; a reader of cells, a loss or a metric that it alone has is a
function in cells.py, objectives/losses.py or measure/metrics.py, named here. Nothing here imports torch, which who only
reads a recipe's tasks does not need: tensors bring their own operations.

Shapes: B examples; a head's outputs for them are (B, *shape), with the shape of LabelSpec.shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log, log1p, prod
from typing import TYPE_CHECKING, Any, Literal

from multitask.tasks.cells import Classes, LabelValue, joined, read_class, read_number, read_several
from multitask.tasks.chances import OF_CLASSES, OF_YES_OR_NO, Chances

if TYPE_CHECKING:
    from torch import Tensor

KindName = Literal["classes", "binary", "score", "probability", "multilabel"]
Metric = Literal[
    "accuracy", "balanced_accuracy", "f1", "f1_micro", "f1_macro", "f1_weighted", "precision", "precision_macro",
    "recall", "recall_macro", "mcc", "pearson", "spearman", "kendall", "mae", "mse", "r2", "auc", "average_precision",
    "log_loss", "brier", "ece", "mrr", "map", "ndcg_at_10", "recall_at_1", "recall_at_5", "recall_at_10",
]  # fmt: skip
OF_CLASS: tuple[Metric, ...] = (
    "balanced_accuracy", "f1_macro", "f1_weighted", "precision_macro", "recall_macro", "mcc",
)  # fmt: skip
OF_YES: tuple[Metric, ...] = ("balanced_accuracy", "f1", "precision", "recall", "mcc", "average_precision")
NUMBERS: tuple[Metric, ...] = ("spearman", "kendall", "mae", "mse")  # of labels that are one number, whatever it means
PROBABILITIES: tuple[Metric, ...] = ("auc", "log_loss", "brier", "ece")
# Of pairs whose first text asks and whose second one is a candidate.
RANKINGS: tuple[Metric, ...] = ("mrr", "map", "ndcg_at_10", "recall_at_1", "recall_at_5", "recall_at_10")

MAX_CLASSES = 1000


@dataclass(frozen=True)
class LabelSpec:
    """The label of a task: its column and its valid values."""

    kind: KindName
    """A key of KINDS."""
    column: str
    low: float
    """The least label; 0 of classes with words."""
    high: float
    """The greatest label."""
    similar: float | None = None
    """The least label of a pair whose sentences mean the same; None where no label says so (mlm-mnrl.txt, 4.3)."""
    words: tuple[str, ...] = ()
    """What files and predictions call the labels low..high, where these are classes that have names."""
    thresholds: tuple[float, ...] = ()
    """The probability above which each output of a kind that decides is a yes; none where that is 0.5 for all."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what a head puts out for one example."""
        return KINDS[self.kind].shape(self)

    @property
    def outputs(self) -> int:
        """How many numbers a head puts out for one example."""
        return prod(self.shape)

    @property
    def cuts(self) -> tuple[float, ...]:
        """The logits of the thresholds, which outputs are compared with: one for each, or one for all."""
        return tuple(log(at) - log1p(-at) for at in self.thresholds) or (0.0,)

    @property
    def meaning(self) -> str:
        """What its labels say, in words: answers for two labels of one meaning can be compared, wherever a model cuts
        its probabilities and whatever files call the column."""
        return f"{self.kind} {', '.join(self.words) or f'{self.low:.12g} to {self.high:.12g}'}"

    def is_similar(self, label: LabelValue | None) -> bool:
        """Whether a pair of that label means the same; False where no label says so, or there is none."""
        return self.similar is not None and isinstance(label, float | int) and label >= self.similar

    def says(self, label: Any) -> str:
        """A label as people read it. label: a LabelValue, or the numbers of one in a list or an array."""
        return KINDS[self.kind].says(label, self)


def word_or_number(label: float, spec: LabelSpec) -> str:
    return spec.words[int(label)] if spec.words else f"{label:g}"


def those_there(label: Sequence[float]) -> Sequence[int]:
    return [at for at, there in enumerate(label) if there]


def those_said(label: Sequence[float], spec: LabelSpec) -> str:
    return joined([word_or_number(at, spec) for at in those_there(label)])


def nearest(label: float) -> Sequence[int]:
    return (round(label),)


@dataclass(frozen=True)
class LabelKind:
    """What a kind of label is, from a cell of a data file to a prediction."""

    words: tuple[int, int] | None
    """How many words a definition may give to its classes, at least and at most; None for a number on a scale."""
    bounds: tuple[float, float] | None
    """The least and the greatest label, of a kind whose definitions do not say them."""
    read: Callable[[object, str, LabelSpec, Classes], LabelValue]
    """(a cell, its column's name, label, the file's classes) -> the label that it says. Raises MalformedError."""
    written: Callable[[Any, LabelSpec], str]
    """(an example's predicted label, label) -> what prediction files have."""
    shape: Callable[[LabelSpec], tuple[int, ...]]
    """The shape of what a head puts out for one example."""
    prediction: Callable[[Tensor, LabelSpec], Tensor]
    """(a head's outputs, label) -> predicted labels, float, in the label's own unit: (B,), or (B, W) of W numbers."""
    probability: Callable[[Tensor], Tensor] | None
    """A head's outputs -> probabilities of their shape, float64; None where outputs are none."""
    chances: Chances | None
    """How outputs are probabilities that can be mixed; None where they are values, of which the mean is taken."""
    decides: bool
    """Whether a prediction is a yes or no of each logit, which curves may rest on too."""
    divergence: Callable[[Tensor, Tensor, LabelSpec], Tensor]
    """(outputs, reference, label) -> how far two outputs for the same examples lie apart, (B,), >= 0; symmetric."""
    losses: tuple[str, ...]
    """What a head with weights can learn such labels by, names in LOSSES; the default first."""
    metrics: tuple[Metric, ...]
    """What predictions of such labels can be measured by, names in METRICS; the default first."""
    unit: str
    """What a head's outputs are, in words for whoever runs an export; {low} and {high} are the label's bounds."""
    becomes: str
    """How outputs become a label, in such words; {cuts} are LabelSpec.cuts."""
    problem: str
    """What transformers calls a task of such labels: `problem_type` of its models for classification."""
    taught: Callable[[Tensor, Tensor, LabelSpec, float], Tensor]
    """(outputs, a teacher's for the same examples, label, temperature) -> what a student learns of them, (B,), >= 0."""
    says: Callable[[Any, LabelSpec], str] = word_or_number
    """(an example's label, label) -> what people read."""
    counted: Callable[[Any], Sequence[int]] = nearest
    """An example's label -> the classes, or whole numbers, that it counts for in a file's spread of labels."""
    ordered: bool = True
    """Whether a greater label says more, so that `similar` can be the least one of a pair that means the same."""

    @property
    def scaled(self) -> bool:
        """Whether a label is a number on a scale that its definition says."""
        return self.words is None and self.bounds is None

    @property
    def one_class(self) -> bool:
        """Whether a label is one class of several, which can be weighed and smoothed."""
        return self.words is not None and self.ordered

    @property
    def by_logits(self) -> bool:
        """Whether a prediction is made of logits that metrics may rest on: a yes or no of each, or the class of the
        greatest."""
        return self.decides or self.one_class

    @property
    def several(self) -> bool:
        """Whether a label is a number for each class."""
        return self.read is read_several


# Outputs -> predictions, probabilities, divergences (SMART: Jiang et al., 2020, section 3.1).


def one_number(label: LabelSpec) -> tuple[int, ...]:
    return ()


def a_number_a_class(label: LabelSpec) -> tuple[int, ...]:
    return (int(label.high - label.low) + 1,)


def wide(outputs: Tensor) -> Tensor:
    """At least float32."""
    return outputs.float() if outputs.element_size() < 4 else outputs


def decided(outputs: Tensor, label: LabelSpec) -> Tensor:
    """1 for each logit that is above its threshold's."""
    return (outputs > outputs.new_tensor(label.cuts)).float()


def sigmoid64(outputs: Tensor) -> Tensor:
    return outputs.double().sigmoid()


def kl_of_classes(outputs: Tensor, reference: Tensor, label: LabelSpec) -> Tensor:
    """KL(p || q) + KL(q || p), nats, of the classes' probabilities p and q."""
    p, q = outputs.log_softmax(dim=-1), reference.log_softmax(dim=-1)
    return ((p.exp() - q.exp()) * (p - q)).sum(dim=-1)


def kl_of_logits(outputs: Tensor, reference: Tensor, label: LabelSpec) -> Tensor:
    """KL(p || q) + KL(q || p), nats, of yes or no."""
    # Both KLs of the Bernoullis in one: log(p / (1 - p)) is the logit itself, so no logarithm can overflow.
    return (outputs.sigmoid() - reference.sigmoid()) * (outputs - reference)


def mean_kl_of_logits(outputs: Tensor, reference: Tensor, label: LabelSpec) -> Tensor:
    """kl_of_logits, the mean over the classes, as their loss is."""
    return kl_of_logits(outputs, reference, label).mean(dim=-1)


def square_on_scale(outputs: Tensor, reference: Tensor, label: LabelSpec) -> Tensor:
    """The squared difference, on the scale 0..1 of the label's range."""
    return ((outputs - reference) / (label.high - label.low)).square()


# What a student learns from a teacher's outputs (Hinton et al., 2015, section 2): T^2 times KL(teacher || student),
# nats, of the probabilities at temperature T; T^2 keeps its gradients as large at every T.


def soft_classes(outputs: Tensor, teacher: Tensor, label: LabelSpec, temperature: float) -> Tensor:
    """T^2 KL(p || q) of the classes' probabilities, p the teacher's."""
    p, q = (wide(logits / temperature).log_softmax(dim=-1) for logits in (teacher, outputs))
    return temperature**2 * (p.exp() * (p - q)).sum(dim=-1)


def soft_logits(outputs: Tensor, teacher: Tensor, label: LabelSpec, temperature: float) -> Tensor:
    """T^2 KL(p || q) of yes or no, p the teacher's."""
    p, q = (wide(logits / temperature) for logits in (teacher, outputs))
    apart = p.sigmoid() * (p - q) + q.logaddexp(q.new_zeros(())) - p.logaddexp(p.new_zeros(()))
    return temperature**2 * apart


def mean_soft_logits(outputs: Tensor, teacher: Tensor, label: LabelSpec, temperature: float) -> Tensor:
    """soft_logits, the mean over the classes, as their loss is."""
    return soft_logits(outputs, teacher, label, temperature).mean(dim=-1)


def soft_score(outputs: Tensor, teacher: Tensor, label: LabelSpec, temperature: float) -> Tensor:
    """What `square_on_scale` gives: a score is no probability, and has no temperature."""
    return square_on_scale(wide(outputs), wide(teacher), label)


KINDS: Mapping[KindName, LabelKind] = {
    # Whole numbers low..high, or words.
    "classes": LabelKind(
        words=(2, MAX_CLASSES),
        bounds=None,
        read=read_class,
        written=word_or_number,
        shape=a_number_a_class,
        prediction=lambda outputs, label: outputs.argmax(dim=-1).float(),
        probability=lambda outputs: outputs.double().softmax(dim=-1),
        chances=OF_CLASSES,
        decides=False,
        divergence=kl_of_classes,
        losses=("cross_entropy", "ordinal", "focal"),
        metrics=("accuracy", "pearson", *OF_CLASS, *NUMBERS, *PROBABILITIES),
        unit="a logit for each class; softmax gives probabilities",
        becomes="the largest's: {low:g} + argmax",
        problem="single_label_classification",
        taught=soft_classes,
    ),
    # 0 or 1, or two words.
    "binary": LabelKind(
        words=(2, 2),
        bounds=(0, 1),
        read=read_class,
        written=lambda label, spec: spec.says(label) if spec.words else f"{int(label)}.0",
        shape=one_number,
        prediction=decided,
        probability=sigmoid64,
        chances=OF_YES_OR_NO,
        decides=True,
        divergence=kl_of_logits,
        losses=("bce", "focal"),
        metrics=("accuracy", "pearson", *OF_YES, *PROBABILITIES, *RANKINGS),
        unit="a logit; its sigmoid is the probability of {yes}",
        becomes="1 where it is above {cuts}",
        problem="multi_label_classification",
        taught=soft_logits,
    ),
    # A real number in low..high.
    "score": LabelKind(
        words=None,
        bounds=None,
        read=read_number,
        written=lambda label, spec: str(float(label)),
        shape=one_number,
        prediction=lambda outputs, label: wide(outputs),
        probability=None,
        chances=None,
        decides=False,
        divergence=square_on_scale,
        losses=("mse", "cosine_mse", "cosent"),
        metrics=("pearson", *NUMBERS, "r2", *RANKINGS),
        unit="the label's own unit, {low:g} to {high:g}",
        becomes="the value itself",
        problem="regression",
        taught=soft_score,
    ),
    # A real number in 0..1.
    "probability": LabelKind(
        words=None,
        bounds=(0, 1),
        read=read_number,
        written=lambda label, spec: f"{label:.4f}",
        shape=one_number,
        prediction=lambda outputs, label: wide(outputs).sigmoid(),
        probability=sigmoid64,
        chances=OF_YES_OR_NO,
        decides=False,
        divergence=kl_of_logits,
        losses=("bce", "cosent"),
        metrics=("pearson", *NUMBERS, "r2", *RANKINGS),
        unit="a logit; its sigmoid is the probability",
        becomes="the sigmoid",
        problem="multi_label_classification",
        taught=soft_logits,
    ),
    # Any of the whole numbers low..high, or of the words: a yes or no for each.
    "multilabel": LabelKind(
        words=(2, MAX_CLASSES),
        bounds=None,
        read=read_several,
        written=those_said,
        shape=a_number_a_class,
        prediction=decided,
        probability=sigmoid64,
        chances=OF_YES_OR_NO,
        decides=True,
        divergence=mean_kl_of_logits,
        losses=("bce", "focal"),
        metrics=("f1_micro", "f1_macro", "average_precision", "auc"),
        unit="a logit for each class; its sigmoid is the class's probability",
        becomes="the classes whose logits are above {cuts}",
        problem="multi_label_classification",
        taught=mean_soft_logits,
        says=those_said,
        counted=those_there,
        ordered=False,
    ),
}


def unit_of(label: LabelSpec) -> str:
    """What an output of a head for the label is, in words."""
    yes = label.words[-1] if label.words else "1"
    return KINDS[label.kind].unit.format(low=label.low, high=label.high, yes=yes)
