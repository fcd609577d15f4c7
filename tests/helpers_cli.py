"""The command line in this process, the tiny run it is tried on, and a tiny workload of Python's."""

import torch
from click.testing import CliRunner, Result
from torch import nn

import influencekit as ik
from influencekit.cli import cli

TINY = "mnist-1v7-lr:epochs=2:n_train=24:batch_size=8"  # 6 steps


def run(*args: str, code: int = 0) -> Result:
    """The command in this process; its exit code is checked."""
    result = CliRunner().invoke(cli, [str(a) for a in args], prog_name="influencekit")
    assert result.exit_code == code, result.output
    return result


def fails(*args: object, code: int) -> str:
    """The one line that a failing command prints on stderr; nothing on stdout, but `check`'s report."""
    result = CliRunner().invoke(cli, [str(a) for a in args], prog_name="influencekit")
    assert result.exit_code == code, result.output
    assert result.stdout == "" or args[0] == "verify"
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    assert "this is a bug" not in lines[0]
    return lines[0]


def workload(**changes: object) -> ik.Workload:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    base: dict[str, object] = {
        "model": nn.Linear(3, 1), "loss": lambda out, y: (out.squeeze(-1) - y) ** 2,
        "train": (x, x[:, 0]), "test": (x, x[:, 1]), "optimizer": ik.SGD(lr=0.1), "batch_size": 4,
    }  # fmt: skip
    return ik.Workload(**base | changes)  # type: ignore[arg-type]
