"""Which postings repeat each other: reposted ones differ in a date or a word. MinHash spares comparing all with all."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from multitask.data.progress import Done, silent
from multitask.recruit.postings import Posting

SIMILAR = 0.7  # Jaccard similarity of two postings' shingles from which they repeat each other
SHINGLE = 3  # words
PERMUTATIONS = 128


def repeat_groups(postings: Sequence[Posting], progress: Done = silent) -> NDArray[np.int64]:
    """(N,) the place of the first posting of each posting's group: repeats, and repeats of repeats, share a group."""
    from datasketch import MinHash, MinHashLSH

    shingled = [shingles(posting.text(without=("title",))) for posting in postings]
    lsh = MinHashLSH(threshold=SIMILAR, num_perm=PERMUTATIONS)
    group = np.arange(len(postings))
    for place, mine in enumerate(shingled):
        sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update_batch([shingle.encode() for shingle in sorted(mine)])
        for other in map(int, lsh.query(sketch)):
            if jaccard(mine, shingled[other]) >= SIMILAR:
                group[group == group[place]] = min(group[place], group[other])
                group[group == group[other]] = group[place]
        lsh.insert(str(place), sketch)
        progress(place + 1)
    return group


def shingles(text: str) -> set[str]:
    """The runs of SHINGLE words in a text; a shorter text is one run."""
    words = re.findall(r"\w+", text.casefold())
    return {" ".join(words[at : at + SHINGLE]) for at in range(max(1, len(words) - SHINGLE + 1))}


def jaccard(first: set[str], second: set[str]) -> float:
    return len(first & second) / max(1, len(first | second))
