"""The question about a small language model, trained with Adam on bundled text."""
