"""Blocks that a model checkpoints are computed again by the sweep, and change no number."""

import weakref
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils import checkpoint as module
from torch.utils.checkpoint import checkpoint

import influencekit as ik
from influencekit._training.curvature import REVERSE
from influencekit._training.kernels import recompute
from influencekit._training.losses import Training


class Block(nn.Module):
    def __init__(self, width, p=0.0):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm, self.drop = nn.LayerNorm(width), nn.Dropout(p)

    def forward(self, x, scale=1.0):
        return x + scale * self.drop(self.down(torch.tanh(self.up(self.norm(x)))))

    def remembering(self, x):
        self.last = torch.tanh(self.up(x))
        return self(x)

    def reading(self, model, x):
        return nn.functional.layer_norm(self(x * model.mask), (4,))

    def adding(self, model, x):
        y = self(x)
        model.total = model.total + y.square().mean(-1, keepdim=True)
        model.calls.append(len(model.calls))
        return y

    def remembering_a_norm(self, model, x):
        if model.norm is None:
            model.norm = model.first.weight.norm()
        return self(x) / model.norm

    def pair(self, x, memory):
        return [self(x), {"memory": memory * 2, "many": 3}]


def plainly(block, *args, **kwargs):
    return block(*args, **kwargs)


class Model(nn.Module):
    """Blocks called in many ways, all through `through`."""

    def __init__(self, way, p=0.0):
        super().__init__()
        self.way, self.first, self.last = way, nn.Linear(3, 4), nn.Linear(4, 2)
        self.blocks = nn.ModuleList([Block(4, p) for _ in range(3)])
        self.scale, self.rnn = nn.Parameter(torch.ones(())), nn.LSTM(4, 4)
        self.through = partial(checkpoint, use_reentrant=False)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        a, b, c = self.blocks
        if self.way == "module":
            for block in self.blocks:
                x = self.through(block, x)
        elif self.way == "reentrant":
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=True)
        elif self.way == "under its module's name":
            x = module.checkpoint(a, module.checkpoint(b, x, use_reentrant=False), use_reentrant=False)
        elif self.way == "closure":
            x = self.through(lambda y: b(a(y)), x)
        elif self.way == "a parameter inside":
            x = self.through(lambda y: a(y) * self.scale + c(y), x)
        elif self.way == "an activation inside":
            scale = self.scale * x.mean(-1, keepdim=True)
            x = self.through(lambda y: a(y) * scale, x)
        elif self.way == "named":
            x = self.through(partial(a, scale=self.scale * 2), x)
            x = self.through(b, x, scale=x.mean(-1, keepdim=True))
        elif self.way == "several outputs":
            x, more = self.through(a.pair, x, x * self.scale)
            x = x + more["memory"] * more["many"]
        elif self.way == "nested":
            x = self.through(lambda y: self.through(a, self.through(b, y)) + y, x)
        elif self.way == "in place":
            x = x + 1
            x = self.through(lambda y: b(a(y.mul_(2))), x) + x
        elif self.way == "a constant in place":
            count = torch.zeros(1, dtype=x.dtype)
            x = self.through(lambda y, n: a(y) * n.add_(1), x, count) + b(x) * count
        elif self.way == "an attribute":
            x = self.through(a.remembering, x) * (1 + a.last.mean(-1, keepdim=True))
        elif self.way == "a list":
            kept = []
            x = self.through(lambda y, more: more.append(b(y)) or a(y), x, kept) * kept[0]
        elif self.way == "an attribute that the model sets":
            self.mask = (x.sum(-1, keepdim=True) > 0).to(x)
            for block in self.blocks:
                x = self.through(block.reading, self, x)
            self.mask = None
        elif self.way == "an attribute that blocks add to":
            self.total, self.calls = 0.0, []
            for block in self.blocks:
                x = self.through(block.adding, self, x)
            assert self.calls == [0, 1, 2]
            x = x * self.total
        elif self.way == "an attribute that is computed once":
            self.norm = None
            for block in self.blocks:
                x = self.through(block.remembering_a_norm, self, x)
        elif self.way == "a recurrent layer":
            x = self.through(lambda y: a(self.rnn(y[:, None])[0][:, 0]), x)
        elif self.way == "a view":
            x = self.through(lambda y: b(a(y)).transpose(0, 1).transpose(0, 1), x)
            x = self.through(lambda y: (y, y[:, :1]), x)[1] + self.through(lambda y: y.view_as(y), x).mul_(2)
        elif self.way == "one block twice":
            x = self.through(a, self.through(a, x) + self.through(a, x))
        return self.last(x)


