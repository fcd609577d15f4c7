"""Imports run one way, without a circle, and files stay small: every import of every file is read."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "influencekit"

# Every file of the package, once. A file imports from its own layer and from those above it in this table,
# also inside functions and for the type checker. Estimators, queries, recorders and workloads never import
# each other: the registry reaches them, by string, at the moment of use.
LAYERS = {
    "words": """
        lazy errors progress catalog statistics direction specs windows metrics files registry
    """,
    "a step of training": """
        training/__init__ training/accuracy training/batch training/buffers training/call
        training/checks/__init__ training/checks/examples training/checks/model training/checks/non_finite
        training/checks/separability training/checks/step training/checks/taylor training/checks/workload
        training/curvature training/forward_curvature training/functional training/gradients training/ids
        training/in_memory training/kernels/__init__ training/kernels/batched_trace training/kernels/ctc
        training/kernels/operators training/kernels/products training/kernels/same_trace
        training/kernels/simplify training/kernels/tracing training/layout training/linear training/losses
        training/optimizer training/optimizers training/parts training/plan training/push training/reverse
        training/schedules training/state training/step training/traced training/workload
    """,
    "a recorded run": """
        trajectory/__init__ trajectory/binomial_schedule trajectory/fingerprint trajectory/replay_check
        trajectory/store trajectory/trajectory trajectory/writing/__init__ trajectory/writing/background
        trajectory/writing/growing trajectory/writing/ledger trajectory/writing/writer
    """,
    "what plugins implement": """
        interfaces
    """,
    "effects, and the nouns without derivatives": """
        effects/__init__ effects/adjoint effects/backward effects/query_gradient effects/retrain
        effects/step_products effects/sums queries recorders workloads/__init__ workloads/draw
        workloads/files workloads/mnist workloads/models workloads/problem
    """,
    "methods, and recording another's loop": """
        estimators/__init__ estimators/dit estimators/influence_function estimators/loo
        estimators/sgd_influence tape/__init__ tape/change_detector tape/checks/__init__
        tape/checks/arguments tape/checks/collation tape/checks/model tape/checks/opened tape/fingerprint
        tape/loader tape/loop_position tape/open_taped tape/optimizer tape/random_draws tape/recorded
        tape/recording tape/replay_difference tape/replica tape/rng tape/spot_check tape/step_collector
        tape/tape tape/trainable_state tape/writer
    """,
    "verbs and pictures": """
        verbs/__init__ verbs/compare verbs/contributions verbs/estimate verbs/non_finite verbs/open
        verbs/record verbs/remove verbs/results verbs/trust verbs/verify plot/__init__ plot/agreement
        plot/detection plot/examples plot/predicted plot/style trainers/__init__ trainers/cross_entropy
        trainers/extras trainers/intercept_loader trainers/lightning trainers/transformers
    """,
    "what scores are worth": """
        evaluation/__init__ evaluation/bootstrap evaluation/brittleness evaluation/cache
        evaluation/detection evaluation/lds evaluation/leave_k_out evaluation/mislabel
        evaluation/retraining evaluation/run evaluation/scoring evaluation/taylor
    """,
    "what is shipped to plugin authors": """
        testing/__init__ testing/estimators testing/evaluations testing/oracle testing/queries
        testing/recorders testing/setting testing/suite testing/untouched extend
    """,
    "the command line, and the public names": """
        cli/__init__ cli/__main__ cli/app cli/compare cli/comparison cli/console cli/estimate
        cli/evaluations cli/examples cli/listing cli/output cli/parameters cli/plotting cli/problems
        cli/progress cli/ranking cli/record cli/reference cli/retrained cli/saving cli/summary cli/verify
        __init__
    """,
}

RANK = {file: rank for rank, files in enumerate(LAYERS.values()) for file in files.split()}
NOUNS = {"estimators", "queries", "recorders", "workloads"}

OPENS_STORES = {"tape", "trajectory", "verbs", "files"}
NEVER_IN_NOUNS = {"click", "xarray", "zarr", "matplotlib", "pathlib", "os", "shutil"}

FILES = {str(path.relative_to(PACKAGE).with_suffix("")): path for path in sorted(PACKAGE.rglob("*.py"))}
each_file = pytest.mark.parametrize("file", FILES)


def imports(path: Path, *, lazy: bool = True) -> Iterator[str]:
    """Dotted names that a file imports; `lazy`: also in functions and for the type checker."""
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not lazy:
            todo += node.orelse
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: write imports in full, not relative"
            # `from influencekit import metrics` imports a module, so the name belongs to it
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            todo += ast.iter_child_nodes(node)


def own(file: str) -> set[str]:
    """The files of influencekit that a file imports. The public names themselves come from everywhere."""
    found = set()
    for name in imports(FILES[file]):
        first, *parts = name.split(".")
        while first == "influencekit" and parts and "/".join(parts) not in FILES:
            if "/".join([*parts, "__init__"]) in FILES:
                parts.append("__init__")
            else:
                parts.pop()
        if first == "influencekit" and parts:
            found.add("/".join(parts))
    return found - {file}


def foreign(path: Path, *, lazy: bool = True) -> set[str]:
    """The other packages that a file imports."""
    return {name.split(".")[0] for name in imports(path, lazy=lazy)} - {"influencekit"}


def test_the_table_names_every_file_once():
    named = [file for files in LAYERS.values() for file in files.split()]
    assert sorted(named) == sorted(set(named)) == sorted(FILES)


@each_file
def test_imports_run_one_way(file):
    others = own(file)
    upwards = {other for other in others if RANK[other] > RANK[file]}
    assert not upwards, f"{file} imports {upwards} from a higher layer"
    me = file.partition("/")[0]
    nouns = {other.partition("/")[0] for other in others} & NOUNS - {me} if me in NOUNS else set()
    assert not nouns, f"{file} imports {nouns}: the registry is the only way between the nouns"


def test_no_circle():
    graph = {file: own(file) for file in FILES}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


@each_file
def test_heavy_and_retired_packages_stay_in_their_place(file):
    path, me = FILES[file], file.partition("/")[0]
    assert "matplotlib" not in foreign(path, lazy=False), "import matplotlib inside the function that draws"
    assert "functorch" not in foreign(path), "torch.func has replaced functorch"
    assert "pickle" not in foreign(path), "everything between two verbs is a file that others can open"
    if me not in OPENS_STORES:
        assert "zarr" not in foreign(path), "zarr belongs where stores are opened"
    if me in {"estimators", "queries"}:
        seen = foreign(path) & NEVER_IN_NOUNS
        assert not seen, f"{me} see neither disk nor terminal, yet import {seen}"
    if me in {"__init__", "cli", "registry", "extend"}:
        eager = foreign(path, lazy=False) & {"torch", "numpy", "scipy", "xarray", "zarr", "pandas", "rich"}
        assert not eager, f"import {eager} at the moment of use"


@each_file
def test_no_file_is_over_350_lines(file):
    assert len(FILES[file].read_text(encoding="utf-8").splitlines()) <= 350
