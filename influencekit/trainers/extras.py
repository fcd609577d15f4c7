"""What to say where the library of a callback is not installed."""

__all__ = ["missing_extra"]


def missing_extra(name: str) -> ImportError:
    """The error where a library is not installed. `name`: of the library and of the extra that brings it."""
    return ImportError(f"influencekit.trainers.{name} needs {name}: pip install 'influencekit[{name}]'")
