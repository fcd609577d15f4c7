"""A callback whose library is not installed says in one line which extra brings it."""

import importlib
import sys

import pytest


@pytest.mark.parametrize("name", ["transformers", "lightning"])
def test_a_missing_library_is_named_with_its_extra(name, monkeypatch):
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"influencekit.trainers.{name}", raising=False)
    with pytest.raises(ImportError) as error:
        importlib.import_module(f"influencekit.trainers.{name}")
    wanted = f"influencekit.trainers.{name} needs {name}: pip install 'influencekit[{name}]'"
    assert str(error.value) == wanted
