"""The errors a user can meet. Every message is one line: what was expected, what came, what to do."""

from influencekit._escape import shown

__all__ = ["DivergedError", "InfluenceKitError", "InputError", "StoreError"]


class InfluenceKitError(Exception):
    """Base of all errors raised on purpose; the command line prints its text and exits with `exit_code`.

    The text is one line: control characters in names and files are shown as escapes.

    Example:

        >>> import influencekit as ik
        >>> issubclass(ik.StoreError, ik.InfluenceKitError)
        True
    """

    exit_code = 1

    def __str__(self) -> str:
        return shown(super().__str__())


class InputError(InfluenceKitError, ValueError):
    """An argument, name, option or combination of them that cannot work. Exit code 2.

    Example:

        >>> import influencekit as ik
        >>> try:
        ...     ik.make("estimator", "dti")
        ... except ik.InputError as error:
        ...     print(str(error).split(";")[0])
        no estimator named 'dti'
    """

    exit_code = 2


class StoreError(InfluenceKitError):
    """A trajectory store that is missing, foreign, half-written, corrupted, or not this workload's.

    Example:

        >>> import influencekit as ik
        >>> try:
        ...     ik.open("nowhere.zarr")
        ... except ik.StoreError as error:
        ...     print(error.exit_code)
        1
    """


class DivergedError(InfluenceKitError):
    """Training or retraining left the finite numbers; the message names the step.

    Example:

        >>> import influencekit as ik
        >>> try:
        ...     ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:lr=1e38"))
        ... except ik.DivergedError as error:
        ...     print("NaN or infinite" in str(error))
        True
    """
