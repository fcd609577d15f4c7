"""Everything that a model consists of is watched: parameters outside of the optimizer, and every buffer."""

import pytest
import torch
from helpers_tape import network
from helpers_tape_caught import Loop, caught, once
from torch import nn


class Parts(nn.Module):
    """A trained part, a part that another optimizer may train, a frozen one, and constant buffers."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
        self.table = nn.Embedding(3000, 3)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.norm = nn.BatchNorm1d(4).eval()
        self.register_buffer("scale", torch.ones(4))
        self.double()

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        row = self.table(torch.full((len(x),), 7, device=x.device))
        return self.head(torch.tanh(self.body(self.norm(self.frozen(x) * self.scale)))) + row


def of_body(model):
    return torch.optim.SGD(model.body.parameters(), lr=0.1)


def watched(mischief, **options):
    return Loop(mischief, optimizer=of_body, model=Parts(), **options)


@pytest.mark.parametrize("name", ["head.weight", "table.weight"])
@pytest.mark.parametrize("since", [0, 7])
def test_a_second_optimizer(name, since):
    """Also of a table of which it changes one row in 3,000."""
    second = {}

    def mischief(event, loop):
        if event == "open":
            second["it"] = torch.optim.SGD([dict(loop.model.named_parameters())[name]], lr=0.1)
        if event == "backward" and loop.step >= since:
            second["it"].step()

    caught(
        watched(mischief, check=0.0),
        f"step {since}: parameter {name}, which this optimizer does not train, was changed",
    )


def zeroed(name):
    """An edit that torch counts."""

    def act(loop):
        with torch.no_grad():
            dict([*loop.model.named_parameters(), *loop.model.named_buffers()])[name].copy_(torch.zeros(()))

    return act


def shifted(name):
    """An edit that torch does not count."""

    def act(loop):
        dict([*loop.model.named_parameters(), *loop.model.named_buffers()])[name].data.add_(1)

    return act


def replaced(name):
    """Another tensor in its place."""

    def act(loop):
        setattr(loop.model, name, loop.model.scale * 2)

    return act


@pytest.mark.parametrize("edit", [zeroed, shifted])
@pytest.mark.parametrize("name", ["head.bias", "frozen.weight"])
@pytest.mark.parametrize("event, step", [("begin", 5), ("stepped", 4), ("stepped", 8)])
def test_parameters_outside_of_the_optimizer_changed_by_hand(edit, name, event, step):
    when = 5 if step < 8 else 9
    caught(
        watched(once(event, edit(name), step), check=1.0),
        rf"step {when}: parameter {name}, which this optimizer does not train, was changed \(by a second",
    )


@pytest.mark.parametrize("edit", [zeroed, shifted, replaced])
def test_constant_buffers_changed_by_hand(edit):
    text = caught(
        watched(once("begin", edit("scale")), check=1.0),
        "step 5: buffer scale, which the first step did not change, was",
    )
    assert "let it change from the first step on" in text


def test_statistics_of_a_layer_that_comes_into_training_mode():
    """By an edit that leaves modules' modes alone: a layer that decides for itself."""

    class Late(nn.BatchNorm1d):
        late = False

        def forward(self, x):
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, self.late, 0.1
            )

    model = nn.Sequential(nn.Linear(4, 5), Late(5), nn.Linear(5, 3)).double()

    def wake(loop):
        model[1].late = True

    caught(
        Loop(once("begin", wake), model=model, separable=False),
        r"step \d: buffer 1.running_mean, which the first step did not change, was changed",
    )


def test_a_counter_that_starts_later():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.calls = network(), 0
            self.register_buffer("count", torch.tensor(0))

        def forward(self, x):
            self.calls += 1
            if self.calls > 4:
                self.count = self.count + 1
            return self.body(x)

    caught(Loop(model=Counting(), check=0.0), "step 4: buffer count, which the first step did not change")


def test_constants_that_are_swapped_and_swapped_back_are_no_change():
    def swap(loop):
        own = {k: v.clone() for k, v in loop.model.state_dict().items()}
        with torch.no_grad():
            for value in loop.model.state_dict().values():
                value.mul_(2)
        loop.model.load_state_dict(own)

    assert watched(once("stepped", swap)).run().committed == 9
