"""One word, one meaning: names that were retired (docs/dev/design.md) do not come back."""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = sorted([*ROOT.glob("influencekit/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")])
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/*.md")])

# retired name: what stands in its place
ANYWHERE = {
    "Shares": "Contributions",
    "shares": "contributions, or gradient_products for the numbers <c, g_j>",
    "share": "fraction, or format_percent for its text",
    "occurrences": "contributions",
    "windowed": "sum_over_windows",
    "widened": "batched_trace, or in_float64",
    "doubled": "first_half_twice, or in_float64",
    "coded": "quantize",
    "Held": "TrainableState",
    "Keeper": "TapeWriter",
    "Marks": "ChangeDetector",
    "Place": "LoopPosition",
    "Told": "IndexedDataset",
    "told": "indexed_loader",
    "Fetched": "IndexedBatch",
    "_Keep": "_RecordRandom",
    "_Answer": "_ReplayRandom",
    "serves": "same_trace",
    "_alike": "same_shape",
}
AS_ATTRIBUTES = {  # as plain variables they mean what they say
    "kept": "stored_states",
    "held": "max_states",
    "room": "capacity",
    "loops": "prefers_loop",
}
MODULES = (
    "influencekit.pipeline", "influencekit.occurrences", "influencekit.screen", "influencekit.reliability",
    "influencekit.verification", "influencekit.adjoint", "influencekit.integrations", "influencekit.analysis",
    "influencekit.options", "influencekit.checkpoints", "ik.windowed", "evaluation.groups",
    "evaluation.slope", "evaluation.panel", "evaluation.folder",
)  # fmt: skip


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_retired_names_stay_retired(path):
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.NAME:
            if token.string in ANYWHERE:
                pytest.fail(f"line {token.start[0]}: {token.string} is {ANYWHERE[token.string]} now")
            if token.string in AS_ATTRIBUTES and before in (".", "def"):
                pytest.fail(f"line {token.start[0]}: {token.string} is {AS_ATTRIBUTES[token.string]} now")
        before = token.string


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_name_modules_that_exist(path):
    text = path.read_text(encoding="utf-8")
    if path.name == "CHANGELOG.md":
        return  # it says what was before
    found = [name for name in MODULES if re.search(rf"\b{re.escape(name)}\b", text)]
    assert not found
