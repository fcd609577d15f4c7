"""What the Trainer of transformers, or its model, does that no replay can repeat: refused by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from influencekit.errors import InputError

__all__ = ["refuse_compiled_dropout", "refuse_router", "refuse_trainer"]

_SWITCHES = (
    "deepspeed", "fsdp", "use_liger_kernel", "auto_find_batch_size",
    "neftune_noise_alpha", "parallelism_config",
)  # fmt: skip


def refuse_router(model: nn.Module) -> None:
    """Refuse a mixture of experts that adds a load-balancing loss, which is no example's, to its own."""
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    scale = getattr(config, "router_aux_loss_coef", None)
    if getattr(config, "output_router_logits", False) and scale != 0:
        raise InputError(
            f"the model adds the load-balancing loss of its experts, times {scale}, and that is no example's "
            "loss; train with router_aux_loss_coef=0.0, or give it as penalty="
        )


def refuse_compiled_dropout(model: nn.Module) -> None:
    """A compiled model draws its dropout masks in a way that no replay can repeat, unless it is told to."""
    from torch._inductor import config

    drops = any("Dropout" in type(m).__name__ and getattr(m, "p", 0) for m in model.modules())
    if drops and not config.fallback_random:
        raise InputError(
            "torch_compile=True draws dropout masks of its own, which cannot be replayed; set "
            "torch._inductor.config.fallback_random = True before training, or the model's dropout to 0"
        )


def refuse_trainer(args: Any, loader: Any, done: int) -> None:
    """Refuse by name what a replay would not do again."""
    for name in _SWITCHES:
        if getattr(args, name, None) not in (None, False, "", [], {}):
            raise InputError(f"{name}={getattr(args, name)!r} cannot be recorded; train without it")
    if max(args.world_size, args.n_gpu) > 1:
        raise InputError(
            f"{max(args.world_size, args.n_gpu)} devices or processes cannot be recorded; train on one "
            "(CUDA_VISIBLE_DEVICES=0)"
        )
    if type(loader).__name__ == "DataLoaderDispatcher":
        raise InputError("dispatch_batches and IterableDatasets cannot be recorded; use a map-style data set")
    within = done and not args.ignore_data_skip and done % -(-len(loader) // args.gradient_accumulation_steps)
    if within and args.dataloader_num_workers:
        raise InputError(
            f"the checkpoint, after step {done}, lies within an epoch, and the batches that are passed over "
            "cannot be told with workers; resume with dataloader_num_workers=0"
        )
