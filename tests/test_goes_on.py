"""Loops that go on later, that have not ended, and whose layers are trained later."""

import copy
from contextlib import nullcontext

import pytest
import torch
from helpers_loop import Run, refused
from helpers_tape import Examples, held_out, losses_at, network, order, per_example, seed, untraced, vector
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

# runs that go on ------------------------------------------------------------------------------------------


class Scheduled(Run):
    """With a schedule by epoch and a loader that has a generator of its own."""

    def __init__(self, number=3, **options):
        super().__init__(tape=False)
        seed(number)
        self.loader = DataLoader(
            self.data, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(number)
        )
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.7)
        self.number, self.options = number, {"scheduler": self.scheduler, **options}

    def loop(self, tape, epochs):
        for _ in range(epochs):
            self.epoch(tape)
            self.scheduler.step()


def assert_goes_on(found, whole):
    """States, plan and scores are bit for bit those of one long run."""
    assert found.steps == whole.steps == 15
    found.check_replay(0, 15)
    for t in range(16):
        mine, theirs = found.state(t), whole.state(t)
        assert torch.equal(mine.theta, theirs.theta), t
        assert all(torch.equal(mine.slots[name], theirs.slots[name]) for name in theirs.slots)
    for name in ("indices", "lr", "epoch", "coefficient"):
        assert torch.equal(getattr(found.plan, name), getattr(whole.plan, name)), name
    if "reloaded" in found.attrs:  # scores are those of the reloaded state
        return
    with untraced():
        scores = [ik.estimate(run, "test-loss", "dit", "full,each-epoch").influence for run in (found, whole)]
    assert scores[0].equals(scores[1])


@pytest.fixture(scope="module")
def whole():
    """The long run, and the plain loop's weights at its end."""
    run, plain = Scheduled(), Scheduled()
    run.tape = run.taped(**run.options)
    plain.loop(None, 5)
    seed()
    with run.tape:
        run.loop(run.tape, 5)
    assert torch.equal(vector(run.model), vector(plain.model))
    return run.open()


def began(path, **options):
    run = Scheduled()
    with run.taped(path, **run.options, **options) as run.tape:
        run.loop(run.tape, 3)
    return run


def opened(path, run):
    return ik.open(
        path, model=network(dropout=0.2), loss=per_example, data=run.data, test=(run.data.x, run.data.y)
    )


def test_more_epochs_by_the_same_program_in_another_process(tmp_path, whole):
    """What was done is skipped; weights, optimizer, schedule and generators are put back."""
    path = tmp_path / "run.zarr"
    began(path)
    other = Scheduled(number=77)
    other.model.apply(lambda m: nn.init.normal_(m.weight) if hasattr(m, "weight") else None)
    with other.taped(path, resume=True, **other.options) as tape:
        other.loop(tape, 5)
    assert_goes_on(opened(path, other), whole)
    assert torch.equal(vector(other.model), whole.final.theta)


@pytest.mark.parametrize("kill", ["exception", "killed before it is complete"])
def test_more_epochs_are_cut_off_and_resumed(tmp_path, whole, kill, monkeypatch):
    path = tmp_path / "run.zarr"
    run = began(path)
    with pytest.raises(KeyboardInterrupt), run.taped(path, resume=True, **run.options) as tape:
        if kill == "exception":
            run.epoch(tape)
            run.scheduler.step()
            for _ in tape.batches(run.loader):
                raise KeyboardInterrupt
        run.loop(tape, 2)
        writer = tape._recording.writer.opened
        close = writer.close
        monkeypatch.setattr(writer, "close", lambda *_, **more: close("recording") or stop())
    other = Scheduled(number=77)
    with other.taped(path, resume=True, **other.options) as tape:
        other.loop(tape, 5)
    assert_goes_on(opened(path, other), whole)


def stop():
    raise KeyboardInterrupt


def test_more_epochs_with_the_live_model(tmp_path, whole):
    path = tmp_path / "run.zarr"
    run = began(path)
    with run.taped(path, resume=True, **run.options) as tape:
        run.loop(tape, 2)
    assert_goes_on(opened(path, run), whole)


@pytest.mark.parametrize("stored", [True, False])
def test_several_blocks_on_one_tape(tmp_path, whole, stored):
    """Between them the model is evaluated, with gradients, and the run can be read."""
    run = Scheduled()
    tape = run.tape = run.taped(tmp_path / "run.zarr" if stored else None, **run.options)
    for epochs in (1, 2, 2):
        with tape:
            run.loop(tape, epochs)
        per_example(run.model.eval()(run.data.x), run.data.y).sum().backward()
        run.model.train()
        run.optimizer.zero_grad()
        assert tape.committed == run.open().steps
    assert_goes_on(run.open(), whole)
    assert run.open().attrs["status"] == "complete"


def test_what_was_reloaded_is_no_part_of_the_longer_run(tmp_path, whole):
    path, run = tmp_path / "run.zarr", Scheduled()
    with run.taped(path, **run.options) as tape:
        run.loop(tape, 1)
        best = copy.deepcopy(run.model.state_dict())
        run.loop(tape, 2)
        run.model.load_state_dict(best)
    assert opened(path, run).attrs["reloaded"] == 3
    other = Scheduled(number=77)
    with other.taped(path, resume=True, **other.options) as tape:
        other.loop(tape, 5)
        other.model.load_state_dict(best)  # of an epoch that another process did
    found = opened(path, other)
    assert_goes_on(found, whole)
    assert found.attrs["reloaded"] == 3


