"""mkdocs hook: a link to a file of the repository that is no page of the site becomes that file's path, as text."""

from __future__ import annotations

import os
import re
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
# What the site shows of pages that lie elsewhere in the repository.
PAGES = {"README.md": "index.md", "cluster/README.md": "cluster.md"}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that leave docs/, as one reads them in the repository."""
    return LINK.sub(_of_the_site, markdown)


def _of_the_site(link: re.Match[str]) -> str:
    words, target = link[1], link[2]
    if not target.startswith("../"):
        return link[0]
    path, mark, anchor = os.path.normpath(target.removeprefix("../")).partition("#")
    if path in PAGES:
        return f"[{words}]({PAGES[path]}{mark}{anchor})"
    return words if path in words else f"{words} (`{path}`)"
