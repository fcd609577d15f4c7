"""Table VI's problem: a pre-trained vision transformer, fine-tuned as a whole for an epoch on two classes."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import influencekit as ik
from influencekit.errors import InputError
from influencekit.extend import local

__all__ = ["Pictures", "VisionClassifier", "digest_of", "encoder", "images", "pixels", "problem"]

LR, HEAD_LR, BATCH = 1e-5, 3e-4, 8  # AdamW's, of the encoder and of the new head
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_NEEDS = "table6 needs transformers: python -m pip install 'influencekit-paper[vit]'"


class Pictures(NamedTuple):
    """Two classes, 0 and 1: images [image, row, column, colour] of bytes, labels [image]."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def images(path: str) -> Pictures:
    """The arrays x_train, y_train, x_test, y_test of an .npz file; "" = stripes, drawn here.

    Errors: no such file, no .npz file, arrays that are missing or of another kind, labels other than 0 and 1.
    """
    if not path:
        return _stripes()
    try:
        with np.load(local(path), allow_pickle=False) as file:
            found = Pictures(*(file[name] for name in Pictures._fields))
    except OSError as error:
        raise InputError(f"--data {path} cannot be read: {error.strerror or error}") from None
    except (KeyError, ValueError, AttributeError) as error:
        raise InputError(
            f"--data {path}: expected an .npz file with {', '.join(Pictures._fields)}; {error}"
        ) from None
    for x, y, which in ((found.x_train, found.y_train, "train"), (found.x_test, found.y_test, "test")):
        if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3 or len(x) != len(y) or not len(x):
            raise InputError(
                f"--data {path}: expected x_{which} [image, row, column, 3] of uint8 with a label each, got "
                f"{list(x.shape)} of {x.dtype} and {list(y.shape)} labels"
            )
        if set(np.unique(y).tolist()) != {0, 1}:
            raise InputError(f"--data {path}: expected both labels, 0 and 1, and no others, in y_{which}")
    return found


def _stripes() -> Pictures:
    """Lines across (0) or down (1), in noise: a problem for a first look, on which a tiny model learns."""
    random, found = np.random.default_rng(0), []
    for count in (120, 40):
        y = np.arange(count) % 2
        across = np.tile(np.where(np.arange(14) % 4 < 2, 60.0, 190.0)[:, None], (1, 14))
        x = np.where(y[:, None, None] == 0, across, across.T)[..., None] + random.normal(
            0, 40, (count, 14, 14, 3)
        )
        found += [x.clip(0, 255).astype(np.uint8), y.astype(np.uint8)]
    return Pictures(*found)


def digest_of(path: str) -> str:
    """Eight letters that tell the content of a file, or of a folder of weights, from others."""
    if not path:
        return "none"
    place, found = Path(local(path)), hashlib.sha256()
    if not place.exists():
        raise InputError(f"table6: there is no {path}; name a file with --data and a folder with --weights")
    files = sorted(place.glob("*")) if place.is_dir() else [place]
    try:
        for file in files:
            if file.is_file():
                found.update(file.name.encode() if place.is_dir() else b"")
                with file.open("rb") as content:
                    found.update(hashlib.file_digest(content, "sha256").digest())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    return found.hexdigest()[:8]


@lru_cache(maxsize=1)
def encoder(weights: str, size: int) -> tuple[nn.Module, tuple[Any, Any]]:
    """The encoder in a folder as transformers saves it ("" = a tiny one at random), for images of so many
    pixels a side, and the mean and deviation of its pixels by colour.

    Its table of positions is interpolated once, and trained as all other weights are. Errors: no folder of
    weights, a model without patches, a size that patches do not divide.
    """
    try:
        import transformers
    except ImportError:
        raise InputError(_NEEDS) from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    means: tuple[Any, Any] = (_MEAN, _STD)
    if not weights:
        torch.manual_seed(0)
        tiny: dict[str, Any] = {
            "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": size,
            "patch_size": 7, "attn_implementation": "eager",
        }  # fmt: skip
        config = transformers.Dinov2Config(**tiny)
        model: Any = transformers.Dinov2Model(config)
    else:
        folder = Path(local(weights))
        try:
            model = transformers.AutoModel.from_pretrained(
                folder, local_files_only=True, attn_implementation="eager"
            )
        except (OSError, ValueError) as error:
            why = " ".join(str(error).split())[:120]
            raise InputError(
                f"--weights {weights}: expected a folder as transformers saves it; {why}"
            ) from None
        said = folder / "preprocessor_config.json"
        if said.exists():
            known = json.loads(said.read_text(encoding="utf-8"))
            means = known.get("image_mean", _MEAN), known.get("image_std", _STD)
    try:
        _resize(model, size)
    except AttributeError as error:
        raise InputError(f"--weights {weights}: expected a vision transformer; {error}") from None
    for name, weight in model.named_parameters():
        if "mask_token" in name or name.startswith("pooler"):
            weight.requires_grad_(False)  # the output does not depend on them
    return model.eval(), means


