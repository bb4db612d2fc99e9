"""The report as one HTML file that opens from disk."""

from __future__ import annotations

from multitask.report.blocks import Report


def as_html(report: Report) -> str:
    """The report's page. Everything from the experiment is escaped; only the figures, which are drawn here, go in as
    they are."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("multitask", "assets/report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(report=report)
