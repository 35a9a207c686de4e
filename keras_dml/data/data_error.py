"""The data on disk are not what a benchmark needs."""


class DataError(ValueError):
    """Images or annotations are missing, unreadable or not those of the protocol; the text says what to do."""
