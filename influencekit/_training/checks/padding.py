"""Texts that are padded on the left, of which causal attention may make NaN, or a wrong gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["LeftPadding", "left_padding_first"]


class LeftPadding(NamedTuple):
    """Which texts of a batch are padded on the left, `rows` [n], and the `mask` that says so."""

    mask: str
    rows: Tensor

    @classmethod
    def of(cls, batch: Any) -> LeftPadding | None:
        """What a batch of transformers says; None where no text is padded so.

        Of sequence to sequence models the decoder's mask counts, since an encoder sees the whole text from
        everywhere.
        """
        if not isinstance(batch, Mapping):
            return None
        decoder = any(str(name).startswith("decoder_") for name in batch)
        name = "decoder_attention_mask" if decoder else "attention_mask"
        mask = batch.get(name)
        if not isinstance(mask, Tensor) or mask.dim() != 2 or not mask.shape[1]:
            return None
        there = mask.detach().cpu() != 0
        rows = ~there[:, 0] & there.any(1)
        return cls(name, rows) if bool(rows.any()) else None

    def explains(self, bad: Tensor) -> bool:
        """Whether it may be behind losses [n] that are not finite: all such examples are padded so."""
        return bool(bad.any()) and not bool((bad & ~self.rows).any())

    @property
    def words(self) -> str:
        """The cause, and what to do."""
        return (
            f"texts are padded on the left ({self.mask}), where padding sees no token: of that, eager "
            "attention of a causal model makes NaN, or a constant with a wrong gradient; pad on the right "
            '(tokenizer.padding_side = "right"), or use attn_implementation="sdpa"'
        )


def left_padding_first(*batches: Any) -> str:
    """What to say before other advice where some of these texts are padded on the left; else nothing."""
    found = next((padding for each in batches if (padding := LeftPadding.of(each))), None)
    return "" if found is None else f"{found.words}; if that is not it, "
