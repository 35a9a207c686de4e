"""The random numbers of `tf.random.stateless_uniform` on a CPU, in NumPy."""

from typing import Any

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def stateless_uniform(count: int, seeds: np.ndarray) -> np.ndarray:
    """`(..., count)` float32 in [0, 1): for each seed what it alone decides, bit for bit TensorFlow's on a CPU.

    With them an augmentation draws the same crops and maps on every backend.

    Args:
        count: How many for each seed.
        seeds: `(..., 2)` integers.
    """
    words = np.asarray(seeds).astype(np.int64).view(np.uint64)[..., None, :]
    first, second = words[..., 0], words[..., 1]
    # The op scrambles its seed first, with a key of its own (`StatelessRandomGetKeyCounter`).
    key = (np.uint64(0x3EC8F720), np.uint64(0x02461E29))
    mixed = _philox([first & _LOW, first >> _HALF, second & _LOW, second >> _HALF], key)
    blocks: np.ndarray = np.arange(-(-count // 4), dtype=np.uint64)
    zeros = np.zeros_like(blocks)
    bits = _philox([blocks, zeros, zeros + mixed[2], zeros + mixed[3]], (mixed[0], mixed[1]))
    numbers = np.stack(bits, axis=-1).reshape(*first.shape[:-1], -1)[..., :count].astype(np.uint32)
    # 23 bits of mantissa behind the exponent of [1, 2).
    return (np.uint32(127 << 23) | (numbers & np.uint32(0x7FFFFF))).view(np.float32) - np.float32(1)


def _philox(counter: list[np.ndarray], key: tuple[Any, Any]) -> list[np.ndarray]:
    """Philox-4x32-10 (Salmon et al., SC 2011): four words of 32 bits, in uint64, for each counter of four words."""
    a, b, c, d = counter
    first, second = key
    for _ in range(10):
        low, high = _MULTIPLIERS[0] * a, _MULTIPLIERS[1] * c
        a, b, c, d = (high >> _HALF) ^ b ^ first, high & _LOW, (low >> _HALF) ^ d ^ second, low & _LOW
        first, second = (first + _STEPS[0]) & _LOW, (second + _STEPS[1]) & _LOW
    return [a, b, c, d]
