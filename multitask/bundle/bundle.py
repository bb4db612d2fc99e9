"""A bundle: a trained model as a directory, everything that prediction needs, no pickle.

weights.safetensors (fp32; `encoder.*`, `heads.<task>.*`, `branches.<task>.*`, `mlm.*`), model.json, tokenizer.json, and
manifest.json with their checksums.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from tokenizers import Tokenizer
from torch import Tensor

from multitask.bundle.checks import (
    ENCODER,
    LAYERS,
    OWN,
    check_branches,
    check_facts,
    check_heads,
    check_tensors,
    check_tokenizer,
)
from multitask.errors import UserError
from multitask.model.config import BertConfig
from multitask.model.heads import HEADS
from multitask.model.mlm import MLM
from multitask.model.multitask import NO_BRANCHES, MultitaskModel
from multitask.model.sources import SOURCES, Source
from multitask.storage.sealed import Content, Damaged, is_sealed, read_document, read_sealed, said_of, write_sealed
from multitask.storage.storage import MANIFEST, Storage, file_at
from multitask.storage.uris import join
from multitask.tasks.own import definitions, known
from multitask.tasks.table import TASKS, TaskSpec

SCHEMA = 1
BRANCHED = 2  # of model.json where tasks have layers of their own, which builds that read 1 alone would leave out
ENSEMBLE = "ensemble.json"  # in the directory of an ensemble, where a bundle has model.json
ENCODERS = "cache/encoders"  # in a storage: what stages start from, each under a hash of its content
MAX_LENGTH = 512  # for bundles that do not say what they were trained with


@dataclass(frozen=True)
class Bundle:
    """A trained model in memory: weights, tokenizer, and what it says of itself.

    config, pooling: the encoder's. heads: task -> head name. about: where it comes from. mlm: the masked-language head,
    tied or untied, where there is one. specs: what its tasks are, the built-in ones at least. branches: task -> how
    many of the encoder's last layers are its own.
    """

    config: BertConfig
    pooling: str
    heads: dict[str, str]
    about: dict[str, Any]
    tensors: dict[str, Tensor]
    tokenizer_json: str
    mlm: str | None = None
    specs: Mapping[str, TaskSpec] = field(default_factory=lambda: TASKS)
    branches: Mapping[str, int] = field(default_factory=dict)

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_str(self.tokenizer_json)

    @property
    def max_length(self) -> int:
        return longest(self.about, self.config)

    @property
    def members(self) -> tuple[Bundle, ...]:
        """The bundles that answer: itself."""
        return (self,)

    @property
    def tasks(self) -> list[str]:
        """The tasks that it has a head for, trained or not."""
        return list(self.heads)

    @property
    def answers(self) -> list[str]:
        """The tasks with a head that was trained, or has nothing to train; other heads are there as they were drawn."""
        return answered(self.heads, self.about)

    @property
    def called(self) -> str:
        """What an error calls it."""
        return f"bundle {self.about.get('trainer') or self.about.get('encoder', '')}".rstrip()

    def shares(self, task: str) -> tuple[float, ...]:
        """How much each member counts in the task's answers."""
        return (1.0,)

    def loaded(self) -> Bundle:
        """What answers without its files."""
        return self

    def model(
        self,
        heads: Mapping[str, str] | None = None,
        *,
        dropout: float = 0.0,
        encoder_dropout: float | None = None,
        seed: int = 0,
        mlm: str | None = None,
        copy_top: Mapping[str, int] = NO_BRANCHES,
    ) -> MultitaskModel:
        """The model with these weights. Heads asked for that the bundle has not start from `seed`.

        copy_top: task -> how many of the last layers are its own at least; new ones start as copies of the encoder's.
        """
        wanted = dict(self.heads if heads is None else heads)
        branches = {task: max(copy_top.get(task, 0), self.branches.get(task, 0)) for task in wanted}
        branches = {task: size for task, size in branches.items() if size}
        model = MultitaskModel(
            self.config,
            self.pooling,
            wanted,
            dropout=dropout,
            encoder_dropout=encoder_dropout,
            seed=seed,
            mlm=mlm,
            specs=self.specs,
            branches=branches,
        )
        kept = ["encoder.", *(f"heads.{task}." for task, name in wanted.items() if self.heads.get(task) == name)]
        kept += ["mlm."] if mlm and mlm == self.mlm else []
        state = {name: value for name, value in self.tensors.items() if name.startswith(tuple(kept))}
        for task, size in branches.items():
            kept.append(f"{OWN}{task}.")
            state |= self._own_layers(task, size)
        try:
            missing, unexpected = model.load_state_dict(state, strict=False)
        except RuntimeError as error:  # of another shape than this version's head of that name
            raise UserError(f"bundle {self.about.get('trainer', '')}: {str(error).splitlines()[-1].strip()}") from error
        missing = [name for name in missing if name.startswith(tuple(kept))]
        if missing or unexpected:
            raise UserError(f"bundle {self.about.get('trainer', '')}: missing tensors {missing}, unknown {unexpected}")
        return model

    def _own_layers(self, task: str, size: int) -> dict[str, Tensor]:
        """The weights of a task's last layers, so many, by their names in `branches`: its own, and the encoder's where
        it has none."""
        mine, layers = f"{OWN}{task}.", self.config.num_hidden_layers
        own = self.branches.get(task, 0)
        copied = tuple(f"{LAYERS}{number}." for number in range(layers - size, layers - own))
        found = {mine + name.removeprefix(LAYERS): t for name, t in self.tensors.items() if name.startswith(copied)}
        return found | {name: t for name, t in self.tensors.items() if own and name.startswith(mine)}

    def of_task(self, task: str) -> Bundle:
        """The bundle with that task's head alone, and the layers that are its own as the encoder's."""
        own = {
            f"{LAYERS}{name.removeprefix(f'{OWN}{task}.')}": value
            for name, value in self._own_layers(task, self.branches.get(task, 0)).items()
        }
        kept = (ENCODER, f"heads.{task}.")
        tensors = {name: value for name, value in self.tensors.items() if name.startswith(kept)} | own
        return replace(self, heads={task: self.heads[task]}, tensors=tensors, mlm=None, branches=NO_BRANCHES)


