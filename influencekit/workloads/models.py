"""The models (Dynamic Influence Tracker, appendix F-A); each gives one logit per example, [n]."""

from torch import Tensor, nn

__all__ = ["MODELS", "cnn", "dnn", "lr"]


class OneLogit(nn.Module):
    """[n, 1] -> [n]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(-1)


def lr(shape: tuple[int, ...]) -> nn.Module:
    """Logistic regression on the flattened features: d + 1 parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(_size(shape), 1), OneLogit())


def dnn(shape: tuple[int, ...]) -> nn.Module:
    """Two hidden layers of 8 with ReLU: 8 d + 89 parameters."""
    d = _size(shape)
    layers = [nn.Linear(d, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)]
    return nn.Sequential(nn.Flatten(), *layers, OneLogit())


def cnn(shape: tuple[int, ...]) -> nn.Module:
    """Convolutions of 32 and 64 filters with ReLU and max pooling by 2, then linear.

    The paper leaves the kernel open; here 3 x 3 without padding: 20,417 parameters for [1, 28, 28].
    """
    channels, height, width = shape
    height, width = ((size - 2) // 2 for size in (height, width))
    height, width = ((size - 2) // 2 for size in (height, width))
    first = [nn.Conv2d(channels, 32, 3), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(64 * height * width, 1), OneLogit())


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


MODELS = {"lr": lr, "dnn": dnn, "cnn": cnn}
