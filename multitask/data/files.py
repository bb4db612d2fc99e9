"""Where a data file lies: its name in a directory, a pattern's files, a copy here of one that is elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fsspec.utils import glob_translate

from multitask.data.formats import COMPRESSIONS, FORMATS, WEB
from multitask.errors import StorageError, UserError, near, short_list
from multitask.storage.retries import LOOK, persist
from multitask.storage.storage import Storage
from multitask.storage.uris import join, local_copy, open_fs
from multitask.tasks.table import Split, TaskSpec

_PLAIN = re.compile(r"[\[?]")  # special to fsspec, and part of names to people
HUB = "hf://"
_WEB_ADVICE = "a browser on this machine should get it without signing in"
# What to look at where a file elsewhere cannot be had, by its URI's protocol.
_ADVICE = {
    "http": _WEB_ADVICE,
    "https": _WEB_ADVICE,
    "hf": "the Hugging Face hub has to be reached from here (HF_ENDPOINT), and may want a token (HF_TOKEN); "
    "files brought here another way do as well",
}


# What a task's file may end in, in the order in which they are looked for.
_ENDINGS = [form + packed for packed in ("", *(f".{name}" for name in COMPRESSIONS)) for form in FORMATS]


def find_file(data_uri: str, spec: TaskSpec, split: Split) -> str:
    """The URI of the task's file for that split in a directory: the first of .csv, .tsv, .jsonl and so on.

    Raises UserError, naming the path looked for and what the directory holds.
    """
    names = list_directory(data_uri)
    for ending in _ENDINGS:
        if (name := f"{spec.files[split]}.{ending}") in names:
            return join(data_uri, name)
    looked_for = join(data_uri, f"{spec.files[split]}.{{{','.join(FORMATS)}}}")
    holds = f"{short_list(names) or 'nothing, or is not there'}{near(f'{spec.files[split]}.csv', names)}"
    raise UserError(f"{looked_for}: no such file ({spec.name} {split}); the directory holds {holds}")


def has_data_ending(uri: str) -> bool:
    """Whether a name ends as a data file's does, packed or not."""
    return uri.lower().endswith(tuple(f".{ending}" for ending in _ENDINGS))


def has_file(data_uri: str, spec: TaskSpec, split: Split) -> bool:
    """Whether `find_file` would find a file."""
    return not {f"{spec.files[split]}.{ending}" for ending in _ENDINGS}.isdisjoint(list_directory(data_uri))


def list_directory(uri: str) -> list[str]:
    """The sorted names in a directory of any file system; none where there is no directory."""
    try:
        return Storage(uri).list()
    except OSError as error:
        raise UserError(f"{uri}: cannot list this data directory ({error})") from error


def is_pattern(uri: str) -> bool:
    """Whether it names files by `*`, on a file system that can be listed."""
    return "*" in uri and not uri.startswith(WEB)


def expanded(uri: str) -> list[str]:
    """The URI itself; a pattern as the files that fit it, by name. Nothing but `*` is special in a pattern."""
    if not is_pattern(uri):
        return [uri]
    fs, path = open_fs(uri)
    above, _, below = path.partition("*")
    root, _, begun = above.rpartition("/")
    pattern = f"{begun}*{below}"
    depth = None if "**" in pattern else pattern.count("/") + 1
    fits = re.compile(glob_translate(_PLAIN.sub(r"[\g<0>]", pattern)))
    listed = persist(fs, "listed", uri, lambda: fs.find(root, maxdepth=depth))
    found = [name for name in listed if fits.match(name.removeprefix(root).lstrip("/"))]
    if not found:
        raise UserError(f"{uri}: no file fits")
    return sorted(fs.unstrip_protocol(name) if "://" in uri else str(name) for name in found)


@contextmanager
def local(uri: str) -> Iterator[Path]:
    """The file, or a copy of it here. Raises UserError, naming what its directory holds where it is not there."""
    with ExitStack() as stack:
        try:
            path = stack.enter_context(local_copy(uri))
        except FileNotFoundError as error:
            if uri.startswith((*WEB, HUB)):
                raise UserError(f"{uri}: no such file there; {_ADVICE[uri.partition(':')[0]]}") from error
            folder, _, name = uri.rpartition("/")
            names = list_directory(folder or ".")
            holds = f"{short_list(names) or 'nothing, or is not there'}{near(name, names)}"
            raise UserError(f"{uri}: no such file; its directory holds {holds}") from error
        except StorageError as error:
            if (advice := _ADVICE.get(uri.partition(":")[0])) is None:
                raise
            raise UserError(f"{str(error).removesuffix(f'; {LOOK}')}; {advice}") from error
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"{uri}: cannot be read ({error})") from error
        yield path
