"""The random numbers of `tf.random.stateless_uniform` on a CPU, in NumPy."""

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def stateless_uniform(count: int, seed: np.ndarray) -> np.ndarray:
    """`(count,)` float32 in [0, 1) that depend on `seed` alone, bit for bit those of TensorFlow's CPU op.

    With them an augmentation draws the same crops and maps on every backend.

    Args:
        count: How many.
        seed: `(2,)` integers.
    """
    seeds = np.asarray(seed).astype(np.int64).view(np.uint64)
    words = [seeds[0] & _LOW, seeds[0] >> _HALF, seeds[1] & _LOW, seeds[1] >> _HALF]
    # The op scrambles its seed first, with a key of its own (`StatelessRandomGetKeyCounter`).
    mixed = _philox([np.array([word]) for word in words], (0x3EC8F720, 0x02461E29))[:, 0]
    blocks: np.ndarray = np.arange(-(-count // 4), dtype=np.uint64)
    zeros = np.zeros_like(blocks)
    counter = [blocks & _LOW, blocks >> _HALF, zeros + mixed[2], zeros + mixed[3]]
    bits: np.ndarray = _philox(counter, (int(mixed[0]), int(mixed[1]))).T.reshape(-1)[:count].astype(np.uint32)
    # 23 bits of mantissa behind the exponent of [1, 2).
    return (np.uint32(127 << 23) | (bits & np.uint32(0x7FFFFF))).view(np.float32) - np.float32(1)


def _philox(counter: list[np.ndarray], key: tuple[int, int]) -> np.ndarray:
    """Philox-4x32-10 (Salmon et al., SC 2011): `(4, n)` words of 32 bits for `n` counters of four words each."""
    a, b, c, d = counter
    first, second = key
    for _ in range(10):
        low, high = _MULTIPLIERS[0] * a, _MULTIPLIERS[1] * c
        a, b, c, d = (
            (high >> _HALF) ^ b ^ np.uint64(first),
            high & _LOW,
            (low >> _HALF) ^ d ^ np.uint64(second),
            low & _LOW,
        )
        first, second = (first + _STEPS[0]) & 0xFFFFFFFF, (second + _STEPS[1]) & 0xFFFFFFFF
    return np.stack([a, b, c, d])
