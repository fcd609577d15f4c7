"""Rows of the table of torch.nn: recurrent layers and attention."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from helpers_torch_nn import Row
from helpers_torch_nn_layers import NOISE_BY_TAPE, around
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

SEQUENCE = (3, 2)


def recurrent(name: str, call: Any = None, said: str | None = None, **options: Any) -> Row:
    """A recurrent layer over three steps of two features, three hidden units."""
    row = {k: options.pop(k) for k in ("modes", "noisy", "differences") if k in options}
    words = ", ".join(f"{k}={v!r}" for k, v in options.items()) if said is None else said
    settings = {"batch_first": True} | options
    make = getattr(nn, name)
    return around(
        f"{name}({words})" if words else name,
        "recurrent",
        lambda: make(2, 3, **settings),
        SEQUENCE,
        call,
        **row,
    )


def steps_first(layer: nn.Module, h: Tensor) -> Tensor:
    return layer(h.transpose(0, 1))[0].transpose(0, 1)


def last_state(layer: nn.Module, h: Tensor) -> Tensor:
    state = layer(h)[1]
    return torch.cat(state if isinstance(state, tuple) else [state]).transpose(0, 1)


def packed(layer: nn.Module, h: Tensor) -> Tensor:
    lengths = torch.tensor([3, 2, 1, 3])[: len(h)]
    rows = pack_padded_sequence(h, lengths, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(layer(rows)[0], batch_first=True)[0]


def cell(layer: nn.Module, h: Tensor) -> Tensor:
    state = None
    for x in h.unbind(1):
        state = layer(x, state)
    assert state is not None
    return torch.cat(state, 1) if isinstance(state, tuple) else state


KINDS = ("RNN", "GRU", "LSTM")
RECURRENT = [
    *map(recurrent, KINDS),
    *(recurrent(kind, steps_first, said="batch_first=False", batch_first=False) for kind in KINDS),
    *(recurrent(kind, bidirectional=True) for kind in KINDS),
    *(recurrent(kind, num_layers=2) for kind in KINDS),
    recurrent("RNN", nonlinearity="relu"),
    recurrent("GRU", bias=False),
    recurrent("LSTM", bias=False),
    recurrent("LSTM", proj_size=2),
    recurrent("LSTM", num_layers=2, bidirectional=True, proj_size=2),
    recurrent("LSTM", last_state, said="its last state"),
    recurrent("LSTM", num_layers=2, dropout=0.3, modes=NOISE_BY_TAPE, noisy=True),
    around("LSTM, packed sequences", "recurrent", lambda: nn.LSTM(2, 3, batch_first=True), SEQUENCE, packed),
    *(
        around(f"{kind}Cell", "recurrent", lambda kind=kind: getattr(nn, f"{kind}Cell")(2, 3), SEQUENCE, cell)
        for kind in KINDS
    ),
]

TEXT = (3, 4)  # three tokens of four features


def attention(name: str, make: Callable[[], nn.Module], call: Any = None, **options: Any) -> Row:
    return around(name, "attention", make, TEXT, call, **options)


def multihead(**options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.MultiheadAttention(4, 2, batch_first=True, **options)


def itself(**options: Any) -> Callable[[nn.Module, Tensor], Any]:
    return lambda layer, h: layer(h, h, h, **options)


def mask(h: Tensor) -> Tensor:
    """The last token of every second example is padding."""
    return (torch.arange(3) == 2) & (torch.arange(len(h)) % 2 == 1)[:, None]


def causal(h: Tensor) -> Tensor:
    return torch.full((3, 3), -torch.inf, dtype=h.dtype).triu(1)


def encoder(dropout: float = 0.0, **options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(
        4, 2, 5, dropout=dropout, batch_first=True, **{"activation": "gelu"} | options
    )


def decoder(**options: Any) -> nn.Module:
    return nn.TransformerDecoderLayer(4, 2, 5, dropout=0.0, activation="gelu", batch_first=True, **options)


def whole() -> nn.Module:
    return nn.Transformer(4, 2, 1, 1, 5, dropout=0.0, activation="gelu", batch_first=True)


class Fused(nn.Module):
    """scaled_dot_product_attention with projections of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.project, self.options = nn.Linear(4, 12), options

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = self.project(h).unflatten(2, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, **self.options).transpose(1, 2)


ATTENTION = [
    attention("MultiheadAttention", multihead(), itself()),
    attention("MultiheadAttention(need_weights=False)", multihead(), itself(need_weights=False)),
    attention(
        "MultiheadAttention(key_padding_mask)", multihead(), lambda f, h: f(h, h, h, key_padding_mask=mask(h))
    ),
    attention("MultiheadAttention(attn_mask)", multihead(), lambda f, h: f(h, h, h, attn_mask=causal(h))),
    attention("MultiheadAttention(add_bias_kv)", multihead(add_bias_kv=True, add_zero_attn=True), itself()),
    attention(
        "MultiheadAttention(kdim, vdim)", multihead(kdim=3, vdim=2), lambda f, h: f(h, h[..., :3], h[..., :2])
    ),
    attention(
        "MultiheadAttention(dropout)", multihead(dropout=0.2), itself(), modes=NOISE_BY_TAPE, noisy=True
    ),
    attention("TransformerEncoderLayer", encoder),
    attention("TransformerEncoderLayer(relu)", lambda: encoder(activation="relu")),
    attention("TransformerEncoderLayer(norm_first)", lambda: encoder(norm_first=True)),
    attention("TransformerEncoderLayer, padding", encoder, lambda f, h: f(h, src_key_padding_mask=mask(h))),
    attention(
        "TransformerEncoderLayer, causal", encoder, lambda f, h: f(h, src_mask=causal(h), is_causal=True)
    ),
    attention("TransformerEncoderLayer(dropout)", lambda: encoder(0.1), modes=NOISE_BY_TAPE, noisy=True),
    attention("TransformerEncoder", lambda: nn.TransformerEncoder(encoder(), 2, nn.LayerNorm(4))),
    attention(
        "TransformerEncoder, padding",
        lambda: nn.TransformerEncoder(encoder(), 2),
        lambda f, h: f(h, src_key_padding_mask=mask(h)),
    ),
    attention("TransformerDecoderLayer", decoder, lambda f, h: f(h, h.flip(1))),
    attention(
        "TransformerDecoder",
        lambda: nn.TransformerDecoder(decoder(), 2),
        lambda f, h: f(h, h.flip(1), tgt_mask=causal(h)),
    ),
    attention("Transformer", whole, lambda f, h: f(h, h.flip(1))),
    attention("scaled_dot_product_attention", Fused),
    attention("scaled_dot_product_attention(is_causal)", lambda: Fused(is_causal=True)),
]

ROWS = [*RECURRENT, *ATTENTION]
