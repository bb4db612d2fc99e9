"""The names of the ways in which a sentence's states become one vector; encoding.py has what each does."""

from typing import Literal

# All but `pooler`, BERT's own, are named as sentence-transformers names them.
Pooling = Literal["pooler", "cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
