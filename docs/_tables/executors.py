"""docs/results/executors.md: retraining on workers."""

from statistics import median

from _tables.page import Page, Report, Section, Table


def _time(report: Report) -> Table:
    found = report["time"]
    rows = [
        [name, f"{median(each):.1f}", f"{median(found['speed'][name]):.2f}"]
        for name, each in found["seconds"].items()
    ]
    return Table(["where", "seconds, median", "times as fast as here, median"], rows)


def _lost(report: Report, slurm: Report) -> Table:
    rows = [
        [f"{name}: workers killed", str(report[name]["kills"]), _yes(report[name]["same"])]
        for name in ("processes", "dask")
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
                f"`{report['time']['workload']}`, leave-one-out of {report['time']['examples']} examples: "
                f"in this process, on one worker and on two, in turn, {len(report['time']['load'])} times. "
                "Slices are of four models. The workers have done a slice of other examples before: with "
                f"opening the run, that took {report['time']['first slice']['1 worker']:.0f} s. The machine "
                "has two cores, and others used them, too: its load was "
                f"{min(report['time']['load']):.0f} to {max(report['time']['load']):.0f}. There each process "
                "gets a part of the same size, so two workers show what two processes get, not what a free "
                "core gives. The results of all calls are "
                f"{'equal' if all(report['time']['same']) else 'not equal'}, bit for bit."
            ),
            _time,
        ),
        "executors-lost": Section(
            "Lost workers",
            ("executors", "slurm"),
            lambda report, slurm: (
                f"`{slurm['workload']}` without each of {slurm['examples']} examples, in {slurm['slices']} "
                "slices: on two processes, one of which is killed, which ends both; on a dask cluster of "
                "three worker processes, two of which are killed; and on a Slurm of one node, each slice a "
                "job of submitit, where jobs are requeued while they run, as preempted ones are. Asked "
                f"again, Slurm does nothing: {slurm['seconds again']:.1f} s in place of "
                f"{slurm['seconds on slurm']:.0f} s."
            ),
            _lost,
        ),
    },
)
