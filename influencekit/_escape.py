"""Text from elsewhere (a store, a file's name, a plugin), made safe to print."""

__all__ = ["shown"]


def shown(text: object) -> str:
    """`str(text)` with whatever a terminal could act upon as an escape: `\\x1b`, `\\n`, `\\u202e`.

    Control characters, line ends, marks that change the direction of writing, other invisible characters and
    halves of surrogate pairs: all that `str.isprintable` is false for. The rest stays as it is, so that to
    apply it twice changes nothing.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
