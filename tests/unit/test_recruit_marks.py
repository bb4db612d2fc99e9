"""Which words carried a match."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.inference.embed import TextEncoder
from multitask.recruit.index import build
from multitask.recruit.marks import MOST, Marker
from multitask.recruit.postings import Posting
from multitask.recruit.search import Hit, Searcher
from multitask.recruit.words import Lexical, term, terms, words
from tests.helpers import tiny
from tests.postings import CODER, POSTINGS


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(tiny())


def spans(hit: Hit) -> list[str]:
    return [hit.passage[start:end] for start, end in hit.words]


@settings(max_examples=30)
@given(
    text=st.lists(
        st.sampled_from(["Nurse", "nurses", "the", "C++", "care,", "naïve", "of", "漢字", "\n", "-"]), max_size=40
    )
)
def test_marks_are_whole_words_in_order(encoder: TextEncoder, text: list[str]) -> None:
    posting = Posting("1", "A title", description=" ".join(text) or "empty")
    searcher = Searcher(build(encoder, [posting]), encoder)
    (hit,) = searcher.search(["nurse who knows C++ and the of"], 1)[0]
    assert len(hit.words) <= MOST
    assert all(end <= start for (_, end), (start, _) in pairwise(hit.words))
    whole = {(word.start, word.end) for word in words(hit.passage) if word.term}  # so no stop word either
    assert set(hit.words) <= whole
    marked = {term(word) for word in spans(hit)}
    assert marked >= set(terms(hit.passage)) & {"nurse", "c++"}


def test_a_words_share_is_its_part_of_the_cosine(encoder: TextEncoder) -> None:
    """Mean pooling: the words' states, the stop words' and the special tokens' add up to the encoding."""
    assert encoder.pooling == "mean"
    index = build(encoder, [CODER])
    marker = Marker(encoder, index, Lexical([""]))
    (states,) = marker._states([0])
    passage = index.passages[0]
    tokens = encoder.tokens([passage.embedded])[0]
    before = len(passage.embedded) - len(passage.text)
    for word, state in zip(states.words, states.states, strict=True):
        inside = (tokens.spans[:, 0] >= word.start + before) & (tokens.spans[:, 1] <= word.end + before)
        assert inside.any()
        assert np.allclose(state, tokens.states[inside].sum(0), atol=2e-2, rtol=2e-3)  # halves of floats


def test_marks_do_not_depend_on_what_is_kept(encoder: TextEncoder) -> None:
    index = build(encoder, POSTINGS)
    lexical = Lexical([passage.embedded for passage in index.passages])
    warm, cold = Marker(encoder, index, lexical), Marker(encoder, index, lexical, cache_bytes=0)
    warm.warm()
    cold.warm()
    assert len(warm._kept) == len(index.passages)
    assert not cold._kept
    vector = encoder.embed(["a nurse by night"])[0]
    places = list(range(len(index.passages)))
    assert warm.marks(places, {"nurse"}, vector) == cold.marks(places, {"nurse"}, vector)