def longest(about: Mapping[str, Any], config: BertConfig) -> int:
    """The most tokens that a sequence may have: as many as in the bundle's training, and never more than its encoder
    has positions."""
    return min(int(about.get("max_length", MAX_LENGTH)), config.max_position_embeddings)


def answered(heads: Mapping[str, str], about: Mapping[str, Any]) -> list[str]:
    """The tasks, of task -> head, whose head was trained by what `about` tells, or has nothing to train."""
    trained = about.get("trained", heads)  # older bundles do not say
    return [task for task, head in heads.items() if task in trained or not HEADS[head].trainable]


def bundle_of(model: MultitaskModel, tokenizer_json: str, about: dict[str, Any]) -> Bundle:
    """The model as a bundle: a copy of its weights, on the CPU in fp32, with its tokenizer and what it says of
    itself."""
    tensors = {
        name: value.detach().to("cpu", torch.float32, copy=True).contiguous()
        for name, value in model.state_dict().items()
    }
    return Bundle(
        model.config,
        model.pooling,
        model.head_names,
        about,
        tensors,
        tokenizer_json,
        model.mlm_name,
        model.specs,
        model.branch_sizes,
    )


def source_bundle(source: Source, called: str = "") -> Bundle:
    """An encoder source as a bundle without heads: what the first stage starts from. called: what the user calls it."""
    tensors = {f"encoder.{name}": value for name, value in source.state.items()}
    about: dict[str, Any] = {"encoder": called or source.name, "fingerprint": source.fingerprint}
    about |= {"max_length": source.max_length} if source.max_length else {}
    about |= {"prompt": source.prompt} if source.prompt else {}
    return Bundle(source.config, source.pooling, {}, about, tensors, source.tokenizer.to_str())


def facts_of(bundle: Bundle) -> dict[str, Any]:
    """What model.json says: everything but weights and tokenizer."""
    branches = {"branches": dict(bundle.branches)} if bundle.branches else {}
    schema = BRANCHED if branches else SCHEMA
    facts = {"schema": schema, "config": bundle.config.to_dict(), "pooling": bundle.pooling}
    own = definitions({task: bundle.specs[task] for task in bundle.heads})
    told = {"heads": bundle.heads, MLM: bundle.mlm, "about": bundle.about}
    return facts | told | ({"specs": own} if own else {}) | branches


