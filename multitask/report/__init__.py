"""The report of an experiment: report.html and report.md, from what lies in its folder."""

from __future__ import annotations

from multitask.report.as_html import as_html
from multitask.report.as_markdown import as_markdown
from multitask.report.compose import compose
from multitask.report.reading import read_evidence
from multitask.storage.storage import Storage
from multitask.storage.uris import join


def write_report(uri: str) -> list[str]:
    """Writes report.html and report.md into the experiment's folder, any fsspec URI; returns both places.

    Raises UserError where there is no readable results.json.
    """
    folder = Storage(uri)
    report = compose(read_evidence(folder))
    texts = {"report.html": as_html(report), "report.md": as_markdown(report)}
    for name, text in texts.items():
        folder.write_bytes(name, text.encode())
    return [join(folder.uri, name) for name in texts]
