"""The update rules of `torch.optim`, a file per family."""

from influencekit._training.optimizers.adam import Adam, AdamW
from influencekit._training.optimizers.matrices import Adafactor, Muon
from influencekit._training.optimizers.moments import Adamax, NAdam, RAdam
from influencekit._training.optimizers.sgd import SGD
from influencekit._training.optimizers.squares import Adadelta, Adagrad, RMSprop

__all__ = [
    "SGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Muon", "NAdam", "RAdam", "RMSprop",
]  # fmt: skip
