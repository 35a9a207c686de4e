"""Computing requests that arrive together in one call of the graph."""

import asyncio
import collections
import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np

from export.search_model import first_line
from export.serve.loaded_version import LoadedVersion
from export.serve.metrics import Metrics
from export.serve.service_error import Code, ServiceError


@dataclasses.dataclass(eq=False)
class Job:
    """Rows of one request, waiting for their outputs.

    Args:
        version: The model.
        signature: What is computed.
        inputs: Arrays with the rows first.
        k: Neighbors, for a search.
        cost: Pixels, which bound a batch of images.
        future: Gets the outputs.
    """

    version: LoadedVersion
    signature: str
    inputs: Mapping[str, np.ndarray]
    k: int | None
    cost: int
    future: "asyncio.Future[dict[str, np.ndarray]]"

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.inputs.values())))

    @property
    def key(self) -> Hashable:
        """Jobs of one key can be computed together."""
        shapes = tuple((name, value.shape[1:]) for name, value in self.inputs.items())
        return (self.version.number, id(self.version), self.signature, self.k, shapes)


class Batcher:
    """Runs jobs on a few threads; while all are busy, jobs of a kind gather and then run as one batch.

    A lone request never waits for company. One bad row fails its own request only: a batch that fails is computed
    again request by request.

    Args:
        workers: Batches computed at the same time.
        max_rows: Most rows of a batch of several jobs.
        max_images: The same for images, where that is fewer.
        max_cost: Most cost of a batch of several jobs.
        metrics: Told about batches.
    """

    def __init__(self, workers: int, max_rows: int, max_images: int, max_cost: int, metrics: Metrics) -> None:
        self._workers = workers
        self._max_rows = max_rows
        self._max_images = min(max_rows, max_images)
        self._max_cost = max_cost
        self._metrics = metrics
        self._executor = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="compute")
        self._queues: collections.OrderedDict[Hashable, collections.deque[Job]] = collections.OrderedDict()
        self._running = 0

    async def run(self, job: Job) -> dict[str, np.ndarray]:
        """The outputs for a job's rows. Cancelling takes the job out of the queue."""
        self._queues.setdefault(job.key, collections.deque()).append(job)
        self._dispatch()
        return await job.future

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of a function that is called on one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    def close(self) -> None:
        """Lets the threads end."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _dispatch(self) -> None:
        while self._running < self._workers and (batch := self._next_batch()):
            self._running += 1
            running = asyncio.get_running_loop().run_in_executor(self._executor, self._compute, batch)
            running.add_done_callback(lambda done, batch=batch: self._finish(batch, done))

    def _next_batch(self) -> list[Job]:
        while self._queues:
            # The kind that has waited longest; what remains of it goes to the end of the line.
            key, queue = self._queues.popitem(last=False)
            batch: list[Job] = []
            rows = cost = 0
            while queue:
                job = queue[0]
                if job.future.done():
                    queue.popleft()
                    continue
                limit = self._max_images if job.cost else self._max_rows
                if batch and (rows + job.rows > limit or cost + job.cost > self._max_cost):
                    break
                batch.append(queue.popleft())
                rows += job.rows
                cost += job.cost
            if queue:
                self._queues[key] = queue
            if batch:
                return batch
        return []

    def _compute(self, batch: list[Job]) -> "list[dict[str, np.ndarray] | Exception]":
        """On a thread: outputs or an error for every job."""
        first = batch[0]
        if len(batch) == 1:
            return [_attempt(first, first.inputs, self._metrics)]
        inputs = {name: np.concatenate([job.inputs[name] for job in batch]) for name in first.inputs}
        outputs = _attempt(first, inputs, self._metrics)
        if isinstance(outputs, Exception):
            return [_attempt(job, job.inputs, self._metrics) for job in batch]
        results: list[dict[str, np.ndarray] | Exception] = []
        start = 0
        for job in batch:
            results.append({name: value[start : start + job.rows] for name, value in outputs.items()})
            start += job.rows
        return results

    def _finish(self, batch: list[Job], done: "asyncio.Future[list[dict[str, np.ndarray] | Exception]]") -> None:
        self._running -= 1
        if done.cancelled():
            results: list[dict[str, np.ndarray] | Exception] = [ServiceError(Code.UNAVAILABLE, "Shutting down")] * len(
                batch
            )
        else:
            error = done.exception()
            results = [ServiceError(Code.INTERNAL, str(error))] * len(batch) if error else done.result()
        for job, result in zip(batch, results, strict=True):
            if job.future.done():
                continue
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
        self._dispatch()


def _attempt(job: Job, inputs: Mapping[str, np.ndarray], metrics: Metrics) -> "dict[str, np.ndarray] | Exception":
    import tensorflow as tf

    start = time.perf_counter()
    try:
        k = {} if job.k is None else {"k": job.k}
        outputs = job.version.model.call(job.signature, {**inputs, **k})
    # Decoders say of damaged images that they are out of range or not implemented too.
    except (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError, tf.errors.UnimplementedError) as error:
        return ServiceError(Code.INVALID_ARGUMENT, first_line(error))
    except tf.errors.ResourceExhaustedError as error:
        return ServiceError(Code.RESOURCE_EXHAUSTED, first_line(error))
    except Exception as error:
        return error
    metrics.batch_rows.labels(job.signature).observe(len(next(iter(inputs.values()))))
    metrics.compute.labels(job.signature).observe(time.perf_counter() - start)
    return outputs
