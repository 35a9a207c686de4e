"""What a benchmark's loader is told."""

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """How to load a benchmark.

    Args:
        data_dir: Folder (or file) with the data, or None.
        subset: Whether numbers of images and classes may differ from the protocol's.
        download: Whether TensorFlow Datasets may download; None allows it where there is no `data_dir`.
    """

    data_dir: pathlib.Path | None = None
    subset: bool = False
    download: bool | None = None

    @property
    def may_download(self) -> bool:
        """Whether data that are not there are downloaded."""
        return self.data_dir is None if self.download is None else self.download
