"""The training step: iterated, replicated and checked at the door, against plain autograd and loops."""

from dataclasses import replace

import pytest
import torch
from helpers_step import KINDS, conv_workload, each_kind, mean_loss, positions, walked
from torch import nn
from torch.func import functional_call

from influencekit import SGD, Adam, AdamW, InputError, Window, Workload, make, record
from influencekit._training.batch import select
from influencekit._training.checks.step import check_step
from influencekit._training.state import State
from influencekit._training.step import Step
from influencekit.testing import plain_run, retrained, tiny_workload, unrolled_gradient, weighted_run
from influencekit.testing.setting import OPTIMIZERS

# iterate ------------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("t", [0, 1])
def test_the_traced_gradient_equals_autograd_on_the_module_itself(kind, t):
    step, _ = walked(kind)
    workload = step.workload
    theta = workload.theta0 + 0.1
    g, losses = step.gradient(State(theta, {}, t), step.coefficients(t))
    leaf = theta.clone().requires_grad_()
    mean_loss(workload, leaf, positions(step, t)).backward()
    # float64 rounding of sums in another order
    torch.testing.assert_close(g, leaf.grad, rtol=1e-12, atol=1e-14)
    b = len(positions(step, t))
    expected = workload.losses(theta, select(workload.train, positions(step, t)))
    torch.testing.assert_close(losses[:b], expected, rtol=1e-12, atol=1e-14)


def test_the_loss_is_that_of_the_module_called_plainly():
    workload = tiny_workload()
    x, y = workload.train
    expected = nn.functional.binary_cross_entropy_with_logits(workload.model(x), y, reduction="none")
    torch.testing.assert_close(workload.losses(workload.theta0, workload.train), expected.detach())
    named = functional_call(workload.model, workload.layout.split(workload.theta0), (x,))
    torch.testing.assert_close(named, workload.model(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_equals_a_plain_torch_loop(kind, name):
    optimizer = OPTIMIZERS[name]
    workload = KINDS[kind](optimizer=replace(optimizer, groups=()))
    step = Step(workload)
    step.traced = walked(kind)[0].traced  # the gradient knows no optimizer
    state = step.start()
    expected = plain_run(workload)
    for t in range(step.plan.steps):
        torch.testing.assert_close(state.theta, expected[t], rtol=1e-11, atol=1e-13)
        state, _ = step.advance(state)
    torch.testing.assert_close(state.theta, expected[-1], rtol=1e-11, atol=1e-13)


def test_a_step_is_deterministic_and_leaves_its_state_alone():
    workload = tiny_workload(AdamW(lr=0.1), dtype=torch.float32)
    state = Step(workload).start()
    for _ in range(3):
        copy = State(state.theta.clone(), {k: v.clone() for k, v in state.slots.items()}, state.step)
        first, losses = Step(workload).advance(state)  # traced anew
        again, losses_again = Step(workload).advance(state)
        assert torch.equal(first.theta, again.theta) and torch.equal(losses, losses_again)
        assert torch.equal(state.theta, copy.theta)
        assert all(torch.equal(state.slots[k], copy.slots[k]) for k in copy.slots)
        state = first


def test_padded_slots_count_for_nothing():
    workload = tiny_workload()
    step = Step(workload)
    losses = step.advance(step.start())[1]
    assert (losses > 0).all()
    state = State(step.start().theta, step.start().slots, 1)  # the short batch: three of four slots
    assert step.advance(state)[1][3] == 0 and step.coefficients(1).tolist() == [1 / 3] * 3 + [0]


@pytest.mark.parametrize("padding", [1, 5])
def test_wider_padding_changes_nothing(padding):
    workload = tiny_workload()
    wide = torch.cat([workload.plan.indices, torch.full((6, padding), -1)], 1)
    a, b = (weights_run(w) for w in (workload, replace(workload, order=wide)))
    torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


def weights_run(workload):
    step = Step(workload)
    state = step.start()
    for _ in range(step.plan.steps):
        state, _ = step.advance(state)
    return state.theta


# replicate ----------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("optimizer", [SGD(lr=0.1, momentum=0.9), Adam(lr=0.1, clip_norm=0.2)], ids=repr)
def test_many_models_at_once_equal_weighted_runs_one_by_one(kind, optimizer):
    workload = KINDS[kind](optimizer=optimizer)
    step = Step(workload)
    changed = torch.ones(4, workload.n_train, dtype=torch.float64)  # the last one is the run itself
    changed[0, 0] = changed[1, 2] = 0.0
    changed[2, 5] = 0.3
    theta = workload.theta0.expand(4, -1)
    state = State(theta, {k: torch.zeros_like(theta) for k in optimizer.slots}, 0)
    for t in range(step.plan.steps):
        state, _ = step.advance_with(state, step.coefficients(t, changed))
    for k in range(4):
        weights = changed[k].expand(step.plan.steps, -1)
        torch.testing.assert_close(
            state.theta[k], weighted_run(workload, weights)[-1], rtol=1e-10, atol=1e-12
        )


def test_an_example_may_stand_in_a_batch_twice():
    # sampling with replacement: removal takes out every occurrence, scores add up over them
    order = torch.tensor([[0, 0, 3, 1], [2, 5, 5, 5], [6, 0, 7, -1]])
    workload = replace(tiny_workload(), order=order)
    trajectory, query = record(workload), make("query", "test-losses")
    windows = [Window(0, 3), Window(1, 3, "window")]
    for name, oracle in (("dit", unrolled_gradient), ("loo", retrained)):
        found = make("estimator", name).scores(trajectory, query, windows)
        torch.testing.assert_close(found, oracle(workload, query, windows), rtol=1e-9, atol=1e-13)


def test_convolutions_are_trained_one_after_the_other_on_a_cpu():
    assert Step(conv_workload()).prefers_loop
    assert not Step(tiny_workload()).prefers_loop


# at the door --------------------------------------------------------------------------------------------


def with_layer(layer, **options):
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 1), nn.Flatten(0))
    loss = nn.MSELoss(reduction="none")
    return Workload(
        model=model, loss=loss, train=(x, x[:, 0]), test=(x, x[:, 0]), optimizer=SGD(lr=0.1), **options
    )


