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


def _sweep(report: Report) -> Table:
    rows = [
        [name, f"{found['training_ms_a_step']:.2f}", f"{found['sweep_to_training']:.2f}", f"{limit}"]
        for (name, found), limit in zip(report["cases"].items(), report["limit"].values(), strict=True)
    ]
    return Table(["optimizer", "training, ms a step", "sweep to training", "at most"], rows)


def _ranks(report: Report) -> Table:
    rows = [
        [
            name, f"{found['parameters']:,}", f"{found['batch']}", size, f"{each['speedup']:.2f}",
            f"{each['wall_speedup']:.2f}", f"{each['difference']:.0e}", f"{100 * found['replay']:.0f} %",
        ]
        for name, found in report["cases"].items()
        for size, each in found["ranks"].items()
    ]  # fmt: skip
    heads = ["model", "parameters", "batch", "ranks", "speed-up", "in wall time", "difference", "replay"]
    return Table(heads, rows)


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
        "sweep": Section(
            "A sweep beside training",
            ("sweep",),
            "Processor time of one sweep of `dit` over an epoch of a network of two layers (50-64-2) in "
            "batches of 256, relative to training it.",
            _sweep,
        ),
        "passes": Section(
            "Passes over the trace",
            ("passes",),
            "Time of a sweep without the pass, relative to with it.",
            _passes,
        ),
        "ranks": Section(
            "Several ranks",
            ("ranks",),
            "A sweep of `dit` on ranks with one thread each, beside one process with one thread, float64. "
            "Speed-up: processor time of one process divided by that of the busiest rank, which is what a "
            "free core for each rank would give, but for the time that messages take. Wall time is that of "
            "two cores which other programs shared. The difference of scores is relative to the largest. "
            "Replay: its part of a sweep that stores no states but the first, which ranks do not divide.",
            _ranks,
        ),
    },
)
