#!/bin/bash
# tokenizers 0.23: a token that is added to a vocabulary with a number left out gets a number that a word has already.
# A vocab.txt with one repeated line is such a vocabulary, since the last line's number counts. Model and tokenizer
# load without a word; the added token and the word share one embedding, and the word
# is decoded as the added token.
# Exit status 0: it is so; 1: it is not any more; 2: could not be tried.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet transformers==5.23.0 tokenizers==0.23.3 || exit 2
printf '%s\n' '[PAD]' '[UNK]' '[CLS]' '[SEP]' '[MASK]' the cat sat the mat > vocab.txt
echo '{"model_type": "bert"}' > config.json
HF_HUB_OFFLINE=1 venv/bin/python - 2>&1 <<'P' | grep -v -i "pytorch was not found"
import sys

import tokenizers
import transformers

print(f"python {sys.version.split()[0]}, transformers {transformers.__version__}, tokenizers {tokenizers.__version__}")
tokenizer = transformers.AutoTokenizer.from_pretrained(".")
before = tokenizer("the mat")["input_ids"]
added = tokenizer.add_tokens(["[ENT]"])
number = tokenizer.convert_tokens_to_ids("[ENT]")
taken = [word for word, index in tokenizer.get_vocab().items() if index == number]
print("vocab.txt: 10 lines, 'the' on lines 6 and 9; numbers:", dict(sorted(tokenizer.vocab.items(), key=lambda i: i[1])))
print(f"add_tokens(['[ENT]']) says {added} added; its number is {number}, which {taken} have")
print("'the mat' was", before, "and is", tokenizer("the mat")["input_ids"])
print("decoded:", repr(tokenizer.decode(tokenizer("the mat")["input_ids"])))
sys.exit(0 if len(taken) == 2 and added == 1 else 1)
P
