"""Arguments: numbers in any guise are the plain ones, and what means nothing is refused in one line."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
import pytest
import torch
from helpers_cli import workload
from hypothesis import given, settings
from hypothesis import strategies as st

import influencekit as ik
from influencekit import evaluation, metrics, plot
from influencekit._arguments import check_options, checked, fitted, real_number, short, whole_number
from influencekit._training.ids import checked_ids, positions_among

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(), inner, max_size=2)
    ),
)


@dataclass(frozen=True)
class Options:
    count: int = 3
    rate: float = 0.5
    strict: bool = False
    name: str | None = None
    mode: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = ()

    __post_init__ = check_options


# laws of the checks ---------------------------------------------------------------------------------------


@given(st.integers(-(2**62), 2**62))
def test_a_whole_number_is_the_same_in_every_guise(n):
    for guise in (n, np.int64(n), torch.tensor(n), np.array(n)):
        found = whole_number("n", guise)
        assert type(found) is int and found == n
    for no in (float(n), str(n), [n], n + 0j, Fraction(n), n + 0.5):
        with pytest.raises(ik.InputError, match="n must be a whole number"):
            whole_number("n", no)


@given(st.floats(allow_nan=False, width=32))
def test_a_number_is_the_same_in_every_guise(x):
    for guise in (x, np.float32(x), np.float64(x), torch.tensor(x), np.array(x)):
        found = real_number("x", guise, finite=False)
        assert type(found) is float and found == x


@given(anything, st.sampled_from([int, float, bool, str, int | None, tuple[int, ...], Literal["a", "b"]]))
def test_what_is_fitted_once_is_fitted_for_good_and_what_is_not_is_one_line(value, annotation):
    try:
        found = fitted("it", annotation, value)
    except ik.InputError as error:
        assert str(error).startswith("it must be ") and len(str(error).splitlines()) == 1
        return
    again = fitted("it", annotation, found)
    assert again is found or again == found
    assert not (isinstance(value, bool) and annotation in (int, float))


@given(anything)
def test_a_value_in_an_error_is_short_and_on_one_line(value):
    assert len(short(value)) < 400 and len(short(value).splitlines()) <= 1


def test_options_and_arguments_are_checked_by_what_stands_behind_the_colon():
    found = Options(count=np.int64(4), rate=torch.tensor(0.25), sizes=[np.int8(1), 2], name=np.str_("x"))
    assert found == Options(4, 0.25, name="x", sizes=(1, 2))
    assert all(type(each) is int for each in (found.count, *found.sizes)) and type(found.name) is str

    @checked
    def twice(count: int, by: float = 2.0) -> float:
        return count * by

    assert twice(np.int64(3), by=np.float32(0.5)) == 1.5 and type(twice(torch.tensor(3))) is float
    for call, words in {
        "count": lambda: twice(2.0),
        "by": lambda: twice(2, by="x"),
    }.items():
        with pytest.raises(ik.InputError, match=f"twice: {call} must be a"):
            words()
    with pytest.raises(TypeError, match=r"\(\) got an unexpected keyword argument '.*'; it takes "):
        twice(2, of=1)


@pytest.mark.parametrize(
    "options",
    [
        {"count": True},
        {"count": 2.0},
        {"rate": float("nan")},
        {"rate": True},
        {"strict": 1},
        {"mode": "c"},
        {"mode": ["a"]},
        {"sizes": 3},
        {"sizes": (1.5,)},
        {"name": b"x"},
        {"rate": 10**400},
    ],
)
def test_an_option_of_another_type_is_named(options):
    (name,) = options
    with pytest.raises(ik.InputError, match=f"Options: {name} must be"):
        Options(**options)


# laws of the API ------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.permutations(["x", "z", "labels"]), st.sampled_from([np.array, torch.tensor, list, tuple]))
def test_the_order_of_keys_and_the_form_of_ids_and_orders_change_nothing(keys, form):
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    parts = {"x": x, "z": x[:, :1] * 2, "labels": x[:, 1]}

    class Two(torch.nn.Linear):
        def forward(self, x, z):
            return super().forward(x + z).squeeze(-1)

    torch.manual_seed(0)
    model = Two(2, 1)

    def scores(keys, form):
        data = {key: parts[key] for key in keys}
        order = [[0, 1, 2], [3, 4, 5]]
        work = workload(
            model=model,
            loss=lambda out, y: (out - y) ** 2,
            train=data,
            test=data,
            train_ids=form(range(10, 16)),
            order=order if form in (list, tuple) else form(order),
            batch_size=np.int64(3),
            epochs=1,
        )
        return ik.estimate(ik.record(work))

    assert scores(keys, form).identical(scores(parts, list))


ids_of = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), unique=True, min_size=2)


@given(ids_of | st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, min_size=2))
def test_ids_are_found_again_by_themselves_and_by_what_they_are_written_as(ids):
    own = checked_ids(ids, len(ids), "ids")
    assert [str(each) for each in own] == [str(each) for each in ids]
    array = np.array(own)
    assert [str(each) for each in array.tolist()] == [str(each) for each in ids]  # as results hold them
    assert positions_among(own, own) == positions_among(map(str, own), own) == list(range(len(ids)))


@pytest.mark.parametrize(
    "odd", [None, float("nan"), float("inf"), True, b"a", "a\0", "\ud800", (1,), [1], {}, 1j, object()]
)
def test_an_id_that_no_store_could_hold_is_refused(odd):
    with pytest.raises(ik.InputError, match="train_ids: expected text or a number"):
        workload(train_ids=[*"abcdefg", odd])
    with pytest.raises(ik.InputError, match="ids: expected text or a number"):
        positions_among([odd], list("ab"))


WORK = {
    "epochs": [True, 1.0, 2.5, "3", 0, -1, None, 10**9, float("nan")],
    "batch_size": [True, 0, -1, 2.5, None, 10**12],
    "seed": [True, 0.5, None, 2**64, -(2**70), "0"],
    "l2": [True, float("nan"), float("inf"), -1, "0", 1j, None],
    "shuffle": [1, "yes", None],
    "name": [3, None],
    "info": [3, {"a": object()}, None],
    "loss": ["mse", None, torch.nn.MSELoss],
    "optimizer": [None, torch.optim.SGD, "sgd"],
    "schedule": [None, "cosine", ik.Cosine, ik.Factors((1.0,))],
    "model": [None, torch.nn.Linear, lambda x: x],
    "order": [[0, 1], [[0, 8]], [["0", "1"]], [[0.5, 1.0]], "order", 3, [[True, False]], torch.zeros(0, 2)],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in WORK.items() for value in values])
def test_a_workload_of_odd_parts_is_refused_in_one_line(name, value):
    with pytest.raises(ik.InputError) as caught:
        assert workload(**{name: value}).plan.steps
    assert len(str(caught.value).splitlines()) == 1


X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
DATA = {
    "meta": X.to("meta"),
    "sparse": X.to_sparse(),
    "an array": X.numpy(),
    "quantized": torch.quantize_per_tensor(X, 0.1, 0, torch.qint8),
    "nested": torch.nested.nested_tensor([X[:4], X[4:]]),
    "empty": X[:0],
    "a scalar": X[0, 0],
    "text": "x",
    "nothing": None,
}


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("kind", DATA)
def test_data_without_plain_values_are_named(part, kind):
    with pytest.raises(ik.InputError, match=f"{part}: "):
        workload(**{part: (DATA[kind], X[:, 0])})


RATES = [float("nan"), float("inf"), -1.0, True, "0.1", None, 1j, [0.1], torch.tensor([0.1, 0.2])]


@pytest.mark.parametrize("rate", RATES, ids=repr)
def test_a_learning_rate_that_is_none_is_refused(rate):
    for rule in (ik.SGD, ik.Adam, ik.RMSprop, ik.Adafactor):
        with pytest.raises(ik.InputError, match=f"{rule.__name__}: lr must be"):
            rule(lr=rate)


def test_a_learning_rate_beyond_the_parameters_type_is_refused_before_training():
    with pytest.raises(ik.InputError, match="learning rate reaches 1e.308, more than torch.float32 holds"):
        ik.record(workload(optimizer=ik.SGD(lr=1e308)))
    with pytest.raises(ik.InputError, match="more than torch.float32 holds"):
        ik.record(workload(optimizer=ik.SGD(lr=0.1, weight_decay=1e308)))


def test_settings_in_other_guises_train_the_same_run():
    plain = ik.Adam(lr=0.5, betas=(0.5, 0.75), groups=(ik.Group(("bias",), {"lr": 0.25}),))
    odd = ik.Adam(
        lr=np.float64(0.5),
        betas=np.array([0.5, 0.75]),
        groups=[ik.Group(["bias"], {"lr": torch.tensor(0.25)})],
    )
    assert odd == plain and repr(odd) == repr(plain)  # by which a store knows it


@pytest.mark.parametrize(
    "text",
    [
        "",
        "step:\u00b2-3",
        "step:0-\u0663",
        "step:1_0-12",
        "step:0-" + "9" * 5000,
        b"full",
        [],
        3,
        [None],
        [(0, 1)],
        ik.Window,
        float("nan"),
    ],
)
def test_windows_that_are_none_are_refused(text, run):
    with pytest.raises(ik.InputError):
        ik.estimate(run, windows=text)


@pytest.mark.parametrize(
    "start, stop", [(float("nan"), 1), (0, float("inf")), (True, 2), (0.0, 1), ("0", 1), (None, 1)]
)
def test_a_window_between_what_are_no_steps_is_refused(start, stop):
    with pytest.raises(ik.InputError, match="window: st.* must be a whole number"):
        ik.Window(start, stop)


@pytest.mark.parametrize(
    "text",
    [
        "every-k:k=\u00b2",
        "every-k:k=\u0663",
        "every-k:k=1_0",
        "every-k:k=",
        "every-k:=3",
        "every-k:",
        "every-k:k=1:k=2",
        "every-k:k=" + "9" * 5000,
        "every-k\0",
        "\x1b[31m",
        " every-k",
        "x" * 10_000,
    ],
)
def test_a_spec_with_odd_characters_is_refused_in_one_line(text):
    with pytest.raises(ik.InputError) as caught:
        ik.make("recorder", text)
    assert str(caught.value).isprintable()


# results handed back --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run():
    return ik.record(workload())


def test_scores_of_other_examples_are_not_taken_for_those_of_this_run(run):
    other = ik.record(workload(train=(X[:6], X[:6, 0])))
    for verb in (ik.verify_top, ik.trust):
        with pytest.raises(ik.InputError, match="of other examples"):
            verb(run, estimator=ik.estimate(other))
    hole = ik.estimate(run)
    hole.influence.values[..., 3] = np.nan
    with pytest.raises(ik.InputError, match="no score"):
        ik.remove(run, ids=[3, 4], estimator=hole)


def test_a_step_of_another_workload_is_not_taken(run):
    with pytest.raises(ik.InputError, match="of this very workload"):
        ik.record(replace(run.workload, l2=0.1), step=run.step)


@pytest.mark.parametrize("odd", [None, 3, "x", X, [], ik.Window(0, 1)], ids=repr)
def test_what_is_no_result_is_named_by_every_picture_and_table(odd):
    for call in (
        lambda: plot.scatter(odd, "dit"),
        lambda: plot.agreement(odd),
        lambda: plot.detection(odd),
        lambda: plot.precision_recall(odd),
        lambda: plot.predicted(odd),
        lambda: plot.timeline(odd),
        lambda: plot.extremes(odd, np.zeros((8, 2, 2))),
        lambda: ik.sum_over_windows(odd),
        lambda: evaluation.summary(odd),
        lambda: evaluation.evaluation_of(odd),
        *(
            lambda one=one: one().table(odd)
            for one in (
                evaluation.LDS,
                evaluation.LeaveKOut,
                evaluation.Brittleness,
                evaluation.MislabelAUC,
                evaluation.TaylorSlope,
            )
        ),
        lambda: evaluation.detection(odd, np.arange(8) > 3),
        lambda: metrics.pearson(odd, torch.ones(3)),
    ):
        with pytest.raises(ik.InputError) as caught:
            call()
        assert len(str(caught.value).splitlines()) == 1
