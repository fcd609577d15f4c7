"""What is adapted equals what the libraries themselves give; skipped where they are not installed."""

from dataclasses import replace

import pytest
import torch
from helpers_baselines import Logit, SequenceLoss, classes, problem, scores, tagged
from influencekit_baselines import EKFAC, TRAK, TracIn
from torch import nn

import influencekit as ik


def network(outputs):
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, outputs))


def loaded(workload, theta):
    from copy import deepcopy

    model = deepcopy(workload.model)
    model.load_state_dict(workload.layout.split(theta))
    return model


def same_but_for_scale(a, b, tolerance):
    assert (
        torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), 0) > 1 - tolerance
    )


def test_tracin_at_epochs_is_captums_tracincp(tmp_path):
    tracincp = pytest.importorskip("captum.influence").TracInCP
    run = ik.record(classes(problem(), 3, network(3)))
    workload = run.workload
    files = []
    for t in (2, 5, 8):
        files.append(str(tmp_path / f"{t}.pt"))
        torch.save(loaded(workload, run.state(t + 1).theta).state_dict(), files[-1])

    def load(model, file):
        model.load_state_dict(torch.load(file))
        return 0.2  # the learning rate

    theirs = tracincp(
        loaded(workload, run.final.theta), torch.utils.data.TensorDataset(*workload.train), files, load,
        loss_fn=nn.CrossEntropyLoss(reduction="sum"), batch_size=4, sample_wise_grads_per_batch=True,
    )  # fmt: skip
    expected = theirs.influence(workload.test).detach()
    torch.testing.assert_close(scores(run, TracIn())[:, 0], expected.double(), rtol=1e-5, atol=1e-8)


# TRAK ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damping", [None, 0.03])
@pytest.mark.parametrize("features", ["few", "many"])
def test_trak_on_logistic_regression_is_its_formula(damping, features):
    pytest.importorskip("trak")
    model = Logit(3, 1, bias=False) if features == "few" else nn.Sequential(network(1), nn.Flatten(0))
    run = ik.record(problem(model=model, l2=0.01))
    workload, theta = run.workload, run.final.theta
    x, y = workload.train
    sign, ridge = 2 * y - 1, 12 * (1 / (9 * 0.2) + 0.01 if damping is None else damping)
    phi = torch.func.jacrev(lambda t: sign * workload.outputs(t, (x, y)))(theta)
    missed = (-sign * workload.outputs(theta, (x, y))).sigmoid()
    q = ik.make("query", "test-losses").gradient(workload, theta)
    kernel = torch.linalg.inv(phi.T @ phi + ridge * torch.eye(len(theta)))
    torch.testing.assert_close(scores(run, TRAK(damping=damping))[:, 0], -q @ kernel @ phi.T * missed)


def test_trak_on_sequences_takes_means_over_the_positions_that_have_a_label():
    pytest.importorskip("trak")
    run = ik.record(tagged(problem(), nn.Linear(3, 2), missing=True))
    workload, theta = run.workload, run.final.theta
    x, y = workload.train

    def margins(theta):
        z = workload.outputs(theta, (x, y))
        each = torch.where(y == 1, 1.0, -1.0) * (z[..., 1] - z[..., 0])
        return torch.stack([row[there].mean() for row, there in zip(each, y >= 0, strict=True)])

    z = workload.outputs(theta, (x, y)).softmax(-1)
    own = z.gather(-1, y.clamp(min=0)[..., None])[..., 0]
    missed = torch.stack([1 - row[there].mean() for row, there in zip(own, y >= 0, strict=True)])
    phi, q = torch.func.jacrev(margins)(theta), ik.make("query", "test-losses").gradient(workload, theta)
    kernel = torch.linalg.inv(phi.T @ phi + 12 * 0.03 * torch.eye(len(theta)))
    torch.testing.assert_close(scores(run, TRAK(damping=0.03))[:, 0], -q @ kernel @ phi.T * missed)


class NextLoss(SequenceLoss):
    """The loss of a language model that shifts the labels itself; `mean`, or summed as transformers does."""

    def __init__(self, mean):
        super().__init__()
        self.mean = mean

    def forward(self, z, y):
        y = y[:, 1:]
        return super().forward(z[:, :-1], y) * (1 if self.mean else (y >= 0).sum(1))


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize(("library", "estimator"), [("trak", TRAK()), ("kronfluence", EKFAC(labels="drawn"))])
def test_labels_that_the_loss_shifts_are_refused(library, estimator, mean):
    pytest.importorskip(library)
    run = ik.record(replace(tagged(problem(), nn.Linear(3, 2), missing=True), loss=NextLoss(mean)))
    with pytest.raises(ik.InputError, match="takes that of the next position.*shift the labels where"):
        ik.estimate(run, "test-losses", estimator)


@pytest.mark.parametrize("dim", [None, 128])
def test_trak_is_trakers_but_for_scale_and_precision(dim, tmp_path):
    trak = pytest.importorskip("trak")
    from trak.projectors import BasicProjector, NoOpProjector, ProjectionType

    run = ik.record(classes(problem(), 3, network(3)).to(dtype=torch.float32))
    workload, theta = run.workload, run.final.theta
    dims = len(theta) if dim is None else dim
    if dim is None:
        projector = NoOpProjector(len(theta), 0, device="cpu")
    else:
        projector = BasicProjector(len(theta), dim, 0, ProjectionType.normal, "cpu")
    model = loaded(workload, theta)
    scale = len(theta) if dim is None else len(theta) / dim  # of their features, squared: 1 / scale of ours
    theirs = trak.TRAKer(
        model, "image_classification", workload.n_train, save_dir=str(tmp_path), device="cpu",
        projector=projector, use_half_precision=False, logging_level=50, lambda_reg=12 * 0.1 / scale,
    )  # fmt: skip
    assert theirs.proj_dim == dims
    theirs.load_checkpoint(model.state_dict(), model_id=0)
    theirs.featurize(workload.train, num_samples=workload.n_train)
    theirs.finalize_features()
    theirs.start_scoring_checkpoint("test", model.state_dict(), 0, workload.n_test)
    theirs.score(workload.test, num_samples=workload.n_test)
    expected = torch.as_tensor(theirs.finalize_scores("test")).T  # [test, train], of the test margins
    mine = scores(run, TRAK(dim=dim, damping=0.1), _Margins())[:, 0]
    same_but_for_scale(-mine, expected, 1e-5)


