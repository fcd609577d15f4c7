"""What installed distributions say that they bring; metadata that cannot be read stop nobody."""

import warnings
from importlib import metadata
from typing import Any

__all__ = ["entry_points", "provider"]


def entry_points(group: str) -> list[Any]:
    """The entry points of a group; a distribution with metadata that cannot be read is warned of."""
    try:
        return list(metadata.entry_points(group=group))
    except Exception:  # one of them spoils it for all
        found: dict[str, list[Any]] = {}
        for distribution in metadata.distributions():
            try:
                points = list(distribution.entry_points.select(group=group))
                found.setdefault(str(distribution.name), points)
            except Exception as reason:
                where = getattr(distribution, "_path", "a distribution")
                text = f"{where} cannot be read ({type(reason).__name__}), so its plugins are left out"
                warnings.warn(text, RuntimeWarning, stacklevel=2)
        return [point for points in found.values() for point in points]


def provider(distribution: Any) -> tuple[str, str]:
    """Name and version of a distribution, and its summary."""
    try:
        about = distribution.metadata
        name, version = about.get("Name") or "a distribution without a name", about.get("Version") or "?"
        return f"{name} {version}", about.get("Summary") or ""
    except Exception:  # none, or metadata that cannot be read
        return "an unknown distribution", ""
