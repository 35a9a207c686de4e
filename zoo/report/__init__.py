"""One self-contained HTML page about a run: `python -m zoo.report RUN`."""

from zoo.report.page import write_report

__all__ = ["write_report"]
