"""Your own folder of classes: a linear embedding of a frozen backbone, in minutes on a CPU.

Command: python -m zoo.reproduce folder --data-dir PATH
Needs:   PATH/CLASS/*.jpg, of which half of the classes train and half test; or PATH/train, PATH/test (and PATH/gallery)
         with classes in each; see docs/data.md. ImageNet weights of MobileNetV2 are downloaded, or given by --weights.
Takes:   about five minutes on 2 CPU cores for 2,600 photos

The backbone's features are computed once and kept. Linear layers on them start from principal components or from
whitening within classes, which are arms of their own, and are trained with multi-similarity and with normalized
softmax. Held-out training classes choose rates and the arm that is exported. Then, from what that has found, a training
of the whole network, which takes hours on a CPU:

    python -m zoo.reproduce folder_finetune --data-dir PATH

docs/own_photos.md leads through it.
"""

from zoo.recipe import DAS, Recipe, derived

CLOSED = {"learning_rate": 0.0, "epochs": 1, "steps_per_epoch": 1}
"""A linear layer that is fitted and not trained."""

FOLDER = Recipe(
    name="folder",
    summary="your own images: a linear embedding of a frozen MobileNetV2, d=512, against the backbone as it is",
    benchmark="folder",
    arms={
        "random_start": {},
        "pca": {"embedding_init": "pca", **CLOSED},
        "whitening": {"embedding_init": "whitening", **CLOSED},
        "pca_ms": {"embedding_init": "pca"},
        "whitening_ms": {"embedding_init": "whitening"},
        "whitening_softmax": {"embedding_init": "whitening", "loss": "normalized_softmax"},
    },
    exported="whitening_ms",
    rivals=("backbone",),
    choose=True,
    known_share=0.2,
    backbone="mobilenet_v2",
    weights="imagenet",
    embedding_dim=512,
    input_size=224,
    resize=256,
    trainable="head",
    loss="multi_similarity",
    classes_per_batch=16,
    images_per_class=4,
    replacement=False,
    learning_rate=1e-3,
    lr_schedule="cosine",
    epochs=10,
    steps_per_epoch=50,
    evaluate_every=10,
    select_epoch=False,
    clustering=False,
)

FOLDER_FINETUNE = derived(
    FOLDER,
    name="folder_finetune",
    summary="your own images: MobileNetV2 itself, trained from a whitened embedding, with and without DAS; takes hours",
    arms={"all": {}, "last_blocks": {"trainable": 2}, "das": {"das": DAS(detach=False), "identity_aware": True}},
    exported="last_blocks",
    choose=False,
    embedding_init="whitening",
    trainable="all",
    frozen_batch_norm=True,
    augment="random_resized_crop",
    augment_args={"scale": (0.4, 1.0)},
    learning_rate=1e-4,
    lr_schedule="cosine",
    epochs=20,
    steps_per_epoch=None,
    evaluate_every=5,
    select_epoch=True,
    seeds=(0,),
)
