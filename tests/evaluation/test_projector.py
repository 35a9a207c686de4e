import numpy as np
import pytest

from keras_dml.evaluation import write_projector


def test_tensorboard_reads_what_is_written(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard comes with TensorFlow")
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5, 3)).astype(np.float32)
    images = rng.integers(0, 256, (5, 4, 4, 1)).astype(np.uint8)
    path = write_projector(
        tmp_path / "logs", vectors, [0, 1, 1, 0, 1], ["a cat", "a\tdog"], ["p", "q", "r", "s", "t"], images, "test"
    )
    assert path == tmp_path / "logs" / "projector_config.pbtxt"
    config = text_format.Parse(path.read_text(), ProjectorConfig())
    (entry,) = config.embeddings
    read = np.loadtxt(path.parent / entry.tensor_path, delimiter="\t", dtype=np.float32)
    np.testing.assert_array_equal(read, vectors)
    lines = (path.parent / entry.metadata_path).read_text().splitlines()
    assert lines == ["class\tid", "a cat\tp", "a dog\tq", "a dog\tr", "a cat\ts", "a dog\tt"]
    assert list(entry.sprite.single_image_dim) == [4, 4]

    from PIL import Image

    sheet = np.asarray(Image.open(path.parent / entry.sprite.image_path))
    assert sheet.shape == (12, 12, 3)
    np.testing.assert_array_equal(sheet[4:8, 4:8, 0], images[4, ..., 0])


def test_without_names_and_pictures(tmp_path):
    path = write_projector(tmp_path, np.eye(2), [7, 9])
    assert "sprite" not in path.read_text()
    assert (tmp_path / "embeddings-metadata.tsv").read_text() == "class\tid\n7\t0\n9\t1\n"


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="3 embeddings, 2 labels"):
        write_projector(tmp_path, np.eye(3), [0, 1])
    with pytest.raises(ValueError, match="`thumbnails` must be uint8"):
        write_projector(tmp_path, np.eye(2), [0, 1], thumbnails=np.zeros((2, 3, 4, 1), np.uint8))
