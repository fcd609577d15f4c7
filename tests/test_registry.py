"""Names, specs and plugins: every spec law over random values, every kind of foreign distribution."""

import enum
import string
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from influencekit import registry
from influencekit._specs import Option
from influencekit.errors import InfluenceKitError, InputError
from influencekit.interfaces import Query
from influencekit.registry import describe, label, make, names, spec, split


class Side(enum.StrEnum):
    LEFT = "left"
    RIGHT = "right-hand"


@dataclass(frozen=True)
class Probe(Query):
    """A query with an option of every kind.

    Only its configuration matters here.
    """

    count: int = 3
    rate: float = 0.5
    strict: bool = False
    words: str = "all"
    limit: int | None = None
    note: str | None = None
    mode: Literal["fast", "exact"] = "fast"
    side: Side = Side.LEFT
    layers: tuple[int, ...] = (8, 8)
    named: tuple[str, float] = ("a", 1.0)
    weights: torch.Tensor | None = None

    def labels(self, workload) -> Sequence[str]:
        return ["probe"]

    def evaluate(self, workload, theta):
        return theta.sum()[None]


@dataclass(frozen=True)
class Needy(Probe):
    place: int = None  # type: ignore[assignment]

    def __post_init__(self):
        if self.count < 0:
            raise ValueError("count must not be negative")


@dataclass(frozen=True, kw_only=True)
class Picky(Probe):
    start: int


def problem(*, seed: int = 0, setting: str = "paper", data_dir: str | None = None) -> tuple:
    """A workload in name only."""
    return seed, setting, data_dir


@pytest.fixture(autouse=True, scope="module")
def probes():
    """Three queries and a workload of this file among the built-ins."""
    extended = {kind: dict(table) for kind, table in registry.BUILTINS.items()}
    extended["query"] |= {cls.__name__.lower(): f"{__name__}:{cls.__name__}" for cls in (Probe, Needy, Picky)}
    extended["workload"]["problem"] = f"{__name__}:problem"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "BUILTINS", extended)
        registry._entries.cache_clear()
        yield
    registry._entries.cache_clear()


text = st.text(max_size=12)
options = st.fixed_dictionaries(
    {},
    optional={
        "count": st.integers(),
        "rate": st.floats(allow_nan=False),
        "strict": st.booleans(),
        "words": text,
        "limit": st.none() | st.integers(),
        "note": st.none() | text.filter(lambda word: word != "none"),
        "mode": st.sampled_from(["fast", "exact"]),
        "side": st.sampled_from(Side),
        "layers": st.lists(st.integers(), max_size=4).map(tuple),
        "named": st.tuples(text, st.floats(allow_nan=False)),
    },
)


@given(options)
def test_make_gives_back_the_object_and_spec_the_spec(values):
    probe = Probe(**values)
    written = spec(probe)
    assert make("query", written) == probe
    assert spec(make("query", written)) == written
    assert not set(written) & set(", \n\t")  # so it survives a comma list and a shell
    assert split(f"{written}, if ,{written}") == [written, "if", written]


def test_a_spec_holds_only_what_is_not_the_default_in_field_order():
    assert spec(Probe()) == "probe"
    assert spec(Probe(layers=(), rate=1e20, limit=7)) == "probe:rate=1e20:limit=7:layers="
    assert spec(Probe(words="a,b: c+%", side=Side.RIGHT)) == "probe:words=a%2Cb%3A%20c%2B%25:side=right-hand"
    assert make("query", "probe:words=a+b=c") == Probe(words="a+b=c")


def test_overrides_are_python_values_and_win():
    weights = torch.ones(2)
    made = make("query", "probe:count=1:rate=2", count=5, weights=weights)
    assert (made.count, made.rate) == (5, 2.0)
    assert made.weights is weights
    assert make("workload", "problem:setting=trained", seed=4) == (4, "trained", None)


