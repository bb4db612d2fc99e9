"""Figures of exports: of the thing that is shipped, and never less than what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from multitask.export.huggingface import write_transformers
from multitask.export.rounding import TEXTS, rounding, upwards
from multitask.inference.embed import TextEncoder
from tests.exports import bundle_with


@pytest.mark.parametrize(
    ("value", "said"),
    [(2.81e-4, "2.9e-04"), (2.8e-4, "2.8e-04"), (9.91e-3, "1.0e-02"), (0.0, "0.0e+00"), (1, "1.0e+00")],
)
def test_what_is_said_to_lie_within_a_figure_does(value: float, said: str) -> None:
    assert upwards(value) == said


def test_halves_are_measured_by_what_lies_in_the_file(tmp_path: Path) -> None:
    bundle = bundle_with({})
    (line,) = write_transformers(bundle, tmp_path, torch.float16)
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    read = TextEncoder(bundle)
    read.model.encoder.load_state_dict({name: value.float() for name, value in stored.items()})
    apart = float(np.abs(read.embed(TEXTS) - TextEncoder(bundle).embed(TEXTS)).max())
    assert 1e-5 < apart == pytest.approx(rounding(bundle, torch.float16), abs=1e-7)
    assert line.startswith(
        f"weights are stored as float16: embeddings are within {upwards(apart)} of the bundle's in float32, "
    )
    assert write_transformers(bundle, tmp_path, torch.float32) == []
