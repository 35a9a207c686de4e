"""One self-contained HTML page about a run, or about all runs of an experiment: `keras-dml report FOLDER`."""

from zoo.report.writing import check_output, write_report

__all__ = ["check_output", "write_report"]
