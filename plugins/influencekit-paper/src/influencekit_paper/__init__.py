"""The paper of the Dynamic Influence Tracker (arXiv 2502.10793): its problems, its tables, its figures.

The workloads `kmnist-*`, `emnist-ab-*`, `adult-*` and `20news-*`, one file a data set, and the command
`influencekit reproduce` are found by entry point. In Python:

    influencekit_paper.patterns     influence over time: early, late, stable and fluctuating examples
    influencekit_paper.stages       where training changes its pace, and whether stages rank examples alike
    influencekit_paper.plot         pictures of both
    influencekit_paper.reproduce    the paper's tables

EMNIST cannot be bundled. Its `trained` settings are those that were chosen for KMNIST, its stand-in.
"""
