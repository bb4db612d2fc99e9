"""A bundle as ONNX: embedding.onnx and one <task>.onnx a head, with one file of weights for all, each checked with
onnxruntime against the bundle."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding
from torch import Tensor

from multitask.bundle.bundle import Bundle
from multitask.data.batches import Batch, padded, segments_of
from multitask.data.tokens import TokenTable, second_at
from multitask.errors import UserError
from multitask.export.graphs import GraphPlan, plan_of
from multitask.export.huggingface import in_dtype, name_of, write_facts, write_json, write_text
from multitask.export.onnx_weights import share_weights
from multitask.export.rounding import TEXTS, largest_share, upwards
from multitask.inference.embed import TextEncoder
from multitask.storage.retries import said_clearly

ENTRY = "onnx.json"
ROUNDED = 1.0  # of int8, which dev measures: more than that is no rounding
ROWS = 64  # that are computed together where a file is measured
WEIGHTS = "weights.bin"
TOLERANCE = 1e-4  # of numbers up to 1; of larger ones, that share of them
HOW = (
    "Tokenize with tokenizer.json, cut to max_length; pad rows on the right with id 0 and mask 0. Of a task with two "
    "texts, each has its own ids and mask, or, where joined, both are one sequence (tokenizer.encode(first, second)), "
    "with the type_ids of its tokens where token_type_ids is an input."
)

Feed = dict[str, NDArray[np.int64]]


def write_onnx(bundle: Bundle, folder: Path, dtype: torch.dtype) -> list[str]:
    """Writes embedding.onnx, one file a head, weights.bin, which all of them read, tokenizer.json, and onnx.json, which
    says each file's inputs, output and unit. Returns what to tell the user.

    Raises UserError where a file's numbers differ from the bundle's by more than TOLERANCE. float16: weights are stored
    as halves and computed with in float32; the difference told is the written file's, against the bundle's own weights.
    int8: products are of whole numbers, weights' scaled by output, activations' by what they are; what that costs is to
    be measured on dev.
    """
    import onnx  # noqa: F401 (and onnxscript: the exporter's own words for their absence are long)
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401

    stored = bundle
    if dtype != torch.int8:
        stored = replace(bundle, tensors={name: value.float() for name, value in in_dtype(bundle, dtype).items()})
    outputs, lines, plans = {}, [], {name: plan_of(stored, name) for name in ("embedding", *bundle.heads)}
    for name, plan in plans.items():
        _write_graph(plan, folder / f"{name}.onnx")
        if dtype in SMALLER:
            SMALLER[dtype](folder / f"{name}.onnx")
    share_weights([folder / f"{name}.onnx" for name in plans], folder / WEIGHTS)
    for name, plan in plans.items():
        file = folder / f"{name}.onnx"
        wrong = _difference(stored, name, plan, file)
        if not wrong <= (ROUNDED if dtype == torch.int8 else TOLERANCE):  # nor where it is no number
            raise UserError(f"{file.name}: differs from the bundle by {wrong:g}; at most {TOLERANCE:g} would be right")
        apart = wrong if dtype == torch.float32 else _difference(bundle, name, plan, file)
        lines.append(f"{file.name}: within {upwards(apart)} of the bundle")
        outputs[name] = {"file": file.name, **_said(plan), "largest_difference": apart}
        if name in bundle.specs and bundle.specs[name].label.words:
            outputs[name]["words"] = list(bundle.specs[name].label.words)  # of the labels, that of 0 first
    if bundle.mlm:
        lines.append("the masked-language head stays behind: it is for training")
    facts = {"schema": 1, "how": HOW, "tokenizer": "tokenizer.json", "max_length": bundle.max_length}
    facts["weights_file"] = WEIGHTS
    write_text(folder / "tokenizer.json", bundle.tokenizer_json)
    write_facts(bundle, folder, dtype)
    write_json(folder / ENTRY, {**facts, "weights": name_of(dtype), "outputs": outputs})
    return lines


def _said(plan: GraphPlan) -> dict[str, Any]:
    output = plan.output
    said = {
        "texts": list(plan.columns),
        "joined": plan.joined,
        "inputs": list(chain(*plan.inputs)),
        "output": output.name,
    }
    return {**said, "unit": output.unit, "label": output.label}


def _write_graph(plan: GraphPlan, file: Path) -> None:
    """Writes a graph, traced on rows of two lengths; lengths and number of rows are free in the file."""
    rows, longest = torch.export.Dim("rows"), plan.graph.encoder.config.max_position_embeddings
    examples: list[torch.Tensor] = []
    axes: dict[str, dict[int, Any]] = {}
    for names, length in zip(plan.inputs, (5, 7), strict=False):
        ids, mask = padded([[1, 2, 3, *range(4, length + 1)], [1, 2, 3]])
        examples += [ids, mask.long(), segments_of([2, 2], mask)][: len(names)]
        free = {0: rows, 1: torch.export.Dim(f"{names[0]}_tokens", max=longest)}
        axes |= dict.fromkeys(names, free)
    with _quiet():
        program = torch.onnx.export(
            plan.graph.eval(),
            tuple(examples),
            dynamo=True,
            dynamic_shapes=axes,
            input_names=list(chain(*plan.inputs)),
            output_names=[plan.output.name],
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph:  # else the exporter's stack traces tell the paths of whoever exports
        node.metadata_props.clear()
    with said_clearly("written", str(file)):
        program.save(str(file), external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it, the exporter's remarks on packages that it does not need are not shown."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _halve(file: Path) -> None:
    """Stores the rounded weights as float16, which loses nothing, each behind a cast to float32; other constants
    stay."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(file)
    casts, kept = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        halves = values.astype(np.float16) if values.dtype == np.float32 and values.size > 1 else values
        if halves.dtype == np.float16 and np.array_equal(halves.astype(np.float32), values):
            casts.append(
                onnx.helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=onnx.TensorProto.FLOAT)
            )
            kept.append(numpy_helper.from_array(halves, f"{tensor.name}.half"))
        else:
            kept.append(tensor)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    with said_clearly("written", str(file)):
        onnx.save(model, file)


