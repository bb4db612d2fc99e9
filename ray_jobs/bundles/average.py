"""`minibert average`: a bundle of several bundles' mean weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from multitask.bundle.average import averaged
from multitask.bundle.bundle import Bundle
from multitask.bundle.found import Found
from multitask.experiment.finding import open_found
from multitask.export.provenance import shared_data
from multitask.storage.storage import Storage
from multitask.storage.uris import shown
from ray_jobs.bundles.output import BUNDLE, check_free, publish_bundle
from ray_jobs.screen import Screen


def average_bundles(uris: Sequence[str], output: str, screen: Screen) -> None:
    """Writes the uniform mean of the bundles' weights to `output`, as a bundle. Raises UserError where they do not
    agree, and for an `output` that is not free."""
    target = Storage(output)
    check_free(target, *BUNDLE)
    bundle = averaged(_read(uris, screen))
    publish_bundle(replace(bundle, about={**bundle.about, "data": shared_data(uris)}), target)
    heads = ", ".join(f"{task} ({name})" for task, name in bundle.heads.items())
    screen.say(f"heads:   {heads or 'none'}")
    screen.say(f"bundle:  {target.uri}, the mean of {len(uris)} bundles' weights")
    screen.say(f"next:    minibert evaluate {shown(target.uri)}")
    if screen.as_json:
        screen.document({"bundle": target.uri, "of": [*uris], "heads": bundle.heads})


def _read(uris: Sequence[str], screen: Screen) -> Iterator[tuple[str, Found[Bundle]]]:
    for uri in uris:
        screen.note(f"reading {uri}")
        yield uri, open_found(uri)
