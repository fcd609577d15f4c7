"""What a loss may depend on: randomness, other examples and other networks are recorded right, or refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers_tape import Examples, held_out, network, per_example, seed
from helpers_tape_caught import MEAN, Loop, caught, sgd
from torch import nn
from torch.utils.data import DataLoader, default_collate

import influencekit as ik
from influencekit._tape.checks.model import refuse_random_evaluation
from influencekit._training.ids import checked_ids
from influencekit.errors import InputError

# randomness -----------------------------------------------------------------------------------------------


def noisy(model, batch):
    """Noise on the inputs of a training step, drawn before the model itself draws its dropout."""
    x = batch[0]
    if not model.training:
        return model(x)
    return model(x + 0.3 * torch.randn(x.shape, dtype=x.dtype))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_random_numbers_drawn_by_forward_before_the_models_own(dropout, accumulate):
    """Replayed bit for bit, from the generators as they were when the loop got the batch."""
    seed()
    data, model = Examples(), network(dropout=dropout)
    optimizer = sgd(model)
    with ik.Tape(
        None, model, optimizer, loss=per_example, data=data, forward=noisy, check=1.0, accumulate=accumulate,
        recorder="every-k:k=2",
    ) as tape:  # fmt: skip
        for _ in range(2):
            for k, (_, batch) in enumerate(tape.batches(DataLoader(data, batch_size=2, shuffle=True))):
                (MEAN(noisy(model, batch), batch[-1]) / accumulate).backward()
                if (k + 1) % accumulate == 0:
                    optimizer.step()
                    optimizer.zero_grad()
    run = tape.trajectory(test=held_out())
    assert run.attrs["replay"] == f"{run.steps} steps replayed, equal bit for bit"
    run.check_replay(0, run.steps)
    end = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert torch.equal(run.step.advance(run.state(run.steps - 1))[0].theta, end)


def test_a_loop_that_draws_between_batch_and_forward():
    data, model = Examples(), network()
    optimizer = sgd(model)
    with (
        pytest.raises(InputError, match="let nothing but forward= draw there"),
        ik.Tape(None, model, optimizer, loss=per_example, data=data, forward=noisy) as tape,
    ):
        for _, batch in tape.batches(DataLoader(data, batch_size=4)):
            torch.rand(3)
            MEAN(noisy(model, batch), batch[-1]).backward()
            optimizer.step()


class Always(nn.Module):
    """Dropout that is never switched off."""

    def __init__(self, p=0.3):
        super().__init__()
        self.body, self.p = network(), p

    def forward(self, x):
        return F.dropout(self.body(x), self.p, training=True)


def test_randomness_in_evaluation_mode():
    """`open` asks before any query does, and leaves the generators as they were."""
    tape = Loop(model=Always()).run()
    before = torch.get_rng_state()
    with pytest.raises(
        InputError, match=r"random in evaluation mode: the losses .* differ by .*self.training"
    ):
        tape.trajectory(test=held_out())
    assert torch.equal(torch.get_rng_state(), before)
    for model in (Always(0.0), network(dropout=0.5)):
        Loop(model=model).run().trajectory(test=held_out())
    refuse_random_evaluation(tape.trajectory().workload)  # nothing to ask about


# collation ------------------------------------------------------------------------------------------------


def mixup(strength=0.4, chance=1.0):
    def collate(rows):
        x, y = default_collate(rows)
        share = torch.distributions.Beta(strength, strength).sample() if strength else torch.tensor(0.7)
        if strength and torch.rand(()) > chance:
            return x, y
        partner = torch.randperm(len(x)) if strength else torch.arange(len(x)).flip(0)
        return share * x + (1 - share) * x[partner], y

    return collate


def sorted_by_first(rows):
    return default_collate(sorted(rows, key=lambda row: float(row[0][0])))


def fed(collate, data=None, model=None, loss=per_example, value=None, **options):
    """Two epochs over a loader with this collation."""
    seed()
    data, model = data or Examples(), model or network()
    optimizer = sgd(model)
    with ik.Tape(None, model, optimizer, loss=loss, data=data, check=1.0, **options) as tape:
        for _ in range(2):
            for _, (x, y) in tape.batches(DataLoader(data, batch_size=4, shuffle=True, collate_fn=collate)):
                (value or (lambda out, y: loss(out, y).mean()))(model(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
    return tape


@pytest.mark.parametrize("collate", [mixup(), mixup(0.2, 0.5), mixup(0)], ids=["mixup", "seldom", "flip"])
def test_mixup_in_the_collation(collate):
    with pytest.raises(
        InputError, match=r"not one example each.*mixes them \(mixup, CutMix\).*separable=False"
    ):
        fed(collate)
    assert fed(collate, separable=False).committed == 6


@pytest.mark.parametrize("separable", [True, False])
def test_a_collation_that_sorts(separable):
    """Losses would be given to other examples than their own, which no flag makes right."""
    with pytest.raises(InputError, match="not one example each, in the order of the items: collate_fn sorts"):
        fed(sorted_by_first, separable=separable)


def padding(rows):
    """To the longest of the batch."""
    x = nn.utils.rnn.pad_sequence([row[0] for row in rows], batch_first=True)
    return x, torch.stack([row[1] for row in rows])


def emptying(rows):
    """Takes entries out of the items, as some collators do."""
    labels = torch.stack([row.pop("y") for row in rows])
    return torch.stack([row.pop("x") for row in rows]), labels


def masking(rows):
    """As for masked language models: another mask every time."""
    x, y = default_collate(rows)
    return x * (torch.rand(x.shape) < 0.8), y


class MeanOfAll(nn.Module):
    """The mean over all places, also the padded ones."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(1, 3).double()

    def forward(self, x):
        return self.out(x.mean(1, keepdim=True))


