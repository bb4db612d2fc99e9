"""Postings made searchable: their passages and the passages' vectors, in memory and as a sealed directory.

postings.jsonl, passages.jsonl, vectors.safetensors, nearest.usearch where the search is approximate, the bundles
encoder/ and, where given, completion/ and suitability/; last manifest.json, with the facts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load as load_arrays

from multitask.bundle.bundle import Bundle, bundle_fingerprint, save_bundle
from multitask.data.progress import Done, silent
from multitask.errors import UserError
from multitask.inference.embed import Vectors
from multitask.recruit.passages import PASSAGE_WORDS, Passage, passages
from multitask.recruit.postings import Posting
from multitask.storage.disk import DRAFT
from multitask.storage.sealed import Content, Damaged, is_sealed, read_document, read_sealed, write_sealed
from multitask.storage.storage import MANIFEST, Storage

SCHEMA = 1
KIND = "recruiter's index"
ENCODER, COMPLETION, SUITABILITY = "encoder", "completion", "suitability"  # bundles below the directory
PARTS = (COMPLETION, SUITABILITY)
NEAREST = "nearest.usearch"
FILES = ("postings.jsonl", "passages.jsonl", "vectors.safetensors", NEAREST)

EXACT_UP_TO = 100_000  # passages: of 384 float32 a query is a product of 20 ms
NEIGHBOURS = 200  # passages that the approximate search proposes
RECALL_QUERIES, RECALL_AT = 200, 10
WORDS_A_TOKEN = 0.6  # postings have 1.3 tokens a word, one in twenty has more than 1.5


class Embeds(Protocol):
    """What makes vectors of texts: a TextEncoder, or several that share the work."""

    max_length: int  # tokens

    def embed(self, texts: Sequence[str], progress: Done = silent) -> Vectors:
        """(N, H) vectors of the texts, each of length 1."""
        ...


@dataclass(frozen=True)
class Index:
    """Postings made searchable, in memory.

    vectors: (P, H) float32 of length 1, of the P passages, which stand in their postings' order.

    nearest: a usearch index of them where there are too many to compare with all. facts: what it was made of.
    """

    postings: tuple[Posting, ...]
    passages: tuple[Passage, ...]
    vectors: Vectors
    facts: dict[str, Any] = field(default_factory=dict)
    nearest: Any = None

    def neighbours(self, vectors: Vectors, count: int = NEIGHBOURS) -> list[NDArray[np.int64]]:
        """For each of (Q, H) vectors the passages nearest to it, approximately; at most `count` of them."""
        count = min(count, len(self.passages))
        return [np.asarray(self.nearest.search(vector, count).keys, np.int64) for vector in vectors]


def words_within(max_length: int, most: int) -> int:
    """How many words a passage may have: at most `most`, and no more than an encoder of so many tokens takes."""
    return max(1, min(most, int(max_length * WORDS_A_TOKEN)))


def build(
    encoder: Embeds,
    postings: Sequence[Posting],
    without: Collection[str] = (),
    *,
    exact_up_to: int = EXACT_UP_TO,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Index:
    """An index of postings, whose passages leave out the fields `without`. progress: called with how many passages are
    embedded, of how many."""
    words = words_within(encoder.max_length, PASSAGE_WORDS)
    pieces = passages(postings, without, words)
    vectors = encoder.embed([piece.embedded for piece in pieces], lambda done: progress(done, len(pieces)))
    facts = {"postings": len(postings), "passages": len(pieces), "width": vectors.shape[1], "passage_words": words}
    index = Index(tuple(postings), tuple(pieces), vectors, facts | {"approximate": None})
    return index if len(pieces) <= exact_up_to else _approximate(index, encoder)


def _approximate(index: Index, encoder: Embeds) -> Index:
    """An index whose nearest neighbours usearch's HNSW finds, with the share of the true ones that it finds for
    postings' titles."""
    import usearch
    from usearch.index import Index as Nearest

    nearest = Nearest(ndim=index.vectors.shape[1], metric="ip", dtype="f16", expansion_search=NEIGHBOURS)
    nearest.add(np.arange(len(index.vectors)), index.vectors)
    some = np.unique(np.linspace(0, len(index.postings) - 1, RECALL_QUERIES).astype(int))
    queries = encoder.embed([index.postings[place].title for place in some])
    made = Index(index.postings, index.passages, index.vectors, index.facts, nearest)
    count = min(RECALL_AT, len(index.passages))
    shares = [
        np.isin(np.argsort(-(index.vectors @ query), kind="stable")[:count], found).mean()
        for query, found in zip(queries, made.neighbours(queries, count), strict=True)
    ]
    made.facts["approximate"] = {
        "library": f"usearch {usearch.__version__}",
        f"recall@{RECALL_AT}": float(np.mean(shares)),
        "queries": len(queries),
    }
    return made