def _quantise(file: Path) -> None:
    """Has products take whole numbers of 8 bits: weights scaled by each output, activations as they come."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = file.with_suffix(".prepared")
    with _quiet():
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        quantize_dynamic(str(prepared), str(file), per_channel=True, weight_type=QuantType.QInt8)
    prepared.unlink()
    onnx.checker.check_model(onnx.load(file))


SMALLER = {torch.float16: _halve, torch.int8: _quantise}


def file_outputs(bundle: Bundle, task: str, file: Path, table: TokenTable) -> Tensor:
    """(N, *shape) what a task's file puts out for the rows of a table, in batches of similar length."""
    import onnxruntime

    plan, session = plan_of(bundle, task), onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = torch.zeros(len(table), *bundle.specs[task].label.shape)
    for rows in np.array_split(np.argsort(table.lengths, kind="stable"), max(1, len(table) // ROWS)):
        given: Feed = {}
        for side, names in enumerate(plan.inputs):
            sentences = rows * table.sentences + side
            ids, mask = padded([table.sentence(int(at)) for at in sentences])
            ends = table.seconds[sentences] if table.seconds is not None else mask.sum(dim=1)
            parts = (ids, mask, segments_of(ends, mask))
            given |= {name: some.long().numpy() for name, some in zip(names, parts, strict=False)}
        found[rows] = torch.from_numpy(session.run(None, given)[0])
    return found


def _difference(bundle: Bundle, name: str, plan: GraphPlan, file: Path) -> float:
    """The largest difference between onnxruntime and the bundle, over batches of several shapes; of numbers above 1 as
    a share of them."""
    import onnxruntime

    session, apart = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]), 0.0
    for count in (1, 2, len(TEXTS)):
        texts = [TEXTS[-count:], TEXTS[:count]][: len(plan.columns)]
        found = session.run(None, feed(bundle, plan, texts))[0]
        ours = _ours(bundle, name, plan, texts)
        assert found.shape == ours.shape
        apart = float(np.maximum(apart, largest_share(found, ours)))
    return apart


def feed(bundle: Bundle, plan: GraphPlan, texts: Sequence[Sequence[str]]) -> Feed:
    """What a session is given for one column of texts, or two."""
    found: Feed = {}
    for names, column in zip(plan.inputs, _encoded(bundle, plan, texts), strict=True):
        ids, mask, segments = _tensors(column)
        found |= {name: some.long().numpy() for name, some in zip(names, (ids, mask, segments), strict=False)}
    return found


def _encoded(bundle: Bundle, plan: GraphPlan, texts: Sequence[Sequence[str]]) -> list[list[Encoding]]:
    """The token sequences of each column of texts; where a task's texts are joined, the one sequence for both."""
    tokenizer = bundle.tokenizer
    tokenizer.enable_truncation(bundle.max_length)
    columns: list[Any] = [list(zip(*texts, strict=True))] if plan.joined else [list(column) for column in texts]
    return [tokenizer.encode_batch(column) for column in columns]


def _tensors(encodings: Sequence[Encoding]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids, mask = padded([encoding.ids for encoding in encodings])
    return ids, mask, segments_of([second_at(encoding) for encoding in encodings], mask)


@torch.no_grad()
def _ours(bundle: Bundle, name: str, plan: GraphPlan, texts: Sequence[Sequence[str]]) -> NDArray[np.float32]:
    if name == "embedding":
        return TextEncoder(bundle).embed(texts[0])
    ids, mask, segments = _tensors([row for column in _encoded(bundle, plan, texts) for row in column])
    blank = torch.zeros(len(texts[0]))
    batch = Batch(name, ids, mask, blank, blank, blank.long())
    batch.segments = segments if bundle.specs[name].segments else None
    outputs = bundle.model({name: bundle.heads[name]}).eval()(batch)
    found: NDArray[np.float32] = outputs.numpy()
    return found
