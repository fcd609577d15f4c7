"""What a model must be for its numbers to be right: seen at the door, before anything is trained.

Derivatives are taken by `torch.func.functional_call`, which puts other tensors in the place of a model's
parameters. A model that reaches its parameters in another way would be trained, and attributed, as if they
were constants: without an error, and with scores of 0.
"""

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from influencekit._training.kernels.operators import plain_operators
from influencekit.errors import InputError

__all__ = ["check_model", "check_side_doors", "copy_model", "frozen", "leaves", "refuse_hidden_ties"]

_WRAPPERS = {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}
_PARTS = {"_parameters", "_buffers", "_modules"}
_FLOATS = (torch.float32, torch.float64)


# what can be seen without running the model -------------------------------------------------------------


def check_model(model: nn.Module, trained: Iterable[Tensor] | None = None) -> None:
    """Refuse, by name, a model whose derivatives would be wrong or fail later. Cost: a look at every module.

    `trained` are the parameters that training changes (None: those that require a gradient); the others may
    be of any floating-point type.
    """
    for name, module in model.named_modules():
        if problem := _module_problem(module):
            raise InputError(f"{_called(name, module)} {problem}")
    named = dict(model.named_parameters())
    for name, x in (*named.items(), *model.named_buffers()):
        if is_lazy(x):
            raise InputError(
                f"{name} has no shape yet (a lazy module); run the model once on a batch before you pass it"
            )
        if x.is_meta:
            raise InputError(f"{name} is on the meta device and has no values; load its weights first")
    ids = None if trained is None else {id(p) for p in trained}
    mine = {n: p for n, p in named.items() if (p.requires_grad if ids is None else id(p) in ids)}
    for name, p in mine.items():
        if problem := _parameter_problem(p):
            raise InputError(f"parameter {name} {problem}")
    for what, kinds in (
        ("type", {p.dtype: n for n, p in mine.items()}),
        ("device", {p.device: n for n, p in mine.items()}),
    ):
        if len(kinds) > 1:
            (one, a), (other, b) = list(kinds.items())[:2]
            to = "float32" if what == "type" else "one device"
            raise InputError(
                f"trained parameters must have one {what}: {a} is {one}, {b} is {other}; convert the model "
                f"(model.to(...)) to {to}"
            )
    if pair := _overlapping(mine):
        raise InputError(
            f"parameters {pair[0]} and {pair[1]} are two, yet share memory; to tie them, assign the same "
            "Parameter to both modules"
        )


def refuse_hidden_ties(model: nn.Module) -> None:
    """Refuse first-order scores where torch hides a dependence that no derivative shows.

    An embedding gives its padding row no gradient. Where another module trains that row, the outputs depend
    on it all the same, and autograd does not know.
    """
    owners: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(p), []).append(name)
    for name, module in model.named_modules():
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag) or module.padding_idx is None:
            continue
        others = [n for n in owners.get(id(module.weight), []) if n != f"{name}.weight".lstrip(".")]
        if others and module.weight.requires_grad:
            raise InputError(
                f"module {name} ({type(module).__name__}) has padding_idx={module.padding_idx}, and its "
                f"weight is {others[0]}, too, which trains the padding row: torch hides that from "
                f"derivatives, so first-order scores would be wrong; set model.{name}.padding_idx = None "
                "before training (where padding is masked it changes no number), or use loo"
            )


def _called(name: str, module: nn.Module) -> str:
    return f"module {name} ({type(module).__name__})" if name else f"the model ({type(module).__name__})"


def _module_problem(module: nn.Module) -> str | None:
    kinds = {k.__name__ for k in type(module).__mro__}
    if wrapper := _WRAPPERS & kinds:
        inside = "model.module" if hasattr(module, "module") else "the model without it"
        return f"spreads training over devices ({wrapper.pop()}); pass {inside}, trained on one device"
    if isinstance(module, torch.jit.ScriptModule):
        return "is a ScriptModule, which takes no other parameters; pass the Python module it was made of"
    if "OptimizedModule" in kinds:  # what is compiled in place is not so in copies
        return (
            "is compiled, and the kernels of torch.compile cannot be replayed or differentiated twice; "
            "record the model uncompiled (model._orig_mod)"
        )
    if ".quantized" in type(module).__module__:
        return "is quantized and has no derivatives; pass the model in floating point"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        if module.max_norm is not None:
            return "rescales its weights in the forward pass (max_norm); build it without max_norm"
        if module.sparse and module.weight.requires_grad:
            return "has sparse gradients; build it with sparse=False"
    return None