def save_index(storage: Storage, index: Index, bundle: Bundle, parts: Mapping[str, Bundle]) -> None:
    """Writes an index as one sealed directory that is all that searching and serving need. bundle: the vectors'
    encoder. parts: PARTS' bundles.

    Raises UserError where the directory holds other things: it is replaced as a whole.
    """
    if unknown := sorted(set(parts) - set(PARTS)):
        raise UserError(f"index: no part '{unknown[0]}'; parts: {', '.join(PARTS)}")
    check_target(storage)
    files: dict[str, Content] = {
        "postings.jsonl": _lines(posting.to_json() for posting in index.postings),
        "passages.jsonl": _lines(asdict(passage) for passage in index.passages),
        "vectors.safetensors": {"vectors": torch.from_numpy(index.vectors)},
    }
    if index.nearest is not None:
        files[NEAREST] = bytes(index.nearest.save())

    bundles: dict[str, str] = {}
    facts = {"schema": SCHEMA, "kind": KIND, "encoder": bundle.about, "parts": sorted(parts), **index.facts}

    def save_parts() -> None:
        for name, part in {ENCODER: bundle, **parts}.items():
            save_bundle(storage, name, part)
            bundles[name] = bundle_fingerprint(storage.at(name))

    write_sealed(storage, "", files, {**facts, "bundles": bundles}, before=save_parts)


def check_target(storage: Storage) -> None:
    """Raises UserError where an index would replace anything but an index, or the beginning of one."""
    names = [name for name in storage.list() if not DRAFT.fullmatch(name)]
    foreign = sorted(set(names) - {MANIFEST, ENCODER, *PARTS, *FILES})
    if is_sealed(storage) and read_document(storage, MANIFEST).get("kind") == KIND:
        return
    if foreign or MANIFEST in names:
        held = ", ".join(names[:5])
        raise UserError(f"index '{storage.uri}': not empty, and no index; it holds {held}; name another directory")


def load_index(storage: Storage) -> Index:
    """The index at a URI. Raises UserError where there is none, or a damaged one."""
    if not is_sealed(storage):
        names = ", ".join(storage.list()[:10]) or "nothing"
        raise UserError(f"index '{storage.uri}': none there (no {MANIFEST}); it holds {names}")
    try:
        files, facts = read_sealed(storage), read_document(storage, MANIFEST)
        if facts.get("kind") != KIND or facts.get("schema") != SCHEMA:
            kind, schema = facts.get("kind", "something else"), facts.get("schema")
            raise UserError(f"index '{storage.uri}': a {kind} of schema {schema}; this version reads {KIND} {SCHEMA}")
        index = Index(
            tuple(Posting(**row) for row in _rows(files["postings.jsonl"])),
            tuple(Passage(**row) for row in _rows(files["passages.jsonl"])),
            load_arrays(files["vectors.safetensors"])["vectors"],
            {name: value for name, value in facts.items() if name not in ("files", "bundles")},
            _restored(files.get(NEAREST)),
        )
        _check_bundles(storage, facts.get("bundles", {}))  # an older build's index does not name them
    except (Damaged, KeyError, TypeError, ValueError, FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"index '{storage.uri}': damaged: {error}") from error
    if len(index.vectors) != len(index.passages):
        raise UserError(f"index '{storage.uri}': damaged: {len(index.vectors)} vectors, {len(index.passages)} passages")
    return index


def _check_bundles(storage: Storage, bundles: Mapping[str, str]) -> None:
    """Raises Damaged where a part of the index is not the bundle that it was made with."""
    for name, fingerprint in bundles.items():
        if bundle_fingerprint(storage.at(name)) != fingerprint:
            raise Damaged(f"{name}/{MANIFEST}: of another bundle than the index was made with")


def _restored(data: bytes | None) -> Any:
    if data is None:
        return None
    from usearch.index import Index as Nearest

    nearest = Nearest.restore(data, expansion_search=NEIGHBOURS)
    if nearest is None:
        raise ValueError(f"{NEAREST}: usearch cannot read it")
    return nearest


def _lines(rows: Any) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _rows(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.decode().split("\n") if line]
