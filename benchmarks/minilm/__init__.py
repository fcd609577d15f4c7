"""Questions about the fine-tuning of a whole MiniLM with flipped labels."""
