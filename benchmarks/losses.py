"""Time of losses and miners, forward and backward, beside pytorch-metric-learning's.

The batch is that of DAS with T=3 on the published recipe: 112 embeddings of 56 classes and three produced ones for
each, 448 in all, of 512 dimensions. Ours run in a tf.function, as in training, with and without XLA; the peer runs as
it always does, in PyTorch's eager mode. Everything is measured in one process, in turns, with the same number of
threads.

    pip install 'keras-dml[benchmark]'      # pytorch-metric-learning and the CPU build of PyTorch
    python benchmarks/losses.py             # a few minutes
    python benchmarks/losses.py --compare   # values and gradients beside the peer's, where the formula is the same
"""

import argparse
import functools
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# PyTorch's waiting threads spin by default, at the expense of whatever else runs, the other framework included.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

CLASSES = 100


def make_batch(batch, produced, dim, seed=0):
    """Normalized embeddings of `batch / 2` classes, two each, scattered so that classes overlap, and labels."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(generator.choice(CLASSES, batch // 2, replace=False), 2)
    centers = generator.normal(size=(CLASSES, dim))
    x = centers[labels] + 1.5 * generator.normal(size=(batch, dim))
    x = np.concatenate([x] + [x * generator.uniform(0.9, 1.1, x.shape) for _ in range(produced)])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x.astype("float32"), np.tile(labels, 1 + produced).astype("int32")


def ours(name, make, x, labels, jit):
    """A function that runs one step of a loss."""
    import tensorflow as tf

    loss = make()
    loss.build((None,), (None, x.shape[1]))

    @tf.function(jit_compile=jit)
    def step(labels, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(labels, x, training=True)
        return value, tape.gradient(value, [x, *loss.trainable_variables])

    labels, x = tf.constant(labels), tf.constant(x)

    def run():
        value, gradients = step(labels, x)
        for gradient in gradients:
            tf.convert_to_tensor(gradient).numpy()
        return float(value)

    return run


def our_miner(make, x, labels, jit):
    """A function that runs a miner on embeddings: distances, masks, draw."""
    import tensorflow as tf

    from keras_dml.losses.functional import safe_sqrt, squared_distances

    miner = make()

    @tf.function(jit_compile=jit)
    def step(labels, x):
        same = labels[:, None] == labels[None, :]
        positives = tf.logical_and(same, tf.logical_not(tf.eye(len(x), dtype="bool")))
        distances = safe_sqrt(squared_distances(x, x))
        return miner(distances, positives, tf.logical_not(same), embedding_dim=x.shape[1])

    labels, x = tf.constant(labels), tf.constant(x)
    return lambda: step(labels, x).negative.numpy()


def peer(make, x, labels):
    """A function that runs one step of a peer's loss: `make()` gives the loss and a miner or None."""
    import torch

    loss, miner = make()
    x, labels = torch.tensor(x, requires_grad=True), torch.tensor(labels, dtype=torch.int64)
    parameters = list(loss.parameters())

    def run():
        x.grad = None
        for parameter in parameters:
            parameter.grad = None
        value = loss(x, labels) if miner is None else loss(x, labels, miner(x, labels))
        value.backward()
        return value.detach().item()

    return run


def peer_miner(make, x, labels):
    import torch

    miner = make()
    x, labels = torch.tensor(x), torch.tensor(labels, dtype=torch.int64)
    return lambda: miner(x, labels)


def soft_triple(peers, regularizers, classes, dim):
    """The peer's loss with the paper's regularizer."""
    return peers.SoftTripleLoss(
        classes,
        dim,
        centers_per_class=10,
        weight_regularizer=regularizers.SparseCentersRegularizer(classes, 10),
        weight_reg_weight=0.2,
    )


def same_formula(classes, dim):
    """`(name, our loss, the peer's, the name of its proxies or None)` of losses that should agree."""
    from pytorch_metric_learning import losses as peers
    from pytorch_metric_learning import regularizers

    from keras_dml import losses

    degrees = float(np.degrees(0.5))
    given = {"num_classes": classes, "embedding_size": dim}
    subcenter = peers.SubCenterArcFaceLoss(**given, margin=degrees)
    return [
        ("arcface", losses.ArcFaceLoss(classes), peers.ArcFaceLoss(**given, margin=degrees), "W"),
        ("cosface", losses.CosFaceLoss(classes), peers.CosFaceLoss(**given), "W"),
        ("subcenter_arcface", losses.SubCenterArcFaceLoss(classes), subcenter, "W"),
        ("soft_triple", losses.SoftTripleLoss(classes), soft_triple(peers, regularizers, classes, dim), "fc"),
        ("circle", losses.CircleLoss(), peers.CircleLoss(), None),
        ("smooth_ap", losses.SmoothAPLoss(), peers.SmoothAPLoss(), None),
    ]