def _resize(model: Any, size: int) -> None:
    """Positions for images of another size, where the size is another one."""
    table = model.embeddings.position_embeddings
    patches = model.embeddings.patch_embeddings
    side = patches.patch_size[0] if isinstance(patches.patch_size, tuple | list) else patches.patch_size
    if size < side or size % side:
        raise InputError(f"--image-size {size}: expected a multiple of {side}, the patches of this model")
    new, old = size // side, round((table.shape[1] - 1) ** 0.5)
    if new != old:
        grid = table.detach()[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
        grid = nn.functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
        both = torch.cat([table.detach()[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)
        model.embeddings.position_embeddings = nn.Parameter(both)
    model.config.image_size = size
    patches.image_size, patches.num_patches = (size, size), new * new


def pixels(x: np.ndarray, size: int, means: tuple[Any, Any]) -> Tensor:
    """Images as the encoder takes them, [image, colour, row, column], resized and standardised."""
    found = torch.tensor(x).permute(0, 3, 1, 2).float() / 255
    if found.shape[-2:] != (size, size):
        found = nn.functional.interpolate(
            found, size=(size, size), mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 1)
    mean, std = (torch.tensor(each, dtype=torch.float32)[:, None, None] for each in means)
    return (found - mean) / std


class VisionClassifier(nn.Module):
    """An encoder, and a linear head on its first token: two logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.encoder = model
        self.head = nn.Linear(model.config.hidden_size, 2)  # type: ignore[union-attr,arg-type]

    def features(self, x: Tensor) -> Tensor:
        """The first token, [image, feature]."""
        return self.encoder(pixel_values=x).last_hidden_state[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def _loss(logits: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, target, reduction="none")


def problem(
    data: str, weights: str, seed: int, *, flipped: float, examples: int, size: int
) -> tuple[ik.Workload, np.ndarray, np.ndarray]:
    """One epoch of fine-tuning on `examples` images, half of each class as far as there are so many.

    A pool of half the images (1,000 at most) is what is ranked: the flipped ones, `flipped` of the pool, all
    of class 0 and now of class 1, and others at random. Returns the workload, the mask of flipped images
    [train] and the positions of the pool. `seed` draws all, the head and the order.
    """
    found, random = images(data), np.random.default_rng(seed)
    chosen = np.concatenate([_some(random, found.y_train == c, examples // 2) for c in (0, 1)])
    tested = np.concatenate([_some(random, found.y_test == c, 50) for c in (0, 1)])
    y = found.y_train[chosen].astype(np.int64)
    size_of_pool = min(1000, len(y) // 2)
    count, zeros = round(flipped * size_of_pool), int((y == 0).sum())
    if not 0 < count < zeros:
        raise InputError(
            f"--data {data}: {count} labels of {zeros} images of class 0 cannot be flipped; more images"
        )
    wrong = np.zeros(len(y), dtype=bool)
    wrong[random.permutation(np.flatnonzero(y == 0))[:count]] = True
    rest = random.permutation(np.flatnonzero(~wrong))[: size_of_pool - count]
    pool = np.sort(np.concatenate([np.flatnonzero(wrong), rest]))
    model, means = encoder(weights, size)
    torch.manual_seed(seed)
    head = ik.Group(("head.*",), {"lr": HEAD_LR})
    workload = ik.Workload(
        model=VisionClassifier(model).eval(),
        loss=_loss,
        train=(pixels(found.x_train[chosen], size, means), torch.from_numpy(np.where(wrong, 1, y))),
        test=(
            pixels(found.x_test[tested], size, means),
            torch.from_numpy(found.y_test[tested].astype(np.int64)),
        ),
        optimizer=ik.AdamW(lr=LR, groups=(head,)),
        epochs=1,
        batch_size=BATCH,
        seed=seed,
        name="vit",
    )
    return workload, wrong, pool


def _some(random: np.random.Generator, of: np.ndarray, count: int) -> np.ndarray:
    return np.sort(random.permutation(np.flatnonzero(of))[:count])
