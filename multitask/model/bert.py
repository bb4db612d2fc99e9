"""miniBERT: the BERT encoder written from scratch (bertaar.txt, section 4.1; Devlin et al., 2019).

Shapes, at the end of names where it helps: B batch, T tokens, P tokens of all sentences, H hidden, N heads,
D = H / N head dimension.
Parameters carry the names of Hugging Face's BertModel, so that most weight files load without renaming.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from multitask.model.activations import ACTIVATIONS
from multitask.model.attention import ATTENTIONS, Layout, Packed, Padded, computed_again
from multitask.model.config import BertConfig
from multitask.model.dropout import Dropout, any_sentences, token_keys

NONE: Mapping[int, nn.Module] = MappingProxyType({})


class Embeddings(nn.Module):
    """Word + position + segment embeddings, normalised. Without segments, every token is of the first one (type 0)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob, "embeddings")

    def forward(
        self, input_ids: Tensor, positions: Tensor, segments: Tensor | None = None, keys: Tensor | None = None
    ) -> Tensor:
        """input_ids (..., T) or (P,), the position, the segment and the dropout's key of each -> (..., H)."""
        # An encoder that knows one segment was made to be given all as that one.
        several = segments is not None and self.token_type_embeddings.num_embeddings > 1
        types = self.token_type_embeddings(segments) if several else self.token_type_embeddings.weight[0]
        hidden = self.word_embeddings(input_ids) + types
        hidden = hidden + self.position_embeddings(positions)
        out: Tensor = self.dropout(self.LayerNorm(hidden), keys)
        return out


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017, section 3.2.2)."""

    def __init__(self, config: BertConfig, attention: str, site: str) -> None:
        super().__init__()
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.heads, self.longest = config.num_attention_heads, config.max_position_embeddings
        self.dropout = Dropout(config.attention_probs_dropout_prob, site)
        self.kernel = ATTENTIONS[attention]

    def forward(self, hidden: Tensor, layout: Layout) -> Tensor:
        query, key, value = (
            project(hidden).unflatten(-1, (self.heads, -1)) for project in (self.query, self.key, self.value)
        )
        drop = self._drop if self.dropout.active else None
        return layout.attend(self.kernel, query, key, value, drop).flatten(-2)

    def _drop(self, weights_BNTT: Tensor, keys_BT: Tensor) -> Tensor:
        return self.dropout.of_weights(weights_BNTT, keys_BT, self.longest)


class AddAndNorm(nn.Module):
    """LayerNorm(residual + dropout(dense(x))): the end of both halves of a layer."""

    def __init__(self, width: int, config: BertConfig, site: str) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob, site)

    def forward(self, x: Tensor, residual: Tensor, keys: Tensor | None) -> Tensor:
        out: Tensor = self.LayerNorm(residual + self.dropout(self.dense(x), keys))
        return out


class Layer(nn.Module):
    """Self-attention, then a feed-forward network with the config's activation, an add-and-norm after each. number:
    which of the encoder's layers it is."""

    def __init__(self, config: BertConfig, attention: str, number: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {
                "self": SelfAttention(config, attention, f"{number}.attention.self"),
                "output": AddAndNorm(config.hidden_size, config, f"{number}.attention.output"),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.intermediate_size)})
        self.activation = ACTIVATIONS[config.hidden_act]
        self.output = AddAndNorm(config.intermediate_size, config, f"{number}.output")

    def forward(self, hidden: Tensor, layout: Layout) -> Tensor:
        context = self.attention["self"](hidden, layout)
        hidden = self.attention["output"](context, hidden, layout.keys)
        inner = self.activation(self.intermediate["dense"](hidden))
        out: Tensor = self.output(inner, hidden, layout.keys)
        return out


class Layers(nn.Module):
    """The stack of layers. recompute: whether a layer keeps its input alone for the backward pass."""

    def __init__(self, config: BertConfig, attention: str) -> None:
        super().__init__()
        self.recompute = False
        self.layer = nn.ModuleList(Layer(config, attention, number) for number in range(config.num_hidden_layers))

    def forward(self, hidden: Tensor, layout: Layout, own: Mapping[int, nn.Module] = NONE) -> Tensor:
        """Hidden states through all layers. own: a layer's number -> what stands for it."""
        recompute = self.recompute and torch.is_grad_enabled()
        for at, shared in enumerate(self.layer):
            layer = own.get(at, shared)
            hidden = computed_again(layer, hidden, layout) if recompute else layer(hidden, layout)
        return hidden