HONEST = {
    "padding": (padding, lambda: [(x[: 1 + k % 4], y) for k, (x, y) in enumerate(Examples())], MeanOfAll),
    "entries taken out": (emptying, lambda: [{"x": x, "y": y} for x, y in Examples()], network),
    "masking": (masking, Examples, network),
    "augmentation": (default_collate, lambda: Examples(noisy=True), network),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_collations_are_admitted(name):
    collate, data, model = HONEST[name]
    data = data()
    if name == "entries taken out":  # the data set hands out copies, as usual

        class Copies(list):
            def __getitem__(self, i):
                return dict(super().__getitem__(i))

        data = Copies(data)
    assert fed(collate, data, model()).committed == 6


# other networks -------------------------------------------------------------------------------------------


def test_a_loss_that_reaches_another_network():
    """The generator of a GAN: its loss is what the discriminator says."""
    judge = nn.Linear(3, 1).double()

    def loss(outputs, target):
        return F.softplus(-judge(outputs)).squeeze(1)

    loop = Loop(loss=loss, value=lambda out, y: loss(out, y).mean())
    text = caught(loop, r"the loss depends on a parameter of shape \[1, 3\] that is not the model's")
    assert "requires_grad_(False)" in text
    judge.requires_grad_(False)
    assert Loop(loss=loss, value=lambda out, y: loss(out, y).mean()).run().committed == 9


def test_a_loss_that_reaches_the_loops_own_model():
    """A penalty written into the loss: a replay would see the weights of another time."""
    loop = Loop(lambda event, loop: None)
    penalty = lambda: sum((p**2).sum() for p in loop.model.parameters())  # noqa: E731
    loop.options["loss"] = lambda out, y: per_example(out, y) + 0.1 * penalty()
    loop.value = lambda out, y: loop.options["loss"](out, y).mean()
    caught(loop, "loss=, forward= or penalty= reaches parameter .* of the loop's model.*penalty=")


def test_a_detached_loss():
    caught(
        Loop(loss=lambda out, y: per_example(out.detach(), y)), "does not depend on the model's parameters"
    )


# several processes ----------------------------------------------------------------------------------------


def test_models_that_are_wrapped():
    for wrapped in (nn.DataParallel(network()), nn.Sequential(nn.DataParallel(network()))):
        text = caught(Loop(model=wrapped), r"spreads training over devices|is wrapped in DataParallel")
        assert "model.module" in text


def test_several_processes(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    caught(Loop(), r"2 processes train together \(torch.distributed\).*pass group=.*or train in one process")


def test_processes_that_join_after_the_tape_was_made(monkeypatch):
    loop = Loop()
    tape = ik.Tape(None, loop.model, loop.optimizer, loss=per_example, data=loop.data)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    with pytest.raises(InputError, match="4 processes train together"):
        tape.open()


def test_processes_that_join_while_the_tape_is_open(monkeypatch):
    def join(event, loop):
        if event == "backward":
            monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
            monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)

    caught(Loop(join), "3 processes train together")


def test_a_model_in_a_process_group(tmp_path):
    """DDP itself, in a group of one: tests/test_tape_ranks.py has more."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(network())
        assert Loop(model=model).run().committed == 9
        assert Loop().run().committed == 9
    finally:
        torch.distributed.destroy_process_group()


def test_lazy_parameters():
    model = nn.Sequential(nn.LazyLinear(5), nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    with pytest.raises(InputError, match="0.weight .*lazy.*; run"):
        ik.Tape(None, model, optimizer, loss=per_example, data=Examples())


# names of examples ----------------------------------------------------------------------------------------


def test_names_of_examples():
    def plain(ids):
        return checked_ids(ids, 2, "ids")

    assert plain(torch.tensor([3, 1])) == [3, 1]
    assert plain(np.array(["a", "b"])) == ["a", "b"] and plain(("x", 1)) == ["x", "1"]
    assert [type(x) for x in plain(np.arange(2))] == [int, int]
    for twins in ([1, "1"], np.array([4, 4]), ("a", "a")):
        with pytest.raises(InputError, match="ids: expected 2 different"):
            plain(twins)
