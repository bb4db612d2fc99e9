"""Tables of texts and labels as others' programs write them, sound and damaged, drawn from a seed."""

from __future__ import annotations

import csv
import io
import random
from dataclasses import dataclass

# Pieces of texts that CSV and TSV find hard. Each text has its row's number in front and at its end.
PIECES = ["mail", "about", "lovely", "news", '"so"', '"', "one, two", "a\tb", "line\nbreak", "\n", "\r\n", "it's", ";",
          '5" nail', "end."]  # fmt: skip
SEPARATORS = ((",", "csv"), (";", "csv"), ("\t", "tsv"), ("\t", "csv"))
AS_TEXT = None  # no quoting: quotes stand as they are, as in GLUE's files
QUOTINGS = (csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL, AS_TEXT)


@dataclass(frozen=True)
class Written:
    """A file's content. ending: of its name. rows: (text, label) of each. quoting: csv's, or AS_TEXT."""

    content: str
    ending: str
    rows: list[tuple[str, str]]
    quoting: int | None


def written(draw: random.Random) -> Written:
    """A sound file of columns text and label, with or without an id, in either order."""
    separator, ending = draw.choice(SEPARATORS)
    quoting = draw.choice(QUOTINGS)
    texts = [_text(draw, number) for number in range(draw.randint(1, 8))]
    if quoting is AS_TEXT:
        texts = [" ".join(text.replace(separator, " ").split()) for text in texts]
    rows = [(text, draw.choice(["ham", "spam"])) for text in texts]
    columns = draw.sample(["text", "label"], 2) if draw.random() < 0.3 else ["text", "label"]
    columns = ["id", *columns] if draw.random() < 0.5 else columns
    cells = [[{"id": f"id{at}", "text": text, "label": label}[name] for name in columns]
             for at, (text, label) in enumerate(rows)]  # fmt: skip
    return Written(_content(draw, [columns, *cells], separator, quoting), ending, rows, quoting)


def _text(draw: random.Random, number: int) -> str:
    return " ".join([f"<{number}", *(draw.choice(PIECES) for _ in range(draw.randint(0, 6))), f"{number}>"])


def _content(draw: random.Random, cells: list[list[str]], separator: str, quoting: int | None) -> str:
    if quoting is AS_TEXT:
        return "".join(separator.join(row) + "\n" for row in cells)
    out = io.StringIO(newline="")
    end = draw.choice(["\n", "\r\n"])
    csv.writer(out, delimiter=separator, quoting=quoting, lineterminator=end).writerows(cells)
    return out.getvalue()


def damaged(draw: random.Random, content: str) -> str:
    """One sign lost or a quote too many behind the header, or the end cut off behind a row's second sign."""
    body = content.index("\n") + 1
    quotes = [at for at in range(body, len(content)) if content[at] == '"']
    ends = [at for at in range(body, len(content)) if content[at] == "\n"]
    at = draw.randrange(body, len(content))
    match draw.choice(["quote lost", "quote added", "sign lost", "line end lost", "cut", "line opened"]):
        case "quote lost" if quotes:
            at = draw.choice(quotes)
        case "quote added":
            return content[:at] + '"' + content[at:]
        case "line end lost" if ends:
            at = draw.choice(ends)
        case "cut":
            return content[: content.index(">", at) if ">" in content[at:] else at]
        case "line opened":
            at = draw.choice([body, *(end + 1 for end in ends)])
            return content[:at] + '"' + content[at:]
    return content[:at] + content[at + 1 :]
