"""Calls of the Python API with odd arguments: what there is to call, with what, and a slow way to check some."""

# ruff: noqa: E501 (tables of odd values)
# fmt: off
from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import nn

import influencekit as ik
from benchmarks.shared.odd_data import (
    data_kinds,
    estimator_kind,
    ids_kind,
    losses_kind,
    models_kind,
    penalty_kind,
    query_kind,
)
from benchmarks.shared.odd_values import (
    EITHER,
    Kind,
    Value,
    anything,
    bad,
    flag,
    number,
    one_of,
    same,
    spec,
    whole,
)
from influencekit import averages, evaluation, metrics, plot, queries, recorders, registry, windows
from influencekit.estimators import dit, influence_function, loo

__all__ = ["Call", "calls", "world"]


class Call(NamedTuple):
    """A call that was drawn: with which values, how it is made of such, and what to say of a wrong result."""

    name: str
    values: Mapping[str, Value]
    make: Callable[[Mapping[str, Any]], Any]
    oracle: Callable[[Any, Mapping[str, Any]], str] | None = None


Draw = Callable[[dict[str, Any], random.Random], Call]


def squared(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (outputs.squeeze(-1) - target) ** 2


def parts(n: int = 8, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The arguments of a tiny workload of four steps."""
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    torch.manual_seed(1)
    return {
        "model": nn.Linear(3, 1).to(dtype), "loss": squared, "train": (x, x[:, 0] * 2), "test": (x[:4] + 1, x[:4, 1]),
        "optimizer": ik.SGD(lr=0.1), "batch_size": 4, "epochs": 2,
    }  # fmt: skip


def world(folder: Path) -> dict[str, Any]:
    """What calls are made with, and passed in the place of something else."""
    work = ik.Workload(**parts())
    run = ik.record(work)
    store = folder / "run.zarr"
    ik.record(work, "every-k:k=2", store)
    scores = ik.estimate(run, windows="each-epoch")
    corrupted = np.arange(8) % 4 == 0
    other = ik.record(ik.Workload(**parts(6)))
    hole = scores.copy(deep=True)
    hole.influence.values[0, 0, 2] = np.nan
    return {
        "run": run, "work": work, "other run": other, "store": store, "store text": str(store),
        "scores": scores, "influence": scores.influence, "one": scores.influence[0, 0], "hole": hole,
        "hole's one": hole.influence[0, 0], "other scores": ik.estimate(other),
        "comparison": ik.compare(run, ["dit", "if"]), "contributions": ik.contributions(run),
        "found": evaluation.detection(scores.influence[0, 0], corrupted), "mask": corrupted,
        "lds": ik.evaluate(run, "lds:m=4")["lds:m=4"], "pictures": np.random.default_rng(0).random((8, 4, 4)),
        "tensor": torch.arange(8.0), "model": nn.Linear(3, 1), "torch optimizer": torch.optim.SGD([torch.ones(1)], 1),
        "query": queries.TestLoss(), "estimator": dit.DIT(), "recorder": recorders.Full(), "window": ik.Window(0, 2),
        "optimizer": ik.SGD(lr=0.1), "the class DIT": dit.DIT, "a number": 3, "text": "odd", "bytes": b"odd",
        "a list": [1, 2], "a dict": {"a": 1}, "an object": object(), "a set": {1}, "a function": squared,
        "an empty dataset": xr.Dataset(), "an array of texts": np.array(["a", "b"]), "nan": float("nan"),
        "folder": folder, "a generator": (k for k in range(3)),
    }  # fmt: skip


class _Later:
    """Kinds that need the world are made when it is there."""

    def __init__(self, *but: str, good: Mapping[str, Any] | None = None, also: tuple[Kind, ...] = ()) -> None:
        self.but, self.also = but, also

    def kind(self, every: dict[str, Any]) -> Kind:
        def draw(r: random.Random) -> Value:
            if self.also and r.random() < 0.6:
                return r.choice(self.also)(r)
            return anything(every, self.but)(r)

        return draw


def mixed(name: str, make: Callable[[dict[str, Any], dict[str, Any]], Any], oracle: Any = None, /, **kinds: Any) -> Draw:
    """`changed`, where some kinds are other things of the world."""

    def draw(every: dict[str, Any], r: random.Random) -> Call:
        some = r.sample(list(kinds), min(len(kinds), 1 if r.random() < 0.8 else 2))
        ready = {k: kinds[k].kind(every) if isinstance(kinds[k], _Later) else kinds[k] for k in some}
        values = {k: kind(r) for k, kind in ready.items()}
        check = None if oracle is None else (lambda found, given: oracle(every, found, given))
        return Call(name, values, lambda given: make(every, dict(given)), check)

    return draw


# kinds of arguments of several verbs -----------------------------------------------------------------------

QUERY = ("test-loss", "test-losses", "prediction:example=1", "parameter:index=2", "alignment")
ESTIMATOR = ("dit", "loo", "if", "sgd-influence", "dit:curvature=fisher")
AVERAGE = ("ema:decay=0.9", "swa:start=1", "after:epoch=0", "last")
REMOVAL = one_of(["global", "window", "occurrence"])
TOP = one_of(["signed", "abs", "harmful"])


def window_kind(r: random.Random) -> Value:
    w = ik.Window
    good: list[tuple[Any, Any]] = [
        ("full", None), ("each-epoch", [w(0, 2), w(2, 4)]), ([w(0, 4)], None), ((w(0, 2), w(1, 3)), [w(0, 2), w(1, 3)]),
        ("step:1-3,full", [w(1, 3), w(0, 4)]), ([w(2, 4), w(0, 2)], [w(2, 4), w(0, 2)]), ([w(0, 2)] * 2, [w(0, 2)] * 2),
        ([w(np.int64(1), np.int32(3))], [w(1, 3)]), (np.array([w(0, 2)], dtype=object), [w(0, 2)]),
        (iter([w(0, 2)]), [w(0, 2)]),
    ]  # fmt: skip
    odd = bad(
        "", "step:\u00b2-3", "step:\u0661-3", "step:0-" + "9" * 5000, "step:3-1", "step:0-9", "step:1-", "step:-1-2", "epoch:9", ",", "full,",
        b"full", [], 3, [(0, 2)], ["full"], [None], [w(0, 9)], w, True, 1.5, {"a": 1}, np.array([0, 2]), "full\0",
        "step:1_0-12", "step: 1-2", "step:+1-2", "epoch:\n1", "FULL", [[w(0, 2)]], object(), float("nan"), torch.tensor([0, 2]),
    )  # fmt: skip
    text, means = r.choice(good)
    return r.choice(odd) if r.random() < 0.6 else Value(repr(text)[:60], text, means)


def at_kind(r: random.Random) -> Value:
    good = [([1, 4], [1, 4]), (np.array([4, 1]), [1, 4]), ("each-epoch", [2, 4]), ((2, 2), [2]), (torch.tensor([3]), [3]), (range(1, 3), [1, 2])]
    it, means = r.choice(good)
    return r.choice([Value(repr(it), it, means), *bad([], [0], [9], [1.5], ["1"], [True], 3, b"1", [None], "", "nothing", [[1]], {1.0}, [float("nan")], [10**30], object(), np.zeros((2, 2)), [np.float64(2.0)])])


def seeds_kind(r: random.Random) -> Value:
    good = [((0, 1), (0, 1)), ([np.int64(1)], [1]), (range(2), [0, 1]), (np.array([2]), [2]), (None, (0,))]
    it, means = r.choice(good)
    return r.choice([Value(repr(it), it, means), *bad([], [0, 0], [-1], [2**64], [1.5], ["1"], 3, "0", [True], [None], [float("nan")], np.zeros((2, 2)), [1j], object())])


def average_kind(r: random.Random) -> Value:
    w = [0.0, 0.0, 0.0, 0.5, 0.5]
    good = [w, np.array(w), torch.tensor(w), {3: 0.5, 4: 0.5}, {np.int64(3): np.float32(0.5), 4: 0.5}, tuple(w)]
    it = r.choice(good)
    odd = bad(
        [], [1.0], {}, {9: 1.0}, {True: 1.0}, {3: "1"}, {3: float("nan")}, {3: 1.0, 4: 1.0}, {1.5: 1.0}, [float("nan")] * 5, ["a"] * 5, 3.0,
        b"last", torch.tensor(w) + 0j, object(), {"3": 1.0}, [None] * 5, np.array(w).reshape(1, 5), [True, False, False, False, False],
        {3: float("inf"), 4: -float("inf")}, ik.EMA if hasattr(ik, "EMA") else int, np.array(["1"] * 5), {3: 1j}, {3: None},
    )  # fmt: skip
    if r.random() < 0.3:
        return spec("average", AVERAGE)(r)
    return r.choice(odd) if r.random() < 0.6 else Value(repr(it), it, w)


def paths_kind(every: dict[str, Any]) -> Kind:
    odd = bad("", "a\0b", 3, "x" * 5000, "no/where/at.zarr", None, True, object(), [], 1.5, "\ud800", Path("a\0"), "/dev/null", every["run"], every["work"])
    return lambda r: r.choice([same(every["store"]), Value("text", str(every["store"]), every["store"]), *odd])


def remove_ids(r: random.Random) -> Value:
    good = [
        ([1, 3], [1, 3]),
        ((3, 1), [1, 3]),
        (np.array([1, 3]), [1, 3]),
        (["1", "3"], [1, 3]),
        (torch.tensor([1, 3]), [1, 3]),
        ({1, 3}, [1, 3]),
        (range(1, 4, 2), [1, 3]),
        ([1, 1, 3], [1, 3]),
        ([np.int64(1), np.str_("3")], [1, 3]),
    ]
    it, means = r.choice(good)
    odd = bad(
        [],
        None,
        "1",
        3,
        [9],
        [-1],
        [None],
        [True],
        [[1]],
        [{}],
        [float("nan")],
        [1.5],
        ["\0"],
        [b"1"],
        range(8),
        np.zeros((2, 2)),
        [10**30],
        ["\ud800"],
        ["1 "],
        [(1,)],
        object(),
        ["\u0661"],
        np.array([1.5]),
        xr.Dataset(),
    )
    return r.choice(odd) if r.random() < 0.6 else Value(repr(it), it, means)


# a plain loop, in the place of record and loo --------------------------------------------------------------


def plain_loop(given: Mapping[str, Any], work: ik.Workload, left_out: int | None, dtype: Any = None) -> float:
    """The mean test loss after training by hand, in training mode, one example with weight 0."""
    model = deepcopy(given["model"])
    cast = (lambda x: x) if dtype is None else (lambda x: x.to(dtype) if x.is_floating_point() else x)
    model = model if dtype is None else model.to(dtype)
    loss = given["loss"]
    names = set(work.layout.names)
    params = [p for name, p in model.named_parameters() if name in names]
    rows = [row for row in work.plan.indices.tolist()]
    for t, row in enumerate(rows):
        members = [i for i in row if i >= 0]
        batch = tuple(cast(x[members].detach()) for x in work.train)
        losses = loss(model(*batch[:-1]), batch[-1])
        weights = torch.tensor([0.0 if i == left_out else 1.0 for i in members], dtype=losses.dtype)
        grads = torch.autograd.grad((weights * losses).sum() / len(members), params, allow_unused=True)
        with torch.no_grad():
            for p, g in zip(params, grads, strict=True):
                if g is not None:
                    p.sub_(g, alpha=float(work.plan.lr[t, 0]))
    model.eval()
    with torch.no_grad():
        *inputs, target = (cast(x.detach()) for x in work.test)
        return float(loss(model(*inputs), target).double().mean())


def train_is_right(every: dict[str, Any], found: Any, given: Mapping[str, Any]) -> str:
    """What is wrong with the run of a workload of odd parts: its scores beside a loop of plain torch."""
    run, scores, exact = found
    whole_parts = {**parts(), **given}
    work = run.workload
    full = plain_loop(whole_parts, work, None)
    truth = np.array([plain_loop(whole_parts, work, i) - full for i in range(work.n_train)])
    size = max(np.abs(truth).max(), 1e-4 * abs(full), 1e-6)
    if not np.allclose(exact, truth, atol=1e-2 * size, rtol=0):
        return f"loo gives {exact.round(6).tolist()}, a plain loop {truth.round(6).tolist()}"
    if not np.isfinite(scores).all():
        return "scores that are not finite"
    return ""


def train(every: dict[str, Any], given: dict[str, Any]) -> Any:
    run = ik.record(ik.Workload(**{**parts(), **given}))
    scores = ik.estimate(run).influence.values[0, 0]
    return run, scores, ik.estimate(run, "test-loss", "loo").influence.values[0, 0]


def planned(**given: Any) -> ik.Workload:
    work = ik.Workload(**given)
    assert work.plan.steps
    return work


def tape(every: dict[str, Any], given: dict[str, Any]) -> Any:
    made = parts()
    model, (x, y) = given.pop("model", made["model"]), made["train"]
    optimizer = given.pop("optimizer", None) or torch.optim.SGD((model if isinstance(model, nn.Module) else made["model"]).parameters(), lr=0.1)
    store, batches = given.pop("store", None), given.pop("batches", None)
    settings = {"loss": squared, "data": torch.utils.data.TensorDataset(x, y), "check": 0.0, **given}
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4)
    with ik.Tape(store, model, optimizer, **settings) as taped:
        for _ in range(2):
            for _, (inputs, target) in taped.batches(loader if batches is None else batches):
                optimizer.zero_grad()
                squared(model(inputs), target).mean().backward()
                optimizer.step()
    return ik.estimate(taped.trajectory(test=made["test"])).drop_attrs()


def same_tape(every: dict[str, Any], found: Any, given: Mapping[str, Any]) -> str:
    """What is wrong with the scores of a run that was taped with a loss that may be the loop's."""
    return "" if found.equals(tape(every, {})) else "other scores than those of the loop's own loss"


def settings_of(cls: Any, /, **kinds: Kind) -> Draw:
    """An optimizer, schedule, estimator ... of odd settings."""
    return mixed(cls.__name__, lambda every, given: cls(**given), **kinds)


def evaluation_of(cls: Any, /, **kinds: Kind) -> Draw:
    """An evaluation of odd settings, whose mistakes may be found when it is known what is evaluated."""

    def make(every: dict[str, Any], given: dict[str, Any]) -> Any:
        made = cls(**given)
        made.check(every["work"], {"dit": dit.DIT()})
        return made

    return mixed(cls.__name__, make, **kinds)


def optimizer_of(cls: Any, /, **kinds: Kind) -> Draw:
    def make(every: dict[str, Any], given: dict[str, Any]) -> Any:
        return cls(**{"lr": 0.1, **given})

    rate = number([0.25, 0.0], [-1.0, float("inf"), -float("inf"), -1e-300, [0.1]])
    common = {
        "lr": rate, "clip_norm": number([0.5], [0.0, -1.0], none=True), "clip_value": number([0.5], [0.0, -1.0], none=True),
        "clip_norm_type": number([2.0, 3.0], [0.0, -1.0]), "maximize": flag(), "groups": groups_kind,
    }  # fmt: skip
    if cls is ik.Muon:
        del common["maximize"]
    return mixed(cls.__name__, make, **{**common, **kinds})


def groups_kind(r: random.Random) -> Value:
    g = ik.Group(("weight",), {"lr": 0.2})
    good = [((g,), (g,)), ([g], (g,)), ((), ()), (g, (g,))]
    it, means = r.choice(good)
    return r.choice([Value(repr(it), it, means), *bad("weight", None, 3, [{"params": 1}], [None], (object(),), {g: 1})])


def group(every: dict[str, Any], given: dict[str, Any]) -> Any:
    made = ik.Group(**{"params": ("weight",), "changes": {"lr": 0.2}, **given})
    return ik.SGD(lr=0.1, groups=(made,))


def patterns_kind(r: random.Random) -> Value:
    return r.choice([same(("weight",)), Value("list", ["weight"], ("weight",)), *bad("weight", None, 3, (3,), [None], b"weight", object())])


def changes_kind(r: random.Random) -> Value:
    good = [same({"lr": 0.3}), same({}), Value("numpy", {"lr": np.float64(0.3)}, {"lr": 0.3})]
    odd = bad({"lr": -1}, {"lr": float("nan")}, {"speed": 1}, {3: 1}, None, [("lr", 1)], "lr", {"lr": "1"}, {"lr": None}, {"groups": ()}, {"lr": True}, {"momentum": -1})
    return r.choice([*good, *odd])


def betas_kind(r: random.Random) -> Value:
    good = [same((0.8, 0.9)), Value("list", [0.8, 0.9], (0.8, 0.9)), Value("array", np.array([0.8, 0.9]), (0.8, 0.9))]
    odd = bad(0.9, (0.9,), (0.9, 0.9, 0.9), (1.0, 0.9), (-0.1, 0.9), (float("nan"), 0.9), ("a", "b"), None, "ab", (True, 0.9), (0.9, None), {0.8, 0.9}, (0.9j, 0.9), 3)
    return r.choice([*good, *odd])


def order_kind(r: random.Random) -> Value:
    order = [[0, 1, 2, 3], [4, 5, 6, -1]]
    good = [torch.tensor(order), np.array(order), order, torch.tensor(order).int()]
    it = r.choice(good)
    odd = bad(
        [[0, 8]],
        [[-1, -1]],
        [[0, -2]],
        [0, 1],
        [],
        [[]],
        "order",
        3,
        torch.tensor(order).float(),
        [[0.5, 1]],
        [[float("nan"), 1]],
        [["0", "1"]],
        [[True, False]],
        [[0, 1], [2]],
        {0: 1},
        object(),
        torch.zeros(2, 0),
        [[None, 1]],
        np.array(order) + 0j,
        [[10**30, 1]],
    )
    return r.choice(odd) if r.random() < 0.6 else Value(repr(it), it, torch.tensor(order))


def schedule_kind(r: random.Random) -> Value:
    class Odd(ik.Schedule):
        def __init__(self, given: Any) -> None:
            self.given = given

        def factors(self, steps: int) -> Any:
            return self.given

    good = [same(ik.Constant()), same(ik.Cosine(warmup=1)), same(ik.Factors((1.0, 0.5, 0.25, 0.0)))]
    odd = bad(
        ik.Factors((1.0,)), ik.Constant, "cosine", None, 3, Odd(None), Odd("abcd"), Odd([float("nan")] * 4), Odd([1.0] * 3), Odd([1j] * 4), Odd([[1.0]] * 4), Odd([1e308] * 4), Odd([None] * 4), Odd([float("inf")] * 4)
    )
    return r.choice([*good, *odd])


def info_kind(r: random.Random) -> Value:
    return r.choice([same({"a": 1}), *bad(None, "a", 3, {"a": object()}, {"a": torch.ones(2)}, {3: {1}}, [1], {"a": b"x"})])


def scores_pair(r: random.Random) -> Value:
    x = [1.0, 3.0, 2.0, 4.0, 7.0]
    good = [torch.tensor(x), torch.tensor(x).double(), torch.tensor(x).int(), torch.tensor(x).half(), torch.tensor(x).requires_grad_(), torch.tensor(x * 2)[::2][:5] * 0 + torch.tensor(x)]
    odd = bad(
        x,
        np.array(x),
        None,
        "x",
        torch.tensor(x[:4]),
        torch.tensor([float("nan"), *x[1:]]),
        torch.tensor([float("inf"), *x[1:]]),
        torch.tensor(x) + 0j,
        torch.tensor(1.0),
        torch.zeros(0),
        torch.zeros(5, device="meta"),
        torch.tensor(x).to_sparse(),
        3,
        object(),
    )
    it = r.choice(good)
    return r.choice([Value(f"tensor {it.dtype}", it, torch.tensor(x)), *odd])


def calls() -> dict[str, Draw]:
    """Everything that may be called, by name."""
    seed = whole([0, 7], [-(2**70), 2**70])
    at_least_1 = [0, -1, -(10**30)]
    betas, eps = betas_kind, number([1e-8, 0.1], [-1.0, float("inf")])
    decay, momentum = number([0.0, 0.1], [-1.0, float("inf")]), number([0.0, 0.9], [-1.0, float("inf")])
    rows, strategies = _Later("run", "other run"), ["auto", "batch", "loop"]
    query = _Later("query", also=(spec("query", QUERY),))
    estimator = _Later("estimator", also=(spec("estimator", ESTIMATOR),))
    recorder = _Later("recorder", also=(spec("recorder", ("full", "every-k:k=3", "revolve:states=3", "rounded:bits=5")),))
    ready = _Later("estimator", "scores", "hole", also=(spec("estimator", ESTIMATOR),))
    w, v = windows, evaluation
    common = {"query": query, "windows": window_kind, "removal": REMOVAL}

    def on(function: Any, *first: str, **usual: Any) -> Any:
        return lambda every, given: function(**{"trajectory": every["run"], **{k: every[x] if isinstance(x, str) and x in every else x for k, x in usual.items()}, **given})

    kinds: dict[str, Draw] = {
        # optimizers, schedules, windows
        "SGD": optimizer_of(ik.SGD, momentum=momentum, dampening=number([0.1], none=False), weight_decay=decay, nesterov=flag_off()),
        "Adam": optimizer_of(ik.Adam, betas=betas, eps=eps, weight_decay=decay, amsgrad=flag()),
        "AdamW": optimizer_of(ik.AdamW, betas=betas, eps=eps, weight_decay=decay),
        "NAdam": optimizer_of(ik.NAdam, betas=betas, momentum_decay=decay, decoupled_weight_decay=flag()),
        "RMSprop": optimizer_of(ik.RMSprop, alpha=number([0.9], [-1.0, 1.5]), eps=eps, momentum=momentum, centered=flag()),
        "Adagrad": optimizer_of(ik.Adagrad, lr_decay=decay, initial_accumulator_value=decay, eps=eps),
        "Adadelta": optimizer_of(ik.Adadelta, rho=number([0.9], [-1.0, 1.5]), eps=eps),
        "Adafactor": optimizer_of(ik.Adafactor, beta2_decay=number([-0.5], [0.5]), d=number([1.0, 2.0], [0.5]), weight_decay=decay),
        "Muon": optimizer_of(ik.Muon, ns_steps=whole([3, 5], [0, -1, 1000]), momentum=momentum, adjust_lr_fn=one_of(["original", "match_rms_adamw"], none=True)),
        "Group": mixed("Group", group, params=patterns_kind, changes=changes_kind),
        "Cosine": settings_of(ik.Cosine, warmup=whole([0, 3], [-1]), final=number([0.0, 0.5], [float("inf")])),
        "Factors": settings_of(
            ik.Factors,
            values=lambda r: r.choice(
                [same((1.0, 0.5)), Value("list", [1.0, 0.5], (1.0, 0.5)), Value("array", np.array([1.0, 0.5]), (1.0, 0.5)), *bad("ab", None, 3.0, (None,), (float("nan"),), ("1",), (1j,), object())]
            ),
        ),
        "Window": mixed("Window", lambda e, g: ik.Window(**{"start": 1, "stop": 4, **g}), start=whole([0, 2], [-1, 4, 9]), stop=whole([2, 9], [0, 1, -1]), removal=REMOVAL),
        "Window.check": mixed("Window.check", lambda e, g: ik.Window(1, 4).check(**g), steps=whole([4, 9], [3, -1])),
        "parse_windows": mixed(
            "parse_windows",
            lambda e, g: w.parse_windows(**{"spec": "full", "epochs": [0, 0, 1, 1], **g}),
            spec=_Later(also=(only_text(window_kind),)),
            epochs=lambda r: r.choice([Value("array", np.array([0, 0, 1, 1]), [0, 0, 1, 1]), Value("tensor", torch.tensor([0, 0, 1, 1]), [0, 0, 1, 1]), *bad([], None, 3, "0011", [0.5], [None], object())]),
            removal=REMOVAL,
        ),
        # things that have options
        "EveryK": settings_of(recorders.EveryK, k=whole([1, 7], at_least_1)),
        "Revolve": settings_of(recorders.Revolve, states=whole([2, 64], [1, *at_least_1])),
        "Rounded": settings_of(recorders.Rounded, bits=whole([1, 51], [0, 52]), k=whole([1, 2], at_least_1)),
        "DIT": settings_of(dit.DIT, curvature=one_of(["hessian", "gauss-newton", "fisher"])),
        "LOO": settings_of(loo.LOO, examples=whole([2, 5], [1, *at_least_1], none=True), seed=seed, strategy=one_of(strategies)),
        "InfluenceFunction": settings_of(
            influence_function.InfluenceFunction,
            damping=number([0.1, 0.0], [-1.0, float("inf")], none=True),
            solver=one_of(["auto", "exact", "cg"]),
            exact_limit=whole([0, 10], [-1]),
            iterations=whole([5, 100], at_least_1),
            tolerance=number([1e-3], [0.0, -1.0, float("inf")]),
            curvature=one_of(["hessian", "gauss-newton", "fisher"]),
        ),
        "EMA": settings_of(
            averages.EMA, decay=number([0.0, 1.0], [-0.1, 1.1, float("inf")]), every=whole([1, 2], at_least_1), start=whole([0, 3], [-1]), by=one_of(["step", "epoch"]), initial=flag(), warmup=flag(), use_buffers=flag()
        ),
        "SWA": settings_of(averages.SWA, every=whole([1, 2], at_least_1), start=whole([0, 3], [-1]), by=one_of(["step", "epoch"])),
        "LDS": evaluation_of(v.LDS, m=whole([3, 10], [2, *at_least_1]), fraction=fraction_open(), seed=seed, resamples=whole([1, 50], at_least_1), level=number([0.5, 0.9], [0.0, 1.0, -1.0]), strategy=one_of(strategies)),
        "LeaveKOut": evaluation_of(v.LeaveKOut, k=ks_kind, groups=whole([3, 8], [2, *at_least_1]), seed=seed, level=number([0.5], [0.0, 1.0])),
        "Brittleness": evaluation_of(v.Brittleness, k=ks_kind, draws=whole([1, 3], at_least_1), queries=whole([1, 3], at_least_1), seed=seed),
        "MislabelAUC": settings_of(v.MislabelAUC, fraction=number([0.5, 1.0], [0.0, -1.0, 1.5]), seed=seed),
        "TaylorSlope": evaluation_of(v.TaylorSlope, directions=whole([1, 3], at_least_1), largest=number([0.1, 1.0], [0.0, 1.5]), smallest=number([1e-6], [0.0, 0.5, -1.0]), precision=one_of(["double", "own"])),
        # queries, by their values
        "Prediction": mixed("Prediction", on_query(queries.Prediction), example=whole([0, 3], [4, -1, 10**30]), output=whole([0], [1, -1, 10**30])),
        "FeatureImportance": mixed("FeatureImportance", on_query(queries.FeatureImportance), example=whole([0, 3], [4, -1]), feature=whole([0, 2], [3, -1, 10**30])),
        "Parameter": mixed(
            "Parameter",
            on_query(queries.Parameter),
            index=lambda r: r.choice([same((2,)), Value("list", [2], (2,)), Value("array", np.array([2]), (2,)), *bad((4,), (-1,), (0, 0), (), 2, None, ("2",), (True,), (1.5,), object(), "2", (10**30,))]),
            name=lambda r: r.choice([same("bias"), same(None), *bad("nothing", "", 3, b"bias", ["bias"], object(), "bi\0as")]),
        ),
        "FixedVector": mixed(
            "FixedVector",
            on_query(queries.FixedVector),
            vector=lambda r: r.choice(
                [
                    same(torch.ones(4)),
                    Value("int", torch.ones(4).long(), torch.ones(4)),
                    Value("array", np.ones(4, np.float32), torch.ones(4)),
                    Value("double", torch.ones(4).double(), torch.ones(4)),
                    Value("expanded", torch.ones(1).expand(4), torch.ones(4)),
                    *bad(
                        torch.ones(3), torch.ones(()), None, "ones", torch.ones(4) + 0j, torch.ones(4, device="meta"), torch.full((4,), float("nan")), torch.ones(0, 4), torch.ones(4).to_sparse(), object(), 3, ["a"] * 4
                    ),
                ]
            ),
        ),
        # the registry
        "make": mixed(
            "make",
            lambda e, g: ik.make(**{}, **{}) if not g else make_of(g),
            spec_is_right,
            kind=_Later(also=(one_of(["estimator", "query", "recorder"]),)),
            text=_Later(also=(spec("query", QUERY), spec("query", ("feature-importance:feature=1",)))),
        ),
        "make override": mixed("make override", lambda e, g: ik.make("recorder", "every-k", **g), k=whole([1, 7], at_least_1), unknown=_Later()),
        "make workload": mixed(
            "make workload",
            lambda e, g: ik.record(ik.make("workload", "mnist-1v7-lr", **{"n_train": 12, "epochs": 1, **g})),
            n_train=whole([6, 9], [0, -1, 10**9], none=True),
            epochs=whole([1, 2], [0, -1], none=True),
            lr=number([0.1], [-1.0, float("inf")], none=True),
            batch_size=whole([4, 64], [0, -1, 10**12], none=True),
            seed=whole([0, 7]),
            setting=one_of(["paper", "trained"]),
        ),
        "names": mixed("names", lambda e, g: registry.names(**g), kind=_Later(also=(one_of(["estimator", "query"]),))),
        "describe": mixed("describe", lambda e, g: registry.describe(**g), kind=_Later("None", also=(one_of(["recorder"], none=True),))),
        "load": mixed("load", lambda e, g: registry.load(**{"kind": "recorder", "name": "full", **g}), kind=_Later(also=(one_of(["recorder"]),)), name=_Later(also=(one_of(["full", "every-k"]),))),
        "split": mixed("split", lambda e, g: registry.split(**g), text=_Later("text", also=(one_of_texts,))),
        "resolve": mixed("resolve", lambda e, g: registry.resolve(**{"kind": "recorder", "given": "full", **g}), kind=_Later(also=(one_of(["recorder"]),)), given=_Later("recorder", also=(one_of(["full", "every-k"]),))),
        "spec": mixed("spec", lambda e, g: registry.spec(**g), thing=_Later("query", "estimator", "recorder")),
        # the problem
        "Workload": mixed(
            "Workload",
            lambda e, g: planned(**{**parts(), **g}),
            epochs=whole([1, 3], [0, -1, 10**9, 10**30]),
            batch_size=whole([4, 8, 64], [0, -1, 10**12]),
            l2=number([0.0, 0.1], [-1.0, float("inf")]),
            seed=seed,
            shuffle=flag(),
            drop_last=flag(),
            order=order_kind,
            train_ids=ids_kind(8),
            test_ids=ids_kind(4),
            target_key=one_of_text("labels"),
            name=one_of_text("tiny"),
            info=info_kind,
            schedule=schedule_kind,
            optimizer=_Later("optimizer"),
            model=_Later("model"),
            loss=_Later("a function", "model", "torch optimizer"),
            train=_Later(),
            test=_Later(),
            validation=_Later(),
        ),
        "train on odd data": mixed("train on odd data", train, train_is_right, **data_kinds()),
        "train odd models": mixed("train odd models", train, train_is_right, model=models_kind, loss=losses_kind),
        "train at odd rates": mixed("train at odd rates", train, train_is_right, optimizer=rates_kind),
        # verbs
        "record": mixed(
            "record",
            lambda e, g: ik.record(**{"workload": e["work"], **g}),
            workload=_Later("work"),
            recorder=recorder,
            window=lambda r: r.choice(
                [
                    same((0, 4)),
                    Value("list", [1, 3], (1, 3)),
                    Value("numpy", (np.int64(1), 3), (1, 3)),
                    *bad((0, 9), (3, 1), (1.5, 3), ("0", "4"), 3, "full", (0,), (0, 1, 2), (None, 4), (True, 4), object(), (-1, 4), (float("nan"), 4), ik.Window(0, 4)),
                ]
            ),
            resume=flag_off(),
            step=_Later(),
            store=paths_bad,
        ),
        "record here": mixed("record here", record_here, store=paths_bad),
        "open": mixed("open", lambda e, g: ik.open(**{"store": e["store"], "workload": e["work"], **g}), store=_Later("store", "store text"), workload=_Later("work")),
        "verify": mixed("verify", lambda e, g: ik.verify(**{"run": e["run"], **g}), run=_Later("run", "other run"), spans=whole([1, 3], [-1, 0], none=True)),
        "estimate": mixed("estimate", on(ik.estimate), trajectory=rows, **common, estimator=estimator, average=average_kind),
        "contributions": mixed("contributions", on(ik.contributions), trajectory=rows, query=query, estimator=estimator, at=at_kind, average=average_kind, store=paths_bad),
        "sum_over_windows": mixed("sum_over_windows", lambda e, g: ik.sum_over_windows(**{"found": e["contributions"], **g}), found=_Later("contributions"), windows=window_kind, removal=REMOVAL),
        "sum of scores": mixed(
            "sum of scores",
            lambda e, g: ik.sum_over_windows(**{"found": e["scores"], "windows": [ik.Window(0, 4)], **g}),
            found=_Later("scores", "contributions", "hole", "other scores"),
            windows=lambda r: r.choice([same([ik.Window(0, 4)]), *bad([ik.Window(1, 4)], [], 3, [None], ["a"], "full", None, [ik.Window(0, 4, "window")], object())]),
        ),
        "compare": mixed(
            "compare",
            lambda e, g: ik.compare(**{"workload": e["run"], "estimators": ["dit"], "reference": "if", **g}),
            workload=_Later("run", "other run", "work"),
            estimators=_Later("estimator", also=(several_kind,)),
            reference=estimator,
            **common,
            top=TOP,
            average=average_kind,
            each=_Later("a function"),
        ),
        "compare anew": mixed("compare anew", lambda e, g: ik.compare(**{"workload": e["work"], "estimators": ["dit"], "reference": "if", **g}), seeds=seeds_kind, recorder=recorder),
        "remove": mixed("remove", on(ik.remove, ids=[1, 3]), trajectory=rows, ids=remove_ids, **common, estimator=ready, parts=whole([1, 3], at_least_1), average=average_kind),
        "verify_top": mixed(
            "verify_top",
            on(ik.verify_top, top=2),
            trajectory=rows,
            **common,
            estimator=ready,
            top=whole([1, 3, 100], at_least_1),
            which=one_of(["harmful", "helpful", "raises", "lowers"], none=True),
            strategy=one_of(strategies),
            average=average_kind,
        ),
        "trust": mixed(
            "trust", on(ik.trust, examples=4), trajectory=rows, **common, estimator=ready, method=one_of(["auto", "retrain", "smooth"]), examples=whole([3, 5], [2, *at_least_1]), seed=seed, strategy=one_of(strategies)
        ),
        "evaluate": mixed(
            "evaluate",
            on(ik.evaluate, evaluations="lds:m=4"),
            trajectory=rows,
            **common,
            evaluations=_Later(also=(spec("evaluation", ("lds:m=4", "leave-k-out:groups=3")),)),
            estimators=_Later("estimator", also=(several_kind,)),
            scores=_Later("scores", "hole"),
            average=average_kind,
            subsets=paths_bad,
        ),
        "detection": mixed("detection", lambda e, g: v.detection(**{"scores": e["one"], "corrupted": e["mask"], **g}), scores=_Later("one", "influence"), corrupted=_Later("mask", also=(mask_kind,))),
        "flipped": mixed("flipped", lambda e, g: v.flipped(**{"workload": e["work"], **g})[1], workload=_Later(), fraction=number([0.5, 1.0], [0.0, -1.0, 1.5]), seed=seed),
        "over_seeds": mixed(
            "over_seeds",
            lambda e, g: v.over_seeds(**{"found": [{"a": e["lds"]}] * 2, "seeds": [0, 1], **g}),
            found=_Later(also=(lambda r: r.choice(bad([], None, [1], [{}, 1])),)),
            seeds=_Later("a list", also=(lambda r: r.choice(bad([0], [], None, "01", [0, 1, 2])),)),
        ),
        "summary": mixed("summary", lambda e, g: v.summary(**{"result": e["lds"], **g}), result=_Later("lds"), evaluation=_Later("None")),
        "evaluation_of": mixed("evaluation_of", lambda e, g: v.evaluation_of(**g), result=_Later("lds")),
        "LDS.table": mixed("LDS.table", lambda e, g: str(v.LDS().table(**g)), result=_Later("lds")),
        # metrics
        **{m.__name__: metric(m) for m in (metrics.pearson, metrics.spearman, metrics.kendall, metrics.agreement)},
        "jaccard": mixed("jaccard", lambda e, g: metrics.jaccard(**{"x": torch.tensor([2.0, 1.0, 4.0]), "y": torch.tensor([1.0, 2.0, 3.0]), **g}), fraction=number([0.5, 1.0], [0.0, -1.0, 1.5]), top=TOP),
        "border_ties": mixed(
            "border_ties",
            lambda e, g: metrics.border_ties(**{"x": torch.tensor([2.0, 2.0, 1.0, 4.0]), **g}),
            x=_Later("tensor", also=(scores_alone,)),
            fraction=number([0.5, 1.0], [0.0, -1.0, 1.5]),
            top=TOP,
            resolution=number([0.5, 0.0], [-1.0], none=True),
        ),
        "top_words": mixed("top_words", lambda e, g: metrics.top_words(**g), top=TOP),
        # pictures
        "plot.scatter": mixed(
            "plot.scatter",
            lambda e, g: plot.scatter(**{"result": e["comparison"], "estimator": "dit", **g}),
            result=_Later("comparison"),
            estimator=_Later(also=(one_of(["dit", "if"]),)),
            metric=one_of(["spearman", "jaccard"]),
            ax=_Later(),
        ),
        "plot.agreement": mixed("plot.agreement", lambda e, g: plot.agreement(**{"result": e["comparison"], **g}), result=_Later("comparison"), metric=one_of(["spearman", "jaccard"]), figure=_Later()),
        "plot.detection": mixed("plot.detection", lambda e, g: plot.detection(**{"result": e["found"], **g}), result=_Later("found"), ax=_Later()),
        "plot.precision_recall": mixed("plot.precision_recall", lambda e, g: plot.precision_recall(**{"result": e["found"], **g}), result=_Later("found"), ax=_Later()),
        "plot.extremes": mixed(
            "plot.extremes",
            lambda e, g: plot.extremes(**{"scores": e["one"], "pictures": e["pictures"], **g}),
            scores=_Later("one", "hole's one"),
            pictures=_Later("pictures"),
            count=whole([1, 3], at_least_1),
            figure=_Later(),
        ),
        "plot.timeline": mixed("plot.timeline", lambda e, g: plot.timeline(**{"scores": e["influence"][0], **g}), scores=_Later(), count=whole([1, 3], at_least_1), ax=_Later(), ids=some_ids),
        "plot.predicted": mixed("plot.predicted", lambda e, g: plot.predicted(**{"result": e["lds"], **g}), result=_Later("lds"), figure=_Later()),
        "plot.diverging": mixed("plot.diverging", lambda e, g: plot.diverging(**g), better=one_of(["lower", "higher"], none=True)),
        "plot.new_figure": mixed("plot.new_figure", lambda e, g: plot.new_figure(**{"width": 3.0, "height": 3.0, **g}), width=number([2.0], [0.0, -1.0, float("inf")]), height=number([2.0], [0.0, -1.0])),
        "plot.whole_numbers": mixed("plot.whole_numbers", lambda e, g: plot.whole_numbers(**g), ax=_Later()),
        # a run, and a tape
        "Trajectory.state": mixed("Trajectory.state", lambda e, g: e["run"].state(**g).theta, t=whole([0, 4], [5, -1, 10**30])),
        "Trajectory.evaluated": mixed("Trajectory.evaluated", lambda e, g: e["run"].evaluated(**g).theta, t=whole([0, 4], [5, -1])),
        "own query": mixed("own query", lambda e, g: ik.estimate(e["run"], **g).drop_attrs(), query=query_kind),
        "own query, retrained": mixed("own query, retrained", lambda e, g: ik.estimate(e["run"], estimator="loo", **g).drop_attrs(), query=query_kind),
        "own estimator": mixed("own estimator", lambda e, g: ik.estimate(e["run"], **g).drop_attrs(), estimator=estimator_kind),
        "own penalty": mixed("own penalty", tape, penalty=penalty_kind),
        "own loss on a tape": mixed("own loss on a tape", tape, same_tape, loss=losses_kind),
        "Tape": mixed(
            "Tape",
            tape,
            store=paths_bad,
            recorder=recorder,
            reduction=one_of(["mean"]),
            accumulate=whole([1], [0, -1, 2], none=True),
            clip_norm=number([1e9], [0.0, -1.0], none=True),
            clip_value=number([1e9], [0.0, -1.0], none=True),
            clip_norm_type=number([2.0], [0.0, -1.0]),
            separable=flag(),
            ids=ids_kind(8, none=True),
            resume=flag_off(),
            check=number([0.0, 1.0], [-0.1, 1.1]),
            tolerance=number([1e-2], [-1.0, float("inf")]),
            name=one_of_text("mine"),
            target_key=one_of_text("labels"),
            model=_Later("model"),
            optimizer=_Later("torch optimizer"),
            loss=_Later("a function", "model", "torch optimizer"),
            data=_Later("a list", "pictures", "tensor", "mask"),
            collate=_Later("a function", "model"),
            forward=_Later("a function", "model"),
            penalty=_Later("a function", "model"),
            scaler=_Later(),
            scheduler=_Later(),
            batches=_Later(),
        ),
    }
    return kinds


def scores_alone(r: random.Random) -> Value:
    found = scores_pair(r)
    return found if not isinstance(found.it, torch.Tensor) or found.it.shape != (4,) else scores_alone(r)


def metric(function: Any) -> Draw:
    """A call of one of the metrics of two sets of scores."""

    def make(every: dict[str, Any], given: dict[str, Any]) -> Any:
        x, y = torch.tensor([2.0, 1.0, 4.0, 3.0, 9.0]), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
        return function(**{"x": x, "y": y, **given})

    return mixed(function.__name__, make, x=_Later("tensor", also=(scores_pair,)), y=_Later(also=(scores_pair,)))


def on_query(cls: Any) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
    return lambda every, given: ik.estimate(every["run"], cls(**given)).drop_attrs()


def make_of(given: dict[str, Any]) -> Any:
    return ik.make(given.get("kind", "query"), given.get("text", "test-loss"))


def spec_is_right(every: dict[str, Any], found: Any, given: Mapping[str, Any]) -> str:
    kind = given.get("kind", "query")
    written = registry.spec(found)
    return "" if ik.make(kind, written) == found else f"{written!r} makes another one"


def flag_off() -> Kind:
    odd = bad("true", "", 2, 0.0, float("nan"), [], [True], np.array([True, False]), 1 + 0j, object())
    return lambda r: r.choice([same(False), Value("numpy", np.False_, False), *odd])


def fraction_open() -> Kind:
    return number([0.25, 0.5], [0.0, 1.0, -1.0, 1.5, float("inf")])


def ks_kind(r: random.Random) -> Value:
    good = [same((1, 2)), same(None), Value("list", [1, 2], (1, 2)), Value("array", np.array([1, 2]), (1, 2))]
    return r.choice([*good, *bad((), (0,), (-1,), 3, "12", (1, 1), (1.5,), ("1",), (True,), (None,), {1}, object(), ((1,),))])


def one_of_text(word: str) -> Kind:
    return lambda r: r.choice([same(word), Value("numpy", np.str_(word), word), *bad(3, None, b"x", [word], object(), 3.5, str)])


def one_of_texts(r: random.Random) -> Value:
    return r.choice([same("a,b"), Value("spaces", " a , b", "a,b"), *bad("", ",", "a,,b", None, 3, b"a,b", ["a"], object())])


def only_text(kind: Kind) -> Kind:
    def draw(r: random.Random) -> Value:
        while not isinstance((found := kind(r)).it, str) or found.stands_for is not found.it and found.stands_for is None:
            pass
        return found if not isinstance(found.stands_for, list) else same(found.it)

    return draw


def several_kind(r: random.Random) -> Value:
    good = [(["dit", "loo"], None), (("dit", "loo"), None), ("dit,loo", None), ([dit.DIT(), "loo"], None), (np.array(["dit", "loo"]), None), (iter(["dit", "loo"]), None)]
    it, _ = r.choice(good)
    odd = bad([], None, 3, [3], [None], ["dit", "dit"][:0], [dit.DIT], b"dit", {"dit": 1.0}[next(iter({"dit"}))], [["dit"]], object(), "dit,,loo", [b"dit"], ["nothing"], "")
    return r.choice(odd) if r.random() < 0.5 else Value(repr(it)[:60], it, ["dit", "loo"])


def mask_kind(r: random.Random) -> Value:
    mask = np.arange(8) % 4 == 0
    good = [mask, torch.tensor(mask), mask.tolist(), xr.DataArray(mask, dims="train")]
    return r.choice(
        [
            *(Value(type(m).__name__, m, mask) for m in good),
            *bad(mask.astype(int), mask[:5], np.zeros(8, bool), np.ones(8, bool), None, "mask", 3, [None] * 8, mask.astype(object), mask[None], mask.astype(float), object()),
        ]
    )


def paths_bad(r: random.Random) -> Value:
    return r.choice(bad("", "a\0b", 3, "x" * 5000, True, object(), [], 1.5, "\ud800", Path("a\0"), "/dev/null", "/dev/null/x", "/proc/nowhere/x", nn.Linear(1, 1), {}))


def record_here(every: dict[str, Any], given: dict[str, Any]) -> Any:
    return ik.record(every["work"], "full", given["store"], resume=True)


def some_ids(r: random.Random) -> Value:
    """Ids, where none at all stand for those of the largest scores."""
    found = remove_ids(r)
    return found if found.it is not None and not (isinstance(found.it, list) and not found.it) else same([1])


def rates_kind(r: random.Random) -> Value:
    odd = [1e308, 1e38, 3.5e38, 1e-320, 0.0, 1e10, 5.0]
    x = r.choice(odd)
    made = ik.SGD(lr=x)
    return Value(f"SGD(lr={x})", made, EITHER)
