#!/bin/bash
# transformers 5.23: tokenizer(a, b) and tokenizer([a], [b]) differ where b is the empty text: alone, the pair is encoded
# as one text, without the second [SEP]; in a list it has both. A model of pairs that is served one by one gets other
# ids for an empty cell than it was trained on in batches.
# Exit status 0: it is so; 1: it is not any more; 2: could not be tried.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install --quiet transformers==5.23.0 tokenizers==0.23.3 || exit 2
printf '%s\n' '[PAD]' '[UNK]' '[CLS]' '[SEP]' '[MASK]' the cat > vocab.txt
echo '{"model_type": "bert"}' > config.json
HF_HUB_OFFLINE=1 venv/bin/python - 2>&1 <<'P' | grep -v -i "pytorch was not found"
import sys

import tokenizers
import transformers

print(f"python {sys.version.split()[0]}, transformers {transformers.__version__}, tokenizers {tokenizers.__version__}")
tokenizer = transformers.AutoTokenizer.from_pretrained(".")
alone, listed = tokenizer("the cat", "")["input_ids"], tokenizer(["the cat"], [""])["input_ids"][0]
first = tokenizer("", "the cat")["input_ids"], tokenizer([""], ["the cat"])["input_ids"][0]
print("('the cat', ''):", tokenizer.convert_ids_to_tokens(alone))
print("in a list:      ", tokenizer.convert_ids_to_tokens(listed))
print("('', 'the cat') alone and in a list:", *first)
print("single 'the cat':", tokenizer("the cat")["input_ids"])
sys.exit(0 if alone == tokenizer("the cat")["input_ids"] and listed == [*alone, 3] and first[0] == first[1] else 1)
P
