"""A directory that a command makes: drafted beside its place, and put there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from multitask.bundle.bundle import ENSEMBLE, Bundle, member_folder, save_bundle
from multitask.errors import UserError, short_list
from multitask.storage.disk import make_folder, sync_folder
from multitask.storage.owners import kept_in
from multitask.storage.retries import said_clearly
from multitask.storage.storage import MANIFEST, Storage

# Of a bundle and of an ensemble: the file that is uploaded first, and the last one.
BUNDLE = ("weights.safetensors", MANIFEST)
ENSEMBLE_FILES = (f"{member_folder(0)}/model.json", ENSEMBLE)


def check_free(target: Storage, first: str, last: str) -> None:
    """Raises UserError where files lie in the directory, unless an upload that was cut off left them."""
    names = target.list()  # which may lag behind
    cut_off = not target.is_local and target.exists(first) and not target.exists(last)
    if names and not cut_off:
        raise UserError(f"--output '{target.uri}': holds {short_list(names)}; name a directory that is not there yet")


@contextmanager
def draft(target: Storage) -> Iterator[Path]:
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


def publish(folder: Path, target: Storage, first: str, last: str) -> Path:
    """Puts the folder's files to `target`, whole or not at all; returns where they lie on this machine.

    That is one rename or, where a storage has none, an upload that ends with the file `last`, without which nobody
    takes the others for a model.
    """
    if target.is_local:
        with said_clearly("written", target.uri):
            for name in files_of(folder):
                with open(folder / name, "rb+") as file:
                    os.fsync(file.fileno())
            for inside in (path for path in folder.rglob("*") if path.is_dir()):
                sync_folder(inside)
            sync_folder(folder)
            os.replace(folder, target.root)
            sync_folder(Path(target.root).parent)
        return Path(target.root)
    for name in sorted(files_of(folder), key=lambda name: (name == last, name != first)):
        target.write_file(name, folder / name)
    return folder


def publish_bundle(bundle: Bundle, target: Storage) -> None:
    """Writes a bundle to `target`, whole or not at all."""
    with draft(target) as folder:
        save_bundle(Storage(str(folder)), "", bundle)
        publish(folder, target, *BUNDLE)


def files_of(folder: Path) -> dict[str, int]:
    """Every file's path in the folder, with its bytes."""
    found = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in found}
