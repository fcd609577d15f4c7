"""Words of random command lines: every command and option, with values that work, may, and cannot."""

import random

__all__ = ["FILES", "LINKS", "MADE", "TINY", "line"]

TINY = "mnist-1v7-lr:epochs=2:n_train=24:batch_size=8"  # 6 steps
CODE = f"import influencekit as ik\nwork = ik.make('workload', '{TINY}', setting='trained')\n"
TRUSTED = f"{CODE}batch = work.test\n" + "\n".join(
    f"{name} = {what}"
    for name, what in {
        "few": "tuple(e[:5] for e in batch)", "nan": "(batch[0] * float('nan'), batch[1])",
        "train": "work.train", "short": "batch[:1]", "narrow": "(batch[0][:, :-1], batch[1])",
        "classes": "(batch[0], batch[1] + 7)", "nothing": "None", "none": "tuple(e[:0] for e in batch)",
    }.items()
)  # fmt: skip
OTHER = "import influencekit as ik\nwork = ik.make('workload', 'mnist-1v7-lr:n_train=24:epochs=1')\n"
Value = tuple[str, bool | None]  # what is typed, and whether it can work: None where that depends

FILES: dict[str, str | bytes] = {  # name: content; what code prints looks like a warning
    "file.txt": "precious", "file.csv": "precious", "full/mine": "precious", "weights/model.pt": b"\x00",
    "none.txt": "# nobody\n\n", "unknown.txt": "nobody\n", "binary.txt": b"\xff\xfe\x00\x01",
    "evil.txt": "\x1b[31mred\n", "noise.zarr": b"\x00" * 99, "noise.nc": b"CDF\x01" + b"\xff" * 99,
    "good.py": CODE, "prints.py": f"print('warning: loud')\n{CODE}",
    "function.py": f"{CODE}def made(): print('warning: x'); return work\n", "other.py": OTHER,
    "exits.py": "raise SystemExit(0)\n", "exits3.py": "import sys; sys.exit(3)\n", "raises.py": "1 / 0\n",
    "base.py": "raise BaseException('\\x1b[31m')\n", "syntax.py": "work = (\n", "asks.py": "work = input()\n",
    "three.py": "work = 3\n", "deep.py": "def work(): return work()\n", "binary.py": b"\x00\xff",
    "trusted.py": TRUSTED,
}  # fmt: skip
LINKS = {"loop": "loop", "dangling.csv": "nowhere", "link.zarr": "run.zarr"}
SCORE = ["estimate", "run.zarr", "--trust", "none", "--out"]
MADE = (
    ["record", TINY, "--store", "run.zarr"],
    ["record", TINY, "--store", "part.zarr", "--window", "step:2-4", "--recorder", "every-k:k=2"],
    [*SCORE, "scores.zarr"],
    [*SCORE, "scores.nc", "--window", "each-epoch"],
    ["compare", "run.zarr", "--estimators", "if", "--loo-examples", "4", "--out", "compared"],
    ["suspects", "run.zarr", "--repeats", "2", "--top", "1", "--out", "wrong.zarr"],
    ["curate", "run.zarr", "--k", "2", "--folds", "3", "--out", "drop.nc"],
)
LONG = "9" * 5000
ODD = (
    *("² ٣ 1_0 1e3 nan inf -1 0 %00 None 💥 {} %s a,b , : = a=b $x ../.. - --".split()),
    "", " ", "\x1b[31m", "a\nb", "\u202e", "\udcff", LONG, "a" * 5000,
)  # fmt: skip


def of(yes: str = "", maybe: str = "", no: str = "", *more: str) -> list[Value]:
    """Values that can work, may, and cannot: words; and more that cannot."""
    kinds = ((yes, True), (maybe, None), (no, False))
    return [(word, works) for words, works in kinds for word in words.split()] + [(m, False) for m in more]


def perhaps(values: list[Value]) -> list[Value]:
    """The same, where even a good value may be refused beside others."""
    return [(value, works and None) for value, works in values]


