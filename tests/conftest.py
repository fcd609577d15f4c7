"""One thread, the markers `gpu` and `fresh`, hypothesis without clocks, one recorded run, and plugins."""

import functools
import gc
import os
import signal
import sys
import threading
from pathlib import Path
from unittest import mock

import hypothesis
import pytest
import torch
from helpers_ranks import in_a_fresh_process

torch.set_num_threads(1)
pytest.register_assert_rewrite("helpers_cli", "helpers_writing")  # their assertions show values

# a shell ignores Ctrl-C for what it runs in the background, and so would every process that a test starts
if (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):
    signal.signal(signal.SIGINT, signal.default_int_handler)

# no deadline: a first call may compile or load; in CI (and under tox) the same examples every time
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if {"CI", "TOX_ENV_NAME"} & set(os.environ) else "dev")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
    config.addinivalue_line("markers", "fresh: runs in a process that has run no other test")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch sees none here"))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test marked `fresh` runs in a process of its own."""
    marked = pyfuncitem.get_closest_marker("fresh") is not None
    return (marked and in_a_fresh_process(pyfuncitem)) or None


@pytest.fixture(autouse=True)
def groups_outlive_models():
    """A process group stays until its test has ended. A model in DDP that outlived it would free it, with the
    GIL, and might wait for ever for a thread of gloo's that waits for the GIL (torch 2.13)."""
    begin, groups = torch.distributed.init_process_group, []

    @functools.wraps(begin)
    def begin_and_keep(*args, **kwargs):
        begin(*args, **kwargs)
        groups.append(torch.distributed.group.WORLD)

    with mock.patch.object(torch.distributed, "init_process_group", begin_and_keep):
        yield
    if groups:
        gc.collect()  # models in cycles go first


@pytest.fixture(scope="session")
def recorded(tmp_path_factory) -> Path:
    """A store to be read: the tiny run of the command line's tests."""
    from helpers_cli import TINY

    import influencekit as ik
    from influencekit.cli.problems import WorkloadSource

    path = tmp_path_factory.mktemp("recorded") / "run.zarr"
    ik.record(WorkloadSource(TINY)(0), store=path)
    return path


@pytest.fixture
def install(tmp_path, monkeypatch):
    """install(distribution, module source, {name: attribute}): a plugin on sys.path, gone after the test."""
    from influencekit import registry

    before = set(sys.modules)

    def install(distribution, source, attributes, group="influencekit.queries", summary=""):
        module = distribution.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-1.2.dist-info"
        info.mkdir()
        about = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n"
        (info / "METADATA").write_text(about + (f"Summary: {summary}\n" if summary else ""))
        points = "".join(f"{name} = {module}:{attribute}\n" for name, attribute in attributes.items())
        (info / "entry_points.txt").write_text(f"[{group}]\n{points}")
        registry._entries.cache_clear()
        return module

    monkeypatch.syspath_prepend(tmp_path)
    yield install
    registry._entries.cache_clear()
    for module in set(sys.modules) - before:
        if module.startswith("acme"):
            del sys.modules[module]