def compare(seeds=5, classes=8, dim=16):
    """Prints the greatest differences of values and gradients on the same embeddings, labels and proxies.

    As many images of a class as classes: the peer's Smooth-AP confuses the two numbers (2.9.0).
    """
    import tensorflow as tf
    import torch

    print("| loss | value | difference | greatest gradient | difference |")
    print("|---" * 5 + "|")
    found = {}
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        labels = np.repeat(np.arange(classes), classes).astype("int32")
        x = generator.normal(size=(classes, dim))[labels] + generator.normal(size=(len(labels), dim))
        x = x.astype("float32")
        for name, our_loss, their_loss, proxies in same_formula(classes, dim):
            our_loss.build((None,), (None, dim))
            if proxies is not None:
                weights = generator.normal(size=our_loss.proxies.shape).astype("float32")
                our_loss.proxies.assign(weights)
                getattr(their_loss, proxies).data = torch.tensor(weights.T.copy())
            given = tf.constant(x)
            with tf.GradientTape() as tape:
                tape.watch(given)
                ours_value = our_loss(labels, given)
            gradient = tape.gradient(ours_value, given).numpy()
            leaf = torch.tensor(x, requires_grad=True)
            their_value = their_loss(leaf, torch.tensor(labels, dtype=torch.int64))
            their_value.backward()
            ours_value, their_value = float(ours_value), their_value.detach().item()
            row = (abs(ours_value - their_value), np.abs(gradient - leaf.grad.numpy()).max())
            found.setdefault(name, []).append((their_value, row[0], np.abs(gradient).max(), row[1]))
    for name, measured in found.items():
        value, value_off, gradient, gradient_off = np.max(measured, axis=0)
        print(f"| {name} | {value:.4f} | {value_off:.1e} | {gradient:.2e} | {gradient_off:.1e} |")