class _Margins(ik.Query):
    """The margin log(p / (1 - p)) of every test example."""

    def labels(self, workload):
        return range(workload.n_test)

    def evaluate(self, workload, theta):
        z, y = workload.outputs(theta, workload.test), workload.test[1]
        own = z.gather(1, y[:, None])
        others = z.scatter(1, y[:, None], -torch.inf)
        return own[:, 0] - others.logsumexp(1)


def test_a_singular_trak_says_so():
    pytest.importorskip("trak")
    workload = problem()
    workload.train[0][:, 2] = 0
    run = ik.record(workload)
    with pytest.raises(ik.InputError, match="is singular; give a larger damping"):
        ik.estimate(run, "test-loss", TRAK(damping=0.0))


# EK-FAC -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", ["model", "drawn"])
def test_ekfac_is_the_influence_function_where_its_factors_are_exact(labels):
    """Logistic regression at theta = 0: every p is 1/2, so the Fisher matrix is one Kronecker product, and
    whichever label is drawn, the squares are the same."""
    pytest.importorskip("kronfluence")
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    for p in model.parameters():
        nn.init.zeros_(p)
    run = ik.record(problem(model=model, optimizer=ik.SGD(lr=1e-9), l2=0.02))
    expected = scores(run, "if:damping=0.1")
    torch.testing.assert_close(
        scores(run, EKFAC(damping=0.1, labels=labels)), expected, rtol=1e-6, atol=1e-12
    )


def test_ekfac_on_sequences_is_the_influence_function_where_its_factors_are_exact():
    """Positions that share no feature: their gradients have no product, whichever labels are drawn."""
    pytest.importorskip("kronfluence")
    model = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(model.weight)
    run = ik.record(tagged(problem(optimizer=ik.SGD(lr=1e-9)), model))
    expected = scores(run, "if:damping=0.1")
    found = scores(run, EKFAC(damping=0.1, labels="drawn"))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)
    with pytest.raises(ik.InputError, match="of sequences.* take trak or ekfac:labels=drawn"):
        ik.estimate(run, "test-loss", EKFAC())


def test_labels_of_the_model_are_expected_and_not_drawn():
    """Lambda in its own basis is the mean of p_c g_c^2 over classes and examples, one by one."""
    pytest.importorskip("kronfluence")
    run = ik.record(classes(problem(), 3, nn.Linear(3, 3)))
    workload, theta = run.workload, run.final.theta
    ((places, (outputs, inputs), spectrum),) = EKFAC()._factors(workload, theta)
    x, _ = workload.train
    p = workload.outputs(theta, workload.train).softmax(1)
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for j in range(12):
        for c in range(3):
            delta = p[j] - torch.eye(3)[c]
            g = torch.outer(delta, torch.cat([x[j], torch.ones(1)]))
            expected += p[j, c] * (outputs.T @ g @ inputs).square() / 12
    torch.testing.assert_close(spectrum, expected)
    assert places == [slice(0, 9), slice(9, 12)]


@pytest.mark.parametrize("kind", ["network", "convolution"])
def test_ekfac_with_the_labels_of_the_data_is_kronfluences(kind, tmp_path):
    analyzer = pytest.importorskip("kronfluence.analyzer")
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Mine(Task):
        def compute_train_loss(self, batch, model, sample=False):
            return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

    layers = [nn.Unflatten(1, (1, 1, 3)), nn.Conv2d(1, 2, (1, 2)), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3)]
    model = nn.Sequential(*layers) if kind == "convolution" else network(3)
    run = ik.record(classes(problem(), 3, model))
    workload = run.workload
    theirs = analyzer.Analyzer(
        "a", analyzer.prepare_model(loaded(workload, run.final.theta), Mine()), Mine(), cpu=True,
        disable_tqdm=True, output_dir=str(tmp_path),
    )  # fmt: skip
    train, test = (torch.utils.data.TensorDataset(*part) for part in (workload.train, workload.test))
    theirs.fit_all_factors("f", train, factor_args=FactorArguments("ekfac", use_empirical_fisher=True))
    theirs.compute_pairwise_scores(
        "s", "f", test, train, per_device_query_batch_size=8, score_args=ScoreArguments(damping_factor=0.3)
    )
    expected = theirs.load_pairwise_scores("s")["all_modules"] / 12
    found = scores(run, EKFAC(damping=0.3, labels="data"))[:, 0]
    torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=1e-6)


def test_parameters_that_no_factor_covers_are_counted_in_the_notes():
    pytest.importorskip("kronfluence")
    model = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 1), nn.Flatten(0))
    result = ik.estimate(ik.record(problem(model=model)), "test-loss", EKFAC())
    assert result.attrs["note_parameters"] == "4 of 10"


def test_a_model_without_such_layers_is_refused():
    pytest.importorskip("kronfluence")
    model = nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 1, 3), nn.Flatten(0))
    with pytest.raises(ik.InputError, match="expects a model with linear or 2-D convolution layers"):
        ik.estimate(ik.record(problem(model=model)), "test-loss", EKFAC())
