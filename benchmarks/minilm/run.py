"""A MiniLM fine-tune kept in memory, the sweep back through it, and what its examples' gradients say.

The step, its curvature and the optimizers' adjoints are the library's own; only the storage differs from
`ik.record`: a gradient for every step and a state for every eighth lie in memory, so that going back through
the run costs no further gradient.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap

from benchmarks.minilm.case import BATCH, warm_up
from influencekit._training.batch import Batch, select
from influencekit._training.forward_curvature import FORWARD
from influencekit._training.kernels.tracing import trace
from influencekit._training.losses import Training
from influencekit._training.state import State
from influencekit._training.workload import Workload

KEEP = 8  # states between two that are kept


class Model:
    """A workload's own module over one flat vector: the quick way to losses and gradients at theta."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.module = replace(workload).model  # its own copy
        self.theta = workload.theta0.clone()
        self.g = torch.zeros_like(self.theta)
        views = zip(
            self.module.named_parameters(),
            workload.layout.split(self.theta).values(),
            workload.layout.split(self.g).values(),
            strict=True,
        )
        for (_, parameter), value, slot in views:
            parameter.data, parameter.grad = value, slot

    def gradient(
        self, theta: Tensor, batch: dict[str, Tensor], coefficients: Tensor, margin: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Gradient [param] of sum_i coefficient_i loss_i (margin: of sum_i coefficient_i -margin_i), and the
        logits."""
        self.theta.copy_(theta)
        self.g.zero_()
        z, y = self.module(batch["input_ids"], batch["attention_mask"]), batch["labels"]
        values = (1 - 2 * y) * z if margin else self.workload.loss(z, y)
        (coefficients * values).sum().backward()
        return self.g.clone(), z.detach()

    def logits(self, theta: Tensor, batch: dict[str, Tensor], size: int = 64) -> Tensor:
        """[example]"""
        self.theta.copy_(theta)
        with torch.no_grad():
            pairs = zip(batch["input_ids"].split(size), batch["attention_mask"].split(size), strict=True)
            return torch.cat([self.module(ids, mask) for ids, mask in pairs])

    def mean_gradient(self, theta: Tensor, batch: dict[str, Tensor], margin: bool = False) -> Tensor:
        """Of the mean loss (margin: of minus the mean margin) over many examples, in pieces."""
        n = len(batch["labels"])
        total = torch.zeros_like(theta)
        for rows in torch.arange(n).split(64):
            part = {k: v[rows] for k, v in batch.items()}
            total += self.gradient(theta, part, torch.full((len(rows),), 1 / n), margin)[0]
        return total


class Run:
    """One training run, kept in memory: `states()` goes through it backwards, elementwise."""

    def __init__(
        self,
        workload: Workload,
        weights: Tensor | None = None,
        keep: bool = True,
        start: Tensor | None = None,
    ) -> None:
        self.workload, self.plan, self.model = workload, workload.plan, Model(workload)
        optimizer = workload.optimizer
        theta = workload.theta0 if start is None else start
        state = State(theta, optimizer.start(theta), 0)
        self.gradients: list[Tensor] = []
        self.logits = torch.full(self.plan.indices.shape, torch.nan)  # of every batch, before its update
        self.kept: dict[int, State] = {}
        for t in range(self.plan.steps):
            rows = self.plan.batch(t)
            coefficients = torch.full((len(rows),), 1 / len(rows))
            if weights is not None:
                coefficients = coefficients * weights[rows]
            g, self.logits[t, : len(rows)] = self.model.gradient(
                state.theta, select(workload.train, rows), coefficients
            )
            if keep:
                self.gradients.append(g)
                if t % KEEP == 0:
                    self.kept[t] = state
            state = self._after(state, g)
        self.final = state

    def _after(self, state: State, g: Tensor) -> State:
        w = self.workload
        lrs = self.plan.lrs(state.step)
        theta, slots = w.optimizer.step(w.layout, state.theta, state.slots, g, state.step, lrs)
        return State(theta, slots, state.step + 1)

    def states(self) -> Iterator[State]:
        """All states but the final one, the last first."""
        for low in sorted(self.kept, reverse=True):
            block = [self.kept[low]]
            for t in range(low, min(low + KEEP, self.plan.steps) - 1):
                block.append(self._after(block[-1], self.gradients[t]))
            yield from reversed(block)

    def state(self, t: int) -> State:
        if t == self.plan.steps:
            return self.final
        state = self.kept[t - t % KEEP]
        while state.step < t:
            state = self._after(state, self.gradients[state.step])
        return state


class Products:
    """Curvature products, traced once for all runs (their batches are alike), all columns in one trace:
    what they have in common is computed once."""

    def __init__(self) -> None:
        self.traced: dict[tuple[str, ...], Callable[..., list[Tensor]]] = {}

    def __call__(
        self, curvatures: tuple[str, ...], workload: Workload, theta: Tensor, batch: dict[str, Tensor],
        coefficients: Tensor, c: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """(H c [column, param], <c, g_j> [column, slot]) for c [column, param], each with its curvature."""
        values = (theta, *batch.values(), coefficients, *c)
        if curvatures not in self.traced:
            names = list(batch)

            def at(theta: Tensor, *rest: Tensor) -> list[Tensor]:
                batch, coefficients = dict(zip(names, rest, strict=False)), rest[len(names)]
                found: list[Tensor] = []
                for name, column in zip(curvatures, rest[len(names) + 1 :], strict=True):
                    if name == "plain":
                        share = jvp(lambda theta: workload.losses(theta, batch), (theta,), (column,))[1]
                        found += [torch.zeros_like(column), share]
                    else:
                        found += FORWARD[name](Training.of(workload), theta, batch, coefficients, column)[:2]
                return found

            self.traced[curvatures] = trace(at, *values)
        found = self.traced[curvatures](*values)
        return torch.stack(found[::2]), torch.stack(found[1::2])


products = Products()


def shares(workload: Workload, theta: Tensor, batch: Batch, c: Tensor) -> Tensor:
    """<c, g_j> of every example of a batch, by one forward derivative: [slot]."""
    with torch.no_grad():
        return jvp(lambda theta: workload.losses(theta, batch), (theta,), (c,))[1]


def sweep(
    run: Run, columns: dict[str, tuple[str, Tensor, int]], watch: Callable[..., None] | None = None
) -> dict[str, Tensor]:
    """Contributions [step, train] of every occurrence to q at `stop`, for columns {name: (curvature, q's
    gradient there, stop)}; the sum over steps is the effect, removal minus full. `plain` has no curvature.
    `watch(name, state, c)` sees the adjoint of every step's mean gradient."""
    workload, plan = run.workload, run.plan
    optimizer = workload.optimizer
    names = sorted(columns, key=lambda name: -columns[name][2])  # those that begin last, last
    found = {name: torch.zeros(plan.steps, workload.n_train) for name in columns}
    a = torch.zeros(0, workload.n_params)
    slots = dict.fromkeys(optimizer.slots, a)
    with torch.no_grad():
        for state in run.states():
            t = state.step
            fresh = [columns[name][1] for name in names if columns[name][2] == t + 1]
            if fresh:
                a = torch.cat([a, torch.stack(fresh)])
                slots = {k: torch.cat([v, torch.zeros(len(fresh), v.shape[1])]) for k, v in slots.items()}
            active = names[: len(a)]
            rows = plan.batch(t)
            batch = select(workload.train, rows)
            coefficients = torch.full((len(rows),), 1 / len(rows))
            c, a, slots = optimizer.pullback(
                workload.layout, state.theta, state.slots, run.gradients[t], t, plan.lrs(t), a, slots
            )
            if watch is not None:
                for name, column in zip(active, c, strict=True):
                    watch(name, state, column)
            kinds = tuple(columns[name][0] for name in active)
            bent, share = products(kinds, workload, state.theta, batch, coefficients, c)
            a = a + bent
            for name, row in zip(active, share, strict=True):
                found[name][t, rows] = -coefficients * row
    return found


def example_gradients(workload: Workload, theta: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """[example, param]: every example's own gradient."""

    def loss(theta: Tensor, one: dict[str, Tensor]) -> Tensor:
        return workload.losses(theta, {k: v[None] for k, v in one.items()})[0]

    return vmap(grad(loss), in_dims=(None, 0))(theta, batch)


def after_clean_epoch(run: Run, clean: Batch) -> Tensor:
    """Training losses [train] after one more epoch, on clean texts alone: another use of the same labels."""
    w = run.workload
    steps = -(-len(clean["labels"]) // BATCH)
    more = replace(w, train=clean, epochs=1, schedule=warm_up(steps, 0))
    theta = Run(more, keep=False, start=run.final.theta).final.theta
    return w.loss(run.model.logits(theta, w.train), w.train["labels"])


def example_norms(model: Model, theta: Tensor, batch: dict[str, Tensor], size: int = 64) -> Tensor:
    """|g_j| of every example, from what each layer saw and was sent back, so that no g_j is ever formed:
    for a linear layer |sum_t g_t a_t^T|^2 = sum_ts (a_t a_s)(g_t g_s), over the tokens t, s."""
    squares: list[Tensor] = []

    def back(module: nn.Module, _: object, sent: tuple[Tensor, ...]) -> None:
        (x,), g = inputs[module], sent[0]
        if isinstance(module, nn.Embedding):  # its g is that of the positions and of the token type too
            same = (x[:, :, None] == x[:, None]).to(g.dtype) + torch.eye(x.shape[1]) + 1
            squares.append((same * (g @ g.mT)).sum((1, 2)))
        elif isinstance(module, nn.LayerNorm):
            x = nn.functional.layer_norm(x, module.normalized_shape, eps=module.eps)
            squares.append((g * x).sum(1).square().sum(1) + g.sum(1).square().sum(1))
        else:
            x, g = (v if v.dim() == 3 else v.reshape(len(v), 1, -1) for v in (x, g))
            squares.append(((x @ x.mT + 1) * (g @ g.mT)).sum((1, 2)))

    inputs: dict[nn.Module, tuple[Tensor, ...]] = {}
    words = model.module.encoder.get_input_embeddings()
    hooks = []
    for layer in model.module.modules():
        if isinstance(layer, nn.Linear | nn.LayerNorm) or layer is words:
            hooks.append(layer.register_forward_hook(lambda m, x, _: inputs.__setitem__(m, x)))
            hooks.append(layer.register_full_backward_hook(back))
    norms = []
    for rows in torch.arange(len(batch["labels"])).split(size):
        squares.clear()
        model.gradient(theta, select(batch, rows), torch.ones(len(rows)))
        norms.append(sum(squares).sqrt())
    for hook in hooks:
        hook.remove()
    return torch.cat(norms)
