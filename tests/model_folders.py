"""Models as transformers and sentence-transformers write them, tiny and with random weights, and what these libraries
make of texts with them: KINDS."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Vectors = NDArray[np.float64]
Named = dict[str, Tensor]

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the a cat sat on mat dog ran fast film was good bad ##s play guitar man . , !"
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
LONG = "the dog ran fast , the cat sat on a mat . the man was good ! " * 6
TEXTS = ["the cat sat on the mat .", "the film was good !", "a dog", LONG]


@dataclass(frozen=True)
class Reference:
    """embed: texts -> (N, H) of length 1, by the library that wrote the folder. pooling: what has to be asked for, None
    where the folder says it or has a pooler. note: what we say of it, "" for nothing."""

    embed: Callable[[Sequence[str]], Vectors]
    pooling: str | None = None
    note: str = ""


def small(folder: Path, kind: str = "BertModel", dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    """A model of that class in the folder, with a vocabulary of a few words. -> it, computing in float32."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    words = WORDS.split()
    settings = {"vocab_size": len(words), **SIZES, "max_position_embeddings": 64, **config}
    model = getattr(transformers, kind)(transformers.BertConfig(**settings)).eval()
    with torch.no_grad():  # a bias of zero and a pooler of small numbers would hide what is not read
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape)).copy_(parameter.to(dtype))
    model.to(dtype).save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    return model.float()


