"""`minibert export` and `minibert import`: bundles into a storage, onto the hub, and back."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from multitask.bundle.bundle import is_bundle
from multitask.bundle.found import read_model
from multitask.errors import UserError, near
from multitask.experiment.finding import open_bundle
from multitask.export import DTYPES, FORMATS
from multitask.export.cross_encoder import one_head
from multitask.export.huggingface import write_text
from multitask.export.model_card import model_card
from multitask.export.provenance import provenance_of
from multitask.model.encoding import POOLINGS
from multitask.model.folders import FACTS
from multitask.storage.sealed import write_document
from multitask.storage.storage import Storage
from ray_jobs.bundles.costs import what_it_costs
from ray_jobs.bundles.hub import Hub
from ray_jobs.bundles.output import BUNDLE, check_free, draft, files_of, publish, publish_bundle
from ray_jobs.screen import Screen

CARD = "README.md"


def export_bundle(
    uri: str,
    form: str,
    output: str,
    dtype: str,
    push: str | None,
    screen: Screen,
    task: str | None = None,
    data: str | None = None,
) -> None:
    """Writes the bundle in that format to `output`, and onto the hub where `push` names a repository there. task: whose
    head is exported, where the format holds one. data: where the dev files lie that int8 is measured on, if not where
    they lay in training."""
    for option, value, valid in (("--format", form, FORMATS), ("--dtype", dtype, DTYPES)):
        if value not in valid:
            raise UserError(f"{option} '{value}': one of {', '.join(valid)}{near(value, valid)}")
    target, chosen = Storage(output), FORMATS[form]
    if task and not chosen.one_head:
        one = ", ".join(name for name, known in FORMATS.items() if known.one_head)
        raise UserError(f"--task '{task}': --format {form} takes all heads along; one alone is of {one}")
    if dtype == "int8" and form != "onnx":
        raise UserError(f"--dtype int8: --format {form} holds none; of onnx")
    check_free(target, FACTS, chosen.entry)
    hub = Hub(push) if push else None  # what is missing for it is said before the work
    bundle = open_bundle(uri)
    if chosen.one_head:
        bundle = one_head(bundle, task)
    with draft(target) as folder:
        screen.note(f"{form}, {dtype}: {uri}")
        lines = chosen.write(bundle, folder, DTYPES[dtype])
        if dtype == "int8":
            lines += what_it_costs(uri, bundle, data, folder, screen)
        elif dtype != "float32":
            lines.append("scores are of float32 weights")
        page = model_card(bundle, form, provenance_of(uri), push or ".", lines, dtype)
        _seal(folder)
        write_text(folder / CARD, page)
        files = files_of(folder)
        folder = publish(folder, target, FACTS, chosen.entry)
        for line in lines:
            screen.say(line)
        screen.say(f"export: {target.uri} ({len(files)} files, {sum(files.values()) / 1e6:.1f} MB)")
        pushed = hub.push(folder) if hub else None
        if pushed:
            screen.say(f"pushed: {pushed}")
    if screen.as_json:
        facts = {"bundle": uri, "format": form, "dtype": dtype, "output": target.uri, "files": files}
        screen.document({**facts, "checks": lines, "pushed": pushed})


def import_model(source: str, output: str, screen: Screen, pooling: str | None = None) -> None:
    """Writes a bundle of a Hugging Face or sentence-transformers BERT to `output`.

    source: a directory, its URI, or a hub id. pooling: the one to be used, where it is not to be the model's own.
    Raises UserError for another architecture, a file that is missing or damaged, and an `output` that is not free.
    """
    if pooling and pooling not in POOLINGS:
        raise UserError(f"--pooling '{pooling}': one of {', '.join(POOLINGS)}")
    if is_bundle(source):
        raise UserError(f"'{source}': is a bundle already; minibert import takes what transformers or others wrote")
    target = Storage(output)
    check_free(target, *BUNDLE)
    bundle = read_model(source, pooling)
    publish_bundle(bundle, target)
    config, heads = bundle.config, ", ".join(f"{task} ({name})" for task, name in bundle.heads.items())
    screen.say(f"encoder: {config.num_hidden_layers} layers, width {config.hidden_size}, {bundle.pooling} pooling")
    screen.say(f"heads:   {heads or 'none'}")
    screen.say(f"texts:   {bundle.max_length} tokens at most")
    screen.say(f"bundle:  {target.uri}, converted from {source}")
    if screen.as_json:
        sizes = {"layers": config.num_hidden_layers, "width": config.hidden_size, "max_length": bundle.max_length}
        facts = {"source": source, "bundle": target.uri, "heads": bundle.heads, "pooling": bundle.pooling}
        screen.document({**facts, **sizes})


def _seal(folder: Path) -> None:
    """Puts the files' checksums into FACTS, for `minibert import` and whatever else reads the folder."""
    facts, names = json.loads((folder / FACTS).read_bytes()), sorted(set(files_of(folder)) - {FACTS})
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    write_document(Storage(str(folder)), FACTS, {**facts, "files": sums})
