"""The table of torch.nn: all rows, by name."""

from helpers_torch_nn import Row
from helpers_torch_nn_layers import ROWS as LAYERS
from helpers_torch_nn_losses import ROWS as LOSSES
from helpers_torch_nn_operators import ROWS as OPERATORS
from helpers_torch_nn_sequences import ROWS as SEQUENCES
from helpers_torch_nn_shapes import ROWS as SHAPES

TABLE: dict[str, Row] = {row.name: row for row in (*LAYERS, *SHAPES, *SEQUENCES, *LOSSES, *OPERATORS)}
assert len(TABLE) == sum(map(len, (LAYERS, SHAPES, SEQUENCES, LOSSES, OPERATORS))), "two rows of one name"
