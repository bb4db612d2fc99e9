"""One file of weights for several ONNX graphs: what is equal in them lies there once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multitask.storage.retries import said_clearly

LEAST = 1024  # bytes of a tensor that leaves its graph
ALIGNED = 4096  # bytes at whose multiples tensors begin, so that they can be mapped into memory


def share_weights(graphs: Sequence[Path], weights: Path) -> None:
    """Moves the graphs' large tensors into the file `weights` beside them, equal ones once, and writes the graphs
    anew, which then name that file."""
    import onnx

    places: dict[bytes, int] = {}  # sha256 of a tensor's bytes -> where they begin
    with said_clearly("written", str(weights)), open(weights, "wb") as file:
        for path in graphs:
            model = onnx.load(path)
            for tensor in model.graph.initializer:
                if len(data := _bytes(tensor)) >= LEAST:
                    key = hashlib.sha256(data).digest()
                    if key not in places:
                        file.write(bytes(-file.tell() % ALIGNED))
                        places[key] = file.tell()
                        file.write(data)
                    _move(tensor, weights.name, places[key], len(data))
            path.write_bytes(model.SerializeToString())


def _bytes(tensor: Any) -> bytes:
    """A tensor's numbers as ONNX stores them outside a graph, little-endian."""
    from onnx import numpy_helper

    return tensor.raw_data or numpy_helper.to_array(tensor).tobytes()


def _move(tensor: Any, location: str, offset: int, length: int) -> None:
    """Has a tensor name its place in a file instead of holding its numbers."""
    import onnx

    for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        tensor.ClearField(name)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
