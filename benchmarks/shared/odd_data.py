"""Examples, ids, models and losses that misbehave, and good ones in odd forms."""

# ruff: noqa: E501 (tables of odd values)
# fmt: off
from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.shared.odd_values import EITHER, Kind, Value, bad, same

__all__ = ["data_kinds", "ids_kind", "losses_kind", "models_kind"]


class Sub(Tensor):
    """A subclass of tensors that does nothing."""


def _forms(x: Tensor, r: random.Random) -> tuple[str, Any, Any]:
    """The same numbers in another form, or another number of them; what they stand for."""
    return r.choice([
        ("as it is", x, x), ("transposed twice", x.clone().T.contiguous().T if x.dim() > 1 else x.clone(), x),
        ("every other", torch.stack([x, x], -1).flatten(-2)[..., ::2], x), ("a parameter", nn.Parameter(x.clone()), x),
        ("requires a gradient", x.clone().requires_grad_(), x), ("a result", (x.clone().requires_grad_() * 1), x),
        ("a subclass", x.as_subclass(Sub), x), ("an array", x.numpy(), EITHER), ("a list", x.tolist(), EITHER),
        ("a view", torch.cat([x, x])[: len(x)], x), ("expanded", x[:1].expand_as(x), EITHER), ("double", x.double(), EITHER),
        ("half", x.half(), EITHER), ("bfloat16", x.bfloat16(), EITHER), ("integers", x.long(), EITHER),
        ("booleans", x > 0, EITHER), ("complex", x + 0j, EITHER), ("sparse", x.to_sparse(), EITHER),
        ("uint8", x.abs().byte(), EITHER), ("inference", _inference(x), x), ("read-only memory", torch.from_numpy(_read_only(x)), x),
    ])  # fmt: skip


def _inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


def _read_only(x: Tensor) -> np.ndarray:
    array = x.numpy().copy()
    array.setflags(write=False)
    return array


def _refused(x: Tensor) -> list[Any]:
    return [
        x.to("meta"), x[:0], x[0].sum(), x[:-1], None, "x", 3, torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), object(),
        torch.nested.nested_tensor([x[:4], x[4:]]), torch.full_like(x, float("nan")), torch.full_like(x, float("inf")),
        x.masked_fill(torch.arange(len(x)).reshape(-1, *[1] * (x.dim() - 1)) == 1, float("nan")),
    ]  # fmt: skip


def data_kinds() -> dict[str, Kind]:
    """`train` and `test` of a workload."""
    from benchmarks.shared.odd_calls import parts

    def kind(name: str) -> Kind:
        def draw(r: random.Random) -> Value:
            x, y = parts()[name]
            which = r.random() < 0.6
            if r.random() < 0.4:
                part = x if which else y
                odd = r.choice(_refused(part))
                pair = (odd, y) if which else (x, odd)
                text = f"{'inputs' if which else 'targets'} {type(odd).__name__} {getattr(odd, 'dtype', '')} {'' if getattr(odd, 'is_nested', False) else tuple(getattr(odd, 'shape', ()))}"
                return Value(text, pair)
            if r.random() < 0.2:
                things = bad(
                    (),
                    (x,)[:0],
                    {},
                    None,
                    3,
                    "xy",
                    {"x": x},
                    [x, None],
                    {3: x, "labels": y},
                    (x, y, y),
                    torch.utils.data.TensorDataset(x, y),
                    torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y)),
                    iter([x, y]),
                    {x, y},
                    np.ones((8, 3)),
                    object(),
                    {"labels": y},
                )
                return r.choice([Value("list", [x, y], (x, y)), *things])
            text, form, means = _forms(x if which else y, r)
            pair = (form, y) if which else (x, form)
            plain = EITHER if means is EITHER else (x, y)
            return Value(f"{'inputs' if which else 'targets'}: {text}", pair, plain)

        return draw

    return {"train": kind("train"), "test": kind("test")}


