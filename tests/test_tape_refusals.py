"""What a tape cannot record exactly is caught, in a short run with default settings, in one clear line."""

import re

import pytest
import torch
from helpers_tape import Examples, held_out, network, per_example
from helpers_tape_caught import MEAN, Loop, adam, caught, once, sgd
from torch import nn
from torch.utils.data import DataLoader, Dataset

import influencekit as ik
from influencekit.errors import DivergedError

# weights ------------------------------------------------------------------------------------------------


def in_place(loop):
    loop.model[0].weight.data.mul_(0.999)


def copied(loop):
    with torch.no_grad():
        loop.model[3].bias.copy_(torch.zeros(3))


def averaged(loop):
    """An average with the first weights takes the place of the present ones."""
    now, first = loop.model.state_dict(), network().state_dict()
    loop.model.load_state_dict({name: value.lerp(first[name], 0.1) for name, value in now.items()})


EDITS = {"0.weight": in_place, "3.bias": copied, "0.weight|0.bias": averaged}


@pytest.mark.parametrize("event", ["begin", "backward", "stepped"])
@pytest.mark.parametrize("name", EDITS)
def test_weights_changed_by_hand(name, event):
    step = 6 if event == "stepped" else 5
    what = rf"parameter ({name}) was changed since the last step"
    if EDITS[name] is averaged:
        what = "load_state_dict put other weights into the model"
    caught(Loop(once(event, EDITS[name])), rf"step {step}: {what}")


def test_weights_changed_after_the_last_step():
    caught(Loop(once("stepped", in_place, 8)), "step 9: parameter 0.weight was changed since the last step")


def test_weights_swapped_and_swapped_back_are_no_change():
    """As for an evaluation of averaged weights."""

    def swap(loop):
        own = {k: v.clone() for k, v in loop.model.state_dict().items()}
        in_place(loop)
        loop.model.load_state_dict(own)

    assert Loop(once("stepped", swap)).run().committed == 9


# steps --------------------------------------------------------------------------------------------------


def test_a_skipped_step():
    def skip(loop):
        loop.skip = True

    text = caught(
        Loop(once("backward", skip)), "step 5: a batch was forwarded, and no optimizer step followed"
    )
    assert "accumulate=" in text


def test_a_forgotten_accumulate():
    """The loop steps at every second batch, and the tape was not told."""

    def every_second(event, loop):
        loop.skip = event == "backward" and loop.step % 2 == 0

    caught(Loop(every_second), r"a batch was forwarded, and no optimizer step.*more than 1, pass accumulate=")


def test_an_accumulate_that_the_loop_does_not_do():
    text = caught(Loop(accumulate=2), "step 0, replayed, is not what the loop did")
    assert "2 times the replayed one; it fits if a step has one batch: leave out accumulate=2" in text


def test_a_doubled_step():
    for event in ("backward", "stepped"):
        caught(
            Loop(once(event, lambda loop: loop.optimizer.step())),
            "without a new batch, after step 5 was done",
        )


def test_two_forward_passes_on_one_batch():
    def again(loop):
        loop.model(loop.batch[0])

    caught(Loop(once("forward", again)), "step 5: the model ran forward, with gradients, on no new batch")


def test_a_forward_pass_before_any_batch():
    def early(event, loop):
        if event == "open":
            loop.model(loop.data.x)

    caught(Loop(early), "step 0: the model ran forward, with gradients, on no new batch")


def test_evaluation_in_between_is_fine():
    def evaluate(loop):
        loop.model.eval()
        with torch.no_grad():
            loop.model(held_out()[0])
        loop.model.train()

    assert Loop(once("stepped", evaluate)).run().committed == 9


