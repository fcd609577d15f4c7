"""The report: one HTML file in which a person sees what to do, and that it is true."""

from influencekit._report.verb import Report, report

__all__ = ["Report", "report"]
