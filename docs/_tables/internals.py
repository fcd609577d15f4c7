"""docs/results/internals.md: what parts of the machine are worth."""

from _tables.page import Page, Report, Section, Table


def _tracing(report: Report) -> Table:
    models = report["milliseconds_a_step"]
    jobs = list(next(iter(models.values())))
    return Table(["workload", *jobs], [[name, *(f"{f[j]:.2f}" for j in jobs)] for name, f in models.items()])


def _passes(report: Report) -> Table:
    rows = [
        [kind, name, *(f"{value:.2f}" for value in found.values())]
        for kind, passes in report["time without the pass, relative"].items()
        for name, found in passes.items()
    ]
    return Table(["model", "pass left out", "`dit`", "each epoch"], rows)


PAGE = Page(
    "Internals",
    "What tracing a step, and the passes over its trace, are worth in time. "
    "[Measurements](../dev/measurements.md) says what follows from it.",
    {
        "tracing": Section(
            "Tracing",
            ("tracing",),
            "Milliseconds a step: a plain training step, and one step of a backward sweep by "
            "`torch.func`, traced, and traced and split into the part that is computed ahead and the rest.",
            _tracing,
        ),
        "passes": Section(
            "Passes over the trace",
            ("passes",),
            "Time of a sweep without the pass, relative to with it.",
            _passes,
        ),
    },
)
