"""What a machine is, as far as the last bits of a result depend on it."""

import os
import platform
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from influencekit import __version__

__all__ = ["described", "differing", "this_machine"]


def this_machine(device: str = "cpu") -> str:
    """Processor or GPU, threads, torch and influencekit, in words."""
    import torch

    if device != "cpu":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, influencekit {__version__}"
    count = torch.get_num_threads()
    threads = f"{count} thread{'s' if count > 1 else ''}"
    return f"{_processor()}, {threads}, torch {torch.__version__}, influencekit {__version__}"


def _processor() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine() or os.name


def described(machines: Mapping[str, int]) -> str:
    """`A (12 slices), B (1 slice)`."""
    rows = sorted(machines.items(), key=lambda row: (-row[1], row[0]))
    return "; ".join(f"{name} ({count} slice{'s' if count != 1 else ''})" for name, count in rows)


def differing(machines: Counter[str], here: str) -> str:
    """One line where slices were trained on machines that may round otherwise than each other, or than this
    one; nothing where all are alike."""
    if not {*machines} - {here}:
        return ""
    own = "" if here in machines else f"; this machine is {here}"
    return f"retrained on {described(machines)}{own}: effects may differ in the last digits from those of one"
