"""`minibert recruit complete`, and the pairs that it is measured on."""

from __future__ import annotations

from dataclasses import asdict

from multitask.data.files import find_file
from multitask.data.shards import read_examples
from multitask.errors import UserError
from multitask.experiment.finding import open_bundle
from multitask.experiment.results import cell
from multitask.inference.embed import default_device
from multitask.objectives.completion import PROMPT
from multitask.recruit.completion import Completer, Pair
from multitask.tasks.table import TASKS, Split
from ray_jobs.recruit.texts import given_text
from ray_jobs.screen import Screen


def run_complete(bundle: str, text: str, k: int, screen: Screen) -> None:
    """Shows the k likeliest titles. text: a description, the path of a .txt or .md file, or - for standard input."""
    description = given_text(text, "description")
    titles = Completer(open_bundle(bundle), default_device()).complete([description], k)[0]
    if screen.as_json:
        screen.document({"bundle": bundle, "titles": [asdict(title) for title in titles]})
        return
    rows = [[title.text, cell(title.probability)] for title in titles]
    screen.table(["title", "probability"], rows, title=f"{PROMPT} ...")


def pairs_of(data: str, split: Split) -> list[Pair]:
    """The pairs (title, posting without it) that belong together, from a directory of `minibert recruit prepare`.

    Raises UserError where there are none.
    """
    spec = TASKS["jobs"]
    file = find_file(data, spec, split)
    examples = read_examples(file, spec, labelled=True).examples
    pairs = [(e.texts[0], e.texts[1]) for e in examples if spec.label.is_similar(e.label)]
    if not pairs:
        raise UserError(
            f"{file}: no row whose {spec.label.column} is {spec.label.similar:g} or more; nothing to complete"
        )
    return pairs
