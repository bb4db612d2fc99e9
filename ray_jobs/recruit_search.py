"""`minibert recruit index`, `search`, and how good a search is."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from rich.text import Text

from lightning_modules.progress import Progress
from multitask.bundle import Bundle
from multitask.embed import TextEncoder, Vectors
from multitask.errors import UserError
from multitask.evaluate import Done, silent
from multitask.recruit.index import PARTS, Index, build, check_target, save_index
from multitask.recruit.postings import clean, read_postings
from multitask.recruit.quality import System, compare
from multitask.recruit.repeats import repeat_groups
from multitask.recruit.search import Hit, Searcher
from multitask.storage import Storage, local_copy
from ray_jobs.bundles import bundle_at, device
from ray_jobs.cluster import Cluster
from ray_jobs.options import Workers
from ray_jobs.recruit_folds import summary, tell
from ray_jobs.screen import Screen

TEXT_FILES = (".txt", ".md")
OTHER_FILES = (".pdf", ".doc", ".docx", ".odt", ".rtf", ".html", ".htm", ".pages", ".tex")  # what CVs come as
MAX_FILE_BYTES = 1_000_000
BLOCK = 256  # texts that a Ray worker embeds at once: some seconds of a CPU
UNTRAINED = "minilm-l6"


def build_index(
    bundle: str,
    postings: str,
    output: str,
    workers: int = 0,
    completion: str | None = None,
    suitability: str | None = None,
) -> None:
    """Writes the index of a file of postings to the directory `output`. bundle: its URI, or an encoder's name.

    completion, suitability: bundles that go along, to be served. Raises UserError before anything is computed.
    """
    screen, storage = Screen(), Storage(output)
    check_target(storage)
    parts = {name: bundle_at(uri) for name, uri in zip(PARTS, (completion, suitability), strict=True) if uri}
    encoder, read = bundle_at(bundle), read_postings(postings)

    def tell(done: int, total: int) -> None:
        screen.progress(Progress("index", "passages", 0, 0, done, total))

    with Cluster(Workers(workers, workers), screen) if workers else nullcontext() as cluster:
        embeds = RayEncoder(encoder, cluster) if cluster else TextEncoder(encoder, device())
        made = build(embeds, read.items, progress=tell)
    screen.end_line()
    facts = {"source": read.source, "sha256": read.sha256, "quarantined": len(read.quarantined)}
    save_index(storage, replace(made, facts=facts | made.facts), encoder, parts)
    screen.say(f"{len(made.postings)} postings, {len(made.passages)} passages in {storage.uri}{_quality(made)}")
    if read.quarantined:
        reasons = "; ".join(f"line {row.line}: {row.reason}" for row in read.quarantined[:3])
        screen.say(f"left out: {len(read.quarantined)} rows of {postings}: {reasons}")


def _quality(made: Index) -> str:
    facts = made.facts["approximate"]
    if not facts:
        return "; searched exactly"
    share = next(f"{name} {value:.3f}" for name, value in facts.items() if name.startswith("recall"))
    return f"; searched approximately by {facts['library']}, {share} of exact search on {facts['queries']} queries"


class RayEncoder:
    """Embeds with an encoder on each of a cluster's workers, by Ray Data."""

    def __init__(self, bundle: Bundle, cluster: Cluster) -> None:
        self.bundle, self.cluster = bundle, cluster
        mine = TextEncoder(bundle)
        self.max_length, self.width = mine.max_length, mine.width

    def embed(self, texts: Sequence[str], progress: Done = silent) -> Vectors:
        """(N, H), in the texts' order, whatever order the workers answer in."""
        import ray.data

        ray.data.DataContext.get_current().enable_progress_bars = False
        found, done = np.zeros((len(texts), self.width), np.float32), 0
        # At least two blocks a worker, so that the last one of a slow worker is short.
        block = max(1, min(BLOCK, len(texts) // (2 * self.cluster.high)))
        rows = ray.data.from_items(
            [{"row": row, "text": text} for row, text in enumerate(texts)],
            override_num_blocks=max(1, len(texts) // block),
        ).map_batches(
            _Worker,
            fn_constructor_args=(ray.put(self.bundle),),
            batch_size=block,
            compute=ray.data.ActorPoolStrategy(size=self.cluster.high),
            num_cpus=self.cluster.cpus,
            num_gpus=1 if self.cluster.use_gpu else 0,
        )
        for batch in rows.iter_batches(batch_size=None):
            found[batch["row"]] = batch["vector"]
            done += len(batch["row"])
            progress(done)
        return found


class _Worker:
    """An actor that holds the encoder."""

    def __init__(self, bundle: Any) -> None:
        import ray

        bundle = ray.get(bundle) if isinstance(bundle, ray.ObjectRef) else bundle
        self.encoder = TextEncoder(bundle, "cuda" if torch.cuda.is_available() else "cpu")

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"row": batch["row"], "vector": self.encoder.embed(batch["text"].tolist())}


def run_search(directory: str, query: str, k: int, mode: str, as_json: bool) -> None:
    """Prints the k best postings for a need or for a CV's file. Raises UserError for a query without text."""
    text = given_text(query)
    if not text:
        raise UserError(f"query '{query}': empty; expected a need in words, or a CV as {' or '.join(TEXT_FILES)}")
    hits = Searcher.open(directory).search([text], k, mode)[0]
    if as_json:
        print(json.dumps({"index": directory, "mode": mode, "hits": [asdict(hit) for hit in hits]}, indent=2))
        return
    screen = Screen()
    for rank, hit in enumerate(hits, 1):
        screen.console.print(shown(rank, hit, screen.console.is_terminal), soft_wrap=True)
    if not hits:
        screen.say("no posting has any of the query's words; try --mode hybrid")


def shown(rank: int, hit: Hit, styled: bool) -> Text:
    """A hit for a terminal: the words that carried it are bold, or in brackets where there is no bold."""
    posting = hit.posting
    about = ", ".join(part for part in (posting.company, posting.location) if part)
    found = Text(f"{rank}. ") + Text(_printable(posting.title), style="bold" if styled else "")
    found.append(f"  {hit.score:.3f}  {_printable(about)}\n")
    passage, at = _printable(hit.passage), 0
    for start, end in hit.words:
        found.append(passage[at:start])
        found.append(*(passage[start:end], "bold") if styled else (f"[{passage[start:end]}]",))
        at = end
    return found + Text(passage[at:] + "\n")


def _printable(text: str) -> str:
    """As long as the text, without signs that move a terminal's cursor or turn its lines around."""
    return "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in text)


def given_text(argument: str) -> str:
    """A text, a .txt or .md file's content, or what stands in the standard input (-). Cleaned as postings are.

    What ends like a file's name is one, if it is a single word or such a file is there. Raises UserError for a file
    that cannot be read as text.
    """
    if argument == "-":
        return clean(sys.stdin.read())
    ending = next((ending for ending in TEXT_FILES + OTHER_FILES if argument.lower().endswith(ending)), None)
    if not ending or (len(argument.split()) > 1 and not os.path.exists(argument)):
        return clean(argument)
    if ending in OTHER_FILES:
        raise UserError(f"{argument}: {ending} files are not read; save the text as {' or '.join(TEXT_FILES)}")
    try:
        with local_copy(argument) as path:
            data = path.read_bytes()
        if len(data) > MAX_FILE_BYTES:
            raise UserError(f"{argument}: {len(data)} bytes; a CV may have {MAX_FILE_BYTES}")
        return clean(data.decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError(f"{argument}: no such file") from error
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise UserError(f"{argument}: no text in UTF-8: {error}") from error


def measure_search(bundle: str, postings: str, as_json: bool = False) -> None:
    """How well a bundle searches all of a file's postings, beside words alone and the encoder it may come from.

    It says something for postings that the bundle was not trained on; `minibert recruit folds` sees to that.
    """
    items = read_postings(postings).items
    found = compare(systems_of(bundle_at(bundle)), items, repeat_groups(items), range(len(items)))
    result = {"bundle": bundle, "postings": postings, **summary(found)}
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        tell(Screen(), result)


def systems_of(bundle: Bundle) -> dict[str, System]:
    """Words alone, and by meaning before and after training, each alone and with words."""
    after = TextEncoder(bundle, device())
    before = TextEncoder(bundle_at(UNTRAINED), device(), after.max_length)
    return {
        "bm25": System(after, "bm25"),
        "untrained": System(before, "dense"),
        "trained": System(after, "dense"),
        "hybrid, untrained": System(before, "hybrid"),
        "hybrid, trained": System(after, "hybrid"),
    }
