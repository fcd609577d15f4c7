"""Running statistics, and every other buffer that training changes, are part of the run.

Against torch's own layers, and against plain loops: `loo` with weight 0 on an example, `dit` by central
differences.
"""

import copy
from contextlib import nullcontext
from itertools import product

import numpy as np
import pytest
import torch
from helpers_buffers import MODELS, ORDER, PER_EPOCH, N, close, hand, one, recorded, scores, taped
from torch import nn

import influencekit as ik
from influencekit._training.buffers import by_formula, flat, packed, seen_through, unpacked, with_flat
from influencekit._training.functional import called

# layers ---------------------------------------------------------------------------------------------------

NORMS = {
    "batch 1d": (nn.BatchNorm1d, (3,)),
    "batch 1d on sequences": (nn.BatchNorm1d, (3, 4)),
    "batch 2d": (nn.BatchNorm2d, (3, 2, 2)),
    "batch 3d": (nn.BatchNorm3d, (3, 2, 1, 2)),
    "instance 1d": (nn.InstanceNorm1d, (3, 4)),
    "instance 2d": (nn.InstanceNorm2d, (3, 2, 2)),
    "instance 3d": (nn.InstanceNorm3d, (3, 2, 1, 2)),
}
OPTIONS = [
    dict(momentum=momentum, affine=affine, track_running_stats=track, eps=eps)
    for momentum, affine, track, eps in [
        (0.1, True, True, 1e-5), (0.4, False, True, 1e-2), (None, True, True, 1e-5), (0.1, True, False, 1e-5),
    ]
]  # fmt: skip


@pytest.mark.parametrize("within", [by_formula, seen_through])
@pytest.mark.parametrize("mode, n", [(True, 2), (True, 5), (False, 2), (False, 1)])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()))
@pytest.mark.parametrize("name", NORMS)
def test_norms_by_formula_are_torchs(name, options, mode, n, within):
    make, shape = NORMS[name]
    if mode is False and n == 1 and not options["track_running_stats"] and shape == (3,):
        pytest.skip("torch refuses it: one value per channel")
    if options["momentum"] is None and name.startswith("instance") and mode:
        pytest.skip("torch refuses it")
    torch.manual_seed(n)
    layer = make(3, **options).double().train(mode)
    for x in (*layer.parameters(), *(b for b in layer.buffers() if b.is_floating_point())):
        nn.init.uniform_(x, 0.5, 2.0)
    other = copy.deepcopy(layer)
    for seed in range(3):  # statistics of three batches
        x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        wanted = layer(x)
        with within():
            found = other(x)
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
        for (which, a), b in zip(other.named_buffers(), layer.buffers(), strict=True):
            torch.testing.assert_close(a.detach(), b, rtol=1e-12, atol=1e-14, msg=which)


def test_one_value_per_channel_is_refused_as_by_torch():
    layer = nn.BatchNorm1d(3)
    for within in (nullcontext, by_formula, seen_through):
        with within(), pytest.raises(ValueError, match="more than 1 value per channel"):
            layer(torch.ones(1, 3))


def test_packed_buffers_come_back():
    buffers = {"a": torch.randn(2, 3), "steps": torch.tensor(2**40), "b": torch.randn(2).double()}
    row = packed(buffers)
    for name, x in unpacked(row, buffers).items():
        assert torch.equal(x, buffers[name]) and x.dtype == buffers[name].dtype
    values = torch.arange(8.0).double()
    assert torch.equal(flat(with_flat(buffers, values), values), values)


class Anew(nn.Module):
    """Buffers changed in place and assigned anew."""

    def __init__(self):
        super().__init__()
        self.norm, self.lin = nn.BatchNorm1d(3), nn.Linear(3, 3)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("kept", torch.ones(3))

    def forward(self, x):
        x = self.lin(self.norm(x))
        self.mean = 0.5 * self.mean + 0.5 * x.detach().mean(0)
        self.steps += 1
        self.kept.mul_(2)
        return x + self.mean


@pytest.mark.parametrize("given", [[], ["mean"], ["mean", "steps", "kept", "norm.running_mean"]])
def test_a_call_touches_nothing_of_the_model(given):
    model = Anew()
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    before = {k: x.detach().clone() for k, x in own.items()}
    buffers = {k: own[k].clone() + 1 for k in given}
    put = {k: x.clone() for k, x in buffers.items()}
    parameters = {k: p.detach() * 2 for k, p in model.named_parameters()}
    _, after = called(model, parameters, buffers, lambda m: m(torch.ones(4, 3) * torch.arange(4.0)[:, None]))
    mine = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert list(mine) == list(own)
    for name, x in mine.items():
        assert x is own[name] and torch.equal(x, before[name]), name
    assert all(torch.equal(buffers[k], put[k]) for k in put)
    assert list(after) == given and not any(torch.equal(after[k], put[k]) for k in given)


