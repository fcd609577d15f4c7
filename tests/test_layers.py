"""Imports run one way and files stay small: read with `ast`, so that lazy imports count as well."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "influencekit"

# A unit imports from lower layers, or from its own. Estimators, queries, recorders and workloads never import
# each other: the registry reaches them, by string, at the moment of use.
LAYERS = (
    {
        "catalog",
        "direction",
        "errors",
        "files",
        "metrics",
        "progress",
        "specs",
        "statistics",
        "windows",
        "registry",
    },
    {"training"},
    {"trajectory"},
    {"interfaces"},
    {"effects", "estimators", "queries", "recorders", "tape", "workloads"},
    {"verbs", "plot", "trainers"},
    {"evaluation"},
    {"testing"},
    {"cli"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
NOUNS = {"estimators", "queries", "recorders", "workloads"}

OPENS_STORES = {"tape", "trajectory", "verbs", "files"}
NEVER_IN_NOUNS = {"click", "xarray", "zarr", "matplotlib", "pathlib", "os", "shutil"}

FILES = sorted(PACKAGE.rglob("*.py"))


def names_of(path: Path) -> tuple[str, ...]:
    """`influencekit/queries.py` -> ("queries", "loss"); the package's own `__init__` -> ()."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(path: Path, *, lazy: bool = True) -> Iterator[str]:
    """Dotted names a file imports, without those for the type checker alone; `lazy`: in functions, too."""
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: write imports in full, not relative"
            # `from influencekit import metrics` imports a module, so the name belongs to it
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            todo += ast.iter_child_nodes(node)


def own(path: Path) -> set[str]:
    """The modules or packages directly below influencekit that a file imports."""
    found = {name.split(".")[1] for name in imports(path) if name.startswith("influencekit.")}
    return found & (set(RANK) | {p.stem for p in PACKAGE.iterdir()})


def foreign(path: Path, *, lazy: bool = True) -> set[str]:
    return {name.split(".")[0] for name in imports(path, lazy=lazy)} - {"influencekit"}


each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))


@each_file
def test_every_module_stands_in_a_layer_and_imports_only_downwards(path):
    if not (names := names_of(path)):
        return  # the public names come from everywhere, lazily
    me = names[0]
    assert me in RANK, f"put {me} into LAYERS of this test, where it belongs"
    upwards = {other for other in own(path) if RANK[other] > RANK[me]}
    assert not upwards, f"{me} imports {upwards} from a higher layer"
    others = (own(path) & NOUNS) - {me} if me in NOUNS else set()
    assert not others, f"{me} imports {others}: the registry is the only way between the nouns"


def test_no_circle():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        if names := names_of(path):
            graph.setdefault(names[0], set()).update(own(path) - {names[0]})
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


@each_file
def test_heavy_and_retired_packages_stay_in_their_place(path):
    me = (names_of(path) or ("",))[0]
    assert "matplotlib" not in foreign(path, lazy=False), "import matplotlib inside the function that draws"
    assert "functorch" not in foreign(path), "torch.func has replaced functorch"
    assert "pickle" not in foreign(path), "everything between two verbs is a file that others can open"
    if me not in OPENS_STORES:
        assert "zarr" not in foreign(path), "zarr belongs where stores are opened"
    if me in {"estimators", "queries"}:
        seen = foreign(path) & NEVER_IN_NOUNS
        assert not seen, f"{me} see neither disk nor terminal, yet import {seen}"
    if me in {"", "cli", "registry"}:
        eager = foreign(path, lazy=False) & {"torch", "numpy", "scipy", "xarray", "zarr", "pandas"}
        assert not eager, f"import {eager} at the moment of use"


@each_file
def test_no_file_is_over_350_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350