class MiniBert(nn.Module):
    """The encoder. Its state dict has the names of Hugging Face's BertModel, parameters only.

    attention: `sdpa` (fused kernel) or `explicit` (readable softmax, and free of data-dependent branches, for
        exporters). Both give the same numbers to rounding.
    """

    def __init__(self, config: BertConfig, attention: str = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.skips_full_mask = attention == "sdpa"
        self.embeddings = Embeddings(config)
        self.encoder = Layers(config, attention)
        self.pooler = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.hidden_size)})

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        noise_BTH: Tensor | None = None,
        segments: Tensor | None = None,
        own: Mapping[int, nn.Module] = NONE,
        keys_BT: Tensor | None = None,
    ) -> Tensor:
        """input_ids (B, T) int32 or int64, attention_mask (B, T) bool or 0/1 -> final states (B, T, H).

        noise_BTH: added to the embeddings, normalised and after dropout, where SMART perturbs its input.
        segments: (B, T) int64, token_type_ids elsewhere; None means that all tokens are of the first one, 0.
        own: layers that stand for the encoder's own, by their numbers. keys_BT: int32, what each token's units are
        dropped by (multitask/model/dropout.py); of torch's own random state where it is None.
        States at masked positions mean nothing. Raises ValueError where T exceeds max_position_embeddings.
        """
        mask_B11T: Tensor | None = attention_mask.bool()[:, None, None, :]
        # Without padding SDPA is faster unmasked. Asking costs a wait for the device anywhere but on the CPU.
        if self.skips_full_mask and attention_mask.device.type == "cpu" and bool(attention_mask.all()):
            mask_B11T = None
        layout = Padded(mask_B11T, self._keys(input_ids, keys_BT))
        return self._encoded(input_ids, self._positions(input_ids), layout, noise_BTH, segments, own)

    def packed(
        self,
        input_ids: Tensor,
        mask_BT: Tensor,
        noise_BTH: Tensor | None,
        most: int,
        segments: Tensor | None = None,
        own: Mapping[int, nn.Module] = NONE,
        keys_BT: Tensor | None = None,
    ) -> Tensor:
        """`forward` without computing on padding: sentences in rows, longest first -> states of all tokens (P, H).

        most: padded tokens that attend together; what attention holds at a time grows with it.
        """
        positions_BT = self._positions(input_ids).expand_as(input_ids)
        noise_PH = None if noise_BTH is None else noise_BTH[mask_BT]
        of_P = None if segments is None else segments[mask_BT]
        layout = Packed.of(mask_BT, most, self._keys(input_ids, keys_BT))
        return self._encoded(input_ids[mask_BT], positions_BT[mask_BT], layout, noise_PH, of_P, own)

    def _positions(self, input_ids: Tensor) -> Tensor:
        tokens, longest = input_ids.shape[1], self.config.max_position_embeddings
        if tokens > longest:
            raise ValueError(f"a sentence of {tokens} tokens; this encoder has positions for {longest}")
        return torch.arange(tokens, device=input_ids.device)

    def _keys(self, input_ids: Tensor, keys_BT: Tensor | None) -> Tensor | None:
        """(B, T) the tokens' keys, where something is dropped."""
        if not self.training or keys_BT is not None:
            return keys_BT
        return token_keys(any_sentences(len(input_ids), input_ids.device), input_ids.shape[1])

    def _encoded(
        self,
        input_ids: Tensor,
        positions: Tensor,
        layout: Layout,
        noise: Tensor | None,
        segments: Tensor | None,
        own: Mapping[int, nn.Module],
    ) -> Tensor:
        embedded: Tensor = self.embeddings(input_ids, positions, segments, layout.keys)
        hidden: Tensor = self.encoder(embedded if noise is None else embedded + noise, layout, own)
        return hidden

    def pool(self, hidden_BTH: Tensor) -> Tensor:
        """tanh(W h_CLS + b): states (B, T, H) -> (B, H)."""
        return torch.tanh(self.pooler["dense"](hidden_BTH[:, 0]))

    def init_weights(self, seed: int) -> MiniBert:
        """BERT's start: weights N(0, 0.02), biases 0, layer norms 1; the same seed gives the same weights."""
        initialise(self.named_parameters(), torch.Generator().manual_seed(seed))
        return self


@torch.no_grad()
def initialise(named_parameters: Iterable[tuple[str, Tensor]], generator: torch.Generator) -> None:
    """Gives weights BERT's start, N(0, 0.02) with biases 0 and layer norms 1, in place; drawn on the CPU in float32, so
    that neither their device nor their precision changes what they get."""
    for name, parameter in named_parameters:
        if name.endswith("bias"):
            parameter.zero_()
        elif name.endswith("LayerNorm.weight"):
            parameter.fill_(1.0)
        else:
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, 0.02, generator=generator))
