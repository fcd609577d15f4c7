"""Are a taped run's scores the derivative of the user's own loop, and does it replay bit for bit?

Real data: 48 MNIST digits (1 against 7), a tanh network of two hidden layers of 8 units, 3 epochs in batches
of 12; and 48 beginnings of newsgroup posts, padded to the longest of their batch, for a causal language model
with one attention layer. Each training loop is written twice here: as a user writes it, with a tape; and
without influencekit, on the same batches and random numbers, with a weight on every example's loss.

float64: DIT's scores of the taped run against central differences of the whole second loop with respect to
example weights, along a random direction and for 4 single examples; the query is the mean test loss. The
differences are extrapolated to step 0 (Ridders' method), and the extrapolation's own error estimate stands
beside them. float32: the loop keeps all its states; how many of them are the bits of the recorded ones, and
of those that `every-k:k=5` replays from the stored ones. Bitwise it is because the loop takes the mean of the
per-example losses itself: `binary_cross_entropy_with_logits` with its own mean divides after multiplying, and
is replayed to 5e-7 of an update where the batch size is no power of 2.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from influencekit_paper import newsgroups
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

import influencekit as ik
from benchmarks.shared.results import each

TAKES = "5 min"
QUICK = {"cases": ["SGD, Nesterov"]}
EXAMPLES, BATCH, EPOCHS, LIMIT = 48, 12, 3, 1e-6


class Digits(nn.Module):
    """A tanh network of two hidden layers, with dropout between them."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 8), nn.Tanh()
        )
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)).squeeze(-1)


class Characters(nn.Module):
    """One attention layer; the embedding is tied to the output layer, the positions are frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(128, 6), nn.Parameter(torch.randn(40, 6), requires_grad=False)
        self.mix, self.out = nn.Linear(6, 18), nn.Linear(6, 128, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        h = self.embed(tokens) + self.place[: tokens.shape[1]]
        q, k, v = self.mix(h).chunk(3, -1)
        seen = mask[:, None, :] & torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
        return self.out(torch.tanh(h + F.scaled_dot_product_attention(q, k, v, attn_mask=seen)))


class Noisy(TensorDataset):
    """Digits whose pixels are shifted and blurred anew every time, by all three generators."""

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x, y = super().__getitem__(i)
        moved = x.roll(random.randint(-2, 2), -1) * float(np.random.uniform(0.8, 1.2))
        return moved + 0.3 * torch.randn(moved.shape).to(moved), y


def padded(rows: list[Tensor]) -> dict[str, Tensor]:
    """Tokens, their mask, and what comes next, -100 where there is nothing."""
    tokens = nn.utils.rnn.pad_sequence([row[:-1] for row in rows], batch_first=True)
    labels = nn.utils.rnn.pad_sequence([row[1:] for row in rows], batch_first=True, padding_value=-100)
    return {"tokens": tokens, "mask": labels != -100, "labels": labels}


def per_token(batch: dict[str, Tensor]) -> float:
    return 1 / float(batch["mask"].sum())


def digit_loss(outputs: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, target, reduction="none")


def token_loss(outputs: Tensor, target: Tensor) -> Tensor:
    """The sum over an example's tokens."""
    return F.cross_entropy(outputs.mT, target, reduction="none").sum(1)