def test_changes_between_blocks_are_refused():
    def act(change):
        run = Scheduled()
        run.tape = run.taped(**run.options)
        with run.tape:
            run.loop(run.tape, 1)
        change(run)
        with run.tape:
            run.loop(run.tape, 1)

    refused(
        lambda: act(lambda run: run.model[0].weight.data.mul_(2)), "step 3: parameter 0.weight was changed"
    )
    refused(
        lambda: act(lambda run: run.optimizer.state[run.model[0].weight]["exp_avg"].zero_()),
        "step 3: the state of the optimizer was changed since the tape was closed",
    )


def test_a_finished_run_and_a_loop_without_more_epochs(tmp_path):
    path = tmp_path / "run.zarr"
    began(path)
    run = Scheduled(number=77)

    def act():
        with run.taped(path, resume=True, **run.options) as tape:
            run.loop(tape, 2)

    refused(
        act, "is complete: there is nothing to resume; it has 3 epochs, .* the loop had 2: loop over 3 and as"
    )
    assert opened(path, run).attrs["status"] == "complete"


# runs that have not ended ---------------------------------------------------------------------------------


def test_a_run_still_going_says_so(tmp_path):
    path, run = tmp_path / "run.zarr", Scheduled()
    with run.taped(path, **run.options) as tape:
        run.epoch(tape, after_step=lambda k: "stop")
        with pytest.raises(
            ik.StoreError, match="is being written, and no step is committed yet: open it again"
        ):
            opened(path, run)
        run.loop(tape, 1)
        tape._recording.writer.opened.flush()
        with pytest.warns(
            UserWarning, match="is still being written: 4 steps are committed so far, and what"
        ):
            found = opened(path, run)
        assert found.steps == 4
        assert ik.estimate(found, "test-loss", "grad-dot").attrs["caution"] == (
            "the run has not ended: these are its first 4 steps"
        )


def test_a_run_that_was_cut_off_says_so(tmp_path):
    path, run = tmp_path / "run.zarr", Scheduled()
    with pytest.raises(KeyboardInterrupt), run.taped(path, **run.options) as tape:
        run.loop(tape, 1)
        raise KeyboardInterrupt
    with pytest.warns(UserWarning, match="was cut off: 3 steps are committed, .* with resume=True"):
        assert opened(path, run).steps == 3


# layers that are trained later ----------------------------------------------------------------------------


def unfreezing(rule, weights=None, tape=False, frozen=False):
    """The first layer joins after the first of three epochs. `frozen`: by requires_grad, else by lr = 0."""
    seed()
    data, model = Examples(), network()
    groups = [{"params": model[3].parameters(), "lr": 0.1}, {"params": model[0].parameters(), "lr": 0.0}]
    optimizer = rule(groups)
    roll = ik.Tape(None, model, optimizer, loss=per_example, data=data, check=1) if tape else None
    with roll or nullcontext():
        for k, epoch in enumerate(order()):
            optimizer.param_groups[1]["lr"] = 0.05 * (k > 0)
            model[0].requires_grad_(k > 0 or not frozen)
            loader = DataLoader(data, batch_sampler=epoch)
            pairs = roll.batches(loader) if roll else ((i, (data.x[i], data.y[i])) for i in epoch)
            for i, (x, y) in pairs:
                w = torch.ones(len(data), dtype=torch.float64) if weights is None else weights
                optimizer.zero_grad()
                (w[i] * per_example(model(x), y)).mean().backward()
                optimizer.step()
    return roll.trajectory(test=held_out()) if tape else vector(model)


@pytest.mark.parametrize("rule", [torch.optim.SGD, torch.optim.AdamW])
def test_layers_that_join_by_their_learning_rate(rule):
    run, base = unfreezing(rule, tape=True), unfreezing(rule)
    assert torch.equal(run.final.theta, base)
    if rule is torch.optim.SGD:
        assert torch.equal(base, unfreezing(rule, frozen=True))
    rows = [0, 3, 7]
    examples = torch.eye(12, dtype=torch.float64)[rows]

    def loss(weights):
        return float(losses_at(unfreezing(rule, weights)).mean())

    def slope(e, h):
        return (loss(1 - h * e) - loss(1 + h * e)) / (2 * h)

    loo = [loss(1 - e) - float(losses_at(base).mean()) for e in examples]
    dit = [(4 * slope(e, 5e-5) - slope(e, 1e-4)) / 3 for e in examples]
    with untraced():
        for name, want, tolerance in (("loo", loo, 1e-9), ("dit", dit, 1e-5)):
            got = torch.from_numpy(ik.estimate(run, "test-loss", name).influence.values.ravel()[rows])
            gap = (got - torch.tensor(want, dtype=torch.float64)).abs().max() / got.abs().max()
            assert gap < tolerance, (name, float(gap))


def test_layers_that_join_in_a_second_run(tmp_path):
    """What the message advises: another tape, which begins where the first one ended."""
    seed()
    data, model = Examples(), network()
    model[0].requires_grad_(False)
    runs = []
    for k in range(2):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
        tape = ik.Tape(tmp_path / str(k), model, optimizer, loss=per_example, data=data)
        with tape:
            for _, (x, y) in tape.batches(DataLoader(data, batch_size=4)):
                optimizer.zero_grad()
                per_example(model(x), y).mean().backward()
                optimizer.step()
        runs.append(tape.trajectory())
        before = vector(model) if k else vector(model.requires_grad_(True))
    n = runs[0].final.theta.numel()
    assert torch.equal(runs[1].state(0).theta[-n:], runs[0].final.theta)
    assert torch.equal(runs[1].final.theta, before)
