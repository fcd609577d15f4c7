"""Accuracy is what counting by hand gives, whatever the loss; where it has none it is NaN, and says why."""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik
from influencekit._training.accuracy import accuracy
from influencekit.trainers.model_losses import CrossEntropy

N, C, T = 12, 5, 7
G = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=G)


def labels(*shape, classes=C):
    return torch.randint(0, classes, shape, generator=G)


def mean(losses):
    return losses.flatten(1).mean(1) if losses.dim() > 1 else losses


def ce(o, t, **more):
    return mean(F.cross_entropy(o, t, reduction="none", **more))


def focal(o, t):
    p = F.softmax(o, 1).gather(1, t[:, None])[:, 0]
    return -((1 - p) ** 2) * p.log()


def right(guess, t, scored=None):
    return ((guess == t) if scored is None else (guess == t)[scored]).double().mean().item()


# outputs [n, class] and labels [n] ----------------------------------------------------------------------

WEIGHT = torch.tensor([0.1, 2.0, 1.0, 5.0, 0.3])
PLAIN = {
    "cross entropy": ce,
    "weighted": lambda o, t: ce(o, t, weight=WEIGHT),
    "smoothed": lambda o, t: ce(o, t, label_smoothing=0.2),
    "smoothed and weighted": lambda o, t: ce(o, t, label_smoothing=0.1, weight=WEIGHT),
    "focal": focal,
    "log softmax inside": lambda o, t: F.nll_loss(F.log_softmax(o, 1), t, reduction="none"),
    "log probabilities": lambda o, t: F.nll_loss(o, t, reduction="none"),
    "probabilities": lambda o, t: -o.gather(1, t[:, None])[:, 0].log(),
    "multi-margin": lambda o, t: F.multi_margin_loss(o, t, reduction="none"),
    "squared distance to one-hot": lambda o, t: (o - F.one_hot(t, C)).square().mean(1),
    "a temperature, in place": lambda o, t: ce(o.mul_(0.1), t),
    "a loss that fails on outputs that no model gives": lambda o, t: 1 / 0,
}


@pytest.mark.parametrize("name", PLAIN)
def test_several_outputs_the_largest_wins(name):
    o, t = randn(N, C), labels(N)
    if name == "probabilities":
        o = o.softmax(1)
    before = o.clone()
    assert accuracy(o, t, PLAIN[name]) == (right(o.argmax(1), t), "")
    assert accuracy(o[:, :2], t % 2, lambda o, t: ce(o, t)).value == right(o[:, :2].argmax(1), t % 2)
    assert torch.equal(o, before) and not o.requires_grad


def test_labels_of_another_shape():
    o, t = randn(N, C), labels(N)
    assert accuracy(o, t[:, None], lambda o, t: ce(o, t[:, 0])).value == right(o.argmax(1), t)
    hot = F.one_hot(t, C).float()
    for loss in (ce, lambda o, t: (o - t).square().mean(1)):
        assert accuracy(o, hot, loss).value == right(o.argmax(1), t)
    soft = 0.7 * hot + 0.3 * hot.roll(1, 0)  # mixup
    assert accuracy(o, soft, ce).value == right(o.argmax(1), t)
    for k in (2, 3):  # independent labels, of which each example happens to have one
        hot = F.one_hot(t % k, k).float()
        bce = lambda o, t: F.binary_cross_entropy_with_logits(o, t, reduction="none").mean(1)  # noqa: E731
        assert accuracy(o[:, :k], hot, bce).value == right(o[:, :k] > 0, hot == 1)


# one output ---------------------------------------------------------------------------------------------


def logits_bce(o, t):
    return mean(F.binary_cross_entropy_with_logits(o.view(t.shape), t.float(), reduction="none"))


ONE = {
    "logits": (logits_bce, 0.0, lambda o: o),
    "a positive weight": (
        lambda o, t: mean(
            F.binary_cross_entropy_with_logits(
                o.view(t.shape), t.float(), reduction="none", pos_weight=torch.tensor(9.0)
            )
        ),
        0.0,
        lambda o: o,
    ),
    "probabilities": (
        lambda o, t: mean(F.binary_cross_entropy(o.view(t.shape), t.float(), reduction="none")),
        0.5,
        torch.sigmoid,
    ),
    "squared": (lambda o, t: mean((o.view(t.shape) - t).square()), 0.5, lambda o: o),
    "absolute": (lambda o, t: mean((o.view(t.shape) - t).abs()), 0.5, lambda o: o),
}


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, 1, 3, 3)])
@pytest.mark.parametrize("kind", [torch.int64, torch.float32])
@pytest.mark.parametrize("which", ["both", "only 0", "only 1"])
def test_one_output_is_compared_with_the_threshold_of_its_loss(name, shape, kind, which):
    loss, threshold, last = ONE[name]
    o = last(randn(*shape))
    t = labels(*(n for n in shape if n != 1), classes=2).to(kind)
    t = {"both": t, "only 0": torch.zeros_like(t), "only 1": torch.ones_like(t)}[which]
    assert accuracy(o, t, loss).value == right(o.view(t.shape) > threshold, t == 1)


