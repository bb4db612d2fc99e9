"""The tensors of a model's folder, in whichever of Hugging Face's forms they lie there. Nothing is unpickled but by
torch's own `weights_only` reader, which makes tensors and nothing else."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from multitask.errors import UserError
from multitask.model.folders import Folder

# The forms in the order in which transformers looks for them; an index names the shards beside it.
WEIGHTS, PICKLED = "model.safetensors", "pytorch_model.bin"
INDICES = {WEIGHTS: f"{WEIGHTS}.index.json", PICKLED: f"{PICKLED}.index.json"}
FORMS = (WEIGHTS, INDICES[WEIGHTS], PICKLED, INDICES[PICKLED])
# Forms of other programs: the beginning or end of a file's name -> what it is.
OTHERS = {
    "tf_model": "TensorFlow's",
    ".ckpt.index": "TensorFlow's",
    "flax_model": "Flax's",
    ".gguf": "llama.cpp's",
    ".onnx": "ONNX",
    "adapter_model": "a PEFT adapter's",
}
HOW = "from_pretrained(...).save_pretrained(DIRECTORY) in transformers writes model.safetensors"
SHARD = re.compile(r"[\w.-]+\.(safetensors|bin)")
MAX_SHARDS = 1000


def read_tensors(folder: Folder) -> tuple[dict[str, Tensor], str]:
    """The tensors of a model's folder: (name -> tensor as it is stored, the file that they are from or that names their
    shards).

    Raises UserError where there is none that can be read, or where one is damaged or missing.
    """
    form = next((form for form in FORMS if folder.has(form)), None)
    if form is None:
        raise UserError(_absent(folder))
    where = folder.at(form)
    if form in INDICES:
        return _read(folder, form), where
    named = _shards_of(folder, form)
    found: dict[str, Tensor] = {}
    for shard in sorted(set(named.values())):
        found |= _read(folder, shard)
    if missing := sorted(named.keys() - found.keys()):
        raise UserError(
            f"{where}: {len(missing)} tensors are not in the shards that it names: {', '.join(missing[:5])}"
        )
    return found, where


def _absent(folder: Folder) -> str:
    names = folder.storage.list()
    other = next((f", {kind}" for name in names for mark, kind in OTHERS.items() if _marked(name, mark)), "")
    held = f"{folder.at(WEIGHTS)}: no such file; the directory holds: {folder.names()}{other}"
    return f"{held}; valid: {', '.join(FORMS)}; {HOW}"


def _marked(name: str, mark: str) -> bool:
    return name.endswith(mark) if mark.startswith(".") else name.startswith(mark)


def _shards_of(folder: Folder, index: str) -> dict[str, str]:
    """Tensor -> the shard it is in, as an index says. Raises UserError for one of another form."""
    named = (folder.find_json(index) or {}).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(file, str) for file in named.values()):
        raise UserError(f"{folder.at(index)}: no weight_map; valid: a map of tensors to the files beside it")
    files = sorted(set(named.values()))
    if wrong := [file for file in files if not SHARD.fullmatch(file)]:
        raise UserError(f"{folder.at(index)}: names {wrong[0]!r}; valid: a .safetensors or .bin file beside it")
    if len(files) > MAX_SHARDS:
        raise UserError(f"{folder.at(index)}: names {len(files)} files; valid: at most {MAX_SHARDS}")
    return named


def _read(folder: Folder, name: str) -> dict[str, Tensor]:
    data, where = folder.read(name), folder.at(name)
    return _from_pickle(data, where) if name.endswith(".bin") else _from_safetensors(data, where)


def _from_safetensors(data: bytes, where: str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:  # KeyError: a type that torch has not
        raise UserError(f"{where}: not a sound safetensors file: {error}") from error


def _from_pickle(data: bytes, where: str) -> dict[str, Tensor]:
    """A state dict as torch.save wrote it, in today's form (a zip) or that of before torch 1.6."""
    _check_zip(data, where)
    room = len(data)

    def counted(storage: Any, location: str) -> Any:
        """Called for each storage, before its bytes are read in the old form: what it claims, the file must have."""
        nonlocal room
        room -= storage.nbytes()
        if room < 0:
            raise ValueError("its tensors are larger than the file")
        return storage

    try:
        found = torch.load(io.BytesIO(data), map_location=counted, weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler meets
        raise UserError(f"{where}: torch.load(weights_only=True) does not take it: {_why(error)}; {HOW}") from error
    if not isinstance(found, dict) or not found:
        raise UserError(f"{where}: holds a {type(found).__name__}; valid: a state dict, names and tensors")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            kind = type(value).__name__
            raise UserError(f"{where}: {str(key)[:100]!r} is a {kind}; valid: a state dict, names and tensors; {HOW}")
    return {key: value.detach() for key, value in found.items()}


def _why(error: Exception) -> str:
    """torch's reason for refusing a file, which is a page of advice, in a few words."""
    if isinstance(error, pickle.UnpicklingError):
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        return f"it holds {named[1]}, which is no tensor" if named else "it is no pickle of tensors"
    return " ".join(str(error).split())[:100] or type(error).__name__


def _check_zip(data: bytes, where: str) -> None:
    """Raises UserError where a zip compresses its files: torch stores them as they are, and a compressed one could be
    of any size when it is read."""
    if not data.startswith(b"PK"):
        return
    try:
        files = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise UserError(f"{where}: not a sound zip file: {error}") from error
    if any(file.compress_type != zipfile.ZIP_STORED for file in files) or sum(f.file_size for f in files) > len(data):
        raise UserError(f"{where}: its files are compressed; valid: as torch.save writes it; {HOW}")
