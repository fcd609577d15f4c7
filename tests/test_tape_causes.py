"""What a tape says of loops that it cannot follow: the cause first, what was seen, what to write."""

import pytest
import torch
import torch.nn.functional as F
from helpers_tape import Examples, network, per_example
from helpers_tape_caught import MEAN, Loop, caught, sgd
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

import influencekit as ik

# no new batch -------------------------------------------------------------------------------------------


def run(body, model=None, **options):
    """`body(tape, model, optimizer, data)` inside a tape; what it was refused with."""
    torch.manual_seed(0)
    model, data = model or network(), Examples()
    optimizer = sgd(model)
    with pytest.raises(ik.InputError) as info:
        with ik.Tape(None, model, optimizer, **{"loss": per_example, "data": data, **options}) as tape:
            body(tape, model, optimizer, data)
    text = str(info.value)
    assert "\n" not in text and len(text) < 420, len(text)
    return text


def each(data):
    return DataLoader(data, batch_size=4)


def train(model, optimizer, x, y):
    optimizer.zero_grad()
    MEAN(model(x), y).backward()
    optimizer.step()


def over_the_loader(tape, model, optimizer, data):
    for x, y in each(data):
        train(model, optimizer, x, y)


def before_the_loop(tape, model, optimizer, data):
    model(data.x[:2])


def validated_with_gradients(tape, model, optimizer, data):
    for _, (x, y) in tape.batches(each(data)):
        train(model, optimizer, x, y)
        model(data.x)


def twice(tape, model, optimizer, data):
    for _, (x, y) in tape.batches(each(data)):
        (MEAN(model(x), y) + F.mse_loss(model(x), model(x))).backward()
        optimizer.step()


def in_pieces(tape, model, optimizer, data):
    for _, (x, y) in tape.batches(each(data)):
        for a, b in zip(x.split(2), y.split(2), strict=True):
            MEAN(model(a), b).backward()
        optimizer.step()


def in_pieces_of_the_sum(tape, model, optimizer, data):
    for _, (x, _y) in tape.batches(each(data)):
        MEAN(model(x), _y).backward()
        model(x[:2]).sum().backward()


def a_second_source(tape, model, optimizer, data):
    for _, (x, y) in tape.batches(each(data)):
        (MEAN(model(x), y) + model(torch.randn(7, 4, dtype=x.dtype)).pow(2).mean()).backward()
        optimizer.step()


def a_smaller_source(tape, model, optimizer, data):
    for _, (x, y) in tape.batches(each(data)):
        (MEAN(model(x), y) + model(torch.randn(2, 4, dtype=x.dtype)).pow(2).mean()).backward()
        optimizer.step()


def a_list(tape, model, optimizer, data):
    for _, (x, y) in list(tape.batches(each(data))):
        train(model, optimizer, x, y)


def checkpointed(tape, model, optimizer, data):
    for _, (x, y) in tape.batches(each(data)):
        MEAN(checkpoint(model, x, use_reentrant=False), y).backward()
        optimizer.step()


def several_steps(tape, model, optimizer, data):
    for _, (x, y) in tape.batches(each(data)):
        for _ in range(3):
            train(model, optimizer, x, y)


ON_NO_BATCH = {
    over_the_loader: r"\(input \[4, 4\]\): does the loop iterate over tape.batches\? None came",
    before_the_loop: r"\(input \[2, 4\]\): does the loop iterate over tape.batches\?.*a pass before the loop",
    validated_with_gradients: r"\(input \[12, 4\]\): it came after a step.*evaluate under torch.no_grad",
    twice: "it is pass 2 of this step, on as many rows as the batch has: pass forward=",
    in_pieces_of_the_sum: "it got 2 of 4 rows: where the loop cuts batches into pieces",
    a_smaller_source: "it is pass 2 of this step, and no pass on its batch of 4: what comes from elsewhere",
    a_second_source: "it is pass 2 of this step, and no pass on its batch of 4: what comes from elsewhere",
    a_list: "2 of 3 batches were delivered and not forwarded: take them from tape.batches one at a time",
    checkpointed: "it ran inside backward, as checkpointing the whole model does",
    several_steps: "it came after a step.*several steps on one batch need it several times",
}


@pytest.mark.parametrize("body", ON_NO_BATCH, ids=lambda body: body.__name__)
def test_a_forward_pass_on_no_batch(body):
    text = run(body, **({"check": 0} if body is a_list else {}))
    assert text.split(": ", 1)[1].startswith("the model ran forward, with gradients, on no new batch")
    pytest.raises(ik.InputError, lambda: (_ for _ in ()).throw(ik.InputError(text))).match(ON_NO_BATCH[body])