def test_a_batch_that_the_loop_passes_over_is_no_step():
    def loop(tape, model, optimizer, data):
        for k, (_, (x, y)) in enumerate(tape.batches(DataLoader(data, batch_size=4))):
            if k != 1:
                MEAN(model(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()

    model, data = network(), Examples()
    optimizer = sgd(model)
    with ik.Tape(None, model, optimizer, loss=per_example, data=data, check=1.0) as tape:
        loop(tape, model, optimizer, data)
    run = tape.trajectory()
    assert run.plan.indices.tolist() == [[0, 1, 2, 3], [8, 9, 10, 11]]


# gradients ----------------------------------------------------------------------------------------------


def test_hooks_on_gradients_at_the_start():
    loop = Loop()
    loop.model[0].weight.register_hook(lambda grad: 2 * grad)
    caught(loop, "parameter 0.weight has a gradient hook")
    loop = Loop()
    loop.model[3].bias.register_post_accumulate_grad_hook(lambda p: p.grad.mul_(2))
    caught(loop, "parameter 3.bias has a gradient hook")
    loop = Loop()
    loop.model[1].register_full_backward_hook(lambda module, *grads: None)
    caught(loop, "module 1 has a backward hook")


@pytest.mark.parametrize("optimizer", [sgd, adam])
def test_hooks_on_gradients_later(optimizer):
    def hook(loop):
        loop.model[0].weight.register_hook(lambda grad: 2 * grad)

    text = caught(
        Loop(once("begin", hook, 4), optimizer, check=1.0), "step 4, replayed, is not what the loop did"
    )
    assert "only the gradient of 0.weight differs: something that the tape cannot see" in text


@pytest.mark.parametrize("optimizer", [sgd, adam])
def test_a_gradient_changed_by_hand_in_one_step(optimizer):
    def noisy(loop):
        loop.model[0].bias.grad.add_(0.1)

    text = caught(
        Loop(once("backward", noisy), optimizer, check=1.0), "step 5, replayed, is not what the loop did"
    )
    assert "0.bias" in text or "exp_avg" in text


def test_a_gradient_that_was_not_zeroed():
    loop = Loop()
    loop.optimizer.zero_grad = lambda: None
    caught(loop, "step 1, replayed, is not what the loop did")


def test_clipping_that_the_tape_does_not_know():
    def clip(event, loop):
        if event == "backward":
            nn.utils.clip_grad_norm_(loop.model.parameters(), 0.01)

    text = caught(Loop(clip), "step 0, replayed, is not what the loop did")
    assert "it fits if the loop clips its norm to 0.01: write clip_norm=0.01" in text


def test_clipping_that_the_loop_does_not_do():
    caught(Loop(clip_norm=0.01), "step 0, replayed.*it fits if the loop does not clip: leave out clip_norm=")


def test_clipping_over_parameters_that_are_not_trained():
    loop = Loop(optimizer=lambda m: torch.optim.SGD(m[3].parameters(), lr=0.1), clip_norm=1.0)
    caught(loop, "parameter 0.weight has a gradient, which counts in the clipped norm, and is in no group")


def test_no_gradient_at_all():
    def clear(loop):
        loop.optimizer.zero_grad()

    caught(Loop(once("backward", clear, 0)), "no parameter of the optimizer has a gradient")


# the loss -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [sgd, adam])
def test_the_sum_for_the_mean(optimizer):
    """The message says by what factor: batches have four examples."""
    text = caught(
        Loop(optimizer=optimizer, value=lambda out, y: per_example(out, y).sum()),
        "step 0, replayed, is not what the loop did",
    )
    assert "is 4 times the replayed one; it fits if" in text and 'write reduction="sum"' in text


def test_another_loss():
    loop = Loop(value=nn.CrossEntropyLoss(label_smoothing=0.2))
    text = caught(loop, "step 0, replayed, is not what the loop did: parameter")
    assert "another loss than loss=" in text


def test_a_loss_outside_of_autocast():
    """In bfloat16, where a replay computes it in float32."""

    def outside(out, y):
        with torch.autocast("cpu", enabled=False):
            return MEAN(out * 3, y)

    loop = Loop(value=outside, model=network(torch.float32), data=Examples(torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        text = caught(loop, "step 0, replayed, is not what the loop did")
    assert text.endswith("under autocast, a replay computes the loss there, too")


def test_a_penalty_that_is_not_in_the_loss():
    loop = Loop()
    loop.value = lambda out, y: MEAN(out, y) + 0.1 * sum((p**2).sum() for p in loop.model.parameters())
    caught(loop, "step 0, replayed, is not what the loop did")


def test_a_loss_that_is_no_number_for_each_example():
    caught(Loop(loss=MEAN), r"one value per example, shape \[4\], got \[\]; use reduction=")


def test_random_numbers_from_a_generator_of_the_datas_own():
    class Own(Dataset):
        def __init__(self):
            self.base, self.generator = Examples(), torch.Generator().manual_seed(0)

        def __len__(self):
            return len(self.base)

        def __getitem__(self, i):
            x, y = self.base[i]
            return x + torch.randn(4, generator=self.generator), y

    text = caught(Loop(data=Own()), "step 0, replayed, is not what the loop did")
    assert "random numbers from a generator of its own" in text


@pytest.mark.parametrize("custom", [False, True])
def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_what_came_before(tmp_path, custom):
    """Also where the tape does not see the loss, from the weights."""
    store = tmp_path / "run.zarr"
    forward = {"forward": lambda m, batch: m(batch[0])} if custom else {}
    loop = Loop(optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=1e308), **forward)
    text = caught(
        loop, "became NaN or infinite at step [12]; what came before is kept", DivergedError, store=store
    )
    run = ik.open(store, model=network(), loss=per_example, data=loop.data, **forward)
    assert run.attrs["status"] == "stopped" and run.attrs["reason"] == text
    assert run.steps == int(re.search(r"step (\d)", text)[1]) and run.state(run.steps).theta.isfinite().all()