def rows(dim, memory):
    """`(name, our loss or miner, the peer's or None, the peer's name)`; registered losses without a row come last."""
    from pytorch_metric_learning import distances, miners, reducers, regularizers
    from pytorch_metric_learning import losses as peers

    from keras_dml import losses, mining
    from keras_dml.losses.registry import required_arguments

    euclidean = {"distance": distances.LpDistance()}
    weighted = {"cutoff": 0.5, "nonzero_loss_cutoff": 1.4}

    def distance_weighted():
        return miners.DistanceWeightedMiner(**weighted, **euclidean)

    def easy_hard(positive, negative):
        return miners.BatchEasyHardMiner(pos_strategy=positive, neg_strategy=negative, **euclidean)

    def dot_product():
        return distances.DotProductSimilarity(normalize_embeddings=False)

    def one_positive(_, labels):
        import torch

        same = labels[:, None] == labels[None, :]
        positive = torch.multinomial((same & ~torch.eye(len(labels), dtype=torch.bool)).float(), 1)[:, 0]
        return torch.arange(len(labels)), positive, *torch.where(~same)

    mean = reducers.MeanReducer

    def triplet(**kwargs):
        distance = distances.LpDistance(power=2)
        return peers.TripletMarginLoss(margin=0.2, distance=distance, reducer=mean(), **kwargs)

    def multi_similarity(**kwargs):
        return peers.MultiSimilarityLoss(alpha=2, beta=40, base=0.5, **kwargs), miners.MultiSimilarityMiner(0.1)

    loss_rows = [
        (
            "contrastive, distance-weighted",
            lambda: losses.ContrastiveLoss(miner="distance_weighted"),
            lambda: (peers.ContrastiveLoss(pos_margin=0, neg_margin=1, **euclidean), distance_weighted()),
            "ContrastiveLoss + DistanceWeightedMiner",
        ),
        (
            "triplet, distance-weighted",
            lambda: losses.TripletLoss(miner="distance_weighted"),
            lambda: (triplet(), distance_weighted()),
            "TripletMarginLoss + DistanceWeightedMiner",
        ),
        (
            "triplet, semi-hard",
            lambda: losses.TripletLoss(miner="semi_hard"),
            lambda: (triplet(), easy_hard("hard", "semihard")),
            "TripletMarginLoss + BatchEasyHardMiner(hard, semihard)",
        ),
        (
            "triplet, soft-hard",
            lambda: losses.TripletLoss(miner="soft_hard"),
            lambda: (triplet(), easy_hard("hard", "hard")),
            "TripletMarginLoss + BatchEasyHardMiner(hard, hard)",
        ),
        (
            "triplet, random",
            lambda: losses.TripletLoss(miner="random"),
            lambda: (triplet(triplets_per_anchor=1), None),
            "TripletMarginLoss(triplets_per_anchor=1)",
        ),
        (
            "margin, distance-weighted",
            lambda: losses.MarginLoss(CLASSES),
            lambda: (
                peers.MarginLoss(num_classes=CLASSES, learn_beta=True, **euclidean),
                distance_weighted(),
            ),
            "MarginLoss + DistanceWeightedMiner",
        ),
        (
            "N-pair",
            losses.NPairLoss,
            lambda: (peers.NPairsLoss(distance=dot_product()), None),
            "NPairsLoss, which takes one anchor for each class where ours takes all",
        ),
        (
            "N-pair, all anchors",
            losses.NPairLoss,
            lambda: (peers.NTXentLoss(temperature=1, distance=dot_product()), one_positive),
            "NTXentLoss at temperature 1, one random positive for each anchor: the same formula, without the norm term",
        ),
        (
            "generalized lifted structure",
            losses.GeneralizedLiftedStructureLoss,
            lambda: (peers.GeneralizedLiftedStructureLoss(neg_margin=1, pos_margin=0, **euclidean), None),
            "GeneralizedLiftedStructureLoss",
        ),
        (
            "multi-similarity",
            losses.MultiSimilarityLoss,
            multi_similarity,
            "MultiSimilarityLoss + MultiSimilarityMiner",
        ),
        (
            "multi-similarity, tensorflow-similarity's",
            lambda: losses.similarity("multi_similarity"),
            multi_similarity,
            "MultiSimilarityLoss + MultiSimilarityMiner",
        ),
        (
            "multi-similarity with SEC",
            lambda: losses.SphericalEmbeddingConstraint("multi_similarity"),
            lambda: multi_similarity(embedding_regularizer=regularizers.LpRegularizer()),
            "the same + LpRegularizer",
        ),
        ("SupCon", losses.SupConLoss, lambda: (peers.SupConLoss(temperature=0.1), None), "SupConLoss"),
        (
            "ProxyNCA++",
            lambda: losses.ProxyNCALoss(CLASSES),
            lambda: (peers.ProxyNCALoss(CLASSES, dim, softmax_scale=9), None),
            "ProxyNCALoss",
        ),
        (
            "Proxy-Anchor",
            lambda: losses.ProxyAnchorLoss(CLASSES),
            lambda: (peers.ProxyAnchorLoss(CLASSES, dim), None),
            "ProxyAnchorLoss",
        ),
        (
            "normalized softmax",
            lambda: losses.NormalizedSoftmaxLoss(CLASSES),
            lambda: (peers.NormalizedSoftmaxLoss(CLASSES, dim), None),
            "NormalizedSoftmaxLoss",
        ),
        (
            "ArcFace",
            lambda: losses.ArcFaceLoss(CLASSES),
            lambda: (peers.ArcFaceLoss(CLASSES, dim), None),
            "ArcFaceLoss",
        ),
        (
            "CosFace",
            lambda: losses.CosFaceLoss(CLASSES),
            lambda: (peers.CosFaceLoss(CLASSES, dim), None),
            "CosFaceLoss",
        ),
        (
            "sub-center ArcFace",
            lambda: losses.SubCenterArcFaceLoss(CLASSES),
            lambda: (peers.SubCenterArcFaceLoss(num_classes=CLASSES, embedding_size=dim), None),
            "SubCenterArcFaceLoss",
        ),
        (
            "SoftTriple",
            lambda: losses.SoftTripleLoss(CLASSES),
            lambda: (soft_triple(peers, regularizers, CLASSES, dim), None),
            "SoftTripleLoss + SparseCentersRegularizer",
        ),
        ("circle", losses.CircleLoss, lambda: (peers.CircleLoss(), None), "CircleLoss"),
        (
            "Smooth-AP",
            losses.SmoothAPLoss,
            lambda: (peers.SmoothAPLoss(), None),
            "SmoothAPLoss, which takes as many images of a class as there are classes in a batch",
        ),
        (
            f"SupCon, memory of {memory}",
            lambda: losses.CrossBatchMemory(losses.SupConLoss(), memory),
            lambda: (peers.CrossBatchMemory(peers.SupConLoss(temperature=0.1), dim, memory_size=memory), None),
            "CrossBatchMemory(SupConLoss)",
        ),
        (
            f"multi-similarity, memory of {memory}",
            lambda: losses.CrossBatchMemory(losses.MultiSimilarityLoss(), memory),
            lambda: (
                peers.CrossBatchMemory(
                    peers.MultiSimilarityLoss(alpha=2, beta=40, base=0.5),
                    dim,
                    memory_size=memory,
                    miner=miners.MultiSimilarityMiner(0.1),
                ),
                None,
            ),
            "CrossBatchMemory(MultiSimilarityLoss, MultiSimilarityMiner)",
        ),
    ]
    miner_rows = [
        (
            "miner: distance-weighted",
            mining.DistanceWeightedMiner,
            distance_weighted,
            "DistanceWeightedMiner",
        ),
        (
            "miner: semi-hard",
            mining.SemiHardMiner,
            lambda: easy_hard("hard", "semihard"),
            "BatchEasyHardMiner(hard, semihard)",
        ),
        ("miner: soft-hard", mining.SoftHardMiner, lambda: easy_hard("hard", "hard"), "BatchEasyHardMiner"),
        (
            "miner: random",
            mining.RandomMiner,
            lambda: easy_hard("all", "hard"),
            "BatchEasyHardMiner(all, hard); no random miner",
        ),
    ]
    measured = {type(make()) for _, make, *_ in loss_rows}
    for name in losses.names():
        loss = losses.loss_class(name)
        if loss not in measured and not loss.needs_pair_scorer and required_arguments(loss) in ([], ["num_classes"]):
            make = functools.partial(loss, **dict.fromkeys(required_arguments(loss), CLASSES))
            loss_rows.append((name, make, None, "none"))
    return loss_rows, miner_rows


