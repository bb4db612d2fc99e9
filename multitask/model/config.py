"""An encoder's sizes, as its config.json says them, and the known ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from multitask.errors import UserError
from multitask.model.activations import ACTIVATIONS

# What a config.json may say about the architecture; the first value is meant where it says nothing.
ARCHITECTURE: dict[str, tuple[object, ...]] = {
    "position_embedding_type": ("absolute",),
    "hidden_act": tuple(ACTIVATIONS),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
}
# A config.json of before `model_type` says what it is by the class of its model alone.
CLASSES = ("Bert", "TFBert", "FlaxBert")
QUANTISED = "quantization_config"

# Far above any BERT, far below what a file could ask for that wants a machine to run out of memory.
MOST = {"vocab_size": 2**22, "hidden_size": 2**14, "num_hidden_layers": 2**8, "num_attention_heads": 2**10}
MOST |= {"intermediate_size": 2**16, "max_position_embeddings": 2**17, "type_vocab_size": 2**10}


@dataclass(frozen=True)
class BertConfig:
    """An encoder's sizes (counts), dropout probabilities and LayerNorm's epsilon, named as in config.json."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    pad_token_id: int = 0
    hidden_act: str = "gelu"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> BertConfig:
        """The config that a Hugging Face config.json holds; keys we have no use for are ignored.

        where: the file, for the error. Raises UserError for another architecture, and for a missing or
            impossible value.
        """
        kind = values.get("model_type", "bert" if class_of(values).startswith(CLASSES) else class_of(values))
        if kind != "bert":
            raise UserError(f"{where}: model_type is {kind!r}; valid: 'bert'")
        for key, allowed in ARCHITECTURE.items():
            if values.get(key, allowed[0]) not in allowed:
                raise UserError(f"{where}: {key} is {values[key]!r}; valid: {', '.join(map(repr, allowed))}")
        if facts := values.get(QUANTISED):
            raise UserError(f"{where}: {_quantised(facts)}; valid: weights of float32, float16 or bfloat16")
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        if known.get("pad_token_id", 0) is None:  # a tokenizer without one; what is padded is masked in any case
            del known["pad_token_id"]
        missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in known]
        if missing:
            raise UserError(f"{where}: missing {', '.join(missing)}; a BERT config.json has them")
        config = cls(**known)
        config._check(where)
        return config

    def _check(self, where: str) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (type(value) is not int or value < (field.name != "pad_token_id")):
                raise UserError(f"{where}: {field.name} is {value!r}; valid: a positive whole number")
            if field.name in MOST and value > MOST[field.name]:
                raise UserError(f"{where}: {field.name} is {value}; valid: at most {MOST[field.name]}")
            if field.type == "float" and not (isinstance(value, int | float) and 0 <= value < 1):
                raise UserError(f"{where}: {field.name} is {value!r}; valid: a number in [0, 1)")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"{where}: hidden_size is {self.hidden_size}; valid: a multiple of num_attention_heads, "
                f"{self.num_attention_heads}"
            )

    def with_dropout(self, dropout: float | None) -> BertConfig:
        """The config with that dropout everywhere; None leaves it as it is."""
        if dropout is None:
            return self
        return replace(self, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)

    def to_dict(self) -> dict[str, Any]:
        """The config as the content of a Hugging Face config.json; `from_dict` reads it back."""
        return {"architectures": ["BertModel"], "model_type": "bert", **asdict(self)}


def class_of(values: Mapping[str, Any]) -> str:
    """The class that wrote the weights, as a config.json's `architectures` says; BertModel where it does not."""
    named = values.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else "BertModel"


def _quantised(facts: Any) -> str:
    """A config.json's `quantization_config` in words: its method, and the bits where it says so."""
    facts = facts if isinstance(facts, Mapping) else {}
    bits = next((bits for bits in (4, 8) if facts.get(f"load_in_{bits}bit") or facts.get("bits") == bits), None)
    return f"weights quantised by {facts.get('quant_method', 'bitsandbytes')}" + (f" to {bits} bits" if bits else "")


PRESETS: dict[str, BertConfig] = {
    "tiny": BertConfig(2000, 64, 2, 2, 256),  # its vocab_size gives way to the shipped tokenizer's
    "minilm-l6": BertConfig(30522, 384, 6, 12, 1536),
    "bert-base-uncased": BertConfig(30522, 768, 12, 12, 3072),
    "bert-large-uncased": BertConfig(30522, 1024, 24, 16, 4096),
}