def ids_kind(n: int, none: bool = False) -> Kind:
    """Names of n examples."""
    letters, numbers = list("abcdefgh"[:n]), list(range(10, 10 + n))

    def draw(r: random.Random) -> Value:
        good = [
            (letters, letters), (tuple(letters), letters), (np.array(letters), letters), (numbers, numbers), (range(10, 10 + n), numbers),
            (np.array(numbers), numbers), (torch.tensor(numbers), numbers), (dict.fromkeys(letters), letters), (iter(letters), letters),
            ([np.str_(x) for x in letters], letters), (torch.tensor(numbers).int(), numbers),
            ([f"{x}\n" for x in letters], EITHER), ([1.5 + k for k in range(n)], EITHER), ([*letters[1:], 3], EITHER), ([2**70 + k for k in range(n)], EITHER),
            ([-1, *(2**63 + k for k in range(n - 1))], EITHER), ([1, *(0.5 + k for k in range(n - 1))], EITHER), ([True, *letters[1:]], EITHER),
            (["\u0661", *letters[1:]], EITHER), (["=1+1", *letters[1:]], EITHER), (["x" * 100_000, *letters[1:]], EITHER),
        ]  # fmt: skip
        odd = bad(
            letters[1:], [*letters, "z"], ["a"] * n, [1, "1", *letters[2:]], [None, *letters[1:]], [float("nan"), *letters[1:]],
            [b"a", *letters[1:]], [(1,), *letters[1:]], [[1], *letters[1:]], [{}, *letters[1:]], ["a\0", *letters[1:]], ["\ud800", *letters[1:]],
            3, object(), np.zeros((n, 2)), [object(), *letters[1:]], [1j, *letters[1:]], [float("inf"), *letters[1:]], b"abcdefgh"[:0], [1, 1.0, *letters[2:]],
            torch.zeros(n), torch.empty(n, device="meta"), [frozenset(), *letters[1:]], ["\0", *letters[1:]],
        )  # fmt: skip
        if none:
            odd = [v for v in odd if v.it is not None]
        it, means = r.choice(good)
        return r.choice(odd) if r.random() < 0.5 else Value(repr(it)[:60], it, means)

    return draw


class _Model(nn.Module):
    """A model whose forward pass is a function of it and its input."""

    def __init__(self, forward: Any, dtype: torch.dtype = torch.float32, **more: Any) -> None:
        super().__init__()
        self.way = forward
        self.weight = nn.Parameter(torch.tensor([[0.3], [-0.2], [0.5]], dtype=dtype))
        for name, x in more.items():
            setattr(self, name, x)

    def forward(self, x: Tensor) -> Any:
        return self.way(self, x)


def _raises(m: nn.Module, x: Tensor) -> Tensor:
    raise ValueError("no\nsuch\nthing")


def _ends(m: nn.Module, x: Tensor) -> Tensor:
    raise SystemExit(3)


def _in_place(m: nn.Module, x: Tensor) -> Tensor:
    x.mul_(1.5)
    return x @ m.weight


def _in_place_once(m: nn.Module, x: Tensor) -> Tensor:
    x.clamp_(min=-1)  # the same again and again
    return x @ m.weight


def _prints(m: nn.Module, x: Tensor) -> Tensor:
    print(end="")
    return x @ m.weight


def _counts(m: nn.Module, x: Tensor) -> Tensor:
    m.calls += 1
    return x @ m.weight * (1 + m.calls % 3)


def _grows(m: nn.Module, x: Tensor) -> Tensor:
    m.calls += 1
    return (x @ m.weight).expand(-1, 1 + m.calls % 2)