def test_labels_of_minus_one_and_one():
    o, t = randn(N), 2.0 * labels(N, classes=2) - 1
    assert accuracy(o, t, lambda o, t: F.relu(1 - o * t)).value == right(o > 0, t > 0)


def test_several_labels_count_one_by_one_and_ignored_ones_do_not():
    o, t = randn(N, 3), labels(N, 3, classes=2).float()
    assert accuracy(o, t, logits_bce).value == right(o > 0, t == 1)
    t[::2, 1] = -1

    def masked(o, t):
        return (F.binary_cross_entropy_with_logits(o, t.clamp(min=0), reduction="none") * (t >= 0)).sum(1)

    assert accuracy(o, t, masked).value == right(o > 0, t == 1, t >= 0)


# pixels and tokens --------------------------------------------------------------------------------------


def test_pixels_have_their_classes_along_axis_1():
    for shape in ((4,), (4, 6), (5, 5), (2, 3, 4)):
        o, t = randn(N, C, *shape), labels(N, *shape)
        assert accuracy(o, t, ce).value == right(o.argmax(1), t)
        t[:, 0] = 255
        assert accuracy(o, t, lambda o, t: ce(o, t, ignore_index=255)).value == right(
            o.argmax(1), t, t != 255
        )


def tokens(o, t, **more):
    """Outputs [n, token, class], for the token itself."""
    return F.cross_entropy(o.transpose(1, 2), t, reduction="none", **more).sum(1)


def shifted(o, t, **more):
    return tokens(o[:, :-1], t[:, 1:], **more)


@pytest.mark.parametrize("length", [T, C])  # as many tokens as classes: only the loss knows the axis
def test_tokens_have_their_classes_along_the_last_axis(length):
    o, t = randn(N, length, C), labels(N, length)
    assert accuracy(o, t, tokens).value == right(o.argmax(2), t)
    assert accuracy(o, t, shifted).value == right(o.argmax(2)[:, :-1], t[:, 1:])


@pytest.mark.parametrize("ignored", [0, -100])
def test_ignored_tokens_do_not_count(ignored):
    o, t = randn(N, T, C), labels(N, T)
    t[:, -2:] = ignored
    t[3] = ignored
    assert accuracy(o, t, lambda o, t: tokens(o, t, ignore_index=ignored)).value == right(
        o.argmax(2), t, t != ignored
    )
    wanted = right(o.argmax(2)[:, :-1], t[:, 1:], t[:, 1:] != ignored)
    assert accuracy(o, t, lambda o, t: shifted(o, t, ignore_index=ignored)).value == wanted
    note = accuracy(o, torch.full_like(t, ignored), lambda o, t: tokens(o, t, ignore_index=ignored)).note
    assert "not classes and labels" in note


def test_a_prefix_of_outputs_without_targets():
    """As of an image before its text."""
    o, t = randn(N, T + 3, C), labels(N, T)
    assert accuracy(o, t, lambda o, t: tokens(o[:, 3:], t)).value == right(o.argmax(2)[:, 3:], t)


def test_many_outputs_are_asked_about_in_pieces(monkeypatch):
    monkeypatch.setattr("influencekit._training.accuracy._PIECE", 3 * T * C * 4)
    o, t = randn(N, T, C), labels(N, T)
    t[:6] = -100  # pieces in which nothing is scored
    seen = []

    def loss(o, t):
        seen.append(len(t))
        return shifted(o, t)

    assert accuracy(o, t, loss).value == right(o.argmax(2)[:, :-1], t[:, 1:], t[:, 1:] >= 0)
    assert set(seen) == {3}


# outputs that are objects -------------------------------------------------------------------------------


class Named(NamedTuple):
    logits: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class Frozen:
    logits: Tensor
    hidden: Tensor


