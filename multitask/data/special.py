"""Special tokens: what a text has none of, by the names that BERT's and XLM-R's tokenizers give them."""

from __future__ import annotations

from tokenizers import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BERT_NAMES = {f"{name[1:-1].lower()}_token": name for name in SPECIAL}  # by transformers' keys, "pad_token" and so on
XLM_ROBERTA_NAMES = {
    "pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>",
    "bos_token": "<s>", "eos_token": "</s>",
}  # fmt: skip


def special_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """A key of BERT_NAMES -> that token's text, for those that the tokenizer has."""
    kept = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    found = {}
    for key, name in BERT_NAMES.items():
        if tokenizer.token_to_id(name) is not None:
            found[key] = name
        elif (other := XLM_ROBERTA_NAMES[key]) in kept:  # where it is none, "<s>" is a word like any other
            found[key] = other
    return found


def special_ids(tokenizer: Tokenizer) -> set[int]:
    """The ids of a tokenizer's special tokens: BERT's own, and those that were added under other names."""
    added = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    named = {tokenizer.token_to_id(name) for name in special_tokens(tokenizer).values()}
    return added | {number for number in named if number is not None}
