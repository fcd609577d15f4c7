"""Data value embeddings against explicit matrices, single gradients, and `dit:curvature=fisher`."""

import pytest
import torch
from helpers_dvemb import dense, gradients, images, matrix, one_layer, small_cnn
from influencekit_dvemb import DVEmb, projection
from influencekit_dvemb.sources import Replayed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik
from influencekit.registry import make, spec
from influencekit.testing import parametrize_with_checks, tiny_workload

EXACT = {"rtol": 1e-10, "atol": 1e-12}  # float64; sums in another order
TINY, CNN = ik.record(tiny_workload()), ik.record(images(small_cnn(), l2=0.02))
runs = pytest.mark.parametrize("run", [TINY, CNN], ids=["linear", "convolution"])


@runs
@pytest.mark.parametrize("dim", [None, 6])
def test_projected_gradients_are_the_explicit_projection_of_explicit_gradients(run, dim):
    source = Replayed(run, dim, seed=3)
    P = matrix(run, source.projection)
    assert dim is None or all(size <= dim for size in source.projection.sizes)
    found = source.gradients(0, run.steps)
    for t in range(run.steps):
        explicit = torch.stack(gradients(run, t)) @ P.T
        torch.testing.assert_close(found[t, : len(explicit)], explicit, **EXACT)
        assert not found[t, len(explicit) :].any()
    theta = run.state(1).theta
    torch.testing.assert_close(source.projection.of_flat(run.workload.layout, theta), P @ theta, **EXACT)


def test_a_projection_has_orthogonal_rows_and_keeps_scalar_products_on_average():
    for A, B in Replayed(CNN, 6, seed=0).projection.factors:
        for factor in (A, B):
            if factor is not None:
                sizes = factor.abs().sum(1)  # of the groups that are added up
                torch.testing.assert_close(factor @ factor.T, torch.diag(sizes))
                assert sizes.max() - sizes.min() <= 1
    many = [Replayed(TINY, 4, seed).projection.factors[0][0] for seed in range(1000)]
    mean = torch.stack([A.T @ A for A in many]).mean(0)
    torch.testing.assert_close(mean, torch.eye(4).double(), rtol=0, atol=0.1)  # 5 deviations of the mean


def test_many_rows_are_applied_by_sums_and_give_the_same(monkeypatch):
    expected = Replayed(CNN, 6, 0).gradients(0, 2)
    monkeypatch.setattr(projection, "_DENSE", 1)
    torch.testing.assert_close(Replayed(CNN, 6, 0).gradients(0, 2), expected, **EXACT)


@runs
@pytest.mark.parametrize("dim", [None, 6])
@pytest.mark.parametrize("segments", [1, 3, None])
def test_scores_are_those_of_the_dense_recursion_whatever_the_segments(run, dim, segments):
    estimator = DVEmb(dim=dim, segments=segments)
    found = ik.contributions(run, "test-losses", estimator, at=[2, run.steps]).contribution.values
    projection = Replayed(run, dim, 0).projection
    P, query = matrix(run, projection), make("query", "test-losses")
    for k, t in enumerate((2, run.steps)):
        q = query.gradient(run.workload, run.state(t).theta) @ P.T
        expected = torch.einsum("qf,tsf->qts", q, dense(run, projection, t))
        torch.testing.assert_close(torch.from_numpy(found[:, k]), expected, **EXACT)


def test_with_one_layer_and_no_projection_it_is_dit_with_outer_products():
    run = ik.record(one_layer())
    windows = [ik.Window(0, 6), ik.Window(1, 4, "window"), ik.Window(2, 5), ik.Window(3, 4, "occurrence")]
    found = ik.estimate(run, "test-losses", DVEmb(dim=None), windows).influence.values
    expected = ik.estimate(run, "test-losses", "dit:curvature=fisher", windows).influence.values
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(expected), **EXACT)


def test_a_layer_that_is_called_twice_has_the_sum_of_both_gradients():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.last = nn.Linear(4, 4), nn.Linear(4, 1)

        def forward(self, x):
            x = x.flatten(1).unflatten(1, (32, 4))  # 32 positions
            return self.last(self.inner(torch.tanh(self.inner(x)))).mean((1, 2))

    run = ik.record(images(Twice()))
    found = Replayed(run, None, 0).gradients(0, 1)[0]
    P = matrix(run, Replayed(run, None, 0).projection)
    torch.testing.assert_close(found, torch.stack(gradients(run, 0)) @ P.T, **EXACT)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Flatten(), nn.LayerNorm(128), nn.Linear(128, 1)), "1 \\(LayerNorm\\)"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten(), nn.Linear(72, 1)), "one group"),
    ],
)
def test_layers_it_does_not_know_are_refused_by_name(model, words):
    run = ik.record(images(nn.Sequential(model, nn.Flatten(0))))
    with pytest.raises(ik.InputError, match=words):
        ik.estimate(run, "test-loss", DVEmb())


def test_a_parameter_used_beside_its_layer_is_noticed():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(128, 1)

        def forward(self, x):
            x = x.flatten(1)
            return self.first(x)[:, 0] + x.square() @ self.first.weight[0]

    with pytest.raises(ik.InputError, match="do not explain its gradient"):
        ik.estimate(ik.record(images(Tied())), "test-loss", DVEmb())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_taped_runs_are_taken_unless_training_has_noise_of_its_own(tmp_path, dropout):
    data = TensorDataset(*(v[:8] for v in one_layer().train))
    model = nn.Sequential(nn.Dropout(dropout), nn.Linear(3, 1), nn.Flatten(0)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
    loss = nn.BCEWithLogitsLoss(reduction="none")
    with ik.Tape(tmp_path / "run.zarr", model, optimizer, loss=loss, data=data) as tape:
        for _ in range(2):
            for _ids, (x, y) in tape.batches(DataLoader(data, batch_size=4)):
                optimizer.zero_grad()
                loss(model(x), y).mean().backward()
                optimizer.step()
    run = ik.open(tmp_path / "run.zarr", model=model, loss=loss, data=data, test=data)
    if dropout:
        with pytest.raises(ik.InputError, match="other noise or dropout than in training"):
            ik.estimate(run, "test-loss", DVEmb(dim=None))
        return
    found = ik.estimate(run, "test-losses", DVEmb(dim=None)).influence.values
    expected = ik.estimate(run, "test-losses", "dit:curvature=fisher").influence.values
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(expected), **EXACT)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_same():
    run = ik.record(CNN.workload.to("cuda"))
    for name in ("dvemb:dim=6", "tsloo"):
        found, expected = (ik.estimate(r, "test-losses", name).influence.values for r in (run, CNN))
        torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(expected), rtol=1e-8, atol=1e-12)


def test_other_optimizers_are_refused():
    for optimizer in (ik.SGD(lr=0.1, momentum=0.9), ik.SGD(lr=0.1, weight_decay=0.1), ik.Adam(lr=0.1)):
        with pytest.raises(ik.InputError, match="derived for plain SGD"):
            ik.estimate(ik.record(tiny_workload(optimizer)), "test-loss", DVEmb())
    with pytest.raises(ik.InputError, match="dim must be at least 1"):
        DVEmb(dim=0)


def test_it_is_found_by_its_entry_point():
    assert make("estimator", "dvemb:dim=none:segments=4") == DVEmb(dim=None, segments=4)
    assert spec(DVEmb(dim=64)) == "dvemb:dim=64"


@parametrize_with_checks([DVEmb(), DVEmb(dim=5, segments=3, seed=1)])
def test_conformance(subject, check):
    check(subject)
