"""The texts that `minibert recruit` is given on the command line: themselves, a file's, or the standard input's."""

from __future__ import annotations

import os
import sys

from multitask.errors import UserError
from multitask.recruit.postings import clean
from multitask.storage.uris import local_copy

TEXT_FILES = (".txt", ".md")
OTHER_FILES = (".pdf", ".doc", ".docx", ".odt", ".rtf", ".html", ".htm", ".pages", ".tex")  # what CVs come as
MAX_FILE_BYTES = 1_000_000


def given_text(argument: str, what: str) -> str:
    """The text that an argument gives, cleaned as postings are. what: names it in errors.

    An argument that ends like a file's name is one, if it is a single word or such a file is there; - is the standard
    input.
    Raises UserError for a file that cannot be read as text, and for no text.
    """
    text = clean(_content(argument, what))
    if not text:
        raise UserError(f"{what} '{argument}': no text; give a text, a {' or '.join(TEXT_FILES)} file, or - for stdin")
    return text


def _content(argument: str, what: str) -> str:
    if argument == "-":
        return sys.stdin.read()
    ending = next((ending for ending in TEXT_FILES + OTHER_FILES if argument.lower().endswith(ending)), None)
    if not ending or (len(argument.split()) > 1 and not os.path.exists(argument)):
        return argument
    if ending in OTHER_FILES:
        raise UserError(f"{what} {argument}: {ending} files are not read; save the text as {' or '.join(TEXT_FILES)}")
    try:
        with local_copy(argument) as path:
            data = path.read_bytes()
        if len(data) > MAX_FILE_BYTES:
            raise UserError(f"{what} {argument}: {len(data)} bytes; a file may have {MAX_FILE_BYTES}")
        return data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{what} {argument}: no such file") from error
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {argument}: no text in UTF-8: {error}") from error