def measure(contenders, repeats):
    """Milliseconds of single calls, the contenders taking turns; each turn starts with a call that does not count."""
    times = [[] for _ in contenders]
    for run in contenders:
        run()
    for _ in range(repeats):
        for run, found in zip(contenders, times, strict=True):
            run()
            for _ in range(3):
                start = time.perf_counter()
                run()
                found.append(1e3 * (time.perf_counter() - start))
    return [np.array(found) for found in times]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=112, help="real embeddings, two of each class")
    parser.add_argument("--produced", type=int, default=3, help="produced embeddings for each real one")
    parser.add_argument("--dim", type=int, default=512, help="width of the embeddings")
    parser.add_argument("--memory", type=int, default=4096, help="size of the cross-batch memory")
    parser.add_argument("--repeats", type=int, default=30, help="turns, of three timed calls each")
    parser.add_argument("--threads", type=int, default=2, help="threads of either framework")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--skip-xla", action="store_true", help="leave the XLA column out")
    parser.add_argument("--compare", action="store_true", help="compare values and gradients instead of times")
    arguments = parser.parse_args()
    if arguments.compare:
        compare()
        return

    import tensorflow as tf
    import torch

    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    x, labels = make_batch(arguments.batch, arguments.produced, arguments.dim)
    loss_rows, miner_rows = rows(arguments.dim, arguments.memory)
    jits = (False,) if arguments.skip_xla else (False, True)
    print(
        f"{len(x)} embeddings of {x.shape[1]} dimensions, {arguments.threads} threads, milliseconds as least / median "
        f"of {3 * arguments.repeats} calls; ratio: ours without XLA over the peer, least / median\n"
    )
    print("| loss | graph |" + (" XLA |" if len(jits) > 1 else "") + " peer | ratio | peer's |")
    print("|---" * (5 + (len(jits) > 1)) + "|")
    for name, make, make_peer, peer_name in [*loss_rows, *miner_rows]:
        if arguments.only not in name:
            continue
        if (name, make, make_peer, peer_name) in loss_rows:
            contenders = [ours(name, make, x, labels, jit) for jit in jits]
            contenders += [] if make_peer is None else [peer(make_peer, x, labels)]
        else:
            contenders = [our_miner(make, x, labels, jit) for jit in jits] + [peer_miner(make_peer, x, labels)]
        times = measure(contenders, arguments.repeats)
        cells = [f"{found.min():.1f} / {np.median(found):.1f}" for found in times]
        if make_peer is None:
            print(f"| {name} | {' | '.join(cells)} | | | {peer_name} |", flush=True)
            continue
        ratio = f"{times[0].min() / times[-1].min():.2f} / {np.median(times[0]) / np.median(times[-1]):.2f}"
        print(f"| {name} | {' | '.join(cells)} | {ratio} | {peer_name} |", flush=True)


if __name__ == "__main__":
    main()
