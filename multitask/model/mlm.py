"""The masked-language head: token states -> scores of the vocabulary (mlm-mnrl.txt, 4.2; Devlin et al., 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multitask.model.activations import ACTIVATIONS
from multitask.model.config import BertConfig

MLM = "mlm"  # the head's name, in a model and in what a bundle says of itself


class MlmHead(nn.Module):
    """BERT's masked-language head: dense, the config's activation, LayerNorm, then the vocabulary. V its size, H the
    encoder's hidden size.

    tied: the vocabulary's weights (V, H) are the encoder's embeddings, which `forward` gets passed; else they are the
    head's own. The bias (V,) is the head's in both.
    """

    def __init__(self, config: BertConfig, tied: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.decoder = None if tied else nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        with torch.no_grad():
            self.dense.weight.normal_(0.0, 0.02, generator=generator)
            self.dense.bias.zero_()
            if self.decoder is not None:
                self.decoder.normal_(0.0, 0.02, generator=generator)

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """(M, H) states of the masked positions, (V, H) embeddings -> (M, V) logits."""
        weight = embeddings if self.decoder is None else self.decoder
        return F.linear(self.norm(self.activation(self.dense(states))), weight, self.bias)