NO_PATHS = of(
    "", "", "s3://bucket/x memory://x zip::x.zip http://host/x.zarr ~nobody9/x loop/x file://host/x",
    "", "a\0b", "x" * 300,
)  # fmt: skip
STORES = NO_PATHS + of(
    "run.zarr run.zarr run.zarr run.zarr/ link.zarr ./run.zarr", "part.zarr",
    "none.zarr broken.zarr short.zarr foreign.zarr file.txt empty full weights noise.zarr loop pipe.csv "
    "/dev/null python.zarr run.zarr/theta scores.zarr",
)  # fmt: skip
BAD = "n_train=0 n_train=-3 epochs=x nope=1 epochs=1:epochs=1 batch_size=-1 lr=nan seed=1".split()
WORKLOADS = of(
    f"{TINY} {TINY} mnist-1v7-lr:n_train=24:epochs=1", f"{TINY}:lr=0.5 {TINY}:lr=1e38 kmnist-lr:n_train=24",
    "mnist nothing mnist-1v7-lr: 20news-lr:nope=1", *(f"mnist-1v7-lr:{each}" for each in BAD),
    f"mnist-1v7-lr:n_train=24:epochs={'9' * 30}",
)  # fmt: skip
CODES = of(
    "good.py:work prints.py:work function.py:made", "",
    "exits.py:work exits3.py:work raises.py:work base.py:work syntax.py:work asks.py:work other.py:work "
    "three.py:work deep.py:work binary.py:work good.py:nothing good.py full:work none.py:work good.py: :work "
    "s3://b/x.py:work",
)  # fmt: skip
WINDOWS = of(
    "full full each-epoch step:0-6", "epoch:0-1 step:2-4 step:٣-4 step:0-3,step:3-6 full,full",
    "step:4-2 step:0-7 step:²-4 step:1.5-2 step:-1-2 epoch:9 epoch: , step:nan-2 step:3-3", f"step:0-{LONG}",
)  # fmt: skip
NUMBERS = of("1 2 3", "", "0 -1 1.5 ² x nan 1e3", "", LONG)
FROM_0 = of("0 1 2 3", "", "-1 1.5 ² x nan 1e3", "", LONG)
QUERIES = of(
    "test-loss test-loss", "prediction:example=3 parameter:index=0 alignment parameter:index=-1",
    "parameter:index=99999 prediction:example=99999 nothing test-loss:x=1 prediction:example=² , vector "
    "prediction:example= parameter:index=999999999999999999999999999",
)  # fmt: skip
ESTIMATORS = of(
    "dit if sgd-influence dit:curvature=gauss-newton",
    "loo:examples=2 if:damping=-1 if:damping=1e400 grad-dot random loo:examples=99999",
    "if:damping=nan dit:curvature=x dti dit: dit:curvature loo:examples=0 tsloo:nope=1", "",
)  # fmt: skip
REMOVALS = of("global", "window occurrence", "x", "")
AVERAGES = of(
    "", "ema:decay=0.9 swa:start=1 last after:epoch=1 ema swa:start=-1", "after:epoch=99 ema:decay=2 x "
    "ema:decay=nan",
)  # fmt: skip
RECORDERS = of(
    "full every-k:k=2", "revolve:states=3 rounded:bits=7 every-k:k=999999999999999999999999",
    "every-k:k=0 rounded:bits=99 x every-k:k=x revolve:states=-1", "",
)  # fmt: skip


def places(*endings: str) -> list[Value]:
    """Where something new may go, and where not."""
    good = [(f"NEW/{name}{e}", True) for name in ("x", "deep x", "ü", "y" * 200) for e in endings]
    taken = "file.txt file.csv full run.zarr pipe.csv dangling.csv run.zarr/x.csv /dev/null loop /proc/x.csv"
    return [*good, *good, *of("", "", f"{taken} file.txt/x.csv"), *NO_PATHS]


