"""What a figure of trust comes to in words: what to beware of, and what to do about it."""

import numpy as np
from torch import nn

from influencekit._training.workload import Workload

__all__ = ["advice", "below"]

_CORNERS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid)


def below(workload: Workload, trust: np.ndarray, limit: float) -> str:
    """The warning of figures [window] of which some are below the limit; empty if there are none."""
    known = trust[~np.isnan(trust)]
    if not (known < limit).any():
        return ""
    where = f" in {int((known < limit).sum())} of {len(known)} windows" if len(known) > 1 else ""
    lowest = "trust {:.2f} is" if len(known) == 1 else "trust, {:.2f} at worst, is"
    return (
        f"{lowest.format(known.min())} below {limit:g}{where}: leaving examples out does not do what their "
        "scores say. Believe no more of the ranking than you verify by retraining. "
        f"Training would be smoother with {advice(workload)}"
    )


def advice(workload: Workload) -> str:
    """What makes training answer more smoothly, for this workload, best first: benchmarks/trust.py."""
    ideas = []
    corners = {type(m).__name__ for m in workload.model.modules() if isinstance(m, _CORNERS)}
    if corners:
        ideas.append(f"a smooth activation, such as GELU, in place of {' and '.join(sorted(corners))}")
    rules = list(workload.optimizer.members())
    eps = [x for rule in rules if isinstance(x := vars(rule).get("eps"), float)]
    if eps and min(eps) < 1e-2:
        ideas.append(f"a larger eps of {type(rules[0]).__name__}, such as 0.01 (now {min(eps):g})")
    width = int((workload.plan.indices >= 0).sum(1).max())
    if width < workload.n_train:
        ideas.append(f"larger batches (now {width})")
    ideas.append(f"a smaller learning rate (now {float(workload.plan.lr.max()):g})")
    return ", ".join(ideas[:-1]) + f" or {ideas[-1]}" if len(ideas) > 1 else ideas[0]
