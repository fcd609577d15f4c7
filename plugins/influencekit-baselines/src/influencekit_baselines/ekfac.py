"""EK-FAC influence functions, on the factors of kronfluence."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor, nn

from influencekit import Claim, Estimator, InputError, Query, Trajectory, Window, Workload
from influencekit.extend import Batch, training_time
from influencekit_baselines.classes import check_classifier, log_probabilities, logits_and_labels, positions
from influencekit_baselines.gradients import along
from influencekit_baselines.libraries import need

__all__ = ["EKFAC"]

_INSTALL = 'pip install "influencekit-baselines[ekfac]" && pip install --no-deps kronfluence'
_WHOSE = {"model": "of the model", "drawn": "drawn from the model", "data": "of the data"}
_BATCH = 256  # examples at once; only memory and rounding depend on it

Factors = list[tuple[list[slice], tuple[Tensor, Tensor], Tensor]]


@dataclass(frozen=True)
class EKFAC(Estimator):
    """EK-FAC influence functions: a Newton step at the final parameters, layer by layer in Kronecker factors.

        Q_j = (1/n) <grad q, (H + damping I)^-1 g_j>,   H = Q_A (x) Q_S diag(Lambda) (Q_A (x) Q_S)^T + l2 I

    for every linear and 2-D convolution layer; Q_A, Q_S are the eigenvectors of the covariances of inputs
    and of output gradients, Lambda the mean squared gradients in that basis. `labels=model` (the default)
    takes the gradients under the labels that the model itself would draw, in expectation rather than by
    drawing them, so that H is the Fisher (= Gauss-Newton) matrix and nothing is random. `labels=drawn` draws
    one with `seed`, also at every position of a sequence whose loss is the mean over its labels;
    `labels=data` takes those of the data, for models that do not classify. `damping` defaults to 1 / (sum of
    the learning rates of the run), as for `if`; kronfluence's own default is 1e-8. Parameters of other layers
    count as having no effect; the notes say how many.

    The factors are kronfluence's, in the run's dtype; the inverse is applied to the query's gradient and
    taken along every example's gradient here, so that any query can be asked.

    Whole run only. Shapes [query, 1, train]; removal minus full. Cost: about `class` gradients of each
    example, and an eigendecomposition of each factor. Errors: kronfluence is not installed, no layer it
    knows, labels=model for a model that does not classify. Source: George et al. 2018; Grosse et al. 2023,
    arXiv 2308.03296.
    """

    damping: float | None = None
    labels: Literal["model", "drawn", "data"] = "model"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.damping is not None and not self.damping > 0:
            raise InputError(f"ekfac: damping must be above 0, got {self.damping}")
        if self.labels not in ("model", "drawn", "data"):
            raise InputError(f"ekfac: labels must be model, drawn or data, got {self.labels!r}")

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset({Claim.LINEAR, Claim.AVERAGED})

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        last = trajectory.steps
        workload, theta = trajectory.workload_at(last), trajectory.evaluated(last).theta
        factors = self._factors(workload, theta)
        gradients = query.gradient(workload, theta).detach()
        solved = torch.zeros_like(gradients)
        if getattr(workload.calls, "penalty", None) is not None:
            raise InputError("ekfac: its curvature leaves out the penalty= of this run; use if or dit")
        shift = self._damping(trajectory) + workload.l2
        for places, (by_output, by_input), spectrum in factors:
            parts = [gradients[:, s].reshape(len(gradients), len(by_output), -1) for s in places]
            v = by_output.T @ torch.cat(parts, 2) @ by_input
            v = by_output @ (v / (spectrum + shift)) @ by_input.T
            for s, part in zip(places, v.split([x.shape[2] for x in parts], 2), strict=True):
                solved[:, s] = part.flatten(1)
        return (along(workload, theta, solved) / workload.n_train)[:, None]

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        workload = trajectory.workload
        covered = sum(s.stop - s.start for places in _layers(workload).values() for s in places)
        return {
            "curvature": f"fisher, labels {_WHOSE[self.labels]}, in Kronecker factors",
            "damping": self._damping(trajectory),
            "parameters": f"{covered} of {workload.n_params}",
            "library": "kronfluence",
        }

    def _damping(self, trajectory: Trajectory) -> float:
        return 1 / training_time(trajectory, "ekfac").mean().item() if self.damping is None else self.damping

    def _factors(self, workload: Workload, theta: Tensor) -> Factors:
        """(places in theta of weight and bias, (Q_S, Q_A), mean Lambda [output, input]) of every layer."""
        analyzer = need("ekfac", "kronfluence.analyzer", _INSTALL)
        arguments = need("ekfac", "kronfluence.arguments", _INSTALL)
        base = need("ekfac", "kronfluence.task", _INSTALL).Task
        layers = _layers(workload)
        if not layers:
            raise InputError("ekfac expects a model with linear or 2-D convolution layers, and found none")
        classes, loss = self._classes(workload), self._loss(theta)

        class Task(base):  # type: ignore[misc, valid-type]
            def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
                examples = workload.examples(batch[0].to(theta.device))
                return loss(workload, workload.run(model, examples), examples, batch[1])

            def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
                return self.compute_train_loss(batch, model)

            def get_influence_tracked_modules(self) -> list[str]:
                return [_under(name) for name in layers]

        held = _Held(deepcopy(workload.evaluator))
        held.model.load_state_dict({**workload.layout.split(theta), **workload.buffers}, strict=False)
        task = Task()
        rows = torch.arange(workload.n_train).repeat_interleave(classes)
        data = torch.utils.data.TensorDataset(rows, torch.arange(classes).repeat(workload.n_train))
        settings = arguments.FactorArguments(
            strategy="ekfac", use_empirical_fisher=True,  # no drawing of labels: the loss sees to it
            covariance_max_examples=None, lambda_max_examples=None,
            activation_covariance_dtype=theta.dtype, gradient_covariance_dtype=theta.dtype,
            per_sample_gradient_dtype=theta.dtype, lambda_dtype=theta.dtype,
        )  # fmt: skip
        unchanged = torch.random.fork_rng(devices=[])  # loaders draw a seed
        with TemporaryDirectory() as folder, _quick_collections(), unchanged, torch.enable_grad():
            fitted = analyzer.Analyzer(
                "ekfac", analyzer.prepare_model(held, task), task, cpu=theta.device.type == "cpu",
                disable_tqdm=True, output_dir=folder, log_level=40,
            )  # fmt: skip
            fitted.fit_all_factors("f", data, per_device_batch_size=_BATCH, factor_args=settings)
            found = {**fitted.load_eigendecomposition("f"), **fitted.load_lambda_matrices("f")}
        return [(places, *_factor(found, _under(name), classes, theta)) for name, places in layers.items()]

    def _classes(self, workload: Workload) -> int:
        """How many labels each example is taken with."""
        if self.labels == "data":
            return 1
        drawn = self.labels == "drawn"
        classes = check_classifier(workload, f"ekfac with labels={self.labels}", sequences=drawn)
        return 1 if drawn else classes

    def _loss(self, theta: Tensor) -> Callable[[Workload, Any, Batch, Tensor], Tensor]:
        """What is differentiated, of (workload, outputs, batch, the label of each example)."""
        if self.labels == "drawn":
            return partial(_drawn_loss, torch.Generator(theta.device).manual_seed(self.seed % 2**63))
        return _expected_loss if self.labels == "model" else _data_loss


@contextmanager
def _quick_collections() -> Iterator[None]:
    """Keep what exists out of garbage collections: kronfluence asks for six, of 0.3 s each otherwise."""
    mine = gc.get_freeze_count() == 0
    if mine:
        gc.freeze()
    try:
        yield
    finally:
        if mine:
            gc.unfreeze()


class _Held(nn.Module):
    """A model one level down: kronfluence wraps children, and the model itself may be a layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)


