"""influencekit's own estimators, and those of its plugin.

Sign: removal minus full already. Set-up records the run; the case's own states are held against it.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.case import Case
from benchmarks.peers.method import Method


def _recorded(case: Case) -> Any:
    import influencekit as ik

    workload = ik.make("workload", f"mnist-1v7-{case.kind}", setting="trained", seed=case.seed)
    run = ik.record(workload)
    if not torch.allclose(run.final.theta, case.states[-1], rtol=1e-4, atol=1e-6):
        raise ValueError("the run that was recorded is not that of the case")
    return run


def _scores(spec: str, run: Any) -> Tensor:
    import influencekit as ik

    return torch.from_numpy(ik.estimate(run, "test-loss", spec).influence.values.ravel())


_NAMES = {
    "dit": "along the run, exact derivative",
    "dit:curvature=gauss-newton": "along the run, Gauss-Newton",
    "if": "damping 1/(sum of lr)",
    "loo": "exact retraining: the truth itself",
    "tracin": "checkpoint an epoch",
    "trak": "plugin; full gradients, damping 1/(sum of lr)",
    "ekfac": "plugin; damping 1/(sum of lr)",
}
METHODS = [
    Method(
        f"influencekit {spec}",
        ("influencekit", "influencekit._verbs", "influencekit_baselines"),
        partial(_scores, spec),
        settings,
        _recorded,
        trajectory=spec.partition(":")[0] in ("dit", "tracin"),
    )
    for spec, settings in _NAMES.items()
]
