"""Training on an accelerator: images a second of ResNet-50 and multi-similarity, with and without DAS.

    KERAS_BACKEND=jax python benchmarks/accelerator.py                      one H100, say
    KERAS_BACKEND=jax python benchmarks/accelerator.py --precision float32 --batch 112 448

ResNet-50 with d=512 at 224 px, mixed_bfloat16 by default, frozen batch normalization, Adam, synthetic images that are
on the device already: what is measured is the step, not the input. Each row takes turns with its rival, the same step
without DAS; the last column is what DAS costs. Prints the card's name; the table belongs into docs/accelerators.md.
"""

import argparse
import statistics
import time


def make(batch, das, arguments):
    """A function that trains `steps` steps and returns their seconds."""
    import keras
    import numpy as np

    import keras_dml as dml

    keras.config.set_dtype_policy(arguments.precision)
    keras.utils.set_random_seed(0)
    shape = (arguments.size, arguments.size, 3)
    encoder = dml.backbones.build("resnet50", embedding_dim=512, pooling="avg+max", input_shape=shape)
    augmentation = dml.layers.DASAugmentation(100, top_k=8, seed=0) if das else None
    model = dml.MetricLearner(encoder, augmentation=augmentation, frozen_batch_norm=True, l2_decay=4e-4)
    model.compile(keras.optimizers.Adam(1e-5), loss="multi_similarity", jit_compile=True)
    random = np.random.default_rng(0)
    images = keras.ops.convert_to_tensor(random.uniform(0, 255, (batch, *shape)).astype("float32"))
    labels = keras.ops.convert_to_tensor((np.arange(batch) // 2 % 100).astype("int32"))

    def run(steps):
        start = time.perf_counter()
        for _ in range(steps):
            logs = model.train_on_batch(images, labels)
        np.asarray(logs)
        return time.perf_counter() - start

    run(3)
    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[112, 448])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--precision", default="mixed_bfloat16")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    import keras

    from zoo.runs.provenance import accelerators, cpu_model

    print(f"{keras.backend.backend()} on {', '.join(accelerators()) or cpu_model()}, {arguments.precision}")
    print("| batch | images/s without DAS | with DAS | cost of DAS |\n|---:|---:|---:|---:|")
    for batch in arguments.batch:
        plain, das = (make(batch, with_das, arguments) for with_das in (False, True))
        pairs = [(plain(arguments.steps), das(arguments.steps)) for _ in range(arguments.rounds)]
        rates = [statistics.median(batch * arguments.steps / pair[side] for pair in pairs) for side in (0, 1)]
        cost = statistics.median(two / one - 1 for one, two in pairs)
        print(f"| {batch} | {rates[0]:.0f} | {rates[1]:.0f} | {cost:+.1%} |")


if __name__ == "__main__":
    main()
