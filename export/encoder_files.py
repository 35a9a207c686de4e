"""The image encoder among the files of a version."""

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

    from keras_dml import ImageEncoder

# Before versions held an ImageEncoder's own files.
OLD_PAIR_SCORER_FILE = "similarity.keras"


def save_encoder(
    image_encoder: "ImageEncoder | None", pair_scorer: "keras.layers.Layer | None", dim: int, folder: pathlib.Path
) -> None:
    """Writes the encoder, or what there is of one: a model that is searched by embeddings may have a pair scorer too.

    Args:
        image_encoder: The encoder, its own pair scorer included.
        pair_scorer: The pair scorer of a model without encoder.
        dim: Width of the embeddings.
        folder: The version.
    """
    from keras_dml.image_encoder import pair_scorer_model
    from keras_dml.utils.encoder_files import PAIR_SCORER_FILE

    if image_encoder is not None:
        image_encoder.save(folder)
    elif pair_scorer is not None:
        pair_scorer_model(pair_scorer, dim).save(folder / PAIR_SCORER_FILE)


def open_encoder(folder: pathlib.Path, manifest: Mapping[str, Any]) -> "ImageEncoder | None":
    """The encoder of a version, or None where it is searched by embeddings only.

    Raises:
        ValueError: A file is damaged; the text names it.
    """
    from keras_dml import ImageEncoder
    from keras_dml.image_encoder import load_keras_model, preprocessing_from
    from keras_dml.utils.encoder_files import CONTENT_FILE, ENCODER_FILE

    if manifest["preprocessing"] is None:
        return None
    if (folder / CONTENT_FILE).is_file():
        return ImageEncoder.load(folder)
    preprocessing = preprocessing_from(folder, manifest["preprocessing"])
    encoder = load_keras_model(folder / ENCODER_FILE)
    # A path means nothing on another machine.
    trained_on = {key: value for key, value in manifest["source"].items() if key != "run"}
    return ImageEncoder(encoder, preprocessing, open_pair_scorer(folder), trained_on)


def open_pair_scorer(folder: pathlib.Path) -> "keras.layers.Layer | None":
    """The pair scorer in a version's folder, or None where there is none."""
    from keras_dml.image_encoder import load_pair_scorer
    from keras_dml.utils.encoder_files import PAIR_SCORER_FILE

    for name in (PAIR_SCORER_FILE, OLD_PAIR_SCORER_FILE):
        if (folder / name).is_file():
            return load_pair_scorer(folder / name)
    return None
