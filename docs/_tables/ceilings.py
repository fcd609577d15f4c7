"""docs/results/ceilings.md: how well leave-one-out agrees with itself, and what that makes of estimates."""

from collections.abc import Iterator

from _tables.page import Page, Report, Section, Table, percent

MOVED = ("0.001", "0.01")


def _cells(report: Report) -> Iterator[tuple[str, str, Report]]:
    for name, settings in report["workloads"].items():
        for setting, found in sorted(settings.items(), reverse=True):
            yield name, setting, found


def _spread(value: dict[str, float]) -> str:
    return f"{value['mean']:.3f} ± {value['std']:.3f}"


def _ceilings(report: Report) -> Table:
    heads = ["workload", "setting", "seeds", "runs", "test accuracy", "moved", "one run with another"]
    heads += ["ceiling, one run", "ceiling, mean of the runs", "ICC", "sign certain"]
    rows = []
    for name, setting, found in _cells(report):
        runs = " or ".join(map(str, found["runs"]))
        for moved, x in found["moved"].items():
            cells = [name, setting, str(found["seeds"]), runs, percent(found["accuracy"]["mean"]), moved]
            columns = (x["agreement"], x["ceiling"], x["ceiling of mean"])
            cells += [_spread(each["spearman"]) for each in columns]
            rows.append([*cells, _spread(x["icc"]), percent(x["sign is certain"]["mean"], 0)])
    return Table(heads, rows)


def _estimates(report: Report) -> Table:
    heads = ["workload", "setting", "moved"]
    for target in ("one run", "the expected effect"):
        heads += [f"`{e}` with {target}{over}" for e in ("dit", "if") for over in ("", ", of its ceiling")]
    rows = []
    for name, setting, found in _cells(report):
        for moved, x in found["moved"].items():
            cells = [name, setting, moved]
            for target in ("loo", "expected"):
                for method in ("dit", "if"):
                    cells.append(_spread(x["estimators"][method][target]["spearman"]))
                    cells.append(f"{found['shares'][moved][method][target]['spearman']:.2f}")
            rows.append(cells)
    return Table(heads, rows)


def _metrics(report: Report) -> Table:
    names = ("pearson", "spearman", "kendall", "jaccard")
    heads = ["workload", *(f"{n} {what}" for n in names for what in ("again", "ceiling", "`dit`"))]
    rows = []
    for name, setting, found in _cells(report):
        if setting == "trained":
            x = found["moved"][MOVED[0]]
            columns = x["agreement"], x["ceiling"], x["estimators"]["dit"]["loo"]
            rows.append([name, *(f"{each[n]['mean']:.2f}" for n in names for each in columns)])
    return Table(heads, rows)


def _enough(report: Report) -> Table:
    found = report["enough_runs"]
    most = max(int(r) for each in found.values() for r in each["enough_for"])
    heads = ["ceiling of one run", "median of R", *(f"R = {r}" for r in range(2, most + 1))]
    rows = []
    for name, each in found.items():
        fractions = [percent(each["enough_for"].get(str(r), 1.0), 0) for r in range(2, most + 1)]
        rows.append([name.replace("ceiling_one", "sqrt(ICC)"), f"{each['median']:g}", *fractions])
    return Table(heads, rows)


def _off(report: Report) -> str:
    off = [found["assumption_off_by"]["spearman"] for _, _, found in _cells(report)]
    return (
        "Ceilings in ranks assume that two runs are jointly normal after a monotone change of their values. "
        "This can be checked: it foretells how well a run agrees with the mean of the others, which is "
        f"measured as well. In Spearman's correlation the two differ by at most {max(off):.3f} here. "
        "Where they differ visibly, the measured one is lower: then the ceiling is too high, and an "
        "estimate's fraction of it too low."
    )


def _cost(report: Report) -> str:
    costs = [found["cost_relative_to_loo"]["mean"] for _, _, found in _cells(report)]
    known = [c for c in costs if c is not None]
    words = ""
    if known:
        words = f" In clock time a ceiling took {min(known):.1f} to {max(known):.1f} times one leave-one-out."
    return (
        "How often, of all seeds of the trained networks, the first R runs already give the ceiling of all "
        f"runs to within {report['near']:g}, and stay there with every further run.{words}"
    )


PAGE = Page(
    "Ceilings",
    "How well exact leave-one-out agrees with itself when the start of training moves a little "
    "([what that means](../ceilings.md)), and how near the estimators come to that. Query: mean test loss, "
    "whole run.",
    {
        "ceilings": Section(
            "Leave-one-out, again",
            ("ceilings",),
            "Spearman's correlation, mean and deviation over seeds. *One run with another*: two runs from "
            "starts that differ. *Ceiling*: what the expected effect itself would reach, were it known. "
            "*Sign certain*: examples whose expected effect has the mean's sign with probability .975. Of "
            "the convolution, 16 examples of one seed are left out: it is retrained one run after the other.",
            _ceilings,
            _off,
        ),
        "ceilings-estimates": Section(
            "Estimates as a fraction of the ceiling",
            ("ceilings",),
            "Spearman's correlation of the estimate with leave-one-out of the recorded run, and with the "
            "mean over all runs. Each is divided by its own ceiling.",
            _estimates,
        ),
        "ceilings-metrics": Section(
            "All four metrics",
            ("ceilings",),
            "Setting `trained`, moved .001, against one run: leave-one-out again, the ceiling, `dit`.",
            _metrics,
        ),
        "ceilings-runs": Section("How many runs", ("ceilings",), _cost, _enough),
    },
)