# runs -------------------------------------------------------------------------------------------------

PICKED = [0, 7, 14]
FIRST_ORDER = [name for name in MODELS if name != "spectral"]
RUNS = [
    *product(FIRST_ORDER, ["record", "tape"], ["sgd"]),
    ("resnet", "record", "adam"), ("mlp", "tape", "adam"),
    ("resnet", "in parts", "sgd"), ("average in the loss", "in parts", "sgd"),
]  # fmt: skip


@pytest.mark.parametrize("name, by, optimizer", RUNS, ids=" ".join)
def test_scores_go_through_the_buffers(name, by, optimizer):
    parts = 2 if by == "in parts" else 1
    run = recorded(name, optimizer) if by == "record" else taped(name, optimizer, parts)

    def value(without):
        return hand(name, optimizer, without, parts)[0]

    base, h = value(one(0, 0.0)), 1e-4
    close(scores(run, "loo")[PICKED], [value(one(j)) - base for j in PICKED], 1e-9)
    derivative = [(value(one(j, h)) - value(one(j, -h))) / (2 * h) for j in PICKED]
    close(scores(run, "dit")[PICKED], derivative, 1e-5)


def test_spectral_norm_is_retrained_and_refused_by_first_order():
    """Its power iteration is hidden from autograd, and the loss reads what comes of it."""
    run = recorded("spectral", "sgd")
    base = hand("spectral", "sgd", one(0, 0.0))[0]
    close(scores(run, "loo")[PICKED], [hand("spectral", "sgd", one(j))[0] - base for j in PICKED], 1e-9)
    with pytest.raises(ik.InputError, match="use loo") as error:
        scores(run, "dit")
    assert "\n" not in str(error.value)
    with pytest.raises(ik.InputError, match="check=0"):
        taped("spectral", "sgd")


# questions ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["record", "tape"])
def run(request):
    return {"record": recorded, "tape": taped}[request.param]("mlp", "sgd")


def mlp(without, **options):
    return np.array(hand("mlp", "sgd", without, **options))


SPANS = {  # of epoch 1: when an example is absent, and the states between which the effect is
    "window": ((PER_EPOCH, 2 * PER_EPOCH), [2 * PER_EPOCH], [1]),
    "occurrence": ((PER_EPOCH, 2 * PER_EPOCH), [ORDER.steps], [1]),
    "global": ((0, 2 * PER_EPOCH), [2 * PER_EPOCH, PER_EPOCH], [1, -1]),
}


@pytest.mark.parametrize("removal", SPANS)
def test_windows(run, removal):
    span, stops, signs = SPANS[removal]

    def value(without):
        return mlp(without, span=span, stops=stops) @ signs

    base, h = value(one(0, 0.0)), 1e-4
    found = {e: scores(run, e, windows="epoch:1", removal=removal)[PICKED] for e in ("loo", "dit")}
    close(found["loo"], [value(one(j)) - base for j in PICKED], 1e-9)
    close(found["dit"], [(value(one(j, h)) - value(one(j, -h))) / (2 * h) for j in PICKED], 1e-5)


def test_remove_and_verify_top(run):
    gone = [2, 5, 11]
    base, without = mlp(one(0, 0.0))[0], mlp(sum(one(j) for j in gone))[0]
    found = ik.remove(run, ids=gone)
    close([found.before.item(), found.after.item()], [base, without], 1e-12)
    close(found.retrained.item(), without - base, 1e-9)
    top = ik.verify_top(run, "test-loss", "dit", top=2)
    close(top.retrained.values.ravel(), [mlp(one(j))[0] - base for j in top.train.values], 1e-9)


def test_contributions_add_up_to_the_scores(run):
    found = ik.sum_over_windows(ik.contributions(run)).influence.values.ravel()
    close(found, scores(run, "dit"), 1e-9)


def test_trust_retrains_with_each_models_own_statistics(run):
    base, dit = mlp(one(0, 0.0))[0], scores(run, "dit")
    right = [mlp(one(j))[0] - base for j in range(N)]
    found = ik.trust(run, method="retrain", examples=N)
    close([found.pearson.item()], [np.corrcoef(right, dit)[0, 1]], 1e-6)
    assert ik.trust(run, method="smooth").trust > 0


def test_subsets_are_evaluated_with_their_own_statistics(run, tmp_path):
    base, retrained = mlp(one(0, 0.0))[0], []
    for _ in range(2):  # the second from the folder, where buffers lie behind the parameters
        found = ik.evaluate(run, "lds:m=3", subsets=tmp_path)["lds:m=3"]
        retrained.append(found.retrained.values.ravel())
    masks = torch.from_numpy(found.left_out.values).double()
    close(retrained[0], [mlp(mask)[0] - base for mask in masks], 1e-9)
    assert (retrained[0] == retrained[1]).all()
