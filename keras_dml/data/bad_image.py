"""An image that cannot be read."""

from typing import NamedTuple


class BadImage(NamedTuple):
    """Where an unreadable image is and what is wrong with it."""

    row: int
    """Row in the split."""
    id: str
    """Its id, the path for image files."""
    reason: str
    """What the decoder said."""