def bundle_from(facts: Mapping[str, Any], tensors: Mapping[str, Tensor], tokenizer_json: str, where: str) -> Bundle:
    """The bundle that model.json's content (`facts_of`), weights and tokenizer make. Raises UserError, naming `where`,
    for facts of another schema or config."""
    schema = facts.get("schema", "missing") if isinstance(facts, dict) else "missing"
    if schema not in (SCHEMA, BRANCHED):
        raise UserError(f"{where}: schema {schema}; this version reads {SCHEMA} and {BRANCHED}")
    check_facts(facts, where)
    config, specs = BertConfig.from_dict(facts["config"], where), known(facts.get("specs", {}), where)
    check_heads(facts["heads"], specs, where)
    branches = facts.get("branches", {})
    check_tensors(tensors, config, where)
    check_branches(branches, facts["heads"], tensors, config, where)
    check_tokenizer(tokenizer_json, config, where)
    return Bundle(
        config=config,
        pooling=facts["pooling"],
        heads=facts["heads"],
        about=facts["about"],
        tensors={name: value.to(torch.float32) for name, value in tensors.items()},
        tokenizer_json=tokenizer_json,
        mlm=facts.get(MLM),  # bundles of before the masked-language head do not name it
        specs=specs,
        branches=branches,
    )


def save_bundle(storage: Storage, path: str, bundle: Bundle) -> None:
    """Writes the bundle, whole or not at all."""
    files: dict[str, Content] = {
        "weights.safetensors": bundle.tensors,
        "model.json": (json.dumps(facts_of(bundle), indent=2) + "\n").encode(),
        "tokenizer.json": bundle.tokenizer_json.encode(),
    }
    write_sealed(storage, path, files, {"schema": SCHEMA}, of=_key(storage.at(path) if path else storage))


def _key(place: Storage) -> str:
    """What the manifest of a bundle in ENCODERS belongs to; bundles elsewhere may be copied about."""
    folder, name = file_at(place.uri.rstrip("/"))
    return name if folder.uri.endswith(f"/{ENCODERS}") else ""


def read_bundle(storage: Storage, path: str = "") -> Bundle:
    """The bundle at a path of a storage, every checksum checked. Raises UserError where there is no sound one."""
    place = storage.at(path) if path else storage
    check_no_ensemble(place)
    if not is_sealed(place):
        names = ", ".join(place.list()[:10]) or "nothing"
        raise UserError(f"bundle '{place.uri}': no bundle there (no manifest.json); it holds {names}")
    try:
        files = read_sealed(place, of=_key(place))
        facts = json.loads(files["model.json"])
        tensors = load_tensors(files["weights.safetensors"])
        tokenizer_json = files["tokenizer.json"].decode()
    except (Damaged, KeyError, ValueError, RecursionError, SafetensorError) as error:
        raise UserError(f"bundle '{place.uri}': damaged: {said_of(error)}") from error
    return bundle_from(facts, tensors, tokenizer_json, f"bundle '{place.uri}'")


def bundle_fingerprint(storage: Storage) -> str:
    """sha256 over the checksums of a bundle's files: its content, wherever it lies."""
    files = read_document(storage, MANIFEST)["files"]
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def weights_of(bundle: Storage) -> str:
    """sha256 of a bundle's weights, as its manifest has it."""
    found: str = read_document(bundle, MANIFEST, _key(bundle))["files"]["weights.safetensors"]["sha256"]
    return found


def check_trainer(about: Mapping[str, Any], trainer: str, where: str) -> None:
    """Raises Damaged where a bundle in a trainer's folder says that another trainer made it."""
    if (other := about.get("trainer", trainer)) != trainer:
        raise Damaged(
            f"bundle '{where}': another trainer's, {other}; remove it, and `minibert train` makes its own again"
        )


def check_no_ensemble(place: Storage) -> None:
    """Raises UserError where an ensemble lies: several models, and no weights of its own."""
    if place.exists(ENSEMBLE):
        raise UserError(
            f"bundle '{place.uri}': an ensemble, of which evaluate, predict, report and load_bundle know what to do; "
            f"name one of its members here, such as {join(place.uri, member_folder(0))}"
        )


def member_folder(number: int) -> str:
    """Where a member's bundle lies in an ensemble's directory."""
    return f"member-{number}"


def is_bundle(uri: str) -> bool:
    """Whether a URI holds a bundle (a source given as `encoder:` may be one). An encoder's name is none."""
    return uri not in SOURCES and Storage(uri).exists("model.json")
