"""What a classifier says of examples: its margins, its misses, the labels it would draw itself."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from influencekit import InputError, Workload
from influencekit.extend import logits_of

__all__ = [
    "check_classifier", "log_probabilities", "logits_and_labels", "margin", "misses", "over_positions",
]  # fmt: skip

_ROWS = 256  # examples that are looked at together


def check_classifier(workload: Workload, who: str, sequences: bool = False) -> int:
    """The number of classes. Errors: outputs or labels that are not a classifier's, or, unless `sequences`
    are taken, that classify every position of a sequence; a loss that shifts the labels itself."""
    pieces = torch.arange(workload.n_train, device=workload.device).split(_ROWS)
    with torch.no_grad():
        batch = workload.examples(pieces[0])
        outputs, target = workload.outputs(workload.theta0, batch), workload.target(batch)
        z, y = logits_and_labels(outputs, target, who, sequences)
        if y.dim() > 1 and _is_of_next_labels(workload.loss_of(outputs, batch), z, y):
            raise InputError(
                f"{who} expects the label of each position beside its logits, and this loss takes that of "
                "the next position, as those of transformers do; shift the labels where batches are made "
                "(collate), and not in the loss"
            )
    if z.dim() > 1:
        return z.shape[-1]
    labels = torch.cat([workload.target(workload.examples(rows)).flatten() for rows in pieces])
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise _refusal(who)
    return 2


def logits_and_labels(outputs: object, y: object, who: str, sequences: bool = False) -> tuple[Tensor, Tensor]:
    """Logits, [n] for one logit or [n, class], and labels [n]; of `sequences` [n, position, class] and
    [n, position]."""
    z = logits_of(outputs)
    if isinstance(z, Tensor) and isinstance(y, Tensor):
        if y.dim() in ((1, 2) if sequences else (1,)) and z.shape[:-1] == y.shape and z.shape[-1] > 1:
            if not y.is_floating_point():
                return z, y
        if z.numel() == y.numel() == len(y):
            return z.reshape(-1), y.reshape(-1)
    raise _refusal(who)


def margin(z: Tensor, y: Tensor) -> Tensor:
    """log(p / (1 - p)) [n], or [n, position], p the probability of each one's own class.

    One logit z with label 0 or 1: (2y - 1) z. Several: z_y - logsumexp of the others.
    """
    if z.dim() == 1:
        return z * (2 * y.to(z.dtype) - 1)
    own = _own(z, y)
    return torch.where(own, z, 0.0).sum(-1) - z.masked_fill(own, -torch.inf).logsumexp(-1)


def over_positions(values: Tensor, y: Tensor) -> Tensor:
    """The mean [n] over the positions of a sequence that have a label (0 or more); values [n] as they are."""
    if values.dim() == 1:
        return values
    return (values * positions(y).to(values.dtype).square()).sum(1)


def positions(y: Tensor) -> Tensor:
    """For labels [n, position]: 1 / sqrt(how many have a label) where there is one, and 0 elsewhere."""
    there = y >= 0
    return there / there.sum(1, keepdim=True).clamp(min=1).sqrt()


def misses(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(|p - one-hot y| [n], whether the class with the largest probability is the right one [n])."""
    if z.dim() == 1:
        return 2**0.5 * (z.sigmoid() - y.to(z.dtype)).abs(), (z > 0) == (y > 0.5)
    return (z.softmax(1) - _own(z, y).to(z.dtype)).norm(dim=1), z.argmax(1) == y


def log_probabilities(z: Tensor) -> Tensor:
    """[n, class], or [n, position, class]; for one logit the classes 0 and 1."""
    return torch.stack([logsigmoid(-z), logsigmoid(z)], 1) if z.dim() == 1 else z.log_softmax(-1)


def _is_of_next_labels(losses: Tensor, z: Tensor, y: Tensor) -> bool:
    """Whether losses [n] are cross entropies of each position with the label of the next, summed or mean."""

    def same(z: Tensor, y: Tensor) -> bool:
        total = cross_entropy(z.mT, y, reduction="none").sum(1)
        both = (total, total / (y >= 0).sum(1).clamp(min=1))
        return any(torch.allclose(losses, each.to(losses), rtol=1e-3, atol=0) for each in both)

    return same(z[:, :-1], y[:, 1:]) and not same(z, y)  # both where all logits are equal


def _own(z: Tensor, y: Tensor) -> Tensor:
    """Which class is the example's own, shaped like z; torch's one_hot cannot be batched."""
    return torch.arange(z.shape[-1], device=z.device) == y[..., None]


def _refusal(who: str) -> InputError:
    return InputError(
        f"{who} expects a classifier: one logit an example and labels 0 or 1, or several logits and a whole "
        "number as label; of sequences, which have them at every position, take trak or ekfac:labels=drawn; "
        "for other models an estimator that needs only the loss, such as tracin"
    )