@dataclass(frozen=True)
class Case:
    """A loop: what differs from plain steps on digits."""

    optimizer: Callable[[Any], torch.optim.Optimizer]
    step_h: float = 1e-2
    accumulate: int = 1
    clip: float | None = None
    dropout: float = 0.0
    schedule: bool = False
    noisy: bool = False
    text: bool = False

    def problem(self, dtype: torch.dtype) -> tuple[nn.Module, Any, Any, Callable[..., Tensor]]:
        """Model, training set, test batch, per-example loss; the same every time."""
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        if self.text:
            texts = [" ".join(newsgroups.body(post["text"]).split()) for post in newsgroups.posts()]
            codes = [
                torch.tensor(list(t.encode("ascii", "replace"))[: 10 + k % 20]) for k, t in enumerate(texts)
            ]
            rows = [code for code in codes if len(code) > 5][: 2 * EXAMPLES]
            return Characters().to(dtype), rows[:EXAMPLES], padded(rows[EXAMPLES:]), token_loss
        digits = ik.make("workload", "mnist-1v7-dnn", n_train=EXAMPLES)
        (x, y), test = digits.train, tuple(part.to(dtype) for part in digits.test)
        data = (Noisy if self.noisy else TensorDataset)(x.to(dtype), y.to(dtype))
        return Digits(self.dropout).to(dtype), data, test, digit_loss

    def order(self) -> list[list[list[int]]]:
        generator = torch.Generator().manual_seed(1)
        orders = [torch.randperm(EXAMPLES, generator=generator) for _ in range(EPOCHS)]
        return [[rows.tolist() for rows in order.split(BATCH)] for order in orders]

    def forward(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """Outputs and target of a batch."""
        if self.text:
            return model(batch["tokens"], batch["mask"]), batch["labels"]
        return model(batch[0]), batch[1]

    def update(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[int], None]:
        """What follows the backward pass of every micro-batch k."""
        total = EPOCHS * EXAMPLES // BATCH
        rule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total) if self.schedule else None

        def after(k: int) -> None:
            if (k + 1) % self.accumulate:
                return
            if self.clip:
                nn.utils.clip_grad_norm_(model.parameters(), self.clip)
            optimizer.step()
            if rule:
                rule.step()
            optimizer.zero_grad()

        return after


CASES = {
    "SGD, momentum .9, weight decay, cosine schedule": Case(
        lambda m: torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01), schedule=True
    ),
    "SGD, Nesterov": Case(lambda m: torch.optim.SGD(m.parameters(), lr=0.02, momentum=0.9, nesterov=True)),
    "Adam": Case(lambda m: torch.optim.Adam(m.parameters(), lr=0.002), step_h=1e-5),
    "AdamW, clipped at norm .5": Case(
        lambda m: torch.optim.AdamW(m.parameters(), lr=0.002), step_h=1e-5, clip=0.5
    ),
    "two groups, AdamW": Case(
        lambda m: torch.optim.AdamW(
            [
                {"params": m.body.parameters(), "weight_decay": 0.1},
                {"params": m.head.parameters(), "lr": 0.01, "weight_decay": 0.0, "betas": (0.8, 0.99)},
            ],
            lr=0.002,
        ),
        step_h=1e-5,
    ),
    "accumulation over 2, SGD, momentum .9": Case(
        lambda m: torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9), accumulate=2
    ),
    "dropout .3, AdamW": Case(
        lambda m: torch.optim.AdamW(m.parameters(), lr=0.002), step_h=1e-5, dropout=0.3
    ),
    "random augmentation and dropout, SGD, accumulation over 2": Case(
        lambda m: torch.optim.SGD(m.parameters(), lr=0.05), dropout=0.3, noisy=True, accumulate=2
    ),
    "language model, mean over tokens, tied and frozen parameters, AdamW, clipped": Case(
        lambda m: torch.optim.AdamW(m.parameters(), lr=0.01), step_h=4e-6, clip=1.0, text=True
    ),
}


def user_loop(case: Case, dtype: torch.dtype, store: Path, recorder: str) -> tuple[Any, list[Tensor]]:
    """The loop with a tape: the opened run, and the parameters before each step and at the end."""
    model, data, _, loss = case.problem(dtype)
    optimizer, states = case.optimizer(model), []
    update, collate = case.update(model, optimizer), padded if case.text else None

    def parameters() -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad])

    with ik.Tape(
        store, model, optimizer, loss=loss, data=data, recorder=recorder, accumulate=case.accumulate,
        clip_norm=case.clip, reduction=per_token if case.text else "mean", check=1.0,
    ) as tape:  # fmt: skip
        for epoch in case.order():
            generator = torch.Generator().manual_seed(2)
            loader = DataLoader(data, batch_sampler=epoch, collate_fn=collate, generator=generator)
            for k, (_, batch) in enumerate(tape.batches(loader)):
                if k % case.accumulate == 0:
                    states.append(parameters())
                outputs, target = case.forward(model, batch)
                value = F.cross_entropy(outputs.mT, target) if case.text else loss(outputs, target).mean()
                (value / case.accumulate).backward()
                update(k)
    states.append(parameters())
    model, data, test, loss = case.problem(dtype)
    return ik.open(store, model=model, loss=loss, data=data, test=test, collate=collate), states


