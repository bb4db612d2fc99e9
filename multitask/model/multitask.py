"""One encoder, a head for each task: the model that every stage trains and every bundle holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

import torch
from torch import Tensor, nn

from multitask.data.batches import Batch
from multitask.data.samplers import derive_seed
from multitask.model.bert import NONE, Layer, MiniBert, initialise
from multitask.model.config import BertConfig
from multitask.model.dropout import Draws, Dropout, any_sentences, token_keys
from multitask.model.encoding import Encoding, encode, encode_in_parts, mean_pool
from multitask.model.heads import build_head
from multitask.model.mlm import MLM, MlmHead
from multitask.model.parts import POOLER, depth_of, is_frozen, part_of
from multitask.tasks.table import TASKS, TaskSpec

TRUNK = ("encoder.embeddings", "encoder.encoder")  # of the model's modules, what every batch goes through
NO_BRANCHES: Mapping[str, int] = MappingProxyType({})
ENCODERS = ("encoder.", "branches.")  # how the names of weights begin that make sentence encodings


class MultitaskModel(nn.Module):
    """miniBERT with dropout over its sentence encodings and the tasks' heads (bertaar.txt 5.1).

    heads: task -> head name. dropout: of the sentence encodings. encoder_dropout: inside the encoder, where it is
    not what its config says. seed: of the heads' first weights; a head's
    weights depend on the seed, its task and its name alone, not on which other heads there are. mlm: the
    masked-language head, tied or untied, where there is one. specs: what its tasks are. branches: task -> how many of
    the last layers are its own, which stand for the encoder's where the task's sentences are encoded.
    """

    def __init__(
        self,
        config: BertConfig,
        pooling: str,
        heads: Mapping[str, str],
        *,
        dropout: float = 0.0,
        encoder_dropout: float | None = None,
        seed: int = 0,
        mlm: str | None = None,
        specs: Mapping[str, TaskSpec] = TASKS,
        branches: Mapping[str, int] = NO_BRANCHES,
    ) -> None:
        super().__init__()
        self.config, self.pooling, self.head_names, self.specs = config, pooling, dict(heads), specs
        self.branch_sizes = dict(branches)
        self.encoder = MiniBert(config.with_dropout(encoder_dropout))
        self.dropout = Dropout(dropout, "sentence")
        self.draws: Draws | None = None  # of the step under way; without one, dropout is of torch's own random state
        self.heads = nn.ModuleDict()
        for task, name in heads.items():
            generator = torch.Generator().manual_seed(derive_seed(seed, "head", task, name))
            self.heads[task] = build_head(name, config.hidden_size, specs[task], generator)
        self.mlm, self.mlm_name = None, mlm
        if mlm:
            generator = torch.Generator().manual_seed(derive_seed(seed, "head", MLM, mlm))
            self.mlm = MlmHead(config, mlm == "tied", generator)
        first = {task: config.num_hidden_layers - size for task, size in branches.items()}
        self.branches = nn.ModuleDict({task: self._own_layers(at) for task, at in first.items()})
        self.encoder_frozen = False
        self.micro_batch: int | None = None  # examples whose activations are held at a time
        self.part_tokens: int | None = None  # or tokens, padding included

    def _own_layers(self, first: int) -> nn.ModuleDict:
        numbers = range(first, self.layers)
        return nn.ModuleDict({str(number): Layer(self.encoder.config, "sdpa", number) for number in numbers})

    def train(self, mode: bool = True) -> MultitaskModel:
        """A frozen encoder stays in evaluation mode: it is a fixed function, without dropout of its own."""
        super().train(mode)
        if self.encoder_frozen:
            self.encoder.eval()
            self.branches.eval()
        return self

    def set_trainable(self, parts: Mapping[str, Iterable[str]], full_model: bool, freeze: int | None = None) -> None:
        """Leaves gradients on for what a stage trains and uses, and nothing else.

        parts: task -> the modules that its batches go through. Nothing is unused then where there is one task,
        so DDP needs no find_unused_parameters. freeze: the embeddings and so many first layers stay as they are.
        """
        self.encoder_frozen = not full_model
        used = {name for names in parts.values() for name in names}
        for name, parameter in self.named_parameters():
            trained = (full_model or not name.startswith(ENCODERS)) and not is_frozen(name, self.layers, freeze)
            parameter.requires_grad_(trained and _under(name, used))
        self.train(self.training)

    @property
    def layers(self) -> int:
        """The encoder's layers."""
        return self.config.num_hidden_layers

    def reinitialise(self, last: int, seed: int) -> None:
        """Gives the last layers, so many, and the pooler the weights that BERT starts with, drawn by the seed (Zhang et
        al., 2021, section 5); layers that are not trained, other tasks' own or what copies were made of, stay."""
        chosen = [
            (name, weight)
            for name, weight in self.named_parameters()
            if part_of(name) == POOLER or (0 < depth_of(name, self.layers) <= last and weight.requires_grad)
        ]
        initialise(chosen, torch.Generator().manual_seed(seed))

    def trained_weights(self) -> dict[str, Tensor]:
        """Name -> weight, by reference, of what is trained; every weight that is not is the bundle's that the stage
        starts from."""
        return {name: weight.detach() for name, weight in self.named_parameters() if weight.requires_grad}

    def load_trained(self, weights: Mapping[str, Tensor]) -> None:
        """Takes what `trained_weights` gave, or all weights. Raises KeyError where a trained one is missing."""
        if missing := sorted(self.trained_weights().keys() - weights.keys()):
            raise KeyError(f"weights: {missing[0]} is missing")
        self.load_state_dict({**self.state_dict(), **weights})

    @staticmethod
    def token_modules() -> set[str]:
        """The modules that a batch goes through on its way to hidden tokens, by the prefixes of their names."""
        return {*TRUNK, MLM}

    def sentence_modules(self, task: str, through_head: bool) -> set[str]:
        """The modules that a batch of the task goes through on its way to sentence encodings, and through the task's
        head where so asked, by the prefixes of their names."""
        head = {f"heads.{task}"} if through_head else set()
        pooled = self.pooling == "pooler" and not (head and (self.specs[task].by_text or self.uses_tokens(task)))
        return {*self._trunk(task), *head, *({"encoder.pooler"} if pooled else set())}

    def _trunk(self, task: str) -> Iterable[str]:
        """The modules that make states of a task's tokens, by the prefixes of their names."""
        if task not in self.branches:
            return TRUNK
        shared = range(self.layers - self.branch_sizes[task])
        return (TRUNK[0], *(f"{TRUNK[1]}.layer.{number}" for number in shared), f"branches.{task}")

    def own_layers(self, task: str) -> Mapping[int, nn.Module]:
        """The task's own layers, by their numbers."""
        if task not in self.branches:
            return NONE
        return {int(number): layer for number, layer in self.branches[task].named_children()}

    def trained_elsewhere(self, used: Iterable[str]) -> list[nn.Parameter]:
        """Trained parameters outside the modules `used`, given by the prefixes of their names: other tasks' heads."""
        used = set(used)
        return [value for name, value in self.named_parameters() if value.requires_grad and not _under(name, used)]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within it, the model computes without dropout and gradients; afterwards it is in the mode that it was in."""
        before = self.training
        self.eval()
        try:
            with torch.no_grad():  # not inference_mode: features made here are trained on later
                yield
        finally:
            self.train(before)

    def uses_tokens(self, task: str) -> bool:
        """Whether the task's head reads token states, not just the sentence encoding."""
        return bool(self.heads[task].uses_tokens)

    def encode(self, batch: Batch, noise: Tensor | None = None) -> Encoding:
        """All sentences of the batch, (S, H), in one forward; features computed before stand in for it.

        noise: (S, T, H), added to the embedded tokens.
        """
        if batch.features is not None:
            return Encoding(batch.features, batch.features.new_empty(0), batch.mask, self._keys(batch, 1))
        return self._encoded(batch, noise, self.own_layers(batch.task))

    def _encoded(self, batch: Batch, noise: Tensor | None, own: Mapping[int, nn.Module]) -> Encoding:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
            keys = self._keys(batch, batch.mask.shape[1])
            given = (self.encoder, self.pooling, batch.input_ids, batch.mask, noise, batch.segments, own, keys)
            size = self._part_of(batch)
            return encode_in_parts(*given, size) if size < len(batch.mask) else encode(*given)

    def _part_of(self, batch: Batch) -> int:
        """How many of the batch's sentences are encoded at a time."""
        sentences, width = batch.mask.shape
        if not torch.is_grad_enabled():
            return sentences
        if self.micro_batch:
            return self.micro_batch * -(-sentences // len(batch))
        return max(1, self.part_tokens // width) if self.part_tokens else sentences

    def _keys(self, batch: Batch, tokens: int) -> Tensor | None:
        """(S, T) int32: what the units of the sentences' first tokens, so many, are dropped by in this pass."""
        if not self.training:
            return None
        if self.draws is None:
            sentences = batch.mask if batch.features is None else batch.features
            return token_keys(any_sentences(len(sentences), sentences.device), tokens)
        assert batch.numbers is not None
        return token_keys(self.draws.sentences(batch.numbers), tokens)

    def forward(self, batch: Batch, noise: Tensor | None = None) -> Tensor:
        """The head's outputs for the batch's task: (B, classes) logits or (B,) values. noise: as for `encode`."""
        outputs: Tensor = self.heads[batch.task](*self.sides(batch, self.encode(batch, noise)))
        return outputs

    def sides(self, batch: Batch, encoding: Encoding) -> Sequence[Encoding | None]:
        """What the task's head is given of the batch's encoding, under dropout: the first side of B examples, and the
        second or None."""
        head = self.heads[batch.task]
        if self.specs[batch.task].by_text:
            halves = self.dropout(self.features_of(batch, encoding), encoding.first_keys).chunk(2, dim=1)
            return [Encoding(half, half.new_empty(0), batch.mask, encoding.keys) for half in halves]
        tokens = self.dropout(encoding.tokens, encoding.keys) if head.uses_tokens else encoding.tokens
        return split(Encoding(self.dropped(encoding), tokens, encoding.mask, encoding.keys), len(batch))

    def dropped(self, encoding: Encoding) -> Tensor:
        """(S, H) sentence encodings under the stage's dropout."""
        found: Tensor = self.dropout(encoding.sentence, encoding.first_keys)
        return found

    def features(self, batch: Batch) -> Tensor:
        """(S, F) all that heads need of an encoder that does not change, but for heads that read tokens: sentence
        encodings, F = H; of pairs joined without segments both texts' means, F = 2H."""
        return self.features_of(batch, self.encode(batch))

    def features_of(self, batch: Batch, encoding: Encoding) -> Tensor:
        """`features`, of an encoding that is there."""
        by_text = batch.features is None and self.specs[batch.task].by_text
        return text_means(encoding, batch.input_ids) if by_text else encoding.sentence

    def hidden_tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The masked-language head's logits (M, V) at the M hidden positions of the batch, and their tokens (M,)."""
        assert self.mlm is not None and batch.targets is not None and batch.hidden is not None
        states = self._encoded(batch, None, NONE).tokens.flatten(0, 1)[batch.hidden]
        logits: Tensor = self.mlm(states, self.encoder.embeddings.word_embeddings.weight)
        return logits, batch.targets.flatten()[batch.hidden]


def _under(name: str, prefixes: Iterable[str]) -> bool:
    return any(name.startswith(f"{prefix}.") for prefix in prefixes)


def text_means(encoding: Encoding, input_ids: Tensor) -> Tensor:
    """(B, 2H) of joined pairs: the mean of the first text's states, then that of the second's.

    input_ids: (B, T) sequences, of which the last token and the one between the texts are the separator.
    """
    separator = input_ids.gather(1, encoding.mask.sum(dim=1, keepdim=True) - 1)
    found = (input_ids == separator) & encoding.mask
    before = found.cumsum(dim=1) - found.long()  # separators before a place
    means = [mean_pool(encoding.tokens, (before == part) & encoding.mask) for part in (0, 1)]
    return torch.cat(means, dim=1)


def split(encoding: Encoding, size: int) -> tuple[Encoding, Encoding | None]:
    """The first sentences of a batch and, for pairs, the second ones."""
    if len(encoding.sentence) == size:
        return encoding, None
    keys = encoding.keys
    halves = [
        Encoding(
            encoding.sentence[part], encoding.tokens[part], encoding.mask[part], None if keys is None else keys[part]
        )
        for part in (slice(None, size), slice(size, None))
    ]
    return halves[0], halves[1]
