"""Which versions are served: loading, swapping, unloading."""

import asyncio
import contextlib
import gc
import logging
import pathlib
import time
from collections.abc import Iterator

from export import versions
from export.changes import ChangeLog
from export.overlay import Overlay
from export.search_model import load
from export.serve.loaded_version import Identity, LoadedVersion, identity_of
from export.serve.logs import event
from export.serve.metrics import Metrics
from export.serve.service_error import Code, ServiceError

# A version that does not load is tried again after this many seconds.
RETRY_SECONDS = 60.0


class ModelStore:
    """Serves the newest version of a model directory and follows it.

    A new version is loaded beside the old one; new requests go to it once it has answered a first request of its own,
    and the old one is let go when its last request is done.

    Args:
        directory: Model directory or version directory.
        metrics: Told about loads.
        name: Name in URLs; by default that of the first version's manifest, whatever later ones say.
        verify: Whether every file is compared with its checksum before a version is served.
        writable: Whether items can be changed while they are served.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        metrics: Metrics,
        name: str | None = None,
        verify: bool = True,
        writable: bool = False,
    ) -> None:
        self.directory = directory
        self._metrics = metrics
        self._name = name
        self._verify = verify
        self._writable = writable
        self._log: ChangeLog | None = None
        self._fixed = (directory / "manifest.json").is_file()
        self.current: LoadedVersion | None = None
        self._retired: list[LoadedVersion] = []
        # By identity: a version that was published anew under its number is another one.
        self._failures: dict[Identity, tuple[float, str]] = {}
        self.loading: int | None = None

    @property
    def name(self) -> str:
        """The model's name in URLs."""
        assert self._name is not None
        return self._name

    def load_first(self) -> None:
        """Loads the newest version; raises what `export.load` raises."""
        version = self._load(versions.resolve(self.directory))
        self._name = self._name or version.model.name
        self._install(version)

    async def follow(self, seconds: float) -> None:
        """Looks for another newest version every `seconds`, for ever."""
        if self._fixed or not seconds:
            return
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(seconds)
            try:
                identity = self._wanted()
                if identity is None:
                    await loop.run_in_executor(None, self._look_for_changes)
            except (OSError, ValueError) as error:
                event("the model directory cannot be read", logging.ERROR, error=str(error))
                continue
            if identity is None:
                continue
            self.loading = number = identity[0]
            try:
                version = await loop.run_in_executor(None, self._load, self.directory / str(number))
                self._check_replaces(version)
                if version.overlay is not None:
                    # What was written while the version was loaded; nothing is awaited from here to `_install`.
                    version.overlay.refresh()
            except Exception as error:
                self._failures = {key: failure for key, failure in self._failures.items() if key[0] != number}
                self._failures[identity] = (time.monotonic(), str(error))
                self._metrics.loads.labels("failed").inc()
                event("version does not load", logging.ERROR, version=number, error=str(error))
                continue
            finally:
                self.loading = None
            self._failures.pop(identity, None)
            self._install(version)

    @contextlib.contextmanager
    def lease(self, name: str, number: int | None = None) -> Iterator[LoadedVersion]:
        """A version that stays loaded for the length of the context; the newest by default."""
        version = self.find(name, number)
        version.leases += 1
        try:
            yield version
        finally:
            version.leases -= 1
            if version.retired and not version.leases:
                self._unload(version)

    def find(self, name: str, number: int | None = None) -> LoadedVersion:
        """The version that a request names.

        Raises:
            ServiceError: There is no such model, or the version is not loaded.
        """
        if name != self.name:
            raise ServiceError(Code.NOT_FOUND, f"There is no model {name[:100]!r} here. This server has {self.name!r}")
        if self.current is None:
            raise ServiceError(Code.UNAVAILABLE, "No version is loaded yet")
        if number is not None and number != self.current.number:
            raise ServiceError(
                Code.NOT_FOUND,
                f"Version {number} of model {self.name!r} is not served. The served version is {self.current.number}",
            )
        return self.current

    def states(self) -> list[tuple[int, str, str]]:
        """`(version, state, error)` of every version known, newest first, in TensorFlow Serving's words."""
        states = {version.number: ("END", "") for version in self._retired}
        states |= {key[0]: ("END", error) for key, (_, error) in self._failures.items()}
        if self.loading is not None:
            states[self.loading] = ("LOADING", "")
        if self.current is not None:
            states[self.current.number] = ("AVAILABLE", "")
        return [(number, *states[number]) for number in sorted(states, reverse=True)]

    def _wanted(self) -> Identity | None:
        found = versions.versions(self.directory)
        if not found or self.current is None:
            return None
        identity = identity_of(self.directory / str(found[-1]))
        if identity == self.current.identity:
            return None
        failed = self._failures.get(identity)
        if failed is not None and time.monotonic() - failed[0] < RETRY_SECONDS:
            return None
        return identity

    def _load(self, folder: pathlib.Path) -> LoadedVersion:
        version = LoadedVersion(load(folder, verify=self._verify), identity_of(folder), self._open_log())
        version.warm_up()
        return version

    def _open_log(self) -> ChangeLog | None:
        """The changes of the model directory; none where one version alone is served."""
        if self._log is None and not self._fixed:
            self._log = ChangeLog(self.directory) if self._writable else ChangeLog.existing(self.directory)
        return self._log

    def _look_for_changes(self) -> None:
        """Finds what another server of this directory has written."""
        version = self.current
        log = self._open_log()
        if version is None or log is None:
            return
        if version.overlay is None:
            version.overlay = Overlay(version.model, log)
        version.overlay.refresh()
        self._metrics.changes.set(len(version.overlay))

    def _check_replaces(self, version: LoadedVersion) -> None:
        assert self.current is not None
        if len(self.current.model) and not len(version.model):
            raise ValueError(
                f"Version {version.number} has no items, and version {self.current.number}, which is served, has "
                f"{len(self.current.model)}. Restart the server if nothing shall be found"
            )

    def _install(self, version: LoadedVersion) -> None:
        self._metrics.changes.set(0 if version.overlay is None else len(version.overlay))
        old, self.current = self.current, version
        self._metrics.version.set(version.number)
        self._metrics.gallery.set(len(version.model))
        self._metrics.loads.labels("loaded").inc()
        event("version loaded", model=self.name, version=version.number, items=len(version.model))
        if old is not None:
            old.retired = True
            self._retired.append(old)
            if not old.leases:
                self._unload(old)
        else:
            settle_heap()

    def _unload(self, version: LoadedVersion) -> None:
        self._retired.remove(version)
        if version.thumbnails is not None:
            version.thumbnails.close()
        event("version unloaded", version=version.number)
        # The caller still refers to the version: collect when it has returned.
        asyncio.get_running_loop().call_soon(settle_heap)


def settle_heap() -> None:
    """Collects garbage and takes what remains out of the collector's sight.

    TensorFlow's Python objects are many and stay: without this a full collection now and then takes more than a
    tenth of a second. Frozen cycles would never be freed, hence the thaw before the collection.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
