"""CARS196 at the scale of a CPU: three losses with and without DAS, MobileNetV2 of width 0.35 at 112 x 112.

Command: python -m zoo.reproduce cars196_small --data-dir PATH
Needs:   CARS196, see docs/data.md, and Keras's ImageNet weights (downloaded, or a file: --weights FILE)
Takes:   about five minutes on one CPU core for each of 24 runs (on half of the data): six arms with three seeds, and
         one run each to choose the epoch

For comparing arms with each other on a machine without an accelerator: the network, the images and the number of
steps are too small for its numbers to stand beside published ones. docs/das.md has what we measured with it, on
half of the data.
"""

from zoo.recipe import DAS, Recipe

CARS196_SMALL = Recipe(
    name="cars196_small",
    summary="small images and network, for a CPU: three losses with and without DAS",
    benchmark="cars196",
    arms={
        "ms": {"das": None},
        "ms_das": {},
        "margin": {"loss": "margin", "das": None},
        "margin_das": {"loss": "margin"},
        "triplet": {"loss": "triplet", "das": None},
        "triplet_das": {"loss": "triplet"},
    },
    exported="ms_das",
    backbone="mobilenet_v2",
    backbone_options={"alpha": 0.35},
    weights="imagenet",
    pooling="avg",
    embedding_dim=128,
    input_size=112,
    resize=128,
    channels=3,
    augment="random_resized_crop",
    # Milder than the published recipes': a small image has few pixels to lose.
    augment_args={"scale": (0.4, 1.0)},
    loss="multi_similarity",
    das=DAS(),
    # The paper's batches.
    classes_per_batch=56,
    images_per_class=2,
    frozen_batch_norm=True,
    learning_rate=2e-4,
    epochs=16,
    lr_milestones=(11, 14),
    evaluate_every=5,
)
