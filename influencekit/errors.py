"""The errors a user can meet. Every message is one line: what was expected, what came, what to do."""

__all__ = ["DivergedError", "InfluenceKitError", "InputError", "StoreError"]


class InfluenceKitError(Exception):
    """Base of all errors raised on purpose; the command line prints its text and exits with `exit_code`."""

    exit_code = 1


class InputError(InfluenceKitError, ValueError):
    """An argument, name, option or combination of them that cannot work. Exit code 2."""

    exit_code = 2


class StoreError(InfluenceKitError):
    """A trajectory store that is missing, foreign, half-written, corrupted, or not this workload's."""


class DivergedError(InfluenceKitError):
    """Training or retraining left the finite numbers; the message names the step."""
