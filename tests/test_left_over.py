"""Gradients accumulated in groups that do not fill an epoch, against the same loop with weights."""

import copy

import pytest
import torch
from helpers_tape import Examples, N, held_out, losses_at, network, per_example, seed, untraced, vector
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP, BATCH, EPOCHS = 4, 2, 3  # 6 batches an epoch: a group of 4, and 2 left over


class Loop:
    """How the loop divides a loss, when it steps, and when it drops gradients; what the tape is told."""

    group = 0  # the micro-batches that the present group will have, as the loop thinks
    seen = 0

    def divisor(self, k):
        return GROUP

    def steps(self, k):
        return (k + 1) % GROUP == 0

    def epoch(self, optimizer):
        """An epoch begins."""

    options = {"accumulate": GROUP}


class LastGroup(Loop):
    """The last group of an epoch is smaller, and divided by 4 all the same."""

    def steps(self, k):
        return (k + 1) % GROUP == 0 or k == N // BATCH - 1


class OwnSize(LastGroup):
    """Every group is divided by its own size."""

    def divisor(self, k):
        return GROUP if k < GROUP else N // BATCH - GROUP

    options = {"accumulate": None}


class Carried(Loop):
    """What is left over comes into the first step of the next epoch, which has 6 micro-batches."""


class Counted(Loop):
    """Steps are counted through: the first step of the next epoch has 2 of the last."""

    def steps(self, k):
        self.seen += 1
        return self.seen % GROUP == 0


class Dropped(Loop):
    """Gradients are dropped when an epoch begins."""

    def epoch(self, optimizer):
        optimizer.zero_grad()


class Zeroed(Loop):
    def epoch(self, optimizer):
        optimizer.zero_grad(set_to_none=False)


class Sums(LastGroup):
    """The gradients of a group are added, not averaged: by a function of the batch."""

    def divisor(self, k):
        return 1

    options = {"accumulate": GROUP, "reduction": lambda batch: torch.tensor(GROUP / len(batch[1]))}


ORDER = [
    torch.randperm(N, generator=torch.Generator().manual_seed(k)).view(-1, BATCH).tolist()
    for k in range(EPOCHS)
]
LOOPS = [LastGroup, OwnSize, Carried, Counted, Dropped, Zeroed, Sums]


def train(loop, weights=None, tape=None):
    """The loop with a weight for every example: the model at the end."""
    seed()
    data, model = Examples(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=0.01)
    roll = (
        ik.Tape(None, model, optimizer, loss=per_example, data=data, check=1, **loop.options)
        if tape
        else None
    )
    if roll:
        roll.__enter__()
    for epoch in ORDER:
        loop.epoch(optimizer)
        loader = DataLoader(data, batch_sampler=epoch)
        pairs = roll.batches(loader) if roll else [(rows, None) for rows in epoch]
        for k, (ids, batch) in enumerate(pairs):
            x, y = batch if roll else (data.x[ids], data.y[ids])
            w = torch.ones(N, dtype=torch.float64) if weights is None else weights
            ((w[ids] * per_example(model(x), y)).mean() / loop.divisor(k)).backward()
            if loop.steps(k):
                optimizer.step()
                optimizer.zero_grad()
    if roll:
        roll.close()
        return roll, model
    return vector(model)


def test_loss(theta):
    return float(losses_at(theta).mean())


test_loss.__test__ = False


@pytest.mark.parametrize("kind", LOOPS, ids=lambda kind: kind.__name__)
def test_left_over_micro_batches_are_exact(kind):
    tape, model = train(kind(), tape=True)
    base = train(kind())
    assert torch.equal(vector(model), base)
    run = tape.trajectory(test=held_out())
    run.check_replay(0, run.steps)
    assert torch.equal(run.final.theta, base)
    examples = torch.eye(N, dtype=torch.float64)[[0, 3, 7, 11]]
    loo = [test_loss(train(kind(), 1 - e)) - test_loss(base) for e in examples]

    def slope(e, h):
        return (test_loss(train(kind(), 1 - h * e)) - test_loss(train(kind(), 1 + h * e))) / (2 * h)

    dit = [(4 * slope(e, 5e-4) - slope(e, 1e-3)) / 3 for e in examples]
    with untraced():
        for name, want, tolerance in (("loo", loo, 1e-9), ("dit", dit, 1e-5)):
            got = torch.from_numpy(
                ik.estimate(run, "test-loss", name).influence.values.ravel()[[0, 3, 7, 11]]
            )
            gap = (got - torch.tensor(want, dtype=torch.float64)).abs().max() / got.abs().max()
            assert gap < tolerance, (name, float(gap))


# steps that are forgotten --------------------------------------------------------------------------------


def forgetting(step_at, accumulate, zero=True, set_to_none=True, backward=lambda k: True):
    seed()
    data, model = Examples(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    with ik.Tape(None, model, optimizer, loss=per_example, data=data, accumulate=accumulate) as tape:
        for k, (_, (x, y)) in enumerate(tape.batches(DataLoader(data, batch_size=BATCH))):
            if zero:
                optimizer.zero_grad(set_to_none=set_to_none)
            loss = per_example(model(x), y).mean()
            if not backward(k):
                break
            loss.backward()
            if k in step_at:
                optimizer.step()
    return tape.trajectory()


@pytest.mark.parametrize("accumulate", [1, None])
@pytest.mark.parametrize("steps", [{0, 1, 2, 3, 5}, {0, 1, 2, 3, 4}])
def test_a_forgotten_step(accumulate, steps):
    with pytest.raises(
        ik.InputError, match=f"step {min({4, 5} - steps)}: a batch was forwarded, and no optimizer step"
    ):
        forgetting(steps, accumulate)


def test_a_batch_that_was_only_forwarded_before_the_loop_ends():
    """A loop that stops when it sees a bad loss."""
    assert forgetting({0, 1, 2}, 1, backward=lambda k: k < 3).steps == 3


def test_accumulate_must_be_a_number():
    with pytest.raises(ik.InputError, match="accumulate must be at least 1 .or None., got 0"):
        forgetting({0}, 0)


@pytest.mark.parametrize("reload", [False, True], ids=["", "and reloaded"])
@pytest.mark.parametrize("left_over", [True, False], ids=["a batch without a step", "a pass in train mode"])
def test_running_statistics_that_move_after_the_last_step(left_over, reload, tmp_path):
    """The user's model ends with them, the recorded run without, and all that is asked of it says so."""

    def network():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()

    model, data, store = network(), Examples(), tmp_path / "run.zarr"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = list(torch.arange(12).split(4))[: 3 if left_over else 2]
    with pytest.warns(UserWarning, match="after its last step the loop ran the model in train mode"):
        with ik.Tape(store, model, optimizer, loss=per_example, data=data, accumulate=2) as tape:
            for k, (_, (x, y)) in enumerate(tape.batches((i, (data.x[i], data.y[i])) for i in batches)):
                (nn.functional.cross_entropy(model(x), y) / 2).backward()
                if k == 1:
                    optimizer.step()
                    optimizer.zero_grad()
                    weights = copy.deepcopy(model.state_dict())
            if not left_over:
                with torch.no_grad():
                    model(data.x)
            if reload:
                model.load_state_dict(weights)
    run = ik.open(store, model=network(), loss=per_example, data=data, test=data)
    for name, value in run.final.buffers.items():
        assert torch.equal(value, weights[name])
    final = torch.cat([weights[name].flatten() for name, _ in model.named_parameters()])
    assert torch.equal(run.final.theta, final)
    assert "running statistics" in ik.estimate(run, "test-loss", "loo").attrs["caution"]
    assert ik.verify(run)
