"""`minibert export` and `minibert import`: bundles into a storage, onto the hub, and back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from multitask.bundle.bundle import is_bundle, save_bundle
from multitask.bundle.found import read_model
from multitask.errors import UserError, near, short_list
from multitask.experiment.finding import open_bundle
from multitask.export import DTYPES, FORMATS
from multitask.export.cross_encoder import one_head
from multitask.export.huggingface import write_text
from multitask.export.model_card import model_card
from multitask.export.provenance import provenance_of
from multitask.model.bert import POOLINGS
from multitask.model.folders import FACTS
from multitask.storage.disk import make_folder, sync_folder
from multitask.storage.owners import kept_in
from multitask.storage.retries import said_clearly
from multitask.storage.sealed import write_document
from multitask.storage.storage import MANIFEST, Storage
from ray_jobs.bundles.hub import Hub
from ray_jobs.screen import Screen

CARD = "README.md"


def export_bundle(
    uri: str, form: str, output: str, dtype: str, push: str | None, screen: Screen, task: str | None = None
) -> None:
    """Writes the bundle in that format to `output`, and onto the hub where `push` names a repository there. task: whose
    head is exported, where the format holds one."""
    for option, value, valid in (("--format", form, FORMATS), ("--dtype", dtype, DTYPES)):
        if value not in valid:
            raise UserError(f"{option} '{value}': one of {', '.join(valid)}{near(value, valid)}")
    target, chosen = Storage(output), FORMATS[form]
    if task and not chosen.one_head:
        one = ", ".join(name for name, known in FORMATS.items() if known.one_head)
        raise UserError(f"--task '{task}': --format {form} takes all heads along; one alone is of {one}")
    _check_free(target, FACTS, chosen.entry)
    hub = Hub(push) if push else None  # what is missing for it is said before the work
    bundle = open_bundle(uri)
    if chosen.one_head:
        bundle = one_head(bundle, task)
    with _draft(target) as folder:
        screen.note(f"{form}, {dtype}: {uri}")
        lines = chosen.write(bundle, folder, DTYPES[dtype])
        if dtype != "float32":
            lines.append("scores are of float32 weights")
        page = model_card(bundle, form, provenance_of(uri), push or ".", lines, dtype)
        _seal(folder)
        write_text(folder / CARD, page)
        files = _files(folder)
        folder = _publish(folder, target, FACTS, chosen.entry)
        for line in lines:
            screen.say(line)
        screen.say(f"export: {target.uri} ({len(files)} files, {sum(files.values()) / 1e6:.1f} MB)")
        if hub:
            screen.say(f"pushed: {hub.push(folder)}")


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
    _check_free(target, "weights.safetensors", MANIFEST)
    bundle = read_model(source, pooling)
    with _draft(target) as folder:
        save_bundle(Storage(str(folder)), "", bundle)
        _publish(folder, target, "weights.safetensors", MANIFEST)
    config, heads = bundle.config, ", ".join(f"{task} ({name})" for task, name in bundle.heads.items())
    screen.say(f"encoder: {config.num_hidden_layers} layers, width {config.hidden_size}, {bundle.pooling} pooling")
    screen.say(f"heads:   {heads or 'none'}")
    screen.say(f"texts:   {bundle.max_length} tokens at most")
    screen.say(f"bundle:  {target.uri}, converted from {source}")


def _check_free(target: Storage, first: str, last: str) -> None:
    """Raises UserError where files lie in the directory, unless an upload that was cut off left them."""
    names = target.list()  # which may lag behind
    cut_off = not target.is_local and target.exists(first) and not target.exists(last)
    if names and not cut_off:
        raise UserError(f"--output '{target.uri}': holds {short_list(names)}; name a directory that is not there yet")


@contextmanager
def _draft(target: Storage) -> Iterator[Path]:
    """Makes an empty local folder for what is to become `target`, beside it where that is local; removes it in the
    end."""
    final = Path(target.root)
    with said_clearly("written", target.uri):
        if target.is_local:
            folder = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.part")
            make_folder(folder)
        else:
            folder = Path(tempfile.mkdtemp(prefix=kept_in("export")))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # nothing is left of it where it was published


def _publish(folder: Path, target: Storage, first: str, last: str) -> Path:
    """Puts the folder's files to `target`, whole or not at all; returns where they lie on this machine.

    That is one rename or, where a storage has none, an upload that ends with the file `last`, without which nobody
    takes the others for a model.
    """
    if target.is_local:
        with said_clearly("written", target.uri):
            for name in _files(folder):
                with open(folder / name, "rb+") as file:
                    os.fsync(file.fileno())
            for inside in (path for path in folder.rglob("*") if path.is_dir()):
                sync_folder(inside)
            sync_folder(folder)
            os.replace(folder, target.root)
            sync_folder(Path(target.root).parent)
        return Path(target.root)
    for name in sorted(_files(folder), key=lambda name: (name == last, name != first)):
        target.write_file(name, folder / name)
    return folder


def _seal(folder: Path) -> None:
    """Puts the files' checksums into FACTS, for `minibert import` and whatever else reads the folder."""
    facts, names = json.loads((folder / FACTS).read_bytes()), sorted(set(_files(folder)) - {FACTS})
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    write_document(Storage(str(folder)), FACTS, {**facts, "files": sums})


def _files(folder: Path) -> dict[str, int]:
    """Every file's path in the folder, with its bytes."""
    found = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in found}
