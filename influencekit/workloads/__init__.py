"""The papers' problems, registered by name; one small file a data set.

Every one has two settings. `paper` has the authors' learning rates and 21 epochs, at which some of the models
hardly train. `trained` differs in nothing but the learning rate and the epochs: of a grid, the gentlest
training (learning rate times epochs) whose validation accuracy is within .0035 of the grid's best.
Agreement was not looked at; benchmarks/tune_trained.py chooses, and says where test accuracy had a part;
benchmarks/results/tune_trained.json has the whole grid. EMNIST, not to be had here, takes KMNIST's choices.

A new data set needs a function `pool(data_dir) -> Pool` and a line per model (`problem(...)`), see kmnist.py.
"""

from influencekit.workloads.draw import Part, Pool, by_example
from influencekit.workloads.files import check_images, find, read_npz
from influencekit.workloads.problem import Problem, Setting, problem

__all__ = [
    "Part",
    "Pool",
    "Problem",
    "Setting",
    "by_example",
    "check_images",
    "find",
    "problem",
    "read_npz",
]
