"""What the recipes of DAS (Liu et al., ECCV 2022, arXiv 2208.00119) share; each benchmark has a file that uses this.

The training is that of the authors' code, whose settings produced the published tables: Adam at 1e-5 for all weights,
coupled L2 of 4e-4, 300 epochs of `images // batch` steps, the rate times 0.3 after epochs 200 and 250, batches of 56
classes x 2 images drawn with replacement, batch normalization with frozen statistics, RandomResizedCrop(224) and
mirroring. Test images: short side to 256, center crop of 224.

The authors ran every arm once, with seed 0, and published the best of all epochs on the *test* classes. That is why
`evaluate_every` is 1 here; what we report first is the last epoch. Their own tables disagree by about one point for
the same run by name.

Time: none of these recipes was run by us as it stands, on any machine; each says how many steps of how many images it
trains. What it "takes" for each seed and arm, it takes once more for each arm, to choose an epoch on held-out
training classes, unless its `select_epoch` is false (`--set select_epoch=False`).

The linear layer starts as theirs, PyTorch's `Linear`, does: with less than half of the spread of Keras's default.

Weights: "imagenet" downloads Keras's for ResNet-50. The authors' network is torchvision's, which differs a little; its
file is taken by `--weights resnet50-0676ba61.pth`. Keras has none for BN-Inception: those recipes need `--weights
bn_inception-52deb4733.pth`, and say from where when it is missing.
"""

from collections.abc import Mapping, Sequence

from zoo.recipe import DAS, Options, Recipe, derived

PAPER = "DAS, ECCV 2022"

TABLE_1 = Recipe(
    name="das_table_1",
    summary="multi-similarity, ResNet-50, d=512, with and without DAS",
    benchmark="cars196",
    arms={"baseline": {"das": None}, "das": {}},
    exported="das",
    backbone="resnet50",
    weights="imagenet",
    embedding_dim=512,
    embedding_init="torch",
    pooling="avg+max",
    input_size=224,
    resize=256,
    augment="random_resized_crop",
    loss="multi_similarity",
    das=DAS(top_k=8),
    classes_per_batch=56,
    images_per_class=2,
    # PyTorch's epsilon, a tenth of Keras's: late gradients are small enough to tell.
    optimizer_args={"epsilon": 1e-8},
    learning_rate=1e-5,
    l2_decay=4e-4,
    frozen_batch_norm=True,
    epochs=300,
    lr_milestones=(200, 250),
    lr_gamma=0.3,
)
"""Table 1: multi-similarity, d=512, K=8, average and maximum pooling; the settings of CARS196 with ResNet-50."""

SOP_RANKS = (1, 10, 100, 1000)
SOP_DAS = DAS(top_k=8, scale_range=(0.5, 2.0), shift_scale=0.1, detach=False)
"""DAS as Table 1 uses it on Stanford Online Products."""

UNNORMALIZED = ("generalized_lifted_structure", "n_pair")
"""Losses of Table 2 on embeddings that are not scaled to unit length; DAS then leaves its own alone as well. Theirs are
compared by Euclidean distance, as in the authors' code: `metric` follows `normalize`."""

LOSSES: dict[str, Options] = {
    "triplet_semi_hard": {"loss": "triplet", "loss_args": {"miner": "semi_hard"}},
    "triplet_distance_weighted": {"loss": "triplet", "loss_args": {"miner": "distance_weighted"}},
    "contrastive_distance_weighted": {"loss": "contrastive", "loss_args": {"miner": "distance_weighted"}},
    # The rate of the learned boundaries, one for each class; the milestones lower it along with the encoder's.
    "margin_distance_weighted": {
        "loss": "margin",
        "loss_args": {"miner": "distance_weighted"},
        "loss_learning_rate": 5e-4,
    },
    "generalized_lifted_structure": {"loss": "generalized_lifted_structure", "normalize": False},
    "n_pair": {"loss": "n_pair", "normalize": False},
    "multi_similarity": {"loss": "multi_similarity"},
}
"""The rows of Table 2. All constants are the losses' defaults, which are those of the authors' code."""

TABLE_2 = derived(
    TABLE_1,
    name="das_table_2",
    summary="seven losses with and without DAS, ResNet-50, d=128 (Table 2)",
    embedding_dim=128,
    pooling="avg",
    das=DAS(top_k=4),
    exported="margin_distance_weighted_das",
    seeds=(0,),
)
"""Table 2: seven losses, ResNet-50, d=128, K=4, average pooling; one seed for each of the 14 arms, as the authors."""

Figures = tuple[float, float, float]
"""Recall@1, F1 and NMI in per cent."""


def published(source: str, **metrics: float) -> Options:
    """What `Recipe.published` holds; `recall_1=69.19` stands for "recall@1"."""
    return {
        "source": f"{PAPER}, {source}",
        "metrics": {name.replace("recall_", "recall@"): value for name, value in metrics.items()},
    }


def with_and_without(
    source: str, ranks: Sequence[int], baseline: Sequence[float], das: Sequence[float]
) -> dict[str, Options]:
    """The arms "baseline" and "das" of Table 1.

    Args:
        source: The table.
        ranks: Ranks k of the published Recall@k.
        baseline: Recall@k without DAS, in per cent.
        das: The same with DAS.
    """

    def recalls(values: Sequence[float]) -> Options:
        return published(source, **{f"recall_{k}": value for k, value in zip(ranks, values, strict=True)})

    return {"baseline": {"das": None, "published": recalls(baseline)}, "das": {"published": recalls(das)}}


def losses_arms(
    figures: Mapping[str, tuple[Figures, Figures]], settings: Mapping[str, Options] | None = None
) -> dict[str, Options]:
    """The 14 arms of Table 2 on one benchmark: NAME and NAME_das for each name of `LOSSES`.

    Args:
        figures: For each loss, what is published without and with DAS.
        settings: For each loss, what its arm with DAS changes. By default DAS as the paper describes it, which leaves
            produced embeddings unnormalized for the losses in `UNNORMALIZED`.
    """
    if settings is None:
        settings = {name: {"das": DAS(normalize=False)} if name in UNNORMALIZED else {} for name in LOSSES}
    arms: dict[str, Options] = {}
    for name, loss in LOSSES.items():
        without, with_das = (published("Table 2", recall_1=recall, f1=f1, nmi=nmi) for recall, f1, nmi in figures[name])
        arms[name] = {**loss, "das": None, "published": without}
        arms[f"{name}_das"] = {**loss, **settings[name], "published": with_das}
    return arms
