"""docs/results/cost.md: seconds, memory, disk."""

from _tables.page import Page, Report, Section, Table, percent


def _default(report: Report) -> str:
    found = report["runs"]["compare"]
    return (
        f"`influencekit compare --estimators dit,if,loo` takes {found['seconds']:.0f} s and "
        f"{found['memory_gb']:.1f} GB of memory, start-up included; `influencekit --help` takes "
        f"{report['runs']['help']['seconds']:.2f} s."
    )


def _speed(report: Report) -> Table:
    heads = [
        "model",
        "plain step",
        "recording `full`",
        "`dit`, all examples",
        "each of 21 epochs, relative to that",
    ]
    rows = []
    for kind, found in report["models"].items():
        ratio = found["ratio_to_plain"]
        cells = [f"{kind}, {found['parameters']} parameters", f"{found['plain_ms_a_step']:.2f} ms"]
        cells += [f"{ratio['recording full']:.2f}", f"{ratio['dit sweep']:.2f}"]
        cells += [f"{found['each_epoch_to_dit_sweep']:.2f}", f"{found['loo_speed_up']:.1f} times"]
        rows.append([*cells, f"{sum(max(0.0, s) for s in found['tracing_seconds'].values()):.1f} s"])
    return Table([*heads, "`loo` speed-up", "tracing, once"], rows)


def _tape(report: Report) -> Table:
    heads = ["model", "parameters", "steps", "plain step", "wall-clock time", "processor time", "checks"]
    rows = []
    for name, found in report["cases"].items():
        cells = [name, f"{found['parameters']:,}", str(found["steps"]), f"{found['plain step, ms']:.1f} ms"]
        ratios = [f"{found[f'{kind} ratio']:.3f}" for kind in ("wall-clock", "processor")]
        rows.append([*cells, *ratios, found["checks"]])
    return Table(heads, rows)


def _minilm_cost(report: Report) -> Table:
    heads = ["training", "loop", "sweep", "without the query's gradient", "memory of the loop", "of a sweep"]
    few, many = (f"batches of {report[size]}" for size in ("batch", "large"))
    names = {
        "sgd": f"SGD, {few}",
        "adamw": f"AdamW, {few}",
        "large": f"SGD, {many}",
        "blocks": f"SGD, {many}, layers checkpointed",
    }
    rows = []
    for name, found in report["cases"].items():
        cells = [names[name], f"{found['loop']['seconds']:.1f} s"]
        cells += [f"{found[key]:.1f} times" for key in ("times a loop", "without the query")]
        peaks = found["peaks beside training"].items()
        memory = [f"{found[key]['peak_mb']:.0f} MB ({ratio:.2f})" for key, ratio in peaks]
        rows.append([*cells, f"{found['training']['peak_mb']:.0f} MB", *memory[::-1]])
    return Table([*heads, "of the first sweep"], rows)


def _autocast(report: Report) -> Table:
    heads = ["optimizer", "forward pass", "accuracy", "`dit` and retraining, Pearson", "a sweep, in loops"]
    rows = [
        [optimizer, precision, f"{100 * one['accuracy']:.1f} %", f"{one['pearson']:.3f}",
         f"{one['times_a_loop']:.1f}"]
        for optimizer, found in report["optimizers"].items()
        for precision, one in found.items() if isinstance(one, dict)
    ]  # fmt: skip
    return Table(heads, rows)


def _distances(report: Report) -> str:
    said = [
        f"{optimizer} {100 * found['distance']:.1f} % (retrained effects: "
        f"{100 * found['repeated_distance']:.0f} %, Pearson {found['repeated']:.3f})"
        for optimizer, found in report["optimizers"].items()
    ]
    return (
        f"Scores of the run in bfloat16 are this far from those of the run in float32: {'; '.join(said)}. "
        "So what bfloat16 changes in retraining is more than what it changes in the scores."
    )


def _plan(report: Report) -> Table:
    heads = ["run", "work", "seconds", "measured", "memory", "measured", "disk", "measured"]
    rows = []
    for name, case in report["cases"].items():
        for work, predicted in case["predicted"].items():
            measured, cells = case["measured"][work], [name, f"`{work}`"]
            for kind, unit in (("seconds", 1.0), ("memory", 1e6), ("disk", 1e6)):
                digits = ".1f" if kind == "seconds" else ".2f" if kind == "disk" else ".0f"
                word = "" if kind == "seconds" else " MB"
                for each in (predicted, measured):
                    cells.append(f"{each[kind] / unit:{digits}}{word}" if kind in each else "-")
            rows.append(cells)
    return Table(heads, rows)


