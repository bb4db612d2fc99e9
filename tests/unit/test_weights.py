"""Stored tensors of an encoder: the shapes that a config asks for."""

from __future__ import annotations

import json
import subprocess
import sys

from multitask.model.bert import MiniBert
from multitask.model.config import PRESETS


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
