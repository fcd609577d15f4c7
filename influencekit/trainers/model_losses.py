"""The losses that transformers models minimise, one value per example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, pad

from influencekit._training.loss_by_part import Parts
from influencekit.errors import InputError

__all__ = [
    "Answers", "CrossEntropy", "SquaredError", "count_of_trainer", "own_forward", "own_loss",
]  # fmt: skip

_IGNORED = -100


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy of `outputs["logits"]` with labels, summed over the targets of an example.

    Whole-number labels [n] give one term an example, labels [n, token] one for each token; -100 is not
    counted. Floating-point labels [n, label] are yes or no, and give the *mean* of their binary cross
    entropies. `shift`: causal language models, where the logits of a token predict the next. `smoothing`:
    label smoothing. Sums, not means, because a trainer divides by the number of targets of the batch, not of
    the example. Outputs that have `log_probs` [n, token - 1] of the targets in place of logits, as those of
    TRL's trainers do, are summed. `parts` gives the same token by token.
    """

    shift: bool = False
    smoothing: float = 0.0

    def __call__(self, outputs: Any, labels: Tensor) -> Tensor:
        each = self._each(outputs, labels)
        return each.mean(1) if labels.is_floating_point() else each.sum(1)

    def parts(self, outputs: Any, labels: Tensor, batch: Any) -> Parts | Tensor:
        """The losses of the targets [n, token], each at the place of its target in the text.

        Places are counted without the padding, if the batch has an `attention_mask` [n, token], or of
        sequence to sequence models a `decoder_attention_mask`. One number an example, where it has one label,
        or yes and no.
        """
        if labels.is_floating_point() or labels.dim() != 2:
            return self(outputs, labels)
        each, counted = self._each(outputs, labels), labels != _IGNORED
        if self.shift:  # from where a token is foretold to where it stands
            each = pad(each, (1, 0))[:, : labels.shape[1]]
            counted = pad(counted[:, 1:], (1, 0))
        return Parts.sum(each, counted, _places(outputs, labels, batch))

    def _each(self, outputs: Any, labels: Tensor) -> Tensor:
        """The losses [n, token], [n, label], or [n, 1]."""
        if self.shift and "logits" not in outputs and "log_probs" in outputs:
            return -_wide(outputs["log_probs"])
        logits, labels = _wide(outputs["logits"]), self._targets(labels)
        if not labels.is_floating_point() and labels.dim() > 1 and logits.shape[:-1] != labels.shape:
            raise InputError(
                f"the model gives logits of {list(logits.shape[1:-1])} tokens for labels of "
                f"{list(labels.shape[1:])} (soft prompts in front of the text?); pass loss=, a function "
                "(outputs, labels) -> [n] (docs/language-models.md, What it cannot do)"
            )
        if labels.is_floating_point():
            each = binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="none")
            return each.reshape(len(labels), -1)
        each = cross_entropy(
            logits.reshape(-1, logits.shape[-1]),
            labels.reshape(-1),
            reduction="none",
            ignore_index=_IGNORED,
            label_smoothing=self.smoothing,
        )
        return each.reshape(len(labels), -1)

    def count(self, labels: Tensor) -> int:
        """How many targets labels hold."""
        labels = self._targets(labels)
        return len(labels) if labels.is_floating_point() else int((labels != _IGNORED).sum())

    def terms(self, batch: Mapping[str, Tensor]) -> int:
        """What a mean over this batch divides the sum of its losses by."""
        return self.count(batch["labels"])

    def _targets(self, labels: Tensor) -> Tensor:
        return pad(labels, (0, 1), value=_IGNORED)[..., 1:] if self.shift else labels


@dataclass(frozen=True)
class SquaredError:
    """Squared error of `outputs["logits"]`, mean over the numbers of an example: regression."""

    def __call__(self, outputs: Any, labels: Tensor) -> Tensor:
        n = len(labels)
        return (_wide(outputs["logits"]).reshape(n, -1) - labels.reshape(n, -1)).square().mean(1)

    def terms(self, batch: Mapping[str, Tensor]) -> int:
        """What a mean over this batch divides the sum of its losses by."""
        return len(batch["labels"])