WAYS = [
    "module", "reentrant", "under its module's name", "closure", "a parameter inside", "an activation inside",
    "named", "several outputs", "nested", "in place", "a constant in place", "an attribute",
    "a list", "an attribute that the model sets", "an attribute that blocks add to",
    "an attribute that is computed once", "a recurrent layer", "a view", "one block twice",
]  # fmt: skip


def workload(model, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 3, generator=generator, dtype=dtype)
    y = torch.randint(0, 2, (24,), generator=generator)
    return ik.Workload(
        model=model.to(dtype), loss=nn.CrossEntropyLoss(reduction="none"), train=(x, y), test=(x[:6], y[:6]),
        optimizer=ik.AdamW(lr=0.01, eps=1e-3), epochs=2, batch_size=8,
    )  # fmt: skip


def found(work, curvature="hessian", columns=2):
    """H c, the products and the gradient, of a few columns."""
    losses, theta = Training.of(work), work.theta0
    c = torch.randn(columns, len(theta), generator=torch.Generator().manual_seed(1), dtype=theta.dtype)
    c = c.to(theta)
    torch.manual_seed(5)
    product = REVERSE[curvature](losses, theta, work.train, torch.full((24,), 1 / 24).to(theta))
    return [product.gradient(), *(x for k, row in enumerate(c) for x in product.of(row, k + 1 < columns))]


def without(monkeypatch):
    monkeypatch.setattr(recompute, "block", plain)


def plain(function, *args, **options):
    return function(*args, **{n: x for n, x in options.items() if n not in recompute._OPTIONS})


@pytest.mark.parametrize("curvature", ["hessian", "gauss-newton", "fisher", "none"])
@pytest.mark.parametrize("way", WAYS)
def test_products_are_those_of_blocks_that_are_kept(way, curvature, monkeypatch):
    torch.manual_seed(0)
    model = Model(way)
    mine = found(workload(model), curvature)
    without(monkeypatch)
    for x, y in zip(mine, found(workload(model), curvature), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_dropout_in_a_block_is_drawn_once(device, monkeypatch):
    work = workload(Model("module", p=0.4).train()).to(device)
    mine, after = found(work), torch.rand(1, device=device)
    without(monkeypatch)
    kept = found(work)
    assert torch.equal(after, torch.rand(1, device=device))
    for x, y in zip(mine, kept, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-14)


def test_autocast_around_a_block_holds_when_it_is_computed_again(monkeypatch):
    class Cast(Model):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x).float()

    model = Cast("module")
    mine = found(workload(model, torch.float32))
    without(monkeypatch)
    for x, y in zip(mine, found(workload(model, torch.float32)), strict=True):
        assert (x - y).norm() <= 0.02 * y.norm()  # bfloat16 has 8 bits; sums are taken in another order


@pytest.mark.parametrize("way", ["module", "named", "several outputs"])
def test_scores_are_those_of_blocks_that_are_kept(way, monkeypatch):
    model = Model(way)
    model.blocks[0].up.weight.requires_grad_(False)
    monkeypatch.setattr("influencekit._training.kernels.products._not_forward", lambda traced: "asked for")
    mine = ik.estimate(ik.record(workload(model)), "test-loss", "dit").influence.values
    without(monkeypatch)
    kept = ik.estimate(ik.record(workload(model)), "test-loss", "dit").influence.values
    torch.testing.assert_close(torch.tensor(mine), torch.tensor(kept), rtol=1e-10, atol=1e-13)


