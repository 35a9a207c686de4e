"""What can be wrong with data: the error that is raised, and a note of each unreadable image."""

import contextlib
import re
from collections.abc import Iterator
from typing import NamedTuple


class DataError(ValueError):
    """Images or annotations are missing, unreadable or not those of the protocol; the text says what to do."""


class BadImage(NamedTuple):
    """An image that cannot be read."""

    row: int
    """Row in the split."""
    id: str
    """Its id, the path for image files."""
    reason: str
    """What the decoder said."""


@contextlib.contextmanager
def unreadable_images_named() -> Iterator[None]:
    """A context in which an image that cannot be read is a `DataError` that says which, and why.

    TensorFlow meets such an image inside its graph and buries the message in a trace of its own.
    """
    try:
        yield
    except (ValueError, OSError):
        raise
    except Exception as error:
        found = re.search("DataError: (.*)", str(error))
        if found is None:
            raise
        raise DataError(found[1]) from error
