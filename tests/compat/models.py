"""Models: folders as transformers and sentence-transformers write them, or as others left them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from multitask.bundle.found import read_model
from multitask.inference.embed import TextEncoder
from tests.compat.table import Row
from tests.model_folders import KINDS, TEXTS, sentences, small

MODEL = "model"


def _same(kind: str, folder: Path) -> None:
    """The embeddings of the library that wrote it."""
    reference = KINDS[kind](folder / MODEL)
    found = TextEncoder(read_model(MODEL, reference.pooling)).embed(TEXTS)
    assert np.abs(found - reference.embed(TEXTS)).max() < 1e-5


def _of(*modules: tuple[str, dict[str, Any]], **settings: Any) -> Callable[[Path], None]:
    """A SentenceTransformer of a BERT of 32 numbers, and those modules with these arguments."""

    def run(folder: Path) -> None:
        from sentence_transformers import models

        sentences(folder / MODEL, *(getattr(models, name)(**given) for name, given in modules), **settings)
        read_model(MODEL)

    return run


def _router(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    small(folder / "plain")
    sides = [[Transformer("plain"), Pooling(32)] for _ in range(2)]
    router = Router.for_query_document(*sides)
    SentenceTransformer(modules=[router], device="cpu").save(str(folder / MODEL))
    read_model(MODEL)


def _sparse(folder: Path) -> None:
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling

    small(folder / "plain", "BertForMaskedLM")
    SparseEncoder(modules=[MLMTransformer("plain"), SpladePooling("max")], device="cpu").save(str(folder / MODEL))
    read_model(MODEL)


def _modules_of_ones_own(folder: Path) -> None:
    sentences(folder / MODEL)
    listed = json.loads((folder / MODEL / "modules.json").read_text())
    listed[0]["type"] = "custom_st.Transformer"
    (folder / MODEL / "modules.json").write_text(json.dumps(listed))
    read_model(MODEL)


def _another(kind: str) -> Callable[[Path], None]:
    """A tiny model of another architecture, as transformers saves it."""

    def run(folder: Path) -> None:
        import transformers

        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        names = {"DistilBert": {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}}
        given = names.get(kind, sizes) | {"vocab_size": 99, "pad_token_id": 0}
        getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**given)).save_pretrained(MODEL)
        read_model(MODEL)

    return run


def _configured(**config: Any) -> Callable[[Path], None]:
    """A BERT whose config.json says something else of it afterwards."""

    def run(folder: Path) -> None:
        small(folder / MODEL)
        file = folder / MODEL / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
        read_model(MODEL)

    return run


def _weighed(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    """A BERT of other tensors."""

    def run(folder: Path) -> None:
        small(folder / MODEL)
        file = folder / MODEL / "model.safetensors"
        save_file(change(load_file(file)), file)
        read_model(MODEL)

    return run


def _without_weights(other: str, content: bytes) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        small(folder / MODEL)
        (folder / MODEL / "model.safetensors").unlink()
        (folder / MODEL / other).write_bytes(content)
        read_model(MODEL)

    return run


def _pickled_module(folder: Path) -> None:
    model = small(folder / MODEL)
    (folder / MODEL / "model.safetensors").unlink()
    torch.save(model, folder / MODEL / "pytorch_model.bin")
    read_model(MODEL)


def _adapter(folder: Path) -> None:
    small(folder / MODEL)
    (folder / MODEL / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x"}')
    read_model(MODEL)


def _shard_lost(folder: Path) -> None:
    KINDS["shards"](folder / MODEL)
    sorted((folder / MODEL).glob("model-*.safetensors"))[0].unlink()
    read_model(MODEL)


def _no_pooling(folder: Path) -> None:
    small(folder / MODEL, "BertForMaskedLM")
    read_model(MODEL)


def _whole(name: str, value: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda state: {**state, name: value}


WORDS, QUERY = "embeddings.word_embeddings.weight", "encoder.layer.0.attention.self.query"
POOL = ("Pooling", {"embedding_dimension": 32})
LEFT = "...: a {}; its encoder is taken and its head left: ..."
READ = {
    "BertModel": "BertModel of transformers: model.safetensors, vocab.txt",
    "float16": "weights of float16",
    "bfloat16": "weights of bfloat16",
    "shards": "weights in several safetensors files with their index",
    "pytorch_model.bin": "pytorch_model.bin alone",
    "pytorch_model.bin of before torch 1.6": "pytorch_model.bin of before torch 1.6",
    "pytorch_model.bin in shards": "pytorch_model.bin in shards with their index",
    "one token type": "type_vocab_size of 1",
    "three token types": "type_vocab_size of 3",
    "no padding token": "pad_token_id of null",
    "gelu_new": "hidden_act gelu_new, gelu_fast, gelu_pytorch_tanh and GELU's other names",
    "relu": "hidden_act relu, silu, tanh, mish or quick_gelu",
    "names begin with bert.": "tensors named bert....",
    "names begin with model.bert.": "tensors named model.bert....",
    "names begin with 0.auto_model.": "tensors named 0.auto_model....",
    "names begin with module.": "tensors named module.... by DataParallel",
    "gamma and beta": "layer norms named gamma and beta, as converted from TensorFlow",
    "model_max_length": "a model_max_length below the encoder's positions: texts are cut there",
    "mean pooling": "SentenceTransformer of version 6: Transformer, Pooling (mean), Normalize",
    "cls pooling": "Pooling of the first token",
    "max pooling": "Pooling by the largest value",
    "mean_sqrt_len_tokens pooling": "Pooling by mean_sqrt_len_tokens",
    "weightedmean pooling": "Pooling by weightedmean",
    "lasttoken pooling": "Pooling of the last token",
    "max_seq_length": "max_seq_length of 8: texts are cut there",
    "Dropout": "a Dropout module, which does nothing to an embedding",
    "Dense as BERT's pooler": "Dense that is BERT's pooler (LaBSE): Tanh of the same width over the first token",
    "0_Transformer": "SentenceTransformer of before version 3: 0_Transformer/, pooling_mode_..., pickled weights",
    "do_lower_case": "do_lower_case over a tokenizer that minds capitals",
}
NOTED = {
    "BertForMaskedLM": ("BertForMaskedLM without a pooler, pooling mean", LEFT.format("BertForMaskedLM")),
    "BertForPreTraining": ("BertForPreTraining (bert-base-uncased)", LEFT.format("BertForPreTraining")),
    "BertForSequenceClassification": (
        "BertForSequenceClassification",
        LEFT.format("BertForSequenceClassification"),
    ),
    "BertForTokenClassification": (
        "BertForTokenClassification, pooling mean",
        LEFT.format("BertForTokenClassification"),
    ),
    "BertForQuestionAnswering": ("BertForQuestionAnswering, pooling mean", LEFT.format("BertForQuestionAnswering")),
    "BertForMultipleChoice": ("BertForMultipleChoice", LEFT.format("BertForMultipleChoice")),
    "BertForNextSentencePrediction": (
        "BertForNextSentencePrediction",
        LEFT.format("BertForNextSentencePrediction"),
    ),
    "CrossEncoder": ("CrossEncoder of sentence-transformers", LEFT.format("BertForSequenceClassification")),
    "a default prompt": (
        "a default prompt",
        "...: sentence-transformers puts '...' before each text; minibert does not",
    ),
}
REFUSED: dict[str, tuple[str, Callable[[Path], None]]] = {
    "BERT without a pooler, nothing said of pooling": (
        "...: 2 missing tensors for a BERT encoder: pooler.dense.bias, ...; valid: pooling mean or cls, ...",
        _no_pooling,
    ),
    "Dense of another width, activation or pooling": (
        "...2_Dense: Tanh of 32 to 16 over mean pooling; valid: BERT's own pooler, ...",
        _of(POOL, ("Dense", {"in_features": 32, "out_features": 16})),
    ),
    "LayerNorm after Pooling": (
        "...modules.json: Transformer, Pooling in '1_Pooling', LayerNorm in '2_LayerNorm'; valid: ...",
        _of(POOL, ("LayerNorm", {"dimension": 32})),
    ),
    "WeightedLayerPooling": (
        "...modules.json: Transformer, WeightedLayerPooling in '...', Pooling in '...'; valid: ...",
        _of(("WeightedLayerPooling", {"word_embedding_dimension": 32, "num_hidden_layers": 2}), POOL),
    ),
    "Router": ("...modules.json: Router; valid: Transformer, Pooling, ...", _router),
    "Pooling of several modes at once": (
        "...1_Pooling/config.json: its pooling is cls and mean, not one of: ...",
        _of(("Pooling", {"embedding_dimension": 32, "pooling_mode": ("cls", "mean")})),
    ),
    "embeddings cut to truncate_dim": ("...: truncate_dim is 8: ...; valid: null, ...", _of(POOL, truncate_dim=8)),
    "SparseEncoder (SPLADE)": ("...: a SparseEncoder; valid: a SentenceTransformer, ...", _sparse),
    "modules of one's own code": ("...modules.json: custom_st.Transformer; valid: ...", _modules_of_ones_own),
    "RoBERTa": ("...: model_type is 'roberta'; valid: 'bert'", _another("Roberta")),
    "DistilBERT": ("...: model_type is 'distilbert'; valid: 'bert'", _another("DistilBert")),
    "ALBERT": ("...: model_type is 'albert'; valid: 'bert'", _another("Albert")),
    "ELECTRA": ("...: model_type is 'electra'; valid: 'bert'", _another("Electra")),
    "ModernBERT": ("...: model_type is 'modernbert'; valid: 'bert'", _another("ModernBert")),
    "BERT as a decoder": ("...: is_decoder is True; valid: False", _configured(is_decoder=True)),
    "relative positions": (
        "...: position_embedding_type is 'relative_key'; valid: 'absolute'",
        _configured(position_embedding_type="relative_key"),
    ),
    "another activation": ("...: hidden_act is 'laplace'; valid: 'gelu', ...", _configured(hidden_act="laplace")),
    "weights quantised by bitsandbytes": (
        "...: weights quantised by bitsandbytes to 4 bits; valid: ...",
        _configured(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ),
    "weights of int8": (
        f"...: {WORDS} holds torch.int8: quantised, or no weights; valid: ...",
        _weighed(lambda state: {**state, WORDS: state[WORDS].to(torch.int8)}),
    ),
    "weights quantised by GPTQ": (
        f"...: {QUERY}.qweight: quantised by GPTQ or AWQ; valid: ...",
        _weighed(_whole(f"{QUERY}.qweight", torch.zeros(4, 32, dtype=torch.int32))),
    ),
    "a PEFT adapter beside the model": ("...adapter_config.json: a PEFT adapter; valid: a whole model; ...", _adapter),
    "weights that hold nan": (
        f"...: {WORDS} holds numbers that are not finite; ...",
        _weighed(lambda state: {**state, WORDS: state[WORDS] * float("nan")}),
    ),
    "two encoders in one file": (
        "...: 2 encoders, a., b.; valid: one; ...",
        _weighed(lambda state: {f"{side}.{name}": value.clone() for side in "ab" for name, value in state.items()}),
    ),
    "TensorFlow's weights alone": (
        "...model.safetensors: no such file; ...tf_model.h5..., TensorFlow's; valid: model.safetensors, ...",
        _without_weights("tf_model.h5", b"\x89HDF"),
    ),
    "a pickled module": ("...: torch.load(weights_only=True) does not take it: it holds ...", _pickled_module),
    "a shard that is not there": ("...: no such file; the directory holds: ...", _shard_lost),
}  # fmt: skip

ROWS = (
    *(Row(have, "read", partial(_same, kind)) for kind, have in READ.items()),
    *(Row(have, "noted", partial(_same, kind), line) for kind, (have, line) in NOTED.items()),
    *(Row(have, "refused", run, line) for have, (line, run) in REFUSED.items()),
)