@dataclass(frozen=True)
class Answers:
    """Cross entropy of `start_logits` and of `end_logits`, half of each: question answering.

    The batch has `start_positions` and `end_positions`; a position behind the input is not counted.
    """

    def __call__(self, outputs: Any, target: Any, batch: Mapping[str, Tensor]) -> Tensor:
        found = []
        for name in ("start", "end"):
            logits = _wide(outputs[f"{name}_logits"])
            at = _position(batch, name).clamp(0, logits.shape[1])
            found.append(cross_entropy(logits, at, reduction="none", ignore_index=logits.shape[1]))
        return (found[0] + found[1]) / 2

    def terms(self, batch: Mapping[str, Tensor]) -> int:
        """What a mean over this batch divides the sum of its losses by. Errors: an answer that is half in."""
        inside = [_position(batch, name) < batch["input_ids"].shape[1] for name in ("start", "end")]
        if not torch.equal(*inside):
            raise InputError(
                "an answer starts inside the input and ends behind it, so the model counts its start and not "
                "its end, and it has no loss of its own; set both positions to the same place behind the "
                "input, or both to 0"
            )
        return int(inside[0].sum())


def _places(outputs: Any, labels: Tensor, batch: Any) -> Tensor | None:
    """The place [n, token] of each token in its text, padding left aside; None where the batch does not say.

    The `attention_mask` of sequence to sequence models is of the encoder's text, not of the labels.
    """
    name = "decoder_attention_mask" if "encoder_last_hidden_state" in outputs else "attention_mask"
    mask = batch.get(name) if isinstance(batch, Mapping) else None
    if mask is None or mask.shape != labels.shape:
        return None
    column = torch.arange(labels.shape[1], device=labels.device)
    return column - torch.where(mask != 0, column, labels.shape[1]).amin(1, keepdim=True)


def _position(batch: Mapping[str, Tensor], name: str) -> Tensor:
    found = batch[f"{name}_positions"]
    return found.squeeze(-1) if found.dim() > 1 else found


def _wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


_LABELS = ("ForSequenceClassification", "ForImageClassification", "ForAudioClassification",
           "ForVideoClassification")  # fmt: skip
_CLASSES = (
    "ForTokenClassification",
    "ForMultipleChoice",
    "ForMaskedLM",
    "ForCausalLM",
    "ForConditionalGeneration",
)


def own_loss(model: nn.Module, smoothing: float = 0.0) -> CrossEntropy | SquaredError | Answers:
    """The per-example loss of a transformers model.

    For classification, with one label or several, of tokens and by multiple choice, regression, question
    answering, and language models: causal, masked and sequence to sequence. `smoothing` is the Trainer's
    `label_smoothing_factor`. Errors: any other kind of model.
    """
    name, kind, config = type(model).__name__, _kind(model), getattr(model, "config", None)
    problem = getattr(config, "problem_type", None)
    if kind in _LABELS and (problem or getattr(config, "num_labels", 2)) in ("regression", 1):
        if smoothing:
            raise InputError(
                f"{name} predicts numbers, and label_smoothing_factor is for classes; leave it 0"
            )
        return SquaredError()
    if kind in _LABELS or kind in _CLASSES:
        return CrossEntropy(kind == "ForCausalLM", smoothing)
    if kind == "ForQuestionAnswering":
        return Answers()
    raise InputError(
        f"{name}: the loss of one example is known for classification, regression, question answering and "
        "language models only; pass loss=, a function (outputs, labels) -> [n]"
    )


def count_of_trainer(model: nn.Module) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """How many targets the Trainer counts in a batch.

    It leaves out the first label of each text where the model's class is called ForCausalLM, so not of
    GPT2LMHeadModel, whose loss leaves it out, too.
    """
    pairs = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    first = int(getattr(model, "loss_type", None) == "ForCausalLM" and not pairs)
    return lambda batch: (batch["labels"][..., first:] != _IGNORED).sum()


def own_forward(model: nn.Module) -> Callable[[nn.Module, Any], Any] | None:
    """How a transformers model is called where it needs its labels, too; None as a rule.

    Sequence to sequence models make the decoder's input of them; those for question answering have no
    `labels` to leave out.
    """
    return whole_batch if _kind(model) in ("ForConditionalGeneration", "ForQuestionAnswering") else None


def whole_batch(model: nn.Module, batch: Mapping[str, Any]) -> Any:
    """The model called with everything in the batch."""
    return model(**batch)


def _kind(model: nn.Module) -> str | None:
    """The ending of the class name, as transformers looks its losses up."""
    found: Any = model
    model = found.get_base_model() if hasattr(found, "get_base_model") else found  # behind adapters of peft
    name, config = type(model).__name__, getattr(model, "config", None)
    endings = {"LMHeadModel": "ForCausalLM", "ForMultipleChoice": "ForMultipleChoice"}
    by_name = next((kind for ending, kind in endings.items() if name.endswith(ending)), None)
    kind = getattr(model, "loss_type", None) or by_name
    if kind in (None, "ForConditionalGeneration") and config is not None:
        pairs = getattr(config, "is_encoder_decoder", False)
        return "ForConditionalGeneration" if pairs else kind and "ForCausalLM"
    return kind