def _recorders(report: Report) -> Table:
    time, memory = report["time"], report["memory"]
    heads = [
        "recorder",
        "states on disk",
        "disk",
        "steps replayed",
        "sweep / plain PyTorch",
        "sweep / `record`",
    ]
    rows = []
    for name, row in time["recorders"].items():
        cells = [
            f"`{name}`",
            str(row["states_stored"]),
            f"{row['disk_mb']:.1f} MB",
            str(row["steps_replayed"]),
        ]
        cells += [f"{row[key]:.2f}" for key in ("ratio_to_plain_pytorch", "ratio_to_record_in_memory")]
        for run in memory.values():
            grown = [
                run[name][what]["peak_mb"] - run[name][what]["before_mb"] for what in ("record", "sweep")
            ]
            cells.append(" and ".join(f"{mb:.0f}" for mb in grown) + " MB")
        rows.append(cells)
    return Table([*heads, *(f"memory, {steps} steps" for steps in memory)], rows)


def _long_run(report: Report) -> str:
    time = report["time"]
    plain, own = time["seconds"]["plain PyTorch"], time["seconds"]["record in memory"]
    return (
        f"mnist-1v7-dnn, {time['steps']} steps: {plain:.1f} s of plain PyTorch, {own:.1f} s of `record` in "
        "memory, timed beside the sweeps. Memory is what recording, and then the sweep, used beyond the "
        "loaded process."
    )


def _same(report: Report) -> str:
    exact = report["exact"]
    same = exact["states_bitwise"] and exact["scores_bitwise_in_the_same_lists"]
    return (
        f"The states that `revolve` replays {'are' if same else 'are not'} those of `full`, bit for bit, "
        "and so are its scores where a sweep gets the states in the same groups. In its own groups sums "
        f"round in another order, and scores differ by {exact['largest_difference_in_its_own']:.0e} of the "
        "largest."
    )


def _rounded(report: Report) -> Table:
    heads = ["workload", "recorder", "bits a number on disk", "relative error of the scores"]
    rows = []
    for name, found in report["precision"].items():
        for recorder, row in found["recorders"].items():
            cells = [name, f"`{recorder}`", f"{row['bits_a_number']:.1f}", f"{row['relative_error']:.1e}"]
            rows.append([*cells, f"{row['spearman_with_full']:.5f}", f"{row['spearman_with_loo']:.4f}"])
    return Table([*heads, "Spearman with `full`", "Spearman with `loo`"], rows)


def _precision(report: Report) -> str:
    first = next(iter(report["precision"].values()))
    return (
        f"`dit`, setting `trained`, {first['steps']} steps, means of {first['seeds']} seeds. "
        "`rounded:bits=B` keeps B bits of the mantissa of every state but the first and the last. "
        "[Agreement](agreement.md) has the accuracies."
    )


def _report(report: Report) -> Table:
    rows = [
        [
            f"{row['examples']:,}", f"{row['listed']:,}", f"{row['with_content']:,}", f"{row['mb']:.1f}",
            f"{row['seconds']:.1f}", f"{row['first_paint_ms'] / 1000:.2f}",
            str(row["console"] + row["requests"] + row["violations"]),
        ]
        for row in report["rows"]
    ]  # fmt: skip
    heads = ["examples", "listed", "with content", "MB", "seconds", "first paint, s", "complaints"]
    return Table(heads, rows)


def _with_prediction(point: Report, kind: str, name: str, unit: float, digits: int) -> str:
    value = point[kind][name]
    said = point["predicted"] and point["predicted"][kind].get(name)
    error = f" ({percent(said / value - 1, 0)})" if said else ""
    return f"{value / unit:.{digits}f}{error}"


def _scale(report: Report) -> Table:
    points = report["points"]
    work, sizes = ([*next(iter(points.values()))[kind]] for kind in ("seconds", "bytes"))
    rows = []
    for n, point in points.items():
        cells = [f"{int(n):,}", f"{point['steps']:,}"]
        cells += [_with_prediction(point, "seconds", name, 1, 2) for name in work]
        cells += [_with_prediction(point, "bytes", name, 2**20, 2) for name in sizes]
        rows.append([*cells, f"{max(point['peak_mb'].values()):.0f}"])
    heads = [*(f"{name}, s" for name in work), *(f"{name}, MB" for name in sizes)]
    return Table(["examples", "steps", *heads, "memory, MB"], rows)


