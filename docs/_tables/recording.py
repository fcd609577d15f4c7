"""docs/results/recording.md: what recording withstands, and what it notices."""

from _tables.page import Page, Report, Section, Table


def _kills(report: Report) -> Table:
    heads = [
        "killed", "kills", "of resumes", "before anything", "half-written", "committed steps lost",
        "wrong bits", "left over", "failed", "processes left", "ended well",
    ]  # fmt: skip
    keys = (
        "kills", "of_resumes", "before_anything", "half_written", "lost_steps", "faults", "left_over",
        "failed", "orphans", "continued",
    )  # fmt: skip
    rows = []
    for found in report["campaigns"]:
        counts = [found[key] for key in keys]
        rows.append([f"`{found['run']}`", *(str(len(c) if isinstance(c, list) else c) for c in counts)])
    return Table(heads, rows)


def _corruptions(report: Report) -> Table:
    counted = ("changes", "named by verify", "harmless", "refused by estimate")
    kinds = {**report["kinds"], "all": report}
    rows = [[name, *(str(f.get(c, 0)) for c in counted), _number(f["faults"])] for name, f in kinds.items()]
    return Table(["store", *counted, "wrong scores, hangs, tracebacks"], rows)


def _hostile(report: Report) -> Table:
    became = report["became"]
    rows = [[word, str(became.get(word, 0))] for word in ("refused", "the same scores", *_BAD)]
    return Table(["became", "stores"], rows)


_BAD = ("refused by some", "other scores", "raw errors", "bug lines", "hangs", "crashes")


def _number(faults: list[str] | int) -> str:
    return str(faults if isinstance(faults, int) else len(faults))


def _races(report: Report) -> Table:
    rows = [
        (f"{report['processes in a race']} processes make the same store", report["creators"]),
        (f"{report['processes in a race']} processes resume the same store", report["resumers"]),
        *((f"the store under the writer: {name}", found) for name, found in report["moves"].items()),
    ]
    counts = [
        [name, str(found.get("races", found.get("times"))), str(len(found["faults"]))] for name, found in rows
    ]
    return Table(["what happens", "times", "faults"], counts)


def _durable(report: Report) -> Table:
    rows = [
        [f"{int(size):,}", f"{f['plain_ms']:.0f}", f"{f['durable_ms']:.0f}", f"{f['ratio']:.1f}"]
        for size, f in report["parameters"].items()
    ]
    return Table(["parameters", "commit [ms]", "durable commit [ms]", "ratio"], rows)


def _changes(report: Report) -> Table:
    counted = ("runs", "caught by the tape", "caught by estimate", "missed", "false alarms")
    kinds = {**report["kinds"], "all": report["total"]}
    return Table(
        ["what changes", *counted], [[name, *(str(f[c]) for c in counted)] for name, f in kinds.items()]
    )


PAGE = Page(
    "Recording: kills, races, changed stores and late changes",
    "What happens to a store whose process is killed or meets another one, whether a store that something "
    "else has changed is noticed, and a loop that changes late in training.",
    {
        "kills": Section(
            "`kill -9`",
            ("kills",),
            "The process, or its group, is killed at random moments, and just before random changes of "
            "files: in a commit, a publication, a removal. After each kill everything that was committed is "
            "compared with the run that was never killed. Then the same call is made again, and may be "
            "killed, too; the last one must end well, with the same bits and no other file. *Of resumes*: "
            "kills of a call that had found a result that was not finished. *Before anything*: nothing was "
            "committed or published yet. *Half-written*: hidden files or folders were there after the kill. "
            "*Left over*: files that were there at the end. *Failed*: calls after a kill that did not end "
            "well.",
            _kills,
        ),
        "corruptions": Section(
            "Changed stores",
            ("corruptions",),
            "One thing of a small store is changed: a bit, the length of a file; a file is deleted, emptied, "
            "exchanged or added; a value of its metadata; or an array or attribute, by zarr, with right "
            "checksums. *Harmless*: `verify` does not name it, and the scores are the same, bit for bit.",
            _corruptions,
        ),
        "races": Section(
            "Several processes, and stores that are moved",
            ("races",),
            "A fault is a process that ends well without a whole store at its path, bit for bit that of a "
            "run alone; one that is not refused in one line; something left over; a store that was moved and "
            "is not whole where it is now.",
            _races,
        ),
        "durable": Section(
            "Commits that outlive a loss of power",
            ("durable",),
            "The time of a commit of 200 steps in batches of 64 and one state, by the number of parameters. "
            "A thread of its own commits, after 5 seconds or 64 MiB, and the loop goes on meanwhile.",
            _durable,
        ),
        "hostile": Section(
            "Hostile stores",
            ("hostile",),
            lambda report: (
                f"{report['stores']} small stores that somebody made hostile, with all checksums right, are "
                "opened, asked, verified and compared, in Python and on the command line. *The same scores*: "
                "what was changed does not matter, or the workload says it. Memory at most: "
                f"{report['times_the_memory']} times that of a good store. Code of a store that was run: "
                f"{'some' if report['code_was_run'] else 'none'}."
            ),
            _hostile,
        ),
        "late-changes": Section(
            "Changes in the last tenth",
            ("late_changes",),
            lambda report: (
                f"Taped loops of {report['steps'][0]} to {report['steps'][-1]:,} steps in which something "
                "changes in the last tenth of training. *False alarms* are of the same runs without the "
                "change."
            ),
            _changes,
        ),
    },
)
