"""What cannot be attributed rightly is refused at the door, by name; what is right, is not."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import influencekit as ik
from influencekit._training.checks.model import check_model, check_side_doors, copy_model
from influencekit.errors import InputError

CE = nn.CrossEntropyLoss(reduction="none")


def batch(n=8):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=generator)
    return x, (x[:, 0] > 0).long()


def refused(act, message):
    with pytest.raises(InputError, match=message) as info:
        act()
    text = str(info.value)
    assert "\n" not in text and len(text) < 420
    return text


# seen without running -----------------------------------------------------------------------------------


def mixed():
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3).double())


def overlapping():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(model[0].weight.data)
    return model


def distributed():
    """As torch makes it, but for the process group."""
    ddp = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(ddp)
    ddp.module = nn.Linear(4, 3)
    return ddp


def quantized():
    return nn.Sequential(nn.Linear(4, 4), torch.ao.nn.quantized.Linear(4, 3))


REFUSED = {
    r"weight has no shape yet \(a lazy module\); run the model once": lambda: nn.LazyLinear(3),
    r"parameter weight is complex \(torch.complex64\)": lambda: nn.Linear(4, 3, dtype=torch.complex64),
    r"one type: 0.bias is torch.float32, 1.bias is torch.float64": mixed,
    r"parameter weight is torch.bfloat16; .* torch.autocast": lambda: nn.Linear(4, 3).bfloat16(),
    r"parameter weight is torch.float16": lambda: nn.Linear(4, 3).half(),
    r"the model \(DataParallel\) .*pass model.module": lambda: nn.DataParallel(nn.Linear(4, 3)),
    r"the model \(DistributedDataParallel\) .*pass model.module": distributed,
    r"module 0 \(Embedding\) has sparse gradients": lambda: nn.Sequential(nn.Embedding(4, 3, sparse=True)),
    r"the model \(EmbeddingBag\) has sparse gradients": lambda: nn.EmbeddingBag(4, 3, sparse=True),
    r"the model \(Embedding\) rescales its weights.*max_norm": lambda: nn.Embedding(4, 3, max_norm=1.0),
    r"the model \(\w*ScriptModule\) is a ScriptModule": lambda: torch.jit.script(nn.Linear(4, 3)),
    r"the model \(TopLevelTracedModule\) is a ScriptModule": lambda: torch.jit.trace(
        nn.Linear(4, 3), batch()[0]
    ),
    r"\(OptimizedModule\) is compiled": lambda: torch.compile(nn.Linear(4, 3)),
    r"module 1 \(Linear\) is quantized": quantized,
    r"weight is on the meta device": lambda: nn.Linear(4, 3, device="meta"),
    r"parameters 0.weight and 1.weight are two, yet share memory": overlapping,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("message", REFUSED)
def test_refused_before_anything_runs(message):
    refused(lambda: check_model(REFUSED[message]()), message)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_workload_is_checked_when_it_is_made():
    x, y = batch()

    def make():
        ik.Workload(model=nn.LazyLinear(3), loss=CE, train=(x, y), test=(x, y), optimizer=ik.SGD(lr=0.1))

    refused(make, "has no shape yet")


def test_frozen_parameters_may_be_of_another_type_and_have_sparse_gradients():
    model = nn.Sequential(nn.Embedding(4, 4, sparse=True, dtype=torch.bfloat16), nn.Linear(4, 3))
    model[0].weight.requires_grad_(False)
    check_model(model)
    model = mixed()
    check_model(model, model[0].parameters())  # a tape's optimizer holds these alone


def test_tied_and_neighbouring_parameters_are_admitted():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.LSTM(4, 3), nn.Conv2d(3, 3, 3))
    model[1].weight = model[0].weight
    model = model.to(memory_format=torch.channels_last)
    flat = torch.zeros(12)
    model.a, model.b = nn.Parameter(flat[:6]), nn.Parameter(flat[6:])
    check_model(model)


# copies -------------------------------------------------------------------------------------------------


def test_a_copy_keeps_what_shares_memory_with_a_parameter_together():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model.alias, model.listed = model[0].weight.data[1:], [model[1].bias]
    model[1].weight = model[0].weight
    other = copy_model(model)
    assert torch.equal(other[0].weight, model[0].weight) and other[1].weight is other[0].weight
    assert other.listed[0] is other[1].bias and other.listed[0] is not model[1].bias
    with torch.no_grad():
        other[0].weight.fill_(7)
    assert bool((other.alias == 7).all()) and not bool((model[0].weight == 7).any())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_model_with_computed_weights_is_copied_after_a_forward_pass():
    """weight_norm leaves the product of its parameters as an attribute, which torch's own copy refuses."""
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3)))
    x = batch()[0]
    expected = model(x)
    with pytest.raises(RuntimeError):
        copy.deepcopy(model)
    assert torch.equal(copy_model(model)(x), expected)


def test_what_cannot_be_copied():
    import threading

    model = nn.Linear(4, 3)
    model.lock = threading.Lock()
    refused(lambda: copy_model(model), r"the model \(Linear\) cannot be copied \(cannot pickle")


# not as attributes -----------------------------------------------------------------------------------------


class Net(nn.Module):
    """A layer `l`, and `forward` as the case says; `keep` is what it does at construction."""

    def __init__(self, forward, keep=lambda self: None):
        super().__init__()
        self.l = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(3))
        keep(self)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def losses_by(loss=CE):
    x, y = batch()
    return lambda model: loss(model(x), y)


