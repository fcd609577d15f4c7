"""captum.

TracInCP: sums of learning rate times product, same sign; checkpoints are the states at the ends of
epochs, in files, as it wants them. Its influence functions take sums of losses, so n times the damping of
a mean; they are zero outside the space that they keep. Same sign; divided by n test examples it is the
change by removal.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.case import Case
from benchmarks.peers.method import Method


def _files(case: Case) -> tuple[Case, dict[str, float]]:
    """Checkpoints on disk, with the learning rate of each one's last step."""
    files = {}
    for t in case.ends:
        file = str(case.folder / f"{t}.pt")
        torch.save(case.model(t).state_dict(), file)
        files[file] = case.lr[t - 1]
    return case, files


def _loader(files: dict[str, float]) -> Any:
    def load(model: nn.Module, file: str) -> float:
        model.load_state_dict(torch.load(file))
        return files[file]

    return load


def _tracin(ready: tuple[Case, dict[str, float]]) -> Tensor:
    from captum.influence import TracInCP

    case, files = ready
    made = TracInCP(
        case.model(), case.train(), list(files), _loader(files),
        loss_fn=nn.BCEWithLogitsLoss(reduction="sum"), batch_size=case.n, sample_wise_grads_per_batch=True,
    )  # fmt: skip
    return made.influence((case.test_x, case.test_y), aggregate=True)[0] / len(case.test_x)


def _arnoldi(best: bool, ready: tuple[Case, dict[str, float]]) -> Tensor:
    from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction  # not exported

    case, files = ready
    options = {"hessian_reg": case.n * (case.damping + case.l2)} if best else {}
    made = ArnoldiInfluenceFunction(
        case.model(), case.train(), list(files)[-1], _loader(files),
        loss_fn=nn.BCEWithLogitsLoss(reduction="sum"), batch_size=case.n, sample_wise_grads_per_batch=True,
        **options,
    )  # fmt: skip
    return made.influence((case.test_x, case.test_y)).mean(0)


_IMPORTS = ("captum.influence",)
METHODS = [
    Method("captum TracInCP", _IMPORTS, _tracin, "checkpoint an epoch", _files, trajectory=True),
    Method("captum Arnoldi", _IMPORTS, partial(_arnoldi, False), "its defaults", _files, once=True),
    Method("captum Arnoldi, damped", _IMPORTS, partial(_arnoldi, True), "damping n/(sum of lr)", _files),
]
