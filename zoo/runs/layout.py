"""What lies where in the folder of an experiment and in that of a run.

    EXPERIMENT/                     ExperimentFolder
        experiment.json             the recipe, the data, and which runs there are
        ARM/seed-SEED/              RunFolder: one arm trained with one seed on all training classes
        ARM/selection/              RunFolder: the run that chooses the arm's epoch on held-out training classes
        ARM/seed-SEED/fold-NUMBER/  RunFolder: the same for a part of a cross-validation
        record.json, metrics.json, rivals.json, table.md, *.png, report.html, cross_validation.json, cross_validation.md
        export/NAME/                the exported model

    RUN/
        run.json                    recipe, seed, data, code, versions, machine
        checkpoint-EPOCHS.*         the state of an unfinished run: zoo.runs.checkpoint
        encoder.keras, pair_scorer.keras, image_encoder.json      a keras_dml.ImageEncoder
        history.json, metrics.json, test_embeddings.npz, gallery_embeddings.npz, das_state.npz
        tensorboard/, evaluation.json, report.html
"""

import dataclasses
import pathlib

from keras_dml.utils.encoder_files import CONTENT_FILE, ENCODER_FILE, PAIR_SCORER_FILE

RUN_FORMAT = 1
TUNING_FOLDER = "tuning"
"""Runs that choose rates, in an experiment folder."""
EXPERIMENT_FORMAT = 1
SELECTION_RUN = "selection"
"""Folder, beside those of an arm's seeds, of the run that chooses its epoch on held-out training classes."""
OLD_PAIR_SCORER_FILE = "similarity.keras"
"""What version 0.1 called `pair_scorer.keras`."""
CONFIG_FILE = "run.json"
EXPERIMENT_FILE = "experiment.json"
EVALUATION_SUFFIX = ".evaluation.json"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths in a run folder.

    Args:
        path: The folder.
    """

    path: pathlib.Path

    @property
    def config(self) -> pathlib.Path:
        """What was trained how, on what."""
        return self.path / CONFIG_FILE

    @property
    def history(self) -> pathlib.Path:
        """The logs of every epoch."""
        return self.path / "history.json"

    @property
    def metrics(self) -> pathlib.Path:
        """The final test metrics. Written last: a run with this file is finished."""
        return self.path / "metrics.json"

    @property
    def encoder(self) -> pathlib.Path:
        """The encoder, as Keras saves it."""
        return self.path / ENCODER_FILE

    @property
    def image_encoder(self) -> pathlib.Path:
        """What makes of encoder and pair scorer an `ImageEncoder`; runs of version 0.1 have none."""
        return self.path / CONTENT_FILE

    @property
    def pair_scorer(self) -> pathlib.Path:
        """The pair scorer, where one was trained, under the name that is there."""
        old = self.path / OLD_PAIR_SCORER_FILE
        return old if old.is_file() else self.path / PAIR_SCORER_FILE

    @property
    def known_embeddings(self) -> pathlib.Path:
        """Embeddings of the held-out images of training classes, where there are any."""
        return self.path / "known_embeddings.npz"

    @property
    def train_embeddings(self) -> pathlib.Path:
        """Embeddings of the training images, the gallery of the known queries."""
        return self.path / "train_embeddings.npz"

    @property
    def das_state(self) -> pathlib.Path:
        """Frequency matrix and banks of DAS after the last step."""
        return self.path / "das_state.npz"

    @property
    def test_embeddings(self) -> pathlib.Path:
        """Embeddings of the test images."""
        return self.path / "test_embeddings.npz"

    @property
    def gallery_embeddings(self) -> pathlib.Path:
        """Embeddings of the gallery's images, where the benchmark has a gallery."""
        return self.path / "gallery_embeddings.npz"

    @property
    def tensorboard(self) -> pathlib.Path:
        """Folder of TensorBoard's files."""
        return self.path / "tensorboard"

    @property
    def evaluation(self) -> pathlib.Path:
        """What `zoo.evaluate` writes."""
        return self.path / "evaluation.json"

    @property
    def report(self) -> pathlib.Path:
        """What `zoo.report` writes."""
        return self.path / "report.html"

    @property
    def begun(self) -> bool:
        """Whether a training was started here."""
        return self.config.exists()

    @property
    def finished(self) -> bool:
        """Whether the run was trained and evaluated to its end."""
        return self.metrics.exists()


@dataclasses.dataclass(frozen=True)
class ExperimentFolder:
    """Paths in an experiment folder.

    Args:
        path: The folder.
    """

    path: pathlib.Path

    @property
    def config(self) -> pathlib.Path:
        """Which recipe, which data, which runs."""
        return self.path / EXPERIMENT_FILE

    @property
    def lock(self) -> pathlib.Path:
        """Who works here."""
        return self.path / ".lock"

    @property
    def record(self) -> pathlib.Path:
        """What was run, and what came out."""
        return self.path / "record.json"

    @property
    def metrics(self) -> pathlib.Path:
        """The metrics of all arms, one value for each seed."""
        return self.path / "metrics.json"

    @property
    def rivals(self) -> pathlib.Path:
        """The metrics of what stands beside the arms."""
        return self.path / "rivals.json"

    @property
    def table(self) -> pathlib.Path:
        """The tables, in Markdown."""
        return self.path / "table.md"

    @property
    def cross_validation(self) -> pathlib.Path:
        """Results of a cross-validation; the table beside it ends in .md."""
        return self.path / "cross_validation.json"

    @property
    def learning_curve(self) -> pathlib.Path:
        """A picture."""
        return self.path / "learning_curve.png"

    @property
    def neighbors(self) -> pathlib.Path:
        """A picture."""
        return self.path / "neighbours.png"

    @property
    def confused(self) -> pathlib.Path:
        """A picture."""
        return self.path / "confused.png"

    @property
    def query(self) -> pathlib.Path:
        """A test image to search with."""
        return self.path / "query.png"

    @property
    def pictures(self) -> list[pathlib.Path]:
        """The pictures to look at that are there."""
        return [path for path in sorted(self.path.glob("*.png")) if path != self.query]

    @property
    def begun(self) -> bool:
        """Whether any run was started here."""
        return any(self.path.glob(f"*/*/**/{CONFIG_FILE}"))

    def run(self, arm: str, seed: int) -> RunFolder:
        """The run of an arm with a seed."""
        return RunFolder(self.path / arm / f"seed-{seed}")

    def fold(self, arm: str, seed: int, number: int) -> RunFolder:
        """The run of a cross-validation that holds out fold `number`, from 0."""
        return RunFolder(self.run(arm, seed).path / f"fold-{number}")

    def selection(self, arm: str) -> RunFolder:
        """The run that chooses the arm's epoch."""
        return RunFolder(self.path / arm / SELECTION_RUN)

    def model_dir(self, name: str) -> pathlib.Path:
        """The directory of the exported model."""
        return self.path / "export" / name