def _under(name: str) -> str:
    """The name of a module of the model, as it is held."""
    return f"model.{name}".removesuffix(".")


def _factor(
    found: Mapping[str, Mapping[str, Tensor]], name: str, classes: int, theta: Tensor
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    by_output, by_input, total = (
        found[key][name].to(theta)
        for key in ("gradient_eigenvectors", "activation_eigenvectors", "lambda_matrix")
    )
    n = int(found["num_lambda_processed"][name]) / classes  # a row for every class is one example
    return (by_output, by_input), total / n


def _layers(workload: Workload) -> dict[str, list[slice]]:
    """Where weight and bias of each layer lie in theta, for the layers that Kronecker factors cover."""
    layout = workload.layout
    ends = [0]
    for size in layout.sizes:
        ends.append(ends[-1] + size)
    places = {name: slice(*ends[k : k + 2]) for k, name in enumerate(layout.names)}
    found = {}
    for name, module in workload.model.named_modules():
        parts = [f"{name}.{p}".removeprefix(".") for p, _ in module.named_parameters(recurse=False)]
        if type(module) in (nn.Linear, nn.Conv2d) and all(p in places for p in parts):  # no subclass
            found[name] = [places[p] for p in parts]
    return found


def _data_loss(workload: Workload, outputs: Any, batch: Batch, _: Tensor) -> Tensor:
    """The sum of the losses."""
    return workload.loss_of(outputs, batch).sum()


def _expected_loss(workload: Workload, outputs: Any, batch: Batch, label: Tensor) -> Tensor:
    """sum of sqrt(p) -log p of the given labels: squared, its gradients are those of labels drawn from p."""
    z, _ = logits_and_labels(outputs, workload.target(batch), "ekfac")
    log_p = log_probabilities(z).gather(1, label.to(z.device)[:, None])[:, 0]
    return -((log_p.detach() / 2).exp() * log_p).sum()


def _drawn_loss(
    generator: torch.Generator, workload: Workload, outputs: Any, batch: Batch, _: Tensor
) -> Tensor:
    """The sum of -log p of labels drawn from p; of a sequence each over the root of their number, so that the
    squares of its gradients are on average those of the mean loss's Gauss-Newton matrix."""
    z, y = logits_and_labels(outputs, workload.target(batch), "ekfac", sequences=True)
    log_p = log_probabilities(z)
    labels = torch.multinomial(log_p.detach().exp().flatten(0, -2), 1, generator=generator).view(*y.shape, 1)
    values = -log_p.gather(-1, labels)[..., 0]
    return (values if y.dim() == 1 else values * positions(y)).sum()
