"""Stored tensors of an encoder: the shapes that a config asks for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from multitask.model.bert import MiniBert
from multitask.model.config import PRESETS
from multitask.model.weights import all_finite


def test_shapes_alone_are_those_of_a_model_and_import_no_compiler() -> None:
    """torch._dynamo takes a second of a start."""
    code = (
        "import sys; from multitask.model.bert import MiniBert; from multitask.model.config import PRESETS\n"
        "from multitask.model.weights import shapes_alone\n"
        "with shapes_alone(): shapes = {n: [*t.shape] for n, t in MiniBert(PRESETS['tiny']).state_dict().items()}\n"
        "print(json.dumps([shapes, 'torch._dynamo' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", f"import json; {code}"], capture_output=True, text=True, check=True)
    shapes, imported = json.loads(done.stdout)
    assert shapes == {name: [*value.shape] for name, value in MiniBert(PRESETS["tiny"]).state_dict().items()}
    assert not imported


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_numbers_that_are_not_finite_are_seen_and_large_ones_are_none(dtype: torch.dtype) -> None:
    large = torch.full((9,), torch.finfo(dtype).max, dtype=dtype)
    assert all_finite(large) and all_finite(torch.zeros(0, dtype=dtype))
    for wrong in (torch.inf, -torch.inf, torch.nan):
        for numbers in (large, torch.zeros(9, dtype=dtype)):
            numbers = numbers.clone()
            numbers[4] = wrong
            assert not all_finite(numbers)
    opposed = torch.tensor([torch.inf, -torch.inf], dtype=dtype)
    assert not all_finite(opposed)