def _changes(m: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        m.weight.add_(0.1)
    return x @ m.weight


def models_kind(r: random.Random) -> Value:
    """Models: good ones of odd make, and bad ones."""
    product = lambda m, x: x @ m.weight  # noqa: E731
    shared = nn.Linear(3, 3)
    either = {
        "prints": lambda: _Model(_prints), "in place": lambda: _Model(_in_place), "clamps in place": lambda: _Model(_in_place_once),
        "shared": lambda: nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(3, 1)),
        "zero-size": lambda: _Model(product, empty=nn.Parameter(torch.zeros(0, 3))), "unused": lambda: _Model(product, other=nn.Parameter(torch.ones(2))),
        "a whole-number parameter": lambda: _Model(product, count=nn.Parameter(torch.tensor([3]), requires_grad=False)),
        "a whole-number buffer": lambda: _with_buffer(_Model(product), torch.tensor([3])),
        "double": lambda: _Model(lambda m, x: x.double() @ m.weight, torch.float64), "frozen half": lambda: _Model(product, low=nn.Parameter(torch.ones(2).half(), requires_grad=False)),
        "a scalar parameter": lambda: _Model(lambda m, x: x @ m.weight * m.scale, scale=nn.Parameter(torch.tensor(2.0))),
        "not contiguous": lambda: _Model(product, weight2=nn.Parameter(torch.ones(3, 2).T)), "parametrized": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 1)),
        "layer norm": lambda: nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 1)), "complex inside": lambda: _Model(lambda m, x: (x @ m.weight * 1j).imag),
        "nan_to_num": lambda: _Model(lambda m, x: x.nan_to_num() @ m.weight), "sorts": lambda: _Model(lambda m, x: x.sort(-1).values @ m.weight),
        "eval mode": lambda: nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.5)).eval(),
        "a closure": lambda: _closure(), "counts": lambda: _Model(_counts, calls=0), "changes itself": lambda: _Model(_changes),
    }  # fmt: skip
    refused = {
        "None": lambda: _Model(lambda m, x: None), "a tuple": lambda: _Model(lambda m, x: (x @ m.weight, 3)), "grows": lambda: _Model(_grows, calls=0),
        "raises": lambda: _Model(_raises), "no parameters": lambda: nn.Identity(), "frozen": lambda: nn.Linear(3, 1).requires_grad_(False),
        "half": lambda: nn.Linear(3, 1).half(), "complex": lambda: nn.Linear(3, 1).to(torch.complex64), "two dtypes": lambda: _Model(product, two=nn.Parameter(torch.ones(1).double())),
        "meta": lambda: nn.Linear(3, 1, device="meta"), "dropout": lambda: nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.5)), "other width": lambda: nn.Linear(5, 1),
        "detached": lambda: _Model(lambda m, x: (x @ m.weight).detach()), "a number": lambda: _Model(lambda m, x: 3.0), "lazy": lambda: nn.LazyLinear(1),
        "nan weights": lambda: _filled(float("nan")), "infinite weights": lambda: _filled(float("inf")), "sparse": lambda: _Model(product, s=nn.Parameter(torch.eye(2).to_sparse())),
        "integers out": lambda: _Model(lambda m, x: (x @ m.weight).long()),
    }  # fmt: skip
    if r.random() < 0.5:
        text = r.choice(list(either))
        return Value(text, either[text](), EITHER)
    text = r.choice(list(refused))
    return Value(text, refused[text]())


def _with_buffer(model: nn.Module, x: Tensor) -> nn.Module:
    model.register_buffer("counted", x)
    return model


def _filled(x: float) -> nn.Module:
    model = nn.Linear(3, 1)
    nn.init.constant_(model.weight, x)
    return model


def _closure() -> nn.Module:
    weight = nn.Parameter(torch.ones(3, 1))
    return _Model(lambda m, x: x @ m.weight + x @ weight)


def losses_kind(r: random.Random) -> Value:
    """Losses: good ones of odd make, and bad ones."""

    def square(out: Tensor, y: Tensor) -> Tensor:
        return (out.squeeze(-1) - y) ** 2

    def one_nan(out: Tensor, y: Tensor) -> Tensor:
        return torch.where(y == y.max(), float("nan"), square(out, y))

    def raises(out: Tensor, y: Tensor) -> Tensor:
        raise KeyError("a\nb")

    def odd_one(out: Tensor, y: Tensor) -> Tensor:
        return (square(out, y) * 1.0) if len(y) > 2 else square(out, y).sum()

    def in_place(out: Tensor, y: Tensor) -> Tensor:
        y.add_(1)
        return square(out, y)

    either = [
        square,
        lambda o, y: square(o, y).double(),
        lambda o, y: square(o, y).half().float(),
        lambda out, target: square(out, target),
        nn.L1Loss(reduction="none") if False else square,
        lambda *a: square(*a),
        lambda o, y, batch=None: square(o, y),
        in_place,
        odd_one,
    ]
    refused = [
        lambda o, y: square(o, y).mean(), lambda o, y: square(o, y)[:, None], lambda o, y: None, lambda o, y: [1.0] * len(y), lambda o, y: square(o, y).tolist(),
        lambda o, y: square(o, y).detach(), lambda o, y: square(o, y).long(), lambda o, y: square(o, y) > 0, lambda o, y: square(o, y) + 0j, lambda o: o, one_nan, raises,
        lambda o, y: square(o, y)[:-1], lambda o, y: (square(o, y),), lambda o, y: torch.rand(len(y)) * square(o, y), "mse", None, 3, nn.MSELoss, lambda o, y: square(o, y) * float("inf"),
        lambda o, y: square(o, y).numpy(), nn.MSELoss(), torch.zeros(8),
    ]  # fmt: skip
    if r.random() < 0.4:
        k = r.randrange(len(either))
        return Value(f"fair loss {k}", either[k], same(0) if False else EITHER)
    k = r.randrange(len(refused))
    return Value(f"bad loss {k}", refused[k])