def test_a_step_without_a_forward_pass():
    class Own(nn.Sequential):
        def loss(self, x, y):
            return MEAN(self[2](self[1](self[0](x))), y)

    def by_a_method(tape, model, optimizer, data):
        for _, (x, y) in tape.batches(each(data)):
            model.loss(x, y).backward()
            optimizer.step()

    model = Own(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    text = run(by_a_method, model)
    assert "did not run on the batch: where the loop calls a method of it, pass forward=lambda" in text
    assert run(lambda tape, model, optimizer, data: optimizer.step()).endswith("in tape.batches(loader): ...")


def test_a_loss_that_fails_on_what_the_model_gave():
    def part(tape, model, optimizer, data):
        for _, (x, _y) in tape.batches(each(data)):
            model(torch.cat([x, x]))

    said = "step 0: loss(outputs, target) fails on what the model gave for this batch (ValueError: "
    assert run(part).startswith(said) and "did the loop forward the batch" in run(part)
    assert run(in_pieces).startswith(said) and "it got 2 of 4 rows: where the loop cuts batches" in run(
        in_pieces
    )


# replays ------------------------------------------------------------------------------------------------


def changing(act, event="backward", **options):
    def mischief(name, loop):
        if name == event:
            act(loop)

    return Loop(mischief, **options)


SMOOTH = nn.CrossEntropyLoss(label_smoothing=0.2)


def total(out, y):
    return per_example(out, y).sum()


def scaled(out, y):
    return 3.7 * MEAN(out, y)


def weighted(out, y):
    return (torch.tensor([1.0, 2.0, 0.5, 1.5]).double() * per_example(out, y)).mean()


def hardest(out, y):
    return per_example(out, y).topk(2).values.sum() / 2


def penalised(kind, names=""):
    def make():
        loop = Loop()
        params = [p for n, p in loop.model.named_parameters() if names in n]
        loop.value = lambda out, y: MEAN(out, y) + 0.05 * sum(kind(p).sum() for p in params)
        return loop

    return make


class Scaled(Loop):
    """It divides the inputs in the loop, as one does with pixels."""

    def __init__(self):
        super().__init__()
        self.model.register_forward_pre_hook(lambda m, args: (args[0] / 4,) if m is self.model else None)


def not_zeroed():
    loop = Loop()
    loop.optimizer.zero_grad = lambda: None
    return loop


def over_the_group():
    """Micro-batches of one step, weighted otherwise than by their means."""
    loop = Loop(accumulate=3)
    loop.calls = 0

    def value(out, y):
        loop.calls += 1
        loop.skip = loop.calls % 3 != 0
        return MEAN(out, y) * (0.2 + 0.1 * (loop.calls % 3))

    loop.value, zero = value, loop.optimizer.zero_grad
    loop.optimizer.zero_grad = lambda: None if loop.calls % 3 else zero()
    return loop


def clip(loop):
    nn.utils.clip_grad_norm_(loop.model.parameters(), 0.05)


def clip_each(loop):
    nn.utils.clip_grad_value_(loop.model.parameters(), 0.03)


def clip_layers(loop):
    for p in loop.model.parameters():
        nn.utils.clip_grad_norm_(p, 0.02)


def one_gradient(loop):
    loop.model[3].bias.grad.mul_(2)


L2, L1 = r"lambda model: 0.05 \* sum\(p.pow\(2\)", r"lambda model: 0.05 \* sum\(p.abs\(\)"
REPLAYED = {
    "sum": (lambda: Loop(value=total), 'is 4 times .*; it fits if .* the sum of .*: write reduction="sum"'),
    "mean": (lambda: Loop(reduction="sum"), 'write reduction="mean"'),
    "a constant": (lambda: Loop(value=scaled), "is 3.7 times .*; it fits if the loop multiplies the loss by"),
    "not accumulated": (lambda: Loop(accumulate=2), "if a step has one batch: leave out accumulate=2"),
    "clipped": (lambda: changing(clip), "it fits if the loop clips its norm to 0.05: write clip_norm=0.05"),
    "not clipped": (lambda: Loop(clip_norm=0.01), "if the loop does not clip: leave out clip_norm=0.01"),
    "clipped by value": (lambda: changing(clip_each), "clips every entry of the gradient to 0.03"),
    "clipped by layers": (lambda: changing(clip_layers), "scaled by a factor of its own"),
    "L2": (penalised(torch.square), f"write penalty={L2}"),
    "L1": (penalised(torch.abs), f"write penalty={L1}"),
    "L2 of weights": (penalised(torch.square, "weight"), "of 0.weight, 3.weight beside it: write penalty="),
    "not zeroed": (not_zeroed, "call optimizer.zero_grad"),
    "weights": (lambda: Loop(value=weighted), "losses are weighted by 0.5 to 2, one weight an example"),
    "the hardest": (lambda: Loop(value=hardest), "it fits if only 2 of the 4 examples count"),
    "a group's mean": (over_the_group, "the micro-batches of the step count"),
    "one gradient": (lambda: changing(one_gradient), "only the gradient of 3.bias differs"),
    "another loss": (lambda: Loop(value=SMOOTH), "the loop minimises another loss than loss="),
    "inputs changed in the loop": (Scaled, "the model gave the loop other outputs"),
}


@pytest.mark.parametrize(("make", "said"), REPLAYED.values(), ids=REPLAYED)
def test_a_replay_names_the_cause_that_fits(make, said):
    text = caught(make(), said)
    assert "replayed, is not what the loop did" in text


def test_a_list_of_batches_is_named_when_it_is_replayed():
    assert "no list(...), no prefetching behind it" in run(a_list)