def test_a_random_loss_is_refused_and_the_layer_named():
    with pytest.raises(InputError, match="training loss is random .layers 1.*must be repeatable"):
        check_step(Step(with_layer(nn.Dropout(0.5))))


def test_batch_normalisation_is_admitted_whether_or_not_it_keeps_statistics():
    for layer in (nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False)):
        step = Step(with_layer(layer))
        check_step(step)
        assert step.joint


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(4).eval(), nn.LayerNorm(4), nn.Dropout(0.0), nn.ReLU()], ids=repr
)
def test_separable_losses_pass(layer):
    workload = with_layer(layer)
    check_step(Step(workload))
    record(workload)


def test_a_contrastive_loss_is_refused():
    workload = replace(tiny_workload(), loss=lambda o, y: (o - o.mean()) ** 2)
    with pytest.raises(InputError, match="depends on the other examples"):
        record(workload)


def test_a_model_whose_control_flow_reads_values_still_works():
    class Branching(nn.Linear):
        def forward(self, x):
            return super().forward(x).squeeze(-1) * (2.0 if x.abs().sum() > 0 else 1.0)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Branching(3, 1).double()
    workload = replace(tiny_workload(), model=model)
    doubled = replace(workload, model=Doubled(model))
    query = make("query", "test-losses")
    for name in ("dit", "loo"):
        found, expected = (
            make("estimator", name).scores(record(w), query, [Window(0, 6)]) for w in (workload, doubled)
        )
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


class Doubled(nn.Module):
    """The branch that is always taken."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, x):
        return 2.0 * nn.functional.linear(x, self.linear.weight, self.linear.bias).squeeze(-1)


# elsewhere ----------------------------------------------------------------------------------------------


@pytest.mark.gpu
@each_kind
def test_training_on_cuda_equals_the_cpu(kind):
    workload = KINDS[kind]()
    there = weights_run(workload.to("cuda")).cpu()
    torch.testing.assert_close(there, weights_run(workload), rtol=1e-9, atol=1e-11)


@pytest.mark.gpu
def test_convolutions_are_batched_on_cuda():
    assert not Step(conv_workload().to("cuda")).prefers_loop
