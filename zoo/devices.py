"""Training on several devices of one host: `--devices N`.

The batch of a recipe is the global batch: on N devices each embeds a part of it, and loss, mining, banks and memories
see all of it, as on one device. Several hosts: docs/accelerators.md.
"""

import contextlib
from collections.abc import Iterator

import keras

from zoo.recipe import Recipe


def check_batches(recipe: Recipe, devices: int) -> None:
    """Raises where a batch of the recipe does not divide by the devices.

    Raises:
        ValueError: With the arms concerned.
    """
    for name in recipe.arms:
        arm = recipe.arm(name)
        batch = arm.classes_per_batch * arm.images_per_class
        if batch % devices:
            raise ValueError(
                f"--devices {devices}: the batch of arm {name!r} does not divide by that. Received: "
                f"classes_per_batch={arm.classes_per_batch} x images_per_class={arm.images_per_class} = {batch}"
            )


class Devices:
    """The first devices of this host: accelerators, or else parts of the CPU.

    Make one before anything is computed: a CPU is divided when a backend starts.

    Args:
        count: How many; 1 leaves everything as it is.

    Raises:
        ValueError: If there are fewer.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._names: list[str] = []
        if count > 1:
            jax = keras.backend.backend() == "jax"
            self._names = _enough(_jax_devices(count) if jax else _tensorflow_devices(count), count)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """A context in which what is built trains on all of them."""
        if self.count == 1:
            yield
        elif keras.backend.backend() == "jax":
            former = keras.distribution.distribution()
            keras.distribution.set_distribution(keras.distribution.DataParallel(devices=self._names))
            try:
                yield
            finally:
                keras.distribution.set_distribution(former)
        else:
            import tensorflow as tf

            with tf.distribute.MirroredStrategy(self._names).scope():
                yield


def _enough(devices: list[str], count: int) -> list[str]:
    if len(devices) < count:
        raise ValueError(f"--devices {count}: there are {len(devices)}: {', '.join(devices)}")
    return devices[:count]


def _jax_devices(count: int) -> list[str]:
    import jax

    with contextlib.suppress(RuntimeError):  # JAX has started, and has the devices that it has.
        jax.config.update("jax_num_cpu_devices", count)
    return keras.distribution.list_devices()


def _tensorflow_devices(count: int) -> list[str]:
    import tensorflow as tf

    accelerators = [device.name for device in tf.config.list_logical_devices("GPU")] if _gpus() else []
    if accelerators:
        return accelerators
    cpu = tf.config.list_physical_devices("CPU")[0]
    with contextlib.suppress(RuntimeError):  # TensorFlow has started, and has the devices that it has.
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(count)])
    return [device.name for device in tf.config.list_logical_devices("CPU")]


def _gpus() -> bool:
    # Without starting TensorFlow's runtime, after which a CPU can no longer be divided.
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
