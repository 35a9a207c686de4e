"""How many rows the server computes together, and the options for it."""

import asyncio
import threading
import types

import numpy as np
import pytest

from export.serve.__main__ import parser
from export.serve.batcher import Batcher, Job
from export.serve.metrics import Metrics
from export.serve.server_config import ServerConfig


class Model:
    """Doubles its input; a call waits until `go` is set."""

    def __init__(self):
        self.go = threading.Event()
        self.sizes = []

    def call(self, _signature, inputs):
        assert self.go.wait(30)
        self.sizes.append(len(inputs["x"]))
        return {"y": 2 * inputs["x"]}


def batches(cost, max_rows, max_images, requests=20):
    """Sizes of the batches in which `requests` rows are computed that wait behind another; checks their outputs."""
    model = Model()
    version = types.SimpleNamespace(number=1, model=model)

    async def run():
        batcher = Batcher(1, max_rows, max_images, 1000, Metrics())
        loop = asyncio.get_running_loop()
        jobs = [
            Job(version, "serve", {"x": np.full((1, 2), row)}, None, cost, loop.create_future())
            for row in range(1 + requests)
        ]
        running = [asyncio.ensure_future(batcher.run(job)) for job in jobs]
        # One turn of the loop, in which all are put into the queue and the first begins.
        await asyncio.sleep(0)
        model.go.set()
        outputs = await asyncio.wait_for(asyncio.gather(*running), 30)
        batcher.close()
        return outputs

    outputs = asyncio.run(run())
    np.testing.assert_array_equal([output["y"][0, 0] for output in outputs], 2 * np.arange(1 + requests))
    first, *others = model.sizes
    assert first == 1
    return others


@pytest.mark.parametrize(
    ("cost", "max_rows", "max_images", "expected"),
    [
        (0, 64, 8, [20]),
        (0, 12, 8, [12, 8]),
        (1, 64, 8, [8, 8, 4]),
        (1, 64, 16, [16, 4]),
        (1, 6, 16, [6, 6, 6, 2]),
    ],
)
def test_rows_computed_together(cost, max_rows, max_images, expected):
    assert batches(cost, max_rows, max_images) == expected


def test_options_reach_the_settings(tmp_path):
    def settings(*options):
        arguments = vars(parser().parse_args([str(tmp_path), *options]))
        return arguments["max_batch"], arguments["max_batch_images"]

    assert settings() == (64, 8)
    assert settings("--max-batch-images", "32") == (64, 32)
    with pytest.raises(ValueError, match="`max_batch_images` must be positive"):
        ServerConfig(tmp_path, max_batch_images=0)
