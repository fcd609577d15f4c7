"""The problem of the first steps, MNIST 1 against 7, and what problems like it are built of.

    pool(data_dir) -> Pool                                           all examples: draw.py, files.py
    problem(name, pool, paper=Setting(...), trained=Setting(...))    what is registered: problem.py

Setting `paper` has the authors' learning rates and 21 epochs, at which some of the models hardly train.
`trained` differs in nothing but the learning rate and the epochs: of a grid, the gentlest training (learning
rate times epochs) whose validation accuracy is within .0035 of the grid's best. Agreement was not looked at.
benchmarks/tune_trained.py chooses, and says where test accuracy had a part; its whole grid is in
benchmarks/results/tune_trained.json.

The paper's other problems come with the plugin influencekit-paper.
"""

from influencekit.workloads.draw import Part, Pool, by_example
from influencekit.workloads.files import bundled, check_images, find, read_npz
from influencekit.workloads.problem import Problem, Setting, problem

__all__ = [
    "Part",
    "Pool",
    "Problem",
    "Setting",
    "bundled",
    "by_example",
    "check_images",
    "find",
    "problem",
    "read_npz",
]
