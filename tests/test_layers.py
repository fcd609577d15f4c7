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
        _lazy _escape errors _address progress _catalog _statistics _direction _specs _entry_points
        windows metrics _files/__init__ _files/folder _files/new_store _files/open_folder _files/kept_folder
        _files/publishing _files/scratch _sealed registry _code _ambient _bars _exclusive _signals
        _arguments _docstring _entry _labelled _tensors _repeatability _executors/__init__
        _executors/ambient _executors/folder _executors/futures _executors/machine _executors/processes
        _executors/session _executors/slices _executors/specs
    """,
    "a step of training": """
        _training/__init__ _training/accuracy _training/batch _training/buffers _training/call
        _training/checks/__init__ _training/checks/examples _training/checks/model
        _training/checks/non_finite _training/checks/padding _training/checks/separability
        _training/checks/step _training/checks/taylor _training/checks/workload _training/clipping
        _training/curvature
        _training/forward_curvature _training/functional _training/gradients _training/group
        _training/ids _training/in_memory _training/kernels/__init__ _training/kernels/attributes
        _training/kernels/batched_trace
        _training/kernels/ctc _training/kernels/operators _training/kernels/products
        _training/kernels/recompute _training/kernels/same_trace _training/kernels/simplify
        _training/kernels/tracing
        _training/by_part _training/loss_by_part
        _training/layout _training/linear _training/loss_settings _training/losses _training/optimizer
        _training/optimizers/__init__ _training/optimizers/adam _training/optimizers/matrices
        _training/optimizers/moments _training/optimizers/root _training/optimizers/sgd
        _training/optimizers/squares _training/over_ranks _training/parts _training/pieces
        _training/plan _training/push _training/ranks
        _training/reverse _training/schedules _training/spread _training/state _training/step
        _training/traced _training/workload
    """,
    "a recorded run": """
        _trajectory/__init__ _trajectory/binomial_schedule _trajectory/blocks _trajectory/checkpoints
        _trajectory/chunks _trajectory/by_part
        _trajectory/contents _trajectory/digests _trajectory/ending _trajectory/fingerprint
        _trajectory/identity _trajectory/integrity _trajectory/replay_check _trajectory/remote
        _trajectory/rerun
        _trajectory/schema/__init__ _trajectory/schema/arrays _trajectory/schema/attributes
        _trajectory/schema/document _trajectory/schema/files _trajectory/schema/kinds
        _trajectory/schema/root _trajectory/store _trajectory/trajectory _trajectory/unchanged
        _trajectory/code_key
        _trajectory/unfinished _trajectory/writing/__init__ _trajectory/writing/background
        _trajectory/writing/growing _trajectory/writing/ledger _trajectory/writing/writer
    """,
    "what plugins implement": """
        interfaces _average _table
    """,
    "effects, and the nouns without derivatives": """
        _effects/__init__ _effects/adjoint _effects/backward _effects/query_gradient _effects/repeated
        _effects/retrain _effects/step_products _effects/sums queries recorders workloads/__init__
        workloads/draw _effects/centred workloads/files workloads/mnist workloads/models
        workloads/problem averages _effects/selection _effects/mean_of_runs
        _effects/labels _effects/out_of_fold _effects/sliced _effects/repeated_slices _effects/pace
        _effects/query_over_ranks
    """,
    "methods, and recording another's loop": """
        estimators/__init__ estimators/dit estimators/expected_loo estimators/influence_function
        estimators/loo estimators/sgd_influence estimators/final_loss estimators/aum
        estimators/out_of_fold _tape/__init__ _tape/causes _tape/change_detector
        _tape/checks/__init__ _tape/checks/agreement _tape/checks/arguments _tape/checks/collation
        _tape/checks/columns _tape/checks/model _tape/checks/opened _tape/checks/resumed
        _tape/checks/same_loop _tape/ending _tape/exchange
        _tape/fingerprint _tape/hooks _tape/hyperparameters _tape/hypotheses _tape/index_entry
        _tape/intercept_loader _tape/listen _tape/loader _tape/loop_batches _tape/loop_position
        _tape/open_taped _tape/optimizer _tape/random_draws _tape/ranks _tape/recorded _tape/recording
        _tape/reloads _tape/replay_difference _tape/replica _tape/rng _tape/scaling _tape/spot_check
        _tape/step_collector _tape/stream _tape/tape _tape/trainable_state _tape/unwrap _tape/writer
    """,
    "verbs and pictures": """
        _verbs/__init__ _verbs/averaging _verbs/by_part _verbs/ceiling _verbs/compare _verbs/contributions
        _verbs/estimate _verbs/kept_effects _verbs/reseeded _verbs/meaning _verbs/non_finite
        _verbs/open _verbs/own_parts _verbs/record _verbs/remove _verbs/results _verbs/verify
        plot/__init__ plot/agreement plot/detection plot/examples plot/predicted plot/style
        trainers/__init__ trainers/extras trainers/lightning trainers/refusals
        _verbs/moved_runs _verbs/trust/__init__
        _verbs/trust/checks _verbs/trust/horizons _verbs/trust/precision _verbs/trust/retrain
        _verbs/trust/smooth _verbs/trust/spans _verbs/trust/verb _verbs/trust/words plot/trust
        trainers/model_losses trainers/transformers trainers/trl_models
        _verbs/compare_ceiling _verbs/cross_seed
        plot/ceiling _verbs/removal_list _verbs/kept_pieces _verbs/changed_data _verbs/notebook
        _report/contents _report/pictures _report/scores
        _report/record _verbs/executor _verbs/compare_seeds _verbs/removed_sets _verbs/repeated_effects
        _verbs/over_ranks _verbs/shards _verbs/scored _verbs/verify_top
    """,
    "what scores are worth": """
        evaluation/__init__ evaluation/bootstrap evaluation/brittleness evaluation/cache
        evaluation/detection evaluation/lds evaluation/leave_k_out evaluation/mislabel evaluation/qld
        evaluation/qld_parts
        evaluation/retraining evaluation/run evaluation/scoring evaluation/taylor
        _verbs/curate/__init__ _verbs/curate/choice _verbs/curate/choosers _verbs/curate/cost
        _verbs/curate/folds _verbs/curate/kept_run _verbs/curate/result _verbs/curate/retraining
        _verbs/curate/sets _verbs/curate/trusted _verbs/curate/verb _verbs/curate/words
        _verbs/suspects/__init__ _verbs/suspects/calibration _verbs/suspects/cost
        _verbs/suspects/counting _verbs/suspects/exact _verbs/suspects/expectation
        _verbs/suspects/planting _verbs/suspects/outside
        _verbs/suspects/result _verbs/suspects/verb _verbs/suspects/words _verbs/plan/__init__
        _verbs/plan/advice _verbs/plan/disk _verbs/plan/measure _verbs/plan/recording
        _verbs/plan/retraining _verbs/plan/short _verbs/plan/sweeping _verbs/plan/verb _verbs/plan/work
        _verbs/plan/works
    """,
    "the report": """
        _report/__init__ _report/belonging _report/build _report/comparison _report/curve _report/issues
        _report/part_scores
        _report/marks _report/page _report/patterns _report/points _report/predictions _report/repeated
        _report/tracking _report/twins _report/verb _report/words
    """,
    "what is shipped to plugin authors": """
        testing/__init__ testing/estimators testing/evaluations testing/oracle testing/parts testing/queries
        testing/recorders testing/setting testing/suite testing/taped testing/untouched extend
    """,
    "the command line, and the public names": """
        cli/__init__ cli/__main__ cli/app cli/compare cli/comparison cli/console cli/estimate
        cli/evaluations cli/examples cli/formats cli/frames cli/listing cli/output cli/parameters cli/plotting
        cli/problems cli/ranking cli/record cli/reference cli/retrained cli/saving cli/start
        cli/summary cli/user_code cli/verify __init__ __main__ cli/ceiling cli/curate cli/suspects
        cli/report cli/plan cli/ranks
    """,
}

RANK = {file: rank for rank, files in enumerate(LAYERS.values()) for file in files.split()}
NOUNS = {"estimators", "queries", "recorders", "workloads"}

OPENS_STORES = {"_tape", "_trajectory", "_verbs", "_files"}
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
