"""The paper of the Dynamic Influence Tracker (arXiv 2502.10793): its problems, its tables, its figures.

    influencekit compare adult-lr         the workloads kmnist-*, emnist-ab-*, adult-*, 20news-*
    influencekit reproduce table2         the paper's tables, beside its figures
    influencekit_paper.patterns           influence over time: early, late, stable and fluctuating examples
    influencekit_paper.stages             where training changes its pace, and whether ranks agree
    influencekit_paper.plot               pictures of both
"""