def plain_loop(case: Case, weights: Tensor) -> float:
    """The mean test loss after training with these example weights; PyTorch alone."""
    model, data, test, loss = case.problem(torch.float64)
    update = case.update(model, case.optimizer(model))
    model.train()
    for epoch in case.order():
        for k, rows in enumerate(epoch):
            batch = (padded if case.text else default_collate)([data[i] for i in rows])
            outputs, target = case.forward(model, batch)
            count = int((target != -100).sum()) if case.text else len(rows)
            ((weights[rows] * loss(outputs, target)).sum() / (count * case.accumulate)).backward()
            update(k)
    model.eval()
    with torch.no_grad():
        return float(loss(*case.forward(model, test)).mean())


def derivative(f: Callable[[float], float], h: float) -> tuple[float, float]:
    """f'(0) by central differences with steps h, h/2, ..., extrapolated, and an estimate of its error."""
    rows: list[list[float]] = []
    best, error = float("nan"), float("inf")
    for k in range(6):
        small = h / 2**k
        row = [(f(small) - f(-small)) / (2 * small)]
        for j in range(k):
            row.append(row[j] + (row[j] - rows[-1][j]) / (4 ** (j + 1) - 1))
            moved = max(abs(row[j + 1] - row[j]), abs(row[j + 1] - rows[-1][j]))
            if moved < error:
                best, error = row[j + 1], moved
        rows.append(row)
    return best, error


def directions() -> Iterator[Tensor]:
    """A random direction, and 4 single examples."""
    generator = torch.Generator().manual_seed(3)
    yield torch.randn(EXAMPLES, generator=generator, dtype=torch.float64)
    for i in torch.randperm(EXAMPLES, generator=generator)[:4]:
        yield F.one_hot(i, EXAMPLES).double()


def measure(case: Case, folder: Path) -> dict[str, float]:
    run, _ = user_loop(case, torch.float64, folder / "double.zarr", "full")
    scores = torch.from_numpy(ik.estimate(run, "test-loss", "dit").influence.values[0, 0])
    errors, uncertain = [], []
    for direction in directions():
        # removal minus full: the score is minus the derivative with respect to the weight
        expected, doubt = derivative(lambda h, d=direction: -plain_loop(case, 1 + h * d), case.step_h)  # type: ignore[misc]
        scale = max(abs(expected), float(scores.abs().max()))
        errors.append(abs(float(scores @ direction) - expected) / scale)
        uncertain.append(doubt / scale)
    kept, states = user_loop(case, torch.float32, folder / "full.zarr", "full")
    far, _ = user_loop(case, torch.float32, folder / "far.zarr", "every-k:k=5")
    assert kept.stored_states == list(range(len(states))) and len(far.stored_states) < len(states)
    same = [sum(torch.equal(r.state(t).theta, theta) for t, theta in enumerate(states)) for r in (kept, far)]
    return {
        **({} if case.text else {"accuracy": float(run.attrs["accuracy"])}),
        "steps": run.steps,
        "along_a_direction": errors[0],
        "single_examples": max(errors[1:]),
        "uncertainty_of_the_differences": max(uncertain),
        "states": len(states),
        "recorded_bitwise": same[0],
        "replayed_bitwise": same[1],
        "replay": str(far.attrs["replay"]),
    }


def answer(cases: list[str]) -> dict:
    def one(name: str) -> dict[str, float]:
        with TemporaryDirectory() as folder:
            return measure(CASES[name], Path(folder))

    return {"limit": LIMIT, "cases": each(cases, one)}


def wrong(report: dict) -> list[str]:
    rows = report["cases"]
    late = [n for n, r in rows.items() if max(r["along_a_direction"], r["single_examples"]) > LIMIT]
    torn = [n for n, r in rows.items() if min(r["recorded_bitwise"], r["replayed_bitwise"]) < r["states"]]
    return [*(f"not exact: {n}" for n in late), *(f"not bitwise: {n}" for n in torn)]