Options = dict[str, list[Value] | None]  # None: an option without a value
COMMON: Options = {
    "--threads": NUMBERS, "--device": of("cpu auto", "", "tpu", ""),
    "--data-dir": of("", "", "none file.txt empty") + NO_PATHS,
}  # fmt: skip
SCORING: Options = {
    "--query": QUERIES, "--window": WINDOWS, "--removal": REMOVALS, "--code": CODES,
}  # fmt: skip
AVERAGED: Options = {"--average": AVERAGES, "--escape-formulas": None}
TRAINING: Options = {"--setting": of("", "paper trained", "x", ""), "--recorder": RECORDERS}
CLEANING: Options = {
    "--trusted": of(
        "trusted.py:batch trusted.py:batch", "trusted.py:classes",
        "trusted.py:few trusted.py:nan trusted.py:train trusted.py:short trusted.py:narrow "
        "trusted.py:nothing trusted.py:none trusted.py:absent raises.py:work three.py:work none.py:x "
        "batch s3://b/x.py:x",
    ),
    "--seed": of("0 7", "-3", "1.5 ² x nan", "", LONG), "--out": places(".csv", ".zarr", ".nc"),
    "--code": CODES, "--escape-formulas": None,
}  # fmt: skip
OPTIONS: dict[str, Options] = {
    "record": COMMON | TRAINING | {
        "--seed": FROM_0, "--window": perhaps(WINDOWS), "--resume": None, "--durable": None,
    },
    "estimate": COMMON | SCORING | AVERAGED | {
        "--estimator": ESTIMATORS, "--out": places(".csv", ".zarr", ".nc"), "--top": NUMBERS,
        "--trust": of("none", "auto smooth retrain", "x"), "--verify-top": perhaps(NUMBERS),
        "--harmful": None, "--helpful": None,
        "--remove": of("", "ids.txt", "none.txt unknown.txt binary.txt evil.txt full") + NO_PATHS,
    },
    "compare": COMMON | SCORING | AVERAGED | TRAINING | {
        "--estimators": ESTIMATORS + of("dit,if", "", "dit,dit dit,,if"),
        "--reference": of("loo", "dit", "x loo,if", ""),
        "--seeds": of("0 0-1 3,5", "", "1-0 0,0 ² -1 0-99999999 x 0--1 ٣ 1_0", "", LONG, "9" * 25),
        "--evaluate": of("", "lds:m=3 mislabel-auc", "lds:m=1 x", ""), "--subsets": perhaps(places("")),
        "--jaccard": of("signed abs", "", "x"), "--out": places(""),
        "--ceiling": of("", "0.01 moved=0.1 seeds 1e-3", "0 x nan inf moved= -0.1", ""), "--cross-seed": None,
        "--ceiling-runs": of("", "2 3", "0 1 ² x", "", LONG),
        "--json": of("NEW/x.json - /dev/null", "", "/dev/full full") + NO_PATHS,
    },
    "plan": COMMON | SCORING | TRAINING | {
        "--estimators": of("dit loo dit,loo:examples=2 sgd-influence", "", "if x dit, dit,dit"),
        "--seed": FROM_0,
        "--json": of("NEW/x.json - /dev/null", "", "/dev/full full") + NO_PATHS,
    },
    "suspects": COMMON | CLEANING | {
        "--scores": of("final-loss final-loss,aum", "dit out-of-fold:folds=2", "x final-loss, aum,aum", ""),
        "--top": FROM_0, "--repeats": of("2 3", "", "0 1 -1 1.5 ² x nan", "", LONG),
    },
    "curate": COMMON | CLEANING | {
        "--choosers": of("dit dit,if", "dit,mean loo final-loss random", "x mean dit, dit,dit", ""),
        "--k": of("1 2,5", "23 1,2,24", "0 -1 1.5 x 1,1 99 , ²", "", LONG), "--draws": NUMBERS,
        "--folds": of("3 4", "9", "0 1 2 -1 x ² 1e3", "", LONG),
        "--level": of("0.9 0.5", "", "0 1 -1 2 nan x ²"),
        "--runs": of("3", "", "0 1 2 -1 x ²", "", LONG), "--keep": perhaps(places("")),
    },
    "report": COMMON | SCORING | {
        "--average": AVERAGES, "--estimator": perhaps(ESTIMATORS), "--out": places(".html"),
        "--verify": FROM_0, "--points": FROM_0,
        "--trust": of("none", "auto smooth retrain", "x"), "--ceiling": of("2", "3", "0 1 -1 x ²", "", LONG),
        "--suspects": of("", "wrong.zarr", "drop.nc scores.zarr none.zarr file.txt") + NO_PATHS,
        "--curate": of("", "drop.nc", "wrong.zarr scores.nc none.nc noise.nc full") + NO_PATHS,
        "--show": of("picture none row", "tokens wave good.py:work", "x raises.py:work good.py: full"),
        "--issues": places(".csv"), "--card": places(".md"), "--title": of("A 💥", "<b>", "", "", *ODD[:3]),
    },
    "plot": {"--out": places(""), "--code": perhaps(of("good.py:work")), "--data-dir": of("", "none")},
    "verify": COMMON | {"--replay": perhaps(FROM_0), "--code": CODES},
    "list": {},
    "reproduce": COMMON | {"--seeds": NUMBERS, "--workers": NUMBERS, "--cnn-seeds": NUMBERS},
}  # fmt: skip
ARGUMENTS: dict[str, list[Value]] = {
    "record": WORKLOADS, "estimate": STORES, "verify": STORES, "compare": STORES + WORKLOADS + WORKLOADS,
    "plan": STORES + WORKLOADS, "suspects": STORES, "curate": STORES, "report": STORES,
    "plot": NO_PATHS
    + of("", "scores.nc scores.zarr compared run.zarr", "none noise.nc file.txt foreign.zarr empty full"),
    "list": of("queries estimator recorders", "", "x ²", ""), "reproduce": of("", "", "table9 ²", ""),
}  # fmt: skip
WEIGHTS = {
    "record": 4, "estimate": 6, "compare": 6, "verify": 3, "plot": 1, "list": 1, "reproduce": 1, "plan": 2,
    "suspects": 3, "curate": 3, "report": 3,
}  # fmt: skip


