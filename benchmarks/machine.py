"""This machine in words, for the results."""

import os
import platform

import torch


def machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return (
        f"{os.cpu_count()}-core {platform.machine()} CPU, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
