"""How well a ranking finds flipped labels."""

from torch import Tensor


def detection(flipped: Tensor, suspicion: Tensor) -> dict[str, float]:
    """`auc`, the probability that a flipped example is more suspicious than another, ties half; `found`,
    how many flipped ones are among the k most suspicious; k, the number of flipped ones."""
    s, k = suspicion.double(), int(flipped.sum())
    pairs = s[flipped][:, None] - s[~flipped]
    auc = (pairs > 0).double().mean() + 0.5 * (pairs == 0).double().mean()
    return {"auc": auc.item(), "found": int(flipped[s.argsort(descending=True)[:k]].sum()), "k": k}