def query_kind(r: random.Random) -> Value:
    """Queries of the user's own: a good one, and such as do not keep to what they say."""
    good = lambda work, theta: (theta @ theta)[None]  # noqa: E731
    one = lambda work: ["norm"]  # noqa: E731
    bad_values = {
        "None": lambda w, x: None, "a number": lambda w, x: 3.0, "a scalar": lambda w, x: x @ x, "two": lambda w, x: x[:2], "a list": lambda w, x: [x @ x],
        "nan": lambda w, x: (x @ x)[None] * float("nan"), "integers": lambda w, x: (x @ x)[None].long(), "a matrix": lambda w, x: (x @ x)[None, None],
        "complex": lambda w, x: (x @ x)[None] + 0j, "raises": _raises, "text": lambda w, x: "norm", "an array": lambda w, x: np.ones(1), "other": lambda w, x: torch.ones(1)[:0],
    }
    bad_labels = {
        "None": lambda w: None, "a number": lambda w: 3, "none at all": lambda w: [], "two": lambda w: ["a", "b"], "twice": lambda w: ["a", "a"], "lists": lambda w: [[1]],
        "raises": lambda w: _raises(w, w), "text": lambda w: "n", "nothing": lambda w: [None],
    }
    x = r.random()
    if x < 0.2:
        return Value("a good query", _query(one, good), _query(one, good))
    text = r.choice(list(bad_values if x < 0.7 else bad_labels))
    if x < 0.7:
        return Value(f"values: {text}", _query(one, bad_values[text]))
    return Value(f"labels: {text}", _query(bad_labels[text], good))


def _query(labels: Any, values: Any) -> Any:
    import influencekit as ik

    class Own(ik.Query):
        def labels(self, workload: Any) -> Any:
            return labels(workload)

        def evaluate(self, workload: Any, theta: Tensor) -> Any:
            return values(workload, theta)

    return Own()


def estimator_kind(r: random.Random) -> Value:
    """Estimators of the user's own."""
    import influencekit as ik

    def own(scores: Any, claims: Any = frozenset()) -> Any:
        class Own(ik.Estimator):
            @property
            def claims(self) -> Any:
                return claims

            def scores(self, trajectory: Any, query: Any, windows: Any) -> Any:
                return scores(trajectory)

        return Own()

    ramp = lambda run: torch.arange(8.0)[None, None]  # noqa: E731
    odd = {
        "None": own(lambda run: None), "a row": own(lambda run: torch.arange(8.0)), "nan": own(lambda run: torch.full((1, 1, 8), float("nan"))), "one nan": own(lambda run: torch.full((2, 1, 8), 1.0)),
        "an array": own(lambda run: np.ones((1, 1, 8))), "raises": own(lambda run: _raises(run, run)), "complex": own(lambda run: torch.zeros(1, 1, 8) + 0j), "infinite": own(lambda run: torch.full((1, 1, 8), float("inf"))),
        "claims a text": own(ramp, "exact"), "claims nothing": own(ramp, None), "seven": own(lambda run: torch.zeros(1, 1, 7)),
    }
    text = r.choice(list(odd))
    return r.choice([Value("ramp", own(ramp), own(ramp)), *[Value(text, odd[text])] * 4])


def penalty_kind(r: random.Random) -> Value:
    """Penalties of a tape whose loop has none."""
    odd: dict[str, Any] = {
        "None": lambda model: None, "a number": lambda model: 3.0, "a vector": lambda model: model.weight.flatten(), "raises": lambda model: _raises(model, model), "text": lambda model: "x",
        "nan": lambda model: model.weight.sum() * float("nan"), "complex": lambda model: model.weight.sum() + 0j, "another": lambda model: model.weight.square().sum(),
        "no argument": lambda: 1.0, "four arguments": lambda model, a, b, c: 1.0,
    }
    text = r.choice(list(odd))
    zero = lambda model: 0 * model.weight.sum()  # noqa: E731
    return r.choice([Value("zero", zero, zero), *[Value(text, odd[text])] * 3])