def looked_at(model, loss=CE, names=None):
    check_side_doors(model, losses_by(loss), names or [n for n, _ in model.named_parameters()])


def plain(self, x):
    return self.l(x) * self.scale


def keep(name, what):
    return lambda self: object.__setattr__(self, name, what(self))


def closed_over(self):
    layer = self.l
    self.apply_layer = lambda x: layer(x)


DOORS = {
    "parameter l.weight not as an attribute of its module": lambda: Net(
        lambda self, x: x @ self.ws[0].T * self.scale, keep("ws", lambda self: list(self.l.parameters()))
    ),
    "parameter l.(weight|bias) not as an attribute of its module": lambda: Net(
        lambda self, x: self.apply_layer(x) * self.scale, closed_over
    ),
    "parameter l.bias not as an attribute of its module": lambda: Net(
        lambda self, x: plain(self, x) + self.old, keep("old", lambda self: self.l.bias.data)
    ),
    "parameter scale not as an attribute of its module": lambda: Net(
        lambda self, x: self.l(x) * self.views[0], keep("views", lambda self: (self.scale.detach(),))
    ),
    "the tensor t, which is no nn.Parameter, not as an attribute of its module": lambda: Net(
        lambda self, x: plain(self, x) + self.t,
        keep("t", lambda self: torch.ones(3, requires_grad=True)),
    ),
}


@pytest.mark.parametrize("message", DOORS)
def test_parameters_reached_by_a_side_door(message):
    refused(lambda: looked_at(DOORS[message]()), message)


def test_a_loss_with_parameters_of_its_own_or_of_the_model():
    model = Net(plain)
    centre = nn.Parameter(torch.ones(2, 3))
    text = refused(
        lambda: looked_at(model, lambda o, t: CE(o, t) + ((o - centre[t]) ** 2).mean(1)),
        r"a parameter of shape \[2, 3\] that the model does not have",
    )
    assert "the loss function itself" in text
    penalty = lambda o, t: CE(o, t) + model.l.weight.square().sum()  # noqa: E731
    refused(lambda: looked_at(model, penalty), "parameter l.weight not as an attribute of its module")
    text = refused(
        lambda: looked_at(copy.deepcopy(model), penalty),
        "parameter l.weight not as an attribute of its module",
    )
    assert "l2=" in text


DETACHED = {
    "item": lambda self, x: torch.full((len(x), 3), self.l.weight.sum().item()),
    "detach": lambda self, x: plain(self, x).detach(),
    "no_grad": torch.no_grad()(plain),
    "argmax": lambda self, x: nn.functional.one_hot(plain(self, x).argmax(1), 3).float(),
    "only the inputs": lambda self, x: x.clone().requires_grad_()[:, :3],
}


@pytest.mark.parametrize("way", DETACHED)
def test_a_detached_loss_is_called_so(way):
    refused(lambda: looked_at(Net(DETACHED[way])), r"detached from the parameters: there is an .item\(\)")


def test_parameters_changed_in_the_forward_pass():
    def clipped(self, x):
        self.l.weight.data.clamp_(-0.01, 0.01)
        return plain(self, x)

    refused(lambda: looked_at(Net(clipped)), "changes its parameter l.weight in its forward pass")


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.out = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.out.weight = self.emb.weight
        self.a = self.b = nn.Linear(4, 4)
        self.norm, self.lstm = nn.BatchNorm1d(4), nn.LSTM(4, 4, batch_first=True)
        self.list = nn.ParameterList([nn.Parameter(torch.ones(4))])
        self.spectral = parametrizations.spectral_norm(nn.Linear(4, 4))
        self.drop, self.old = nn.Dropout(0.5), nn.utils.weight_norm(nn.Linear(4, 4))
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        h = self.b(torch.tanh(self.a(x))) * self.list[0] + self.emb.weight[0]
        h = (
            self.drop(self.norm(self.spectral(self.old(h))))
            + random.random()
            + np.random.rand()
            + torch.rand(1)
        )
        h = checkpoint(torch.tanh, self.lstm(h[:, None])[0][:, 0], use_reentrant=False)
        return self.out(h)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_what_is_right_is_admitted_and_nothing_is_touched():
    """Tied weights, a module of two names, buffers that change, noise of all generators, checkpointing."""
    model = Nested()
    before, torch_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    python, numpy = random.getstate(), np.random.get_state()
    looked_at(model)
    model.emb.weight.requires_grad_(False)
    looked_at(model, names=[n for n, _ in model.named_parameters() if n != "emb.weight"])
    model.emb.weight.requires_grad_()
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), torch_state) and random.getstate() == python
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy, strict=True))


def test_a_model_that_is_random_by_itself_is_not_accused():
    generator = torch.Generator().manual_seed(0)
    looked_at(Net(lambda self, x: plain(self, x) + torch.rand(3, generator=generator)))


def test_inputs_that_require_a_gradient_are_no_parameters():
    """As for a penalty on the gradient by the input."""

    def penalised(self, x):
        x = x.clone().requires_grad_()
        out = plain(self, x)
        (g,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        return out + g.square().sum(1, keepdim=True)

    looked_at(Net(penalised))


def test_what_is_not_trained_may_come_by_any_door():
    model = Net(lambda self, x: self.l(x) * self.ws[0], keep("ws", lambda self: [self.scale]))
    looked_at(model, names=["l.weight", "l.bias"])
    refused(lambda: looked_at(model), "parameter scale not as an attribute of its module")
