"""The data on disk are not what a benchmark needs."""

import contextlib
import re
from collections.abc import Iterator


class DataError(ValueError):
    """Images or annotations are missing, unreadable or not those of the protocol; the text says what to do."""


@contextlib.contextmanager
def unreadable_images_named() -> Iterator[None]:
    """A context in which an image that cannot be read is a `DataError` that says which, and why.

    Such an image is met inside TensorFlow's graph, which buries the message in a trace of its own.
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
