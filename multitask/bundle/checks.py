"""What a bundle must be before anything is built of it: one from elsewhere may say anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from multitask.errors import UserError
from multitask.model.bert import MiniBert
from multitask.model.config import BertConfig
from multitask.model.heads import head_spec
from multitask.model.poolings import Pooling
from multitask.model.tokenizer_files import check_unknown, parse_tokenizer, token_count
from multitask.model.weights import FLOATS, all_finite, shapes_alone
from multitask.tasks.table import TaskSpec

ShortText = Annotated[str, Field(max_length=1000)]
ENCODER = "encoder."  # before the names of the encoder's weights in a bundle
LAYERS, OWN = f"{ENCODER}encoder.layer.", "branches."


class About(BaseModel):
    """What is read of where a bundle comes from; the rest is shown and no more."""

    model_config = ConfigDict(extra="allow", strict=True)

    max_length: Annotated[int, Field(ge=1)] = 512
    max_bad_rows: Annotated[float, Field(ge=0, le=1)] = 0.01
    encoder: ShortText = ""
    trainer: ShortText = ""
    tasks: list[ShortText] = []
    trained: list[ShortText] = []
    notes: dict[ShortText, ShortText | None] = {}
    columns: dict[ShortText, dict[ShortText, ShortText | Annotated[int, Field(ge=0)]]] = {}
    overall: list[ShortText] = []
    data: dict[ShortText, dict[ShortText, dict[ShortText, str]]] = {}
    fitted_on: dict[ShortText, ShortText | list[ShortText]] = {}
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class Facts(BaseModel):
    """The schema of model.json."""

    model_config = ConfigDict(extra="allow", strict=True)

    config: dict[str, Any]
    pooling: Pooling
    heads: dict[ShortText, ShortText]
    about: About
    mlm: Literal["tied", "untied"] | None = None
    branches: dict[ShortText, Annotated[int, Field(ge=1)]] = {}


def check_facts(facts: Any, where: str) -> None:
    """Raises UserError, naming the key, where model.json's content has another form."""
    try:
        Facts.model_validate(facts)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise UserError(f"{where}: model.json: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def check_heads(heads: Mapping[str, str], specs: Mapping[str, TaskSpec], where: str) -> None:
    """Raises UserError unless every head is one of this program's, on a task that the bundle knows."""
    for task, name in heads.items():
        if task not in specs:
            raise UserError(f"{where}: a head for task '{task}', which it does not define; known: {', '.join(specs)}")
        head_spec(name, specs[task], where)


def check_branches(
    branches: Mapping[str, int], heads: Mapping[str, str], tensors: Mapping[str, Tensor], config: BertConfig, where: str
) -> None:
    """Raises UserError unless those that own layers are tasks with heads, own no more than there are, and the tensors
    hold just those, in the encoder's sizes. branches: task -> how many are its own."""
    for task, size in branches.items():
        if task not in heads:
            raise UserError(f"{where}: layers of its own for task '{task}', which has no head")
        if size > config.num_hidden_layers:
            raise UserError(
                f"{where}: {size} layers of its own for task '{task}'; the encoder has {config.num_hidden_layers}"
            )

    wanted = {
        f"{OWN}{task}.{number}.{name}": tensors[f"{LAYERS}{number}.{name}"].shape
        for task, size in branches.items()
        for number in range(config.num_hidden_layers - size, config.num_hidden_layers)
        for name in _names(tensors, f"{LAYERS}{number}.")
    }
    found = {name: value.shape for name, value in tensors.items() if name.startswith(OWN)}
    _check_shapes(found, wanted, "by model.json", where)


def _names(tensors: Mapping[str, Tensor], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]


def _check_shapes(found: Mapping[str, torch.Size], wanted: Mapping[str, torch.Size], by: str, where: str) -> None:
    if wrong := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        name = wrong[0]
        shapes = [tuple(some[name]) if name in some else "absent" for some in (found, wanted)]
        raise UserError(f"{where}: {name} is {shapes[0]}, {by} {shapes[1]} ({len(wrong)} such tensors)")


def check_tensors(tensors: Mapping[str, Tensor], config: BertConfig, where: str) -> None:
    """Raises UserError unless the tensors are finite numbers and the encoder's have the config's sizes: what a config
    claims is backed by as many bytes."""
    with shapes_alone():
        wanted = {f"{ENCODER}{name}": value.shape for name, value in MiniBert(config).state_dict().items()}
    found = {name: value.shape for name, value in tensors.items() if name.startswith(ENCODER)}
    _check_shapes(found, wanted, "by its config", where)
    for name, value in tensors.items():
        if value.dtype not in FLOATS:
            raise UserError(f"{where}: {name} holds {value.dtype}; valid: {', '.join(map(str, FLOATS))}")
        if not all_finite(value):
            raise UserError(f"{where}: {name} holds numbers that are not finite; its training has diverged")


def check_tokenizer(tokenizer_json: str, config: BertConfig, where: str) -> None:
    """Raises UserError unless every token has an embedding, and every text has tokens."""
    tokenizer = parse_tokenizer(tokenizer_json.encode(), where)
    if (tokens := token_count(tokenizer)) > config.vocab_size:
        raise UserError(f"{where}: its tokenizer has a token of number {tokens - 1}; valid: below {config.vocab_size}")
    check_unknown(tokenizer, where)
