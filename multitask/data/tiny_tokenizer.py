"""The WordPiece vocabulary of the `tiny` encoder, trained on the project's own sample text.

    python -m multitask.data.tiny_tokenizer multitask/assets/tiny/tokenizer.json

Training gives the same vocabulary every time: all characters have their numbers before it starts (the trainer
would number the `##` ones in the order of a hash table), and it breaks ties between pairs by those numbers.
"""

from __future__ import annotations

import argparse
import string
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer

from multitask.data.sample import GENERATORS, generate
from multitask.tasks.table import TASKS

VOCABULARY = 2000
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # [PAD] is 0
_WORD_CHARS = string.ascii_lowercase + string.digits
_MARKS = string.punctuation + "‘’“”–—…£€°"


def sample_texts() -> list[str]:
    """The training texts of all sample tasks."""
    rows = [row[: len(TASKS[task].columns)] for task in GENERATORS for row in generate(task)["train"]]
    return [text for texts in rows for text in texts]


def train_tokenizer() -> Tokenizer:
    """A lower-case BERT tokenizer of `VOCABULARY` word pieces that knows all of printable ASCII."""
    first = [*SPECIAL, *_WORD_CHARS, *(f"##{char}" for char in _WORD_CHARS), *_MARKS]
    learner = _bare({})
    trainer = WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=first, show_progress=False)
    learner.train_from_iterator(sample_texts(), trainer)
    tokenizer = _bare(learner.get_vocab())
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, SPECIAL.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _bare(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder()
    return tokenizer


def main() -> None:
    """Trains the tokenizer and writes it to a file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("path", type=Path)
    path: Path = parser.parse_args().path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(train_tokenizer().to_str(), encoding="utf-8")


if __name__ == "__main__":
    main()
