"""Every result file: the commands that write it and the code that it measures. The one home of both."""

from typing import NamedTuple


class Source(NamedTuple):
    commands: tuple[str, ...]
    code: tuple[str, ...]  # files and folders, from the root of the checkout


_STEP = ("influencekit/_training", "influencekit/_trajectory")
_SWEEP = (*_STEP, "influencekit/_effects", "influencekit/estimators/dit.py")
_COMPARE = (
    *_STEP,
    "influencekit/_effects",
    "influencekit/estimators",
    "influencekit/metrics.py",
    "influencekit/_verbs",
)
_TAPE = (*_SWEEP, "influencekit/_tape")
_DVEMB = (*_SWEEP, "plugins/influencekit-dvemb/src")
_PAPER = (*_COMPARE, "plugins/influencekit-paper/src")
_MINILM = (*_TAPE, "influencekit/_verbs/trust")


def _benchmark(words: str, *code: str) -> Source:
    return Source((f"python -m benchmarks {words}",), code)


def _reproduced(words: str) -> Source:
    return Source((f"influencekit reproduce {words}",), _PAPER)


SOURCES = {
    "api_fuzz": _benchmark("api_fuzz", "influencekit"),
    "cli_fuzz": _benchmark("cli_fuzz", "influencekit"),
    "threads": _benchmark("threads", "influencekit"),
    "autocast": _benchmark("autocast", *_SWEEP),
    "ceilings": _benchmark("ceilings", *_COMPARE),
    "corruptions": _benchmark("corruptions", "influencekit/_trajectory", "influencekit/_verbs/verify.py"),
    "curation": _benchmark("curation --seeds 16 --data FILE", *_COMPARE, "influencekit/evaluation"),
    "default_run": _benchmark("default_run", "influencekit", "plugins/influencekit-paper/src"),
    "plan": _benchmark("plan", *_COMPARE),
    "durable": _benchmark("durable", "influencekit/_trajectory/writing", "influencekit/_files"),
    "dvemb": _benchmark("dvemb", *_DVEMB),
    "dvemb_overhead": _benchmark("dvemb_overhead --steps 400", "plugins/influencekit-dvemb/src"),
    "dvemb_phases": _benchmark("dvemb_phases", *_DVEMB),
    "dvemb_segments": _benchmark("dvemb_segments", "plugins/influencekit-dvemb/src"),
    "dvemb_throughput": _benchmark("dvemb_throughput", "plugins/influencekit-dvemb/src"),
    "evaluation": _benchmark("evaluation", *_COMPARE, "influencekit/evaluation"),
    "exactness": _benchmark("exactness", *_SWEEP),
    "executors": _benchmark("executors", "influencekit/_executors", "influencekit/_effects/sliced.py"),
    "gemma": _benchmark("gemma", *_COMPARE, "influencekit/_tape", "plugins/influencekit-baselines/src"),
    "hostile": _benchmark("hostile", "influencekit/_trajectory", "influencekit/_tape"),
    "initial": _benchmark("initial", *_PAPER),
    "kills": _benchmark(
        "kills", "influencekit/_trajectory/writing", "influencekit/_tape", "influencekit/_files"
    ),
    "language_model": _benchmark(
        "language_model", *_COMPARE, "influencekit/evaluation", "plugins/influencekit-baselines/src"
    ),
    "late_changes": _benchmark(
        "late_changes", "influencekit/_tape", "influencekit/_trajectory/replay_check.py"
    ),
    "memory": _benchmark("memory", *_SWEEP, "influencekit/recorders.py"),
    "minilm": _benchmark("minilm", *_MINILM),
    "minilm_cost": _benchmark("minilm_cost --steps 8 --rounds 3", *_SWEEP),
    "minilm_explore": _benchmark("minilm_explore", *_MINILM),
    "minilm_lds": _benchmark("minilm_lds", *_MINILM),
    "mislabelled": _benchmark("mislabelled", *_TAPE),
    "parts": _benchmark("parts", *_COMPARE, "influencekit/evaluation"),
    "passes": _benchmark("passes", "influencekit/_training/kernels"),
    "peers": _benchmark("peers", *_COMPARE, "plugins/influencekit-baselines/src"),
    "races": _benchmark("races", "influencekit/_trajectory/writing", "influencekit/_files"),
    "ranks": _benchmark("ranks", *_SWEEP),
    "report": _benchmark("report", "influencekit/_report"),
    "reproduce-quick": _reproduced("all --quick --workers 2"),
    "reproduce-seeds": _reproduced("seeds --seeds 8"),
    "reproduce-table1": _reproduced("table1 --seeds 16"),
    "reproduce-table2": _reproduced("table2 --seeds 16"),
    "reproduce-table3": _reproduced("table3 --seeds 16"),
    "reproduce-table4": _reproduced("table4 --seeds 16"),
    "reproduce-table5": _reproduced("table5 --seeds 16"),
    "reproduce-table6": _reproduced(
        "table6 --seeds 1 --data caltech101-birds-flowers.npz --data cifar10-airplane-bird.npz "
        "--weights dinov2-small --image-size 56 --examples 480"
    ),
    "reproduce-windows": _reproduced("windows --seeds 16"),
    "roughness": _benchmark("roughness", *_COMPARE),
    "scale": _benchmark("scale", *_SWEEP, "influencekit/_verbs/contributions.py"),
    "selected": _benchmark("selected", *_COMPARE, "influencekit/evaluation"),
    "sets": _benchmark("sets", *_COMPARE, "influencekit/evaluation"),
    "slurm": _benchmark("slurm", "influencekit/_executors", "influencekit/_effects/sliced.py"),
    "smooth": _benchmark("smooth", *_SWEEP, "plugins/influencekit-smooth/src"),
    "suspects": _benchmark(
        "suspects --seeds 5 --data FILE", *_TAPE, "influencekit/evaluation", "influencekit/_verbs"
    ),
    "smoothness": _benchmark("smoothness", *_COMPARE),
    "speed": _benchmark("speed --rounds 5", *_SWEEP, "influencekit/estimators/loo.py"),
    "sweep": _benchmark("sweep", *_SWEEP),
    "table2-paper": _benchmark("table2 --setting paper", *_COMPARE),
    "table2-trained": _benchmark("table2 --setting trained", *_COMPARE),
    "tape_exactness": _benchmark("tape_exactness", *_TAPE),
    "tape_overhead": _benchmark("tape_overhead", "influencekit/_tape"),
    "torch_nn": _benchmark("torch_nn", *_TAPE, "influencekit/estimators/loo.py"),
    "tracing": _benchmark("tracing", "influencekit/_training"),
    "trust_windows": _benchmark(
        "trust_windows --chosen 1 --measured 2 --examples 64", *_SWEEP, "influencekit/_verbs/trust"
    ),
    "trust": _benchmark("trust --processes 1", *_SWEEP, "influencekit/_verbs/trust"),
    "tune_trained": _benchmark("tune_trained", "influencekit/_training", "influencekit/workloads"),
    "wrong_labels_cnn": _benchmark("wrong_labels_cnn --data cifar10-airplane-bird.npz", *_SWEEP),
}
