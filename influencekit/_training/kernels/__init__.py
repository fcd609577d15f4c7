"""Traced gradients: how they are made, simplified, batched, and when they serve another step."""