class Sine(torch.autograd.Function):
    """Of which it is known how many are in graphs at once, at most."""

    alive: weakref.WeakSet = weakref.WeakSet()
    most = 0

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        ctx.token = type("Token", (), {})()
        Sine.alive.add(ctx.token)
        Sine.most = max(Sine.most, len(Sine.alive))
        return x.sin()

    @staticmethod
    def backward(ctx, by):
        return by * ctx.saved_tensors[0].cos()


class Watched(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        for _ in range(5):
            x = Sine.apply(self.linear(x))
        return x


@pytest.mark.parametrize("keeps", [True, False])
def test_results_of_one_block_are_there_at_a_time(keeps, monkeypatch):
    if keeps:
        without(monkeypatch)

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Watched() for _ in range(8)])
            self.last = nn.Linear(4, 2)

        def forward(self, x):
            x = nn.functional.pad(x, (0, 1))
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=False)
            return self.last(x)

    work = workload(Deep())
    assert work.layout.names  # which runs the model
    Sine.most = 0
    found(work, columns=1)
    assert Sine.most == (40 if keeps else 5)


def test_a_block_that_is_another_when_it_is_computed_again_is_refused():
    class Late(Model):
        def forward(self, x):
            x = torch.tanh(self.first(x))
            for block in self.blocks:
                x = checkpoint(lambda y: block(y), x, use_reentrant=False)  # noqa: B023
            return self.last(x)

    with pytest.raises(ik.InputError, match="a lambda does that reads a loop's variable"):
        found(workload(Late("")))


def test_outputs_are_known_again_by_more_than_their_norm():
    """A layer norm at the end gives all of them the same."""

    class Late(Model):
        def forward(self, x):
            x, order = torch.tanh(self.first(x)), [0, 1, 2, 3]
            for block in self.blocks:
                x = checkpoint(lambda y: block(y)[:, order], x, use_reentrant=False)  # noqa: B023
                order.reverse()
            return self.last(x)

    model = Late("")
    model.blocks = nn.ModuleList([model.blocks[0]] * 3)
    with pytest.raises(ik.InputError, match="gives other outputs when it is computed again"):
        found(workload(model))


def test_checkpoint_is_torchs_own_outside():
    before = module.checkpoint.__wrapped__.__code__
    found(workload(Model("module")))
    assert module.checkpoint.__wrapped__.__code__ is before
    x = torch.ones(2, 4, requires_grad=True)
    assert checkpoint(Block(4), x, use_reentrant=False).requires_grad


@pytest.mark.parametrize("way", ["module", "nested", "an activation inside"])
def test_a_taped_loop_with_dropout_has_the_scores_of_blocks_that_are_kept(way, monkeypatch):
    work, scores = workload(Model(way, p=0.3)), []
    data, model = list(zip(*work.train, strict=True)), Model(way, p=0.3).double()
    optimizer = torch.optim.Adam(model.parameters(), eps=1e-3)
    with ik.Tape(None, model, optimizer, loss=work.loss, data=data) as tape:
        for _, (x, y) in tape.batches(torch.utils.data.DataLoader(data, batch_size=8)):
            optimizer.zero_grad()
            work.loss(model(x), y).mean().backward()
            optimizer.step()
    monkeypatch.setattr("influencekit._training.kernels.products._not_forward", lambda traced: "asked for")
    for _ in range(2):
        run = tape.trajectory(test=work.test)
        scores.append(torch.tensor(ik.estimate(run, "test-loss", "dit").influence.values))
        without(monkeypatch)
    torch.testing.assert_close(*scores, rtol=1e-9, atol=1e-13)