def _on_paper(report: Report) -> str:
    heads = [
        "run", "training", "sweep", "of it transfers", "stored states", "all states", "plan, each process",
        "contributions", "24 subsets of LDS", "`loo` of all",
    ]  # fmt: skip
    rows = []
    for name, one in report["simulated"].items():
        cells = [name, _long(one["train_seconds"]), _long(one["sweep_seconds"])]
        cells += [percent(one["sweep_transfer_fraction"], 0)]
        kinds = ("stored_states", "all_states", "plan", "contributions")
        cells += [f"{one[f'{kind}_bytes'] / 1e9:,.3g} GB" for kind in kinds]
        rows.append([*cells, _long(one["lds_seconds"]), f"{one['loo_of_all_years']:,.2g} years"])
    nodes = "; ".join(
        f"{name}: {one['flops']:.2g} FLOP/s, {one['network'] / 1e9:g} GB/s between nodes, "
        f"{one['disk'] / 1e9:g} GB/s of disk"
        for name, one in report["machines"].items()
    )
    return (
        f"On paper, by [the model](../dev/scale.md) and nothing measured ({nodes}):\n\n{Table(heads, rows)}"
    )


def _long(seconds: float) -> str:
    for unit, long in (("h", 3600), ("min", 60)):
        if seconds >= 2 * long:
            return f"{seconds / long:.1f} {unit}"
    return f"{seconds:.1f} s"


PAGE = Page(
    "What it costs",
    "Seconds, memory and disk of recording, estimating and retraining, each measured beside a plain "
    "PyTorch loop in the same run. Sizes of your own problem are estimated on [one page](../sizing.md).",
    {
        "default-run": Section("The first command", ("default_run",), _default),
        "speed": Section(
            "Small models",
            ("speed",),
            lambda report: (
                f"MNIST 1 against 7, {report['threads']} threads. Times are ratios to a plain eager PyTorch "
                "loop over the same steps. `loo` speed-up: against as many plain trainings as examples are "
                "left out. Small models are retrained hundreds at a time, convolutions on a CPU one after "
                "the other."
            ),
            _speed,
        ),
        "tape-overhead": Section(
            "The tape",
            ("tape_overhead",),
            lambda report: (
                "Time with the tape relative to the loop without it, side by side, k = steps per epoch, "
                f"{report['threads']} thread."
            ),
            _tape,
        ),
        "minilm-cost": Section(
            "A transformer, all weights",
            ("minilm_cost",),
            lambda report: (
                f"MiniLM, {report['cases']['sgd']['parameters']:,} parameters, {report['steps']} steps of "
                f"{report['batch']} texts with {report['tokens']} word pieces, or two of {report['large']}, "
                f"recorded with `full`, one thread; the query is the mean loss of {report['tests']} texts. "
                "*Layers checkpointed*: `torch.utils.checkpoint` around each, in training and sweep. Seconds "
                "are of the processor, of loop and sweep in turn. Memory is the peak of the process, start "
                "and weights included; in parentheses beside that of the loop. The first sweep has its "
                "checks in it, on a copy of the model in float64."
            ),
            _minilm_cost,
        ),
        "autocast": Section(
            "A forward pass in bfloat16",
            ("autocast",),
            lambda report: (
                "`mnist-1v7-dnn`, setting trained, a loop of torch under `torch.autocast`; the sweep's "
                f"derivatives are in float32. {report['examples']} random examples were each left out, in "
                "the run's own precision. Seconds are of the processor, of a CPU that has no fast bfloat16."
            ),
            _autocast,
            _distances,
        ),
        "plan": Section(
            "Plan",
            ("plan",),
            "What `influencekit plan` predicts from a few steps, and what the work then took, in processes "
            "of their own. Seconds are of the wall, on a machine that others used, too; memory is the peak "
            "of the process, start-up included. [Sizing](../sizing.md#let-it-be-measured) says how it is "
            "worked out.",
            _plan,
        ),
        "recorders": Section("Recorders", ("memory",), _long_run, _recorders, _same),
        "rounded": Section("Rounded states", ("memory",), _precision, _rounded),
        "scale": Section(
            "A million examples",
            ("scale",),
            lambda report: (
                f"Logistic regression with {report['parameters']} parameters, one epoch in batches of "
                f"{report['batch']}, `every-k:k={report['every']}`. Processor seconds of one thread, on a "
                f"machine of {report['cores']} cores with a load of {report['load']:.0f}. In parentheses: "
                "how far the model is from what was measured; the first two rows give its constants. "
                f"Memory is the highest peak, beyond the data. {report.get('remark', '')}".strip()
            ),
            _scale,
            _on_paper,
        ),
        "report": Section(
            "The report",
            ("report",),
            lambda report: (
                f"Pictures of 28 x 28, {report['epochs']} windows; without the time of the scores. First "
                "paint in headless Chromium, median of three. *Complaints*: on the console, requests to "
                "anywhere, and what axe finds against the page. [The report](../report.md) says what is "
                "listed and shown."
            ),
            _report,
        ),
    },
)