def unit(vectors: Any) -> Vectors:
    found: Vectors = np.asarray(vectors, np.float64)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def by_transformers(model: Any, folder: Path, pooling: str = "pooler", max_length: int = 64) -> Reference:
    """The pooler's output, or the mean of the last states, each text by itself."""
    import transformers

    bert = getattr(model, "bert", model)
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Vectors:
        rows = []
        for text in texts:
            found = bert(**tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt"))
            row = found.pooler_output if pooling == "pooler" else found.last_hidden_state.mean(dim=1)
            rows.append(row[0].numpy())
        return unit(rows)

    return Reference(embed, None if pooling == "pooler" else pooling)


def by_sentence_transformers(folder: Path) -> Reference:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return Reference(lambda texts: unit(model.encode(list(texts), batch_size=1)))


# Folders of transformers.


def headed(folder: Path, kind: str, pooling: str = "pooler", **config: Any) -> Reference:
    model = small(folder, kind, **config)
    found = by_transformers(model, folder, pooling)
    return Reference(found.embed, found.pooling, "" if kind == "BertModel" else f"a {kind}; its encoder is taken")


def halves(folder: Path, dtype: torch.dtype) -> Reference:
    return by_transformers(small(folder, dtype=dtype), folder)


def sharded(folder: Path) -> Reference:
    model = small(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return by_transformers(model, folder)


def pickled(folder: Path, legacy: bool = False) -> Reference:
    model = small(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    return by_transformers(model, folder)


def pickled_shards(folder: Path) -> Reference:
    """As transformers of before version 5 wrote a large model."""
    model = small(folder)
    (folder / "model.safetensors").unlink()
    state = model.state_dict()
    parts = [dict(list(state.items())[at::2]) for at in range(2)]
    named = {name: f"pytorch_model-0000{at}-of-00002.bin" for at, part in enumerate(parts, 1) for name in part}
    for at, part in enumerate(parts, 1):
        torch.save(part, folder / f"pytorch_model-0000{at}-of-00002.bin")
    index = {"metadata": {"total_size": 1}, "weight_map": named}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return by_transformers(model, folder)


def renamed(folder: Path, change: Callable[[Named], Named]) -> Reference:
    model = small(folder)
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    return by_transformers(model, folder)


def prefixed(prefix: str, state: Named) -> Named:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def as_tensorflow(state: Named) -> Named:
    named = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, old in named.items():
        state = {name.replace(new, old): tensor for name, tensor in state.items()}
    return {f"bert.{name}": tensor for name, tensor in state.items()}


def cut_by_its_tokenizer(folder: Path) -> Reference:
    model = small(folder)
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 9, "do_lower_case": true}')
    return by_transformers(model, folder, max_length=9)


# Folders of sentence-transformers.


def sentences(folder: Path, *modules: nn.Module, max_seq_length: int | None = None, **settings: Any) -> Path:
    """A SentenceTransformer of a BERT and the modules, saved."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    plain = folder.with_name(f"{folder.name}-plain")
    small(plain)
    transformer = Transformer(str(plain), max_seq_length=max_seq_length)
    SentenceTransformer(modules=[transformer, *modules], device="cpu", **settings).save(str(folder))
    shutil.rmtree(plain)
    return folder


def pooled(folder: Path, mode: str) -> Reference:
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import Pooling

    return by_sentence_transformers(sentences(folder, Pooling(32, pooling_mode=mode), Normalize()))


def shortened(folder: Path) -> Reference:
    from sentence_transformers.sentence_transformer.modules import Pooling

    return by_sentence_transformers(sentences(folder, Pooling(32), max_seq_length=8))


def with_dropout(folder: Path) -> Reference:
    from sentence_transformers.sentence_transformer.modules import Dropout, Pooling

    return by_sentence_transformers(sentences(folder, Pooling(32), Dropout(0.5)))


def with_pooler(folder: Path) -> Reference:
    """As LaBSE: BERT's pooler as a Dense over the first token."""
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.manual_seed(1)
    return by_sentence_transformers(sentences(folder, Pooling(32, pooling_mode="cls"), Dense(32, 32), Normalize()))


def old_layout(folder: Path) -> Reference:
    """As versions 0 to 2 wrote it: the transformer in a folder of its own, a key for each mode, weights pickled."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    sentences(folder, Pooling(32))
    own = folder / "0_Transformer"
    own.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.move(folder / name, own / name)
    torch.save(load_file(own / "model.safetensors"), own / "pytorch_model.bin")
    (own / "model.safetensors").unlink()
    (folder / "sentence_bert_config.json").unlink()
    (own / "sentence_bert_config.json").write_text('{"max_seq_length": 11, "do_lower_case": false}')
    kinds = (("Transformer", "0_Transformer"), ("Pooling", "1_Pooling"))
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    modes = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))
    (folder / "config_sentence_transformers.json").write_text('{"__version__": {"sentence_transformers": "2.0.0"}}')
    return by_sentence_transformers(folder)


def lowered(folder: Path) -> Reference:
    """A tokenizer that minds capitals, under a setting that leaves none."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    sentences(folder, Pooling(32))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"do_lower_case": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64, "do_lower_case": true}')
    found = by_sentence_transformers(folder)
    return Reference(lambda texts: found.embed([text.upper() for text in texts]))


def prompted(folder: Path) -> Reference:
    """A default prompt, which we leave to the user: the texts are embedded without it."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    sentences(folder, Pooling(32), prompts={"query": "a man , "}, default_prompt_name="query")
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    note = "puts 'a man , ' before each text; minibert does not"
    return Reference(lambda texts: unit(model.encode(list(texts), prompt="")), note=note)


def cross_encoder(folder: Path) -> Reference:
    from sentence_transformers import CrossEncoder

    plain = folder.with_name(f"{folder.name}-plain")
    model = small(plain, "BertForSequenceClassification", num_labels=1)
    CrossEncoder(str(plain), device="cpu").save_pretrained(str(folder))
    found = by_transformers(model, plain)
    shutil.rmtree(plain)
    return Reference(found.embed, note="a BertForSequenceClassification; its encoder is taken")


ACTS = ("gelu_new", "gelu_pytorch_tanh", "quick_gelu", "gelu_fast", "relu", "silu", "tanh", "mish")
KINDS: Mapping[str, Callable[[Path], Reference]] = {
    "BertModel": partial(headed, kind="BertModel"),
    "BertForSequenceClassification": partial(headed, kind="BertForSequenceClassification"),
    "BertForTokenClassification": partial(headed, kind="BertForTokenClassification", pooling="mean"),
    "BertForQuestionAnswering": partial(headed, kind="BertForQuestionAnswering", pooling="mean"),
    "BertForMultipleChoice": partial(headed, kind="BertForMultipleChoice"),
    "BertForNextSentencePrediction": partial(headed, kind="BertForNextSentencePrediction"),
    "BertForMaskedLM": partial(headed, kind="BertForMaskedLM", pooling="mean"),
    "BertForMaskedLM, untied": partial(headed, kind="BertForMaskedLM", pooling="mean", tie_word_embeddings=False),
    "BertForPreTraining": partial(headed, kind="BertForPreTraining"),
    "float16": partial(halves, dtype=torch.float16),
    "bfloat16": partial(halves, dtype=torch.bfloat16),
    "shards": sharded,
    "pytorch_model.bin": pickled,
    "pytorch_model.bin of before torch 1.6": partial(pickled, legacy=True),
    "pytorch_model.bin in shards": pickled_shards,
    "one token type": partial(headed, kind="BertModel", type_vocab_size=1),
    "three token types": partial(headed, kind="BertModel", type_vocab_size=3),
    "an epsilon of its own": partial(headed, kind="BertModel", layer_norm_eps=1e-3),
    "no padding token": partial(headed, kind="BertModel", pad_token_id=None),
    **{act: partial(headed, kind="BertModel", hidden_act=act) for act in ACTS},
    **{
        f"names begin with {prefix}": partial(renamed, change=partial(prefixed, prefix))
        for prefix in ("bert.", "model.bert.", "0.auto_model.", "module.", "module.bert.")
    },
    "gamma and beta": partial(renamed, change=as_tensorflow),
    "model_max_length": cut_by_its_tokenizer,
    **{
        f"{mode} pooling": partial(pooled, mode=mode)
        for mode in ("mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
    },
    "max_seq_length": shortened,
    "Dropout": with_dropout,
    "Dense as BERT's pooler": with_pooler,
    "0_Transformer": old_layout,
    "do_lower_case": lowered,
    "a default prompt": prompted,
    "CrossEncoder": cross_encoder,
}
