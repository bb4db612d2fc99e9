"""How well an application fits a job: a cross-encoder's probability (bertaar.txt, section 3); yes or no (10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multitask.bundle.bundle import Bundle
from multitask.bundle.last_layer import moved
from multitask.data.progress import Done, silent
from multitask.inference.predict import Predictor, require
from multitask.measure.metrics import Floats

TASK = "suitability"
THRESHOLD = 0.5  # from this probability on: qualified
MADE_BY = {TASK: "recruiter/all (stage suitability)", "sst": "classifier/sst_last (stage sst)"}

Pair = tuple[str, str]  # a job's text, an application's


def qualified(probabilities: Floats) -> NDArray[np.bool_]:
    """Probabilities (N,) -> (N,) bool, whether each means qualified."""
    return probabilities >= THRESHOLD


class TaskModel:
    """A bundle's head for one task, of sentences or of pairs.

    Raises UserError where the bundle has no such head.
    """

    def __init__(self, bundle: Bundle, task: str, device: torch.device | str = "cpu") -> None:
        require(bundle, task, f", as the recipe {MADE_BY[task]} does")
        self.task, self.predictor = task, Predictor(bundle, device)

    def outputs(self, texts: Sequence[str] | Sequence[Pair], progress: Done = silent) -> Tensor:
        """(N,) or (N, classes) float64: what the head puts out, in the texts' order."""
        if self.predictor.bundle.specs[self.task].sentences == 1:
            return self.predictor.of_sequences(self.task, texts, progress).double()
        first, second = ([pair[side] for pair in texts] for side in (0, 1))
        return self.predictor.outputs(self.task, first, second, progress).double()


class Suitability:
    """Probabilities that applications fit jobs. As good as its labels: see `labels_note`."""

    def __init__(self, bundle: Bundle, device: torch.device | str = "cpu") -> None:
        self.head = TaskModel(bundle, TASK, device)

    def logits(self, pairs: Sequence[Pair], progress: Done = silent) -> Floats:
        """(N,) float64: the log odds that each application fits its job."""
        found: Floats = self.head.outputs(pairs, progress).numpy()
        return found

    def probabilities(self, pairs: Sequence[Pair], progress: Done = silent) -> Floats:
        """(N,) float64 in 0..1."""
        return sigmoid(self.logits(pairs, progress))


def sigmoid(logits: Floats) -> Floats:
    found: Floats = torch.from_numpy(logits).sigmoid().numpy()  # without overflow
    return found


def labels_note(bundle: Bundle) -> str:
    """What the recipe says of the labels that the suitability head learned from; empty where it says nothing."""
    return str(bundle.about.get("notes", {}).get(TASK, ""))


def cooled(bundle: Bundle, temperature: float) -> Bundle:
    """A copy of the bundle whose suitability logits are divided by `temperature`, by dividing its head's last layer.

    about["temperature"]: the product of all temperatures that the bundle was cooled by.
    """
    total = float(bundle.about.get("temperature", 1.0)) * temperature
    return replace(moved(bundle, TASK, 1 / temperature), about={**bundle.about, "temperature": total})
