"""What a model folder's files say of its tokenizer beside the vocabulary, as transformers 5.23 reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tokenizers import AddedToken

from multitask.errors import UserError

TOKENIZER, SETTINGS, VOCABULARY = "tokenizer.json", "tokenizer_config.json", "vocab.txt"
SPECIAL_MAP, ADDED, SENTENCES = "special_tokens_map.json", "added_tokens.json", "sentence_bert_config.json"
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA = LIST, OLD_LIST = ("extra_special_tokens", "additional_special_tokens")  # the new name, the old
TOKEN = {"content": str} | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), bool)
# Settings that would want another tokenizer than can be kept here: what they may be.
READABLE: dict[str, tuple[object, ...]] = {
    "truncation_side": ("right", None),
    "split_special_tokens": (False, None),
    "fast_tokenizer_files": ([TOKENIZER], [], None),
    "vocab": (None,),
    "auto_map": (None,),
}
UNLIMITED = 10**20  # transformers writes 10**30 where a tokenizer sets no length


class Folder(Protocol):
    """A directory at a URI. find: a file's bytes, find_json: its object; None where there is no such file."""

    uri: str

    def at(self, name: str) -> str: ...

    def find(self, name: str) -> bytes | None: ...

    def find_json(self, name: str) -> dict[str, Any] | None: ...


@dataclass(frozen=True)
class Said:
    """What a folder's files say of its tokenizer.

    where: the file of settings, for errors. values: the settings, tokens left out.

    named: special tokens by their keys, such as "cls_token", and None where a file says that there is none. extra:
    further special tokens. declared: the tokens that files number themselves, numbers_where: the file that does.
    """

    where: str
    values: Mapping[str, Any]
    named: Mapping[str, AddedToken | None]
    extra: tuple[AddedToken, ...]
    declared: Mapping[int, AddedToken]
    numbers_where: str


def read_settings(folder: Folder) -> Said:
    """What a folder's files say of its tokenizer. Raises UserError for a value that transformers refuses too, or that
    would want a tokenizer of another kind."""
    where, raw = folder.at(SETTINGS), folder.find_json(TOKENIZER) or {}
    values = _one_list(folder.find_json(SETTINGS) or {})
    if "added_tokens_decoder" in values:  # since version 4.34; the files below are then not read
        found = _of_kind(values.pop("added_tokens_decoder"), dict, where, "added_tokens_decoder")
        declared, numbers_where = {_number(key, where): _token(token, where) for key, token in found.items()}, where
    else:
        values = _with_special_map(values, folder)
        declared = _added(folder, _special_contents(values, where)) | {
            token["id"]: _token(token, folder.at(TOKENIZER)) for token in raw.get("added_tokens", ())
        }
        numbers_where = folder.at(TOKENIZER if folder.find(ADDED) is None else ADDED)
    values |= _of_sentences(folder)
    for key in ("truncation", "padding"):  # of how tokenizer.json was last used, transformers keeps the side
        values.setdefault(f"{key}_side", str((raw.get(key) or {}).get("direction", "right")).lower())
    check_values(values, READABLE, where)
    known = {token.content: token for token in declared.values()}
    named = {key: known.get(str(_content(token)), token) for key, token in _named(values, where).items()}
    listed = _of_kind(values.get(LIST, values.get(OLD_LIST, [])), list, where, LIST)
    extra = tuple(_special(token, where, LIST) for token in listed)
    return Said(where, values, named, extra, declared, numbers_where)


def check_values(values: Mapping[str, Any], valid: Mapping[str, tuple[object, ...]], where: str) -> None:
    """Raises UserError for a setting of another value, or of another type: 1 is not true."""
    for key, allowed in valid.items():
        found = values.get(key, allowed[0])
        if not any(type(found) is type(value) and found == value for value in allowed):
            said = ", ".join("null" if value is None else str(value).lower() for value in allowed)
            raise UserError(f"{where}: {key} is {found!r}; valid: {said}")


def model_max_length(folder: Folder) -> int | None:
    """tokenizer_config.json's, in tokens; None where it sets none, or the number that transformers writes for none."""
    values = folder.find_json(SETTINGS) or {}
    key = "model_max_length" if "model_max_length" in values else "max_len"  # its name up to version 2
    found = values.get(key)
    if found is None or (type(found) in (int, float) and found > UNLIMITED):
        return None
    if type(found) is not int or found < 1:
        raise UserError(f"{folder.at(SETTINGS)}: {key} is {found!r}; valid: a whole number of tokens from 1")
    return found


