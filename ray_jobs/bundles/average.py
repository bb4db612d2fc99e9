"""`minibert average`: a bundle of several bundles' mean weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from multitask.bundle.average import averaged
from multitask.bundle.bundle import Bundle, save_bundle
from multitask.bundle.found import Found
from multitask.experiment.finding import open_found
from multitask.export.provenance import shared_data
from multitask.storage.storage import MANIFEST, Storage
from ray_jobs.bundles.output import check_free, draft, publish
from ray_jobs.screen import Screen

WEIGHTS = "weights.safetensors"


def average_bundles(uris: Sequence[str], output: str, screen: Screen) -> None:
    """Writes the uniform mean of the bundles' weights to `output`, as a bundle. Raises UserError where they do not
    agree, and for an `output` that is not free."""
    target = Storage(output)
    check_free(target, WEIGHTS, MANIFEST)
    bundle = averaged(_read(uris, screen))
    bundle = replace(bundle, about={**bundle.about, "data": shared_data(uris)})
    with draft(target) as folder:
        save_bundle(Storage(str(folder)), "", bundle)
        publish(folder, target, WEIGHTS, MANIFEST)
    heads = ", ".join(f"{task} ({name})" for task, name in bundle.heads.items())
    screen.say(f"heads:   {heads or 'none'}")
    screen.say(f"bundle:  {target.uri}, the mean of {len(uris)} bundles' weights")


def _read(uris: Sequence[str], screen: Screen) -> Iterator[tuple[str, Found[Bundle]]]:
    for uri in uris:
        screen.note(f"reading {uri}")
        yield uri, open_found(uri)
