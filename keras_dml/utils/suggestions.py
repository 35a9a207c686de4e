"""Error texts for names that are not known."""

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, received: object, known: Iterable[str]) -> str:
    """A sentence that names the value, the nearest known names and all the others.

    Args:
        kind: What the name stands for, as in "benchmark".
        received: What was given.
        known: The names there are.
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(received), names, n=1, cutoff=0.4)
    # Initials are what people shorten a name to: `lr`, `bs`.
    initials = [name for name in names if "".join(part[:1] for part in name.split("_")) == received]
    near = initials[:1] or near
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {kind} {received!r}.{hint} Known: {', '.join(names)}"