def _one_list(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with all further special tokens in one list; those that have names of their own stand under
    these."""
    rest = {key: value for key, value in values.items() if key not in EXTRA}
    listed = {key: values[key] for key in EXTRA if key in values}
    if isinstance(listed.get(LIST), dict):
        rest |= {f"{key.removesuffix('_token')}_token": token for key, token in listed.pop(LIST).items()}
    return rest | ({LIST: listed.get(LIST) or listed.get(OLD_LIST) or []} if listed else {})


def _with_special_map(values: dict[str, Any], folder: Folder) -> dict[str, Any]:
    """The settings with special_tokens_map.json's tokens. Where both files name a token, special_tokens_map.json's
    holds for the keys that transformers knows, tokenizer_config.json's for other keys, which come last."""
    said, where = folder.find_json(SPECIAL_MAP) or {}, folder.at(SPECIAL_MAP)

    def special(token: Any) -> Any:
        return _token({**token, "special": True}, where) if isinstance(token, dict) else token

    named = {key: special(said[key]) for key in NAMED if key in said}
    own = {key for key, value in values.items() if key.endswith("_token") and isinstance(value, str)}
    others = [key for key in said if key not in own.union(NAMED, EXTRA)]
    listed = _one_list({key: said[key] for key in EXTRA if key in said})
    more = [special(token) for token in _of_kind(listed.pop(LIST, []), list, where, LIST)]
    rest = {key: value for key, value in values.items() if key not in others}
    found = {key: special(said[key]) for key in others} | rest | named | listed
    if LIST not in said:  # the old name's is read where no file has the new one
        return found | {OLD_LIST: more}
    first = _of_kind(values.get(LIST, []), list, folder.at(SETTINGS), LIST)
    return found | {LIST: first + [token for token in more if token not in first]}


def _special_contents(values: Mapping[str, Any], where: str) -> set[str]:
    tokens = [values.get(key) for key in NAMED] + _of_kind(values.get(LIST, []), list, where, LIST)
    return {content for token in tokens if (content := _content(token))}


def _added(folder: Folder, special: set[str]) -> dict[int, AddedToken]:
    """The tokens of added_tokens.json, where versions before 4.34 wrote what was added to vocab.txt."""
    found = {}
    for content, number in (folder.find_json(ADDED) or {}).items():
        flags = {"special": content in special, "normalized": content not in special}
        found[_number(number, folder.at(ADDED))] = _token({"content": content, **flags}, folder.at(ADDED))
    return found


def _of_sentences(folder: Folder) -> dict[str, Any]:
    """The settings that sentence-transformers hands to AutoTokenizer itself. Raises UserError where they name another
    tokenizer."""
    said, where = folder.find_json(SENTENCES) or {}, folder.at(SENTENCES)
    if name := said.get("tokenizer_name_or_path"):
        raise UserError(f"{where}: tokenizer_name_or_path is {name!r}; valid: null, the tokenizer beside it")
    key = "tokenizer_args" if "tokenizer_args" in said else "processor_kwargs"
    return _one_list(_of_kind(said.get(key) or {}, dict, where, key))


def _named(values: dict[str, Any], where: str) -> dict[str, AddedToken | None]:
    """NAMED's tokens in its order, then the tokens under other keys; a value that is no token leaves its key out."""
    others = {key for key, value in values.items() if key.endswith("_token") and _content(value) is not None}
    keys = [key for key in NAMED if key in values] + sorted(others.difference(NAMED), key=list(values).index)
    return {key: None if values[key] is None else _special(values[key], where, key) for key in keys}


def _content(value: object) -> str | None:
    """A token's text; None for what is no token in transformers' eyes."""
    if isinstance(value, AddedToken):
        return str(value.content)
    if isinstance(value, dict) and value.get("__type") == "AddedToken":
        return str(value.get("content"))
    return value if isinstance(value, str) else None


def _special(value: object, where: str, key: str) -> AddedToken:
    """A special token as it is added. Given as a text, it is found before a text is normalised; given with flags, it
    keeps them."""
    if isinstance(value, AddedToken):
        return value
    if _content(value) is None:
        raise UserError(f'{where}: {key} holds {value!r}; valid: a token, such as "[CLS]"')
    return _token({"content": value, "special": True} if isinstance(value, str) else value, where)


def _token(value: object, where: str) -> AddedToken:
    """A token with its flags. Raises UserError for another form, and for half a character of JSON's."""
    said = {key: value[key] for key in TOKEN if key in value} if isinstance(value, dict) else {}
    wrong = [key for key, found in said.items() if type(found) is not TOKEN[key]]
    if wrong or not (content := said.get("content")) or any("\ud800" <= char <= "\udfff" for char in content):
        raise UserError(f"{where}: not an added token: {value!r}; valid: its content, a text, and flags, true or false")
    return AddedToken(**said)


def _number(value: object, where: str) -> int:
    try:
        if isinstance(value, int | str) and int(value) >= 0:
            return int(value)
    except ValueError:
        pass
    raise UserError(f"{where}: an added token's number is {value!r}; valid: a whole number from 0")


def _of_kind(value: Any, kind: type, where: str, key: str) -> Any:
    if not isinstance(value, kind):
        raise UserError(f"{where}: {key} is a {type(value).__name__}; valid: a {kind.__name__}")
    return value