@pytest.mark.parametrize(
    "kind, text, message",
    [
        ("query", "prob", "no query named 'prob'; did you mean 'probe'? installed: test-loss,"),
        (
            "estimator",
            "ditt",
            "no estimator named 'ditt'; did you mean 'dit'? installed: dit, sgd-influence, if, loo",
        ),
        ("estimator", "DIT", "did you mean 'dit'?"),
        ("recorder", "zzzzzzz", "no recorder named 'zzzzzzz'; installed: full, every-k"),
        ("workload", "mnist", "no workload named 'mnist'; did you mean 'mnist-1v7-"),
        ("recorders", "full", "no kind 'recorders'; did you mean 'recorder'?"),
        (
            "query",
            "probe:cuont=3",
            "no option of query 'probe' named 'cuont'; did you mean 'count'? options: count=3, ",
        ),
        ("query", "probe:cuont", "expected key=value in query 'probe:cuont', got 'cuont'"),
        ("query", "probe:", "expected key=value"),
        ("query", "probe:count=1:count=2", "option 'count' stands twice"),
        ("query", "probe:count=1.5", "option 'count' expects a whole number, got '1.5'"),
        ("query", "probe:rate=nan", "option 'rate' expects a number, got 'nan'"),
        ("query", "probe:strict=1", "option 'strict' expects true or false, got '1'"),
        ("query", "probe:limit=many", "option 'limit' expects a whole number or none, got 'many'"),
        ("query", "probe:mode=quick", "option 'mode' expects one of fast, exact, got 'quick'"),
        ("query", "probe:side=LEFT", "option 'side' expects one of left, right-hand, got 'LEFT'"),
        (
            "query",
            "probe:layers=8+x",
            "option 'layers' expects values joined by + (a whole number), got '8+x'",
        ),
        ("query", "probe:named=a", "option 'named' expects values joined by + (text, a number), got 'a'"),
        ("query", "probe:weights=1", "option 'weights' has no text form; give it in Python"),
        ("query", "picky", "query 'picky' needs a value for start, as in picky:start=..."),
        ("query", "needy:count=-1", "query 'needy:count=-1': count must not be negative"),
        ("workload", "problem:sead=1", "did you mean 'seed'?"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(kind, text, message):
    with pytest.raises(InputError) as caught:
        make(kind, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_override_is_refused_as_an_unknown_option_is():
    with pytest.raises(InputError, match="no option of query 'probe' named 'strikt'; did you mean 'strict'"):
        make("query", "probe", strikt=True)


@pytest.mark.parametrize(
    "thing, name",
    [
        (Probe(weights=torch.ones(2)), "weights"),
        (Probe(note="none"), "note"),
    ],
)
def test_what_text_cannot_hold_has_a_label_but_no_spec(thing, name):
    with pytest.raises(InputError, match=f"option '{name}' has no text form"):
        spec(thing)
    assert label(thing).startswith(f"probe:{name}=<")


def test_an_unregistered_class_has_a_label_but_no_spec():
    @dataclass(frozen=True)
    class Own(Probe):
        pass

    with pytest.raises(InputError, match="Own is not registered under a name"):
        spec(Own())
    assert label(Own(count=4)).endswith("Own:count=4")
    assert label(Probe(count=4)) == "probe:count=4"


@pytest.mark.parametrize("bad", ["", "dit,", ",dit", "dit,,if"])
def test_an_empty_spec_in_a_list_is_refused(bad):
    with pytest.raises(InputError, match="separated by single commas"):
        split(bad)


@given(st.text(string.printable, max_size=8))
def test_no_text_for_an_option_raises_anything_but_an_input_error(value):
    for option in (Option(key, kind) for key, kind in Probe.__annotations__.items()):
        try:
            option.parse(value)
        except InputError as error:
            assert option.name in str(error)


# --- distributions of others --------------------------------------------------------------------------------

GOOD = """
from dataclasses import dataclass
from influencekit.interfaces import Query

@dataclass(frozen=True)
class Good(Query):
    "A good query."
    k: int = 2
    def labels(self, workload): return ["good"]
    def evaluate(self, workload, theta): return theta[:1]

class Loose(Good): pass
Loose.__dataclass_params__ = None

@dataclass(frozen=True)
class Half(Query):
    def labels(self, workload): return []
"""


def test_a_plugin_is_made_listed_and_written_like_a_built_in(install):
    module = install("acme-good", GOOD, {"good": "Good"})
    assert "good" in names("query")
    assert module not in sys.modules  # nothing was imported yet
    made = make("query", "good:k=5")
    assert (made.k, spec(made)) == (5, "good:k=5")
    row = {row.name: row for row in describe("query")}["good"]
    assert (row.provider, row.summary, row.options, row.status) == (
        "acme-good 1.2",
        "A good query.",
        ("k=2",),
        "ok",
    )


@pytest.mark.parametrize(
    "source, attribute, reason",
    [
        ("raise RuntimeError('no luck\\nat all')", "Good", "RuntimeError: no luck"),
        ("import not_there_at_all", "Good", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("import sys; sys.exit(3)", "Good", "SystemExit: 3"),
        (GOOD, "Missing", "AttributeError"),
        ("Good = 3", "Good", "expected a subclass of influencekit.Query"),
        (GOOD, "Half", "does not define evaluate"),
        (GOOD, "Loose", "expected a frozen dataclass"),
    ],
)
def test_a_broken_plugin_is_an_error_to_its_user_a_row_in_the_list_and_nothing_else(
    install, source, attribute, reason
):
    install("acme-broken", source, {"broken": attribute})
    assert spec(make("query", "probe:count=1")) == "probe:count=1"
    with pytest.raises(
        InfluenceKitError, match="query 'broken' .acme-broken 1.2, acme_broken:.* is broken: "
    ) as caught:
        make("query", "broken")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.warns(RuntimeWarning, match="acme-broken 1.2"):
        row = {row.name: row for row in describe("query")}["broken"]
    assert row.provider == "acme-broken 1.2"
    assert reason in row.status


def test_two_owners_of_one_name_are_an_error_that_names_both(install):
    install("acme-one", GOOD, {"good": "Good", "probe": "Good"})
    install("acme-two", GOOD, {"good": "Good"})
    with pytest.raises(InputError, match="'good' has 2 owners: acme-one 1.2 .* and acme-two 1.2 "):
        make("query", "good")
    with pytest.raises(InputError, match="'probe' has 2 owners: built-in .* and acme-one 1.2 "):
        make("query", "probe")
    assert make("query", "needy").count == 3  # other names are as before
    with pytest.warns(RuntimeWarning, match="2 owners"):
        rows = [row for row in describe("query") if row.name == "good"]
    assert len(rows) == 2
    assert all("2 owners" in row.status for row in rows)


def test_plugins_may_bring_workloads(install):
    source = "def toy(*, seed: int = 0):\n    'A toy.'\n    return seed\n"
    install("acme-toys", source, {"toy": "toy"}, group="influencekit.workloads")
    assert make("workload", "toy:seed=3") == 3


# --- the built-in table -------------------------------------------------------------------------------------


def test_every_built_in_loads_and_is_written_as_its_bare_name():
    rows = describe()
    assert {row.name: row.status for row in rows if row.status != "ok"} == {}
    assert all(row.summary for row in rows)
    for row in rows:
        if row.kind != "workload" and not any("<required>" in option for option in row.options):
            assert spec(make(row.kind, row.name)) == row.name


def test_names_cost_no_heavy_import():
    code = (
        "import sys; from influencekit import registry; [registry.names(k) for k in registry.KINDS];"
        "print(sorted({'torch', 'xarray', 'zarr', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