@pytest.mark.parametrize("make", [Named, Frozen, lambda a, b: SimpleNamespace(logits=a, hidden=b)])
def test_outputs_with_logits(make):
    o, t = make(randn(N, C), randn(N)), labels(N)
    before = o.logits
    assert accuracy(o, t, lambda o, t: ce(o.logits, t) + o.hidden.square()).value == right(
        o.logits.argmax(1), t
    )
    assert o.logits is before


def test_outputs_in_a_dict_or_first_in_a_tuple():
    o, t = randn(N, C), labels(N)
    assert accuracy({"logits": o}, t, lambda o, t: ce(o["logits"], t)).value == right(o.argmax(1), t)
    assert accuracy((o, randn(N)), t, lambda o, t: ce(o[0], t)).value == right(o.argmax(1), t)


def test_a_causal_language_model_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    ids = labels(6, 8, classes=11)
    target = ids.masked_fill(torch.arange(8) >= torch.tensor([8, 5, 3, 8, 2, 7])[:, None], -100)
    with torch.no_grad():
        o = model(input_ids=ids)
    keys = list(o.keys())
    wanted = right(o.logits.argmax(2)[:, :-1], target[:, 1:], target[:, 1:] >= 0)
    assert accuracy(o, target, CrossEntropy(shift=True)).value == wanted
    assert list(o.keys()) == keys


# what has none ------------------------------------------------------------------------------------------


def test_no_accuracy_and_why():
    o, t = randn(N, C), labels(N)
    poisson = lambda o, t: mean(F.poisson_nll_loss(o, t, reduction="none"))  # noqa: E731
    cases = [
        (o, randn(N, C), lambda o, t: mean((o - t).square()), r"\[12, 5\] and .*\[12, 5\] are not classes"),
        (o[:, 0], t.float(), lambda o, t: (o - t).square(), "not classes and labels"),
        (o[:, 0], (t > 1).float(), poisson, "not classes and labels"),
        (o, t, lambda o, t: o.square().sum(1), "not classes and labels"),
        (o, labels(N + 1), ce, "do not belong together"),
        ("text", t, ce, "not a tensor"),
        (o[:, 0], t, lambda o, t: 1 / 0, r"fails on constant outputs \(division by zero\)"),
    ]
    for outputs, target, loss, why in cases:
        value, note = accuracy(outputs, target, loss)
        assert math.isnan(value), why
        import re

        assert re.search(why, note), note


def test_two_readings_are_none():
    """Labels that are their own inverse, as positions and as classes."""
    o = randn(N, 5, 5)
    t = torch.tensor([1, 0, 2, 4, 3]).expand(N, 5)
    value, note = accuracy(o, t, ce)
    assert math.isnan(value) and "can be read in two ways" in note
    assert accuracy(o, labels(N, 5), ce).value > 0


# through the verbs --------------------------------------------------------------------------------------


class Letters(nn.Module):
    """A language model: [n, token] -> [n, token, class]."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.emb, self.out = nn.Embedding(C, 6), nn.Linear(6, C)

    def forward(self, x):
        return self.out(torch.tanh(self.emb(x)))


def test_a_small_language_model_by_record_and_by_tape():
    x = labels(16, T)
    y = (x + 1) % C
    y[:, -1] = -100
    work = ik.Workload(
        model=Letters(),
        loss=tokens,
        train=(x, y),
        test=(x, y),
        optimizer=ik.SGD(lr=0.3),
        epochs=4,
        batch_size=8,
    )
    run = ik.record(work)
    wanted = right(work.outputs(run.final.theta, (x, y)).argmax(2), y, y >= 0)
    assert run.attrs["accuracy"] == wanted > 0.3  # the last token has no target
    model, data = Letters(), TensorDataset(x, x)
    opt = torch.optim.SGD(model.parameters(), 0.3)
    with ik.Tape(None, model, opt, loss=shifted, data=data) as tape:
        for _, (a, b) in tape.batches(DataLoader(data, batch_size=8)):
            opt.zero_grad()
            shifted(model(a), b).mean().backward()
            opt.step()
    run = tape.trajectory(test=data)
    assert run.attrs["accuracy"] == right(model(x).argmax(2)[:, :-1], x[:, 1:])


def test_a_result_says_why_it_has_no_accuracy():
    x = randn(16, 3)
    work = ik.Workload(
        model=nn.Linear(3, 1), loss=lambda o, t: (o - t).square().mean(1), train=(x, x[:, :1]),
        test=(x, x[:, :1]), optimizer=ik.SGD(lr=0.1), batch_size=8,
    )  # fmt: skip
    scores = ik.estimate(ik.record(work))
    assert math.isnan(scores.attrs["accuracy"])
    assert "not classes and labels" in scores.attrs["accuracy_note"]
