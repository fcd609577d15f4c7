"""The cross entropy that transformers models minimise, one value per example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from influencekit.errors import InputError

__all__ = ["CrossEntropy", "own_loss"]

_IGNORED = -100


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy of `outputs["logits"]` with integer labels, summed over the targets of an example.

    Labels [n] give one term an example, labels [n, token] one for each token; -100 is not counted. `shift`:
    causal language models, where the logits of a token predict the next. `smoothing`: label smoothing. Sums,
    not means, because a trainer divides by the number of targets of the batch, not of the example.
    """

    shift: bool = False
    smoothing: float = 0.0

    def __call__(self, outputs: Any, labels: Tensor) -> Tensor:
        logits, labels = outputs["logits"], self._targets(labels)
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        each = cross_entropy(
            logits.reshape(-1, logits.shape[-1]),
            labels.reshape(-1),
            reduction="none",
            ignore_index=_IGNORED,
            label_smoothing=self.smoothing,
        )
        return each.reshape(len(labels), -1).sum(1)

    def count(self, labels: Tensor) -> int:
        """How many targets labels hold."""
        return int((self._targets(labels) != _IGNORED).sum())

    def _targets(self, labels: Tensor) -> Tensor:
        return pad(labels, (0, 1), value=_IGNORED)[..., 1:] if self.shift else labels


_KINDS = (
    "ForSequenceClassification", "ForImageClassification", "ForAudioClassification", "ForVideoClassification",
    "ForTokenClassification", "ForMaskedLM", "ForCausalLM",
)  # fmt: skip


def own_loss(model: nn.Module, smoothing: float = 0.0) -> CrossEntropy:
    """The per-example loss of a transformers model for classification or language modelling.

    `smoothing` is the Trainer's `label_smoothing_factor`. Errors: any other kind of model.
    """
    name = type(model).__name__
    kind = getattr(model, "loss_type", None) or ("ForCausalLM" if name.endswith("LMHeadModel") else None)
    config = getattr(model, "config", None)
    problem = getattr(config, "problem_type", None)
    single = problem in (None, "single_label_classification")
    if "Classification" in (kind or "") and "Token" not in (kind or ""):
        single = single and getattr(config, "num_labels", 2) > 1
    if kind not in _KINDS or not single:
        what = f" with problem_type {problem!r}" if problem else ""
        raise InputError(
            f"{name}{what}: the loss of one example is known for single-label classification and language "
            "models only; pass loss=, a function (outputs, labels) -> [n]"
        )
    return CrossEntropy(kind == "ForCausalLM", smoothing)