def _parameter_problem(p: Tensor) -> str | None:
    if p.is_complex():
        return f"is complex ({p.dtype}); keep its real and imaginary parts as two real parameters"
    if p.layout != torch.strided or type(p.data) is not Tensor:
        return f"is no ordinary dense tensor ({type(p.data).__name__}, {p.layout}); convert it to one"
    if p.dtype not in _FLOATS:
        return (
            f"is {p.dtype}; trained parameters must be float32 or float64: use model.float(), and "
            "torch.autocast to compute in lower precision"
        )
    return None


def _overlapping(named: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Two parameters that share memory, if there are any."""
    spans = []
    for name, p in named.items():
        if p.numel():
            reach = 1 + sum((n - 1) * s for n, s in zip(p.shape, p.stride(), strict=True))
            size = (reach if reach == p.numel() else 1) * p.element_size()  # with gaps, others may lie there
            spans.append((str(p.device), p.data_ptr(), p.data_ptr() + size, name))
    spans.sort()
    for (device, _, end, a), (other, begin, _, b) in zip(spans, spans[1:], strict=False):
        if device == other and begin < end:
            return a, b
    return None


def frozen(model: nn.Module, trained: Collection[str] = ()) -> list[Tensor]:
    """The parameters that need no gradient and are none of `trained`: of adapters nearly all. Copies of a
    model share them, as nobody writes to them."""
    return [p for n, p in model.named_parameters() if not p.requires_grad and n not in trained]


def copy_model(model: nn.Module, shared: Iterable[Tensor] = (), double: bool = False) -> nn.Module:
    """A copy in which whatever shared memory with a parameter still does; torch's own cuts such ties.

    `shared`: parameters and buffers that the copy has in common with the model. `double`: in
    float64, never to be shared. Errors: a model that cannot be copied.
    """
    memo: dict[int, Any] = {id(x): x for x in shared}
    try:
        for p in model.parameters():
            if type(p) is nn.Parameter and id(p) not in memo:
                cast = double and p.is_floating_point() and p.dtype != torch.float64
                data = p.data.double() if cast else deepcopy(p.data, memo)  # not a copy and another of it
                memo[id(p)] = nn.Parameter(data, p.requires_grad)
        for module in model.modules():  # weights that a hook computes are no leaves, which torch refuses
            for x in tree_leaves([x for name, x in vars(module).items() if name not in _PARTS]):
                if isinstance(x, Tensor) and x.grad_fn is not None:
                    memo[id(x)] = x.detach().clone()
        copy = deepcopy(model, memo)
        return copy.double() if double else copy
    except Exception as error:  # locks, open files and the like, in the user's own classes
        line = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise InputError(
            f"the model ({type(model).__name__}) cannot be copied ({line}), and yours is never "
            "changed; keep what cannot be copied outside of the model"
        ) from error


# what shows when it runs --------------------------------------------------------------------------------


def check_side_doors(
    model: nn.Module, call: Callable[[nn.Module], Tensor], theta_names: Collection[str]
) -> None:
    """Refuse losses that reach the parameters `theta_names` by another way than as the model's attributes.

    `call(module)` gives the training losses of one batch. Both tests are at slightly other parameters: the
    graph of a functional call must end in the tensors that were put in, and its losses must be those of a
    copy whose own parameters were changed in place. Model, buffers and random generators stay as they were.
    Cost: two forward passes (four where they differ) and a copy of the model.
    """
    copy = copy_model(model, frozen(model, theta_names))
    own = dict(copy.named_parameters())
    for name, p in own.items():
        p.requires_grad_(name in theta_names)
    theta = {name: _moved(own[name]) for name in theta_names}
    buffers = {name: b.detach().clone() for name, b in copy.named_buffers()}
    put = {f"model.{n}": x for n, x in (theta | {n: b.clone() for n, b in buffers.items()}).items()}
    before = {name: x.detach().clone() for name, x in theta.items()}
    with torch.enable_grad(), _same_draws(own.values()), plain_operators():
        losses = functional_call(_Call(copy, call), put)
    ends = leaves(losses)
    found = [x for x in ends if not any(x is y for y in theta.values())]
    for leaf in found:
        if (called := _name_of(leaf, own, model, copy)) is not None:
            raise InputError(_side_door(called))
    if len(found) == len(ends):
        raise InputError(
            "the training losses are detached from the parameters: there is an .item(), .detach(), argmax, "
            "torch.no_grad() or the like on the way from the parameters to the loss, so nothing is trained"
        )
    if changed := [n for n, x in theta.items() if not torch.equal(x.detach(), before[n])]:
        raise InputError(
            f"the model changes its parameter {changed[0]} in its forward pass, which only an optimizer may; "
            "compute the changed value anew in every forward pass (torch.nn.utils.parametrize)"
        )
    _compare(copy, call, theta, buffers, losses.detach())


def _compare(
    copy: nn.Module, call: Callable[[nn.Module], Tensor], theta: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor], expected: Tensor,
) -> None:  # fmt: skip
    """Refuse losses of parameters changed in place that are not those of the functional call."""
    own = dict(copy.named_parameters())
    old = {name: own[name].detach().clone() for name in theta}

    def losses(changed: Collection[str], *, inside: bool) -> Tensor:
        with torch.no_grad():
            for name, b in copy.named_buffers():
                if name in buffers and b.shape == buffers[name].shape:
                    b.copy_(buffers[name])
            for name in theta:
                own[name].copy_(theta[name] if inside and name in changed else old[name])
        put = {f"model.{n}": theta[n] if n in changed else old[n] for n in theta}
        with torch.enable_grad(), _same_draws(own.values()), plain_operators():  # it may take derivatives
            return functional_call(_Call(copy, call), {} if inside else put).detach()

    def same(a: Tensor, b: Tensor) -> bool:
        rough = 1e-9 if a.dtype == torch.float64 else 1e-4
        size = b.nan_to_num(0, 0, 0).abs().max() if b.numel() else 0.0
        return torch.allclose(a, b, rtol=rough, atol=rough * float(size), equal_nan=True)

    mine = losses(theta.keys(), inside=True)
    if same(mine, expected) or not same(mine, losses(theta.keys(), inside=True)):
        return  # the second: it draws from a generator of its own, or counts its calls; nothing to compare
    for name in theta:
        if not same(losses([name], inside=True), losses([name], inside=False)):
            raise InputError(_side_door(f"parameter {name}"))


def _side_door(what: str) -> str:
    return (
        f"the training loss reaches {what} not as an attribute of its module (but by a Python list, a "
        "closure, .data kept at construction, or the loss function itself), where influence cannot follow "
        "it; use that attribute (nn.ParameterList for lists), an L2 penalty as l2=, or penalty= of a tape"
    )


def _moved(p: Tensor) -> Tensor:
    """A parameter nearby, as a leaf; with the parameter's own strides, so that the same kernels run."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(p.shape, generator=generator, dtype=torch.float32).to(p)
    size = 1e-2 * (p.detach().abs().mean() + 1e-3) if p.numel() else 0.0
    return p.detach().clone().add_(noise * size).requires_grad_()


def leaves(losses: Tensor) -> list[Tensor]:
    """The tensors that require a gradient and that losses were computed from."""
    todo, seen, found = [losses.grad_fn], set(), []
    while todo:
        node: Any = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(variable := getattr(node, "variable", None), Tensor):
            found.append(variable)
        todo += [following for following, _ in node.next_functions]
    return found


def _name_of(leaf: Tensor, own: Mapping[str, Tensor], model: nn.Module, copy: nn.Module) -> str | None:
    """What to call a leaf that was not put in; None for what is no parameter, such as an input."""
    given = dict(model.named_parameters())
    for name in own:
        if leaf is own[name] or leaf is given[name]:
            return f"parameter {name}"
    if not isinstance(leaf, nn.Parameter):
        kept = [
            f"{name}.{key}".lstrip(".")
            for name, module in copy.named_modules()
            for key, x in vars(module).items()
            if x is leaf or (isinstance(x, list | tuple) and any(y is leaf for y in x))
        ]
        return f"the tensor {kept[0]}, which is no nn.Parameter," if kept else None
    for name, p in given.items():
        if p.shape == leaf.shape and p.device == leaf.device and torch.equal(p, leaf):
            return f"parameter {name}"
    return f"a parameter of shape {list(leaf.shape)} that the model does not have"


class _Call(nn.Module):
    """A model together with what is done with it, so that parameters can be put into it."""

    def __init__(self, model: nn.Module, call: Callable[[nn.Module], Tensor]) -> None:
        super().__init__()
        self.model, self._call = model, call

    def forward(self) -> Tensor:
        return self._call(self.model)


@contextmanager
def _same_draws(params: Iterable[Tensor]) -> Iterator[None]:
    """Every block draws the same random numbers, and leaves the generators as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    gpus = sorted({p.device.index or 0 for p in params if p.is_cuda})
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(0)
        for k in gpus:
            with torch.cuda.device(k):
                torch.cuda.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
