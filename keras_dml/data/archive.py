"""A file that a benchmark's data come in."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Archive:
    """An archive of a data set's publisher.

    Args:
        name: File name.
        url: Where it was published; addresses of data sets die, the checksum stays.
        size: Bytes, or None where not known.
        sha256: Checksum, or None where not known.
    """

    name: str
    url: str
    size: int | None = None
    sha256: str | None = None

    def __str__(self) -> str:
        size = "" if self.size is None else f", {self.size:,} bytes"
        checksum = "checksum not known" if self.sha256 is None else f"sha256 {self.sha256}"
        return f"{self.name}{size}, {checksum}, from {self.url}"
