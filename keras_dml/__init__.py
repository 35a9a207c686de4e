"""Deep metric learning for Keras 3: DAS, PDDM, losses, miners, evaluation and retrieval models.

Sub-packages load on first use, so that `import keras_dml` is quick and the parts written with `keras.ops` alone
(`layers`, `losses`, `mining`) can be used on any Keras backend.
"""

import importlib
from typing import TYPE_CHECKING, Any

from keras_dml.utils.requirements import backend_required

if TYPE_CHECKING:
    from keras_dml import backbones, callbacks, data, evaluation, layers, losses, mining, models
    from keras_dml.image_encoder import ImageEncoder
    from keras_dml.models.metric_learner import MetricLearner

__version__ = "0.1.0"
__all__ = [
    "ImageEncoder",
    "MetricLearner",
    "backbones",
    "callbacks",
    "data",
    "evaluation",
    "layers",
    "losses",
    "mining",
    "models",
]

_CLASSES = {"ImageEncoder": "keras_dml.image_encoder", "MetricLearner": "keras_dml.models.metric_learner"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        with backend_required():
            if name in _CLASSES:
                return getattr(importlib.import_module(_CLASSES[name]), name)
            return importlib.import_module(f"keras_dml.{name}")
    raise AttributeError(f"module 'keras_dml' has no attribute {name!r}; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
