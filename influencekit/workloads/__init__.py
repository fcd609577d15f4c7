"""The papers' problems, registered by name; one small file a data set.

A new data set needs a function `pool(data_dir) -> Pool` and a line per model (`problem(...)`), see kmnist.py.
"""
