"""docs/results/executors.md: retraining on workers."""

from statistics import median

from _tables.page import Page, Report, Section, Table


def _time(report: Report) -> Table:
    rows = [
        [name, f"{median(each):.1f}", f"{median(report['speed'][name]):.2f}"]
        for name, each in report["seconds"].items()
    ]
    return Table(["where", "seconds, median", "times as fast as here, median"], rows)


def _lost(report: Report, slurm: Report) -> Table:
    rows = [
        [f"{name}: workers killed", str(row["kills"]), _yes(row["same"])]
        for name, row in report["survived"].items()
    ]
    rows.append([f"{slurm['slurm']}: running jobs requeued", str(slurm["requeued"]), _yes(slurm["same"])])
    return Table(["what happens", "times", "bits of one process"], rows)


def _yes(same: bool) -> str:
    return "yes" if same else "no"


PAGE = Page(
    "Executors: retraining on workers",
    "Leave-one-out in slices: the time on one and on two workers, and what killed workers and requeued jobs "
    "change.",
    {
        "executors": Section(
            "Time",
            ("executors",),
            lambda report: (
                f"`{report['workload']}`, leave-one-out of {report['examples']} examples: in this process, "
                f"on one worker and on two, in turn, {len(report['load'])} times. Slices are of four models. "
                "The workers have opened the run before, and done a slice: that took "
                f"{report['begun']['1 worker']:.0f} s from the beginning of a process. The machine has "
                f"two cores, and others used them: its load was {min(report['load']):.0f} to "
                f"{max(report['load']):.0f} meanwhile, and two processes get a larger part of it than one. "
                "The results of all calls are "
                f"{'equal' if all(report['same']) else 'not equal'}, bit for bit."
            ),
            _time,
        ),
        "executors-lost": Section(
            "Lost workers",
            ("executors", "slurm"),
            lambda report, slurm: (
                f"The CNN without {report['examples, killed']} examples: on a pool of two processes, of "
                "which one is killed now and then, which ends both; and on a dask cluster of three worker "
                f"processes. `{slurm['workload']}` without {slurm['examples']} examples as "
                f"{slurm['slices']} slices on a Slurm of one node, each slice a job of submitit; jobs are "
                "requeued while they run, as preempted ones are. Asked again, Slurm does nothing: "
                f"{slurm['seconds again']:.1f} s in place of {slurm['seconds on slurm']:.0f} s."
            ),
            _lost,
        ),
    },
)