def line(draw: random.Random) -> tuple[list[str], bool | None]:
    """A command line, and whether it can work."""
    if draw.random() < 0.04:
        odd = [*ODD, *WEIGHTS, "run.zarr", "--out", "--store", "--json"]
        return [draw.choice(odd) for _ in range(draw.randint(0, 4))], None
    command = draw.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
    if draw.random() < 0.03:
        return [command, draw.choice(["--help", "-h"])], True
    bold = draw.random() < 0.4  # the others take what can work, so that some do
    first = _pick(draw, ARGUMENTS[command], bold)
    typed: list[tuple[list[str], bool | None]] = []
    if command == "record":
        where, works = _pick(draw, places(".zarr", ""), bold)
        typed.append((["--store", where], works))
    if command == "compare" and first[0].startswith("mnist") and draw.random() < 0.9:
        typed.append((["--loo-examples", "2"], None))
    options = OPTIONS[command]
    for option in draw.sample([*options], min(len(options), draw.choice([0, 1, 1, 2, 2, 3, 4]))):
        values = options[option]
        if values is None:
            typed.append(([option], None))
        elif bold and draw.random() < 0.1:
            typed.append(([option, draw.choice(ODD)], None))
        else:
            value, works = _pick(draw, values, bold)
            run_is_there = "zarr" in first[0]
            if run_is_there and (option in ("--seeds", *TRAINING) or (command, option) == ("plan", "--seed")):
                works = None  # a run that is there is not trained
            if option == "--code" and first[0].startswith("mnist"):
                works = False  # code goes with a run that is there
            typed.append(([option, value], works))
    if bold and draw.random() < 0.1:
        typed.append(([draw.choice(["--nothing", "--estimatr", "-x", "--"])], None))
    if any(some[0] == "--code" for some, _ in typed):  # which needs no data
        typed = [(some, None if some[0] == "--data-dir" else works) for some, works in typed]
    words, verdicts = [word for some, _ in typed for word in some], [first[1], *(works for _, works in typed)]
    # of several, one may make another of no use, or refuse it
    works = None if len(typed) > 1 and False not in verdicts else min(verdicts, key=[False, None, True].index)
    return [command, *words, first[0]] if draw.random() < 0.5 else [command, first[0], *words], works


def _pick(draw: random.Random, values: list[Value], bold: bool) -> Value:
    return draw.choice(values if bold else [v for v in values if v[1] is not False] or values)
