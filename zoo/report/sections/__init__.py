"""The sections of a page: for each a view of what it shows, a function that computes it, and a template of its name."""

from zoo.report.sections.section import Section

__all__ = ["Section"]
