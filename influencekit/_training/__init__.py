"""A training problem and one step of it: losses, optimizers, derivatives, and what is checked before."""
