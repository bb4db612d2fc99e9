"""`minibert recruit index` and `search`: postings made searchable, and found."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace

from rich.text import Text

from lightning_modules.progress import Progress
from multitask.experiment.finding import open_bundle
from multitask.inference.embed import TextEncoder, default_device
from multitask.recruit.index import PARTS, Index, build, check_target, save_index
from multitask.recruit.postings import read_postings
from multitask.recruit.search import Hit, Searcher
from multitask.storage.storage import Storage
from multitask.storage.uris import shown
from ray_jobs.batch.vectors import WorkersEncoder
from ray_jobs.options import Workers
from ray_jobs.recruit.texts import given_text
from ray_jobs.runners.cluster import Cluster
from ray_jobs.screen import Screen


@dataclass(frozen=True)
class IndexRequest:
    """Postings to make searchable."""

    bundle: str
    """The encoder: a bundle's URI, or an encoder's name."""
    postings: str
    """A file of postings, at any URI."""
    output: str
    """The index's directory."""
    workers: int = 0
    """Ray workers that embed; 0 is this process."""
    completion: str | None = None
    """A bundle that goes along, to complete roles where the index is served."""
    suitability: str | None = None
    """A bundle that goes along, to judge suitability where the index is served."""


def build_index(request: IndexRequest, screen: Screen) -> None:
    """Writes the index of a file of postings. Raises UserError before anything is computed."""
    storage, workers = Storage(request.output), request.workers
    check_target(storage)
    parts = {name: open_bundle(uri) for name in PARTS if (uri := getattr(request, name))}
    encoder, read = open_bundle(request.bundle), read_postings(request.postings)

    def tell(done: int, total: int) -> None:
        screen.progress(Progress("index", "passages", 0, 0, done, total))

    embeds = WorkersEncoder(encoder, workers, screen) if workers else TextEncoder(encoder, default_device())
    with Cluster(Workers(workers, workers), screen) if workers else nullcontext():  # once, though it may embed twice
        made = build(embeds, read.items, progress=tell)
    screen.end_line()
    facts = {"source": read.source, "sha256": read.sha256, "quarantined": len(read.quarantined)}
    save_index(storage, replace(made, facts=facts | made.facts), encoder, parts)
    screen.say(f"{len(made.postings)} postings, {len(made.passages)} passages in {storage.uri}{_quality(made)}")
    if read.quarantined:
        reasons = "; ".join(f"line {row.line}: {row.reason}" for row in read.quarantined[:3])
        screen.say(f"left out: {len(read.quarantined)} rows of {request.postings}: {reasons}")
    screen.say(f'next: minibert recruit search {shown(storage.uri)} "what you look for"')
    if screen.as_json:
        counts = {"postings": len(made.postings), "passages": len(made.passages), "quarantined": len(read.quarantined)}
        screen.document({"index": storage.uri, **counts, "approximate": made.facts["approximate"] or None})


def _quality(made: Index) -> str:
    facts = made.facts["approximate"]
    if not facts:
        return "; searched exactly"
    share = next(f"{name} {value:.3f}" for name, value in facts.items() if name.startswith("recall"))
    return f"; searched approximately by {facts['library']}, {share} of exact search on {facts['queries']} queries"


def run_search(directory: str, query: str, k: int, mode: str, screen: Screen) -> None:
    """Shows the k best postings for a need or for a CV's file. Raises UserError for a query without text."""
    text = given_text(query, "query")
    hits = Searcher.open(directory).search([text], k, mode)[0]
    if screen.as_json:
        screen.document({"index": directory, "mode": mode, "hits": [asdict(hit) for hit in hits]})
        return
    for rank, hit in enumerate(hits, 1):
        screen.console.print(hit_text(rank, hit, screen.console.is_terminal), soft_wrap=True)
    if not hits:
        screen.say("no posting has any of the query's words; try --mode hybrid")


def hit_text(rank: int, hit: Hit, styled: bool) -> Text:
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
    """The text with a space for each sign that would move a terminal's cursor or turn its lines around."""
    return "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in text)
