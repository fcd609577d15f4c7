"""What modules hold beside parameters, buffers and modules: a forward pass may read it, and set it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["Attributes", "forgotten"]

_WEIGHTS = {"_flat_weights", "_flat_weight_refs"}  # the parameters of recurrent layers once more
_OWN = frozenset(vars(nn.Module())) - {"training"} | _WEIGHTS


class Attributes(NamedTuple):
    """The attributes of modules as they were once, and their buffers; lists, dicts and sets are copied."""

    modules: Sequence[nn.Module]
    values: list[dict[str, Any]]
    buffers: list[dict[str, Tensor | None]]

    @classmethod
    def of(cls, modules: Sequence[nn.Module], copied: bool = True) -> Attributes:
        made = _copied if copied else _itself
        values = [{k: made(x) for k, x in vars(m).items() if k not in _OWN} for m in modules]
        return cls(modules, values, [dict(m._buffers) for m in modules])

    @contextmanager
    def as_then(self) -> Iterator[None]:
        """Modules have them within. What is set within is forgotten."""
        now = self.of(self.modules, copied=False)
        try:
            self._put(_copied)
            yield
        finally:
            now._put(_itself)

    def hold_others(self) -> bool:
        """Whether modules hold tensors now that they did not hold then, and that need a gradient."""
        for module, then in zip(self.modules, self.values, strict=True):
            for name, x in vars(module).items():
                if name in _OWN or type(x) in _PLAIN:
                    continue
                had = {id(y) for y in pytree.tree_leaves(then.get(name))}
                found = (y for y in pytree.tree_leaves(x) if isinstance(y, Tensor) and id(y) not in had)
                if any(y.requires_grad for y in found):
                    return True
        return False

    def _put(self, made: Callable[[Any], Any]) -> None:
        for module, values, buffers in zip(self.modules, self.values, self.buffers, strict=True):
            own = vars(module)
            for name in [k for k in own if k not in _OWN and k not in values]:
                del own[name]
            own.update({name: made(x) for name, x in values.items()})
            module._buffers.clear()
            module._buffers.update(buffers)


@contextmanager
def forgotten(modules: Sequence[nn.Module]) -> Iterator[None]:
    """What modules set within, such as a result kept for the next call, is forgotten; lists, dicts and sets
    of theirs stay the same objects."""
    before = Attributes.of(modules, copied=False)
    every = (x for values in before.values for x in values.values() if type(x) in (list, dict, set))
    held = [(x, x.copy()) for x in every]
    try:
        yield
    finally:
        before._put(_itself)
        for x, content in held:
            x.clear()
            (x.extend if isinstance(x, list) else x.update)(content)


_PLAIN = {bool, int, float, str, type(None)}


def _copied(x: Any) -> Any:
    return x.copy() if type(x) in (list, dict, set) else x


def _itself(x: Any) -> Any:
    return x
