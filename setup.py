"""Package metadata. Exact versions of everything that is installed stand in constraints.txt."""

import pathlib
import sys

from setuptools import find_packages, setup

SUPPORTED = ((3, 11), (3, 12))
if sys.version_info[:2] not in SUPPORTED:
    found = ".".join(map(str, sys.version_info[:3]))
    sys.exit(
        f"keras_dml supports Python 3.11 and 3.12. Received: Python {found} ({sys.executable}). "
        "Create the environment with another interpreter, for example: make PYTHON=python3.11 reproduce"
    )

SCANN = ["scann==1.4.2"]
SIMILARITY = ["tensorflow-similarity==0.17.1"]
DATASETS = [
    "tensorflow-datasets==4.9.10",
    "array-record",
    # tensorflow-datasets 4.9.10 needs it to prepare a data set, and asks for it below Python 3.9 alone.
    "importlib_resources",
]
# What runs under Keras's TensorFlow backend alone: TensorFlow Datasets, tensorflow-similarity's losses, export.
TENSORFLOW = [
    # scann 1.4.2's ops load with TensorFlow 2.20 alone (undefined symbols on 2.19 and 2.21), so the two are pinned
    # together.
    "tensorflow==2.20.*",
    *SCANN,
    *SIMILARITY,
    *DATASETS,
]
# `keras-dml serve`.
SERVE = ["starlette", "uvicorn", "grpcio", "protobuf", "tensorflow-serving-api==2.20.*", "prometheus-client"]
# DINOv2 and the other backbones of keras-hub.
MODELS = ["keras-hub==0.32.*"]

setup(
    name="keras-dml",
    version="0.1.0",
    description="Deep metric learning for Keras 3: DAS, PDDM, a model zoo and exported retrieval services",
    long_description=(pathlib.Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The keras_dml authors",
    license="Apache-2.0",
    keywords=["metric learning", "deep metric learning", "image retrieval", "embeddings", "similarity search", "keras"],
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["keras_dml*", "zoo*", "export*"]),
    package_data={
        "keras_dml": ["py.typed"],
        "export": ["py.typed"],
        "export.serve": ["page/*"],
        "zoo": ["py.typed", "report/templates/**/*", "records/*", "weights/*"],
    },
    entry_points={"console_scripts": ["keras-dml = keras_dml.cli:script"]},
    # What training and evaluating need beside a backend, TensorFlow or JAX: one of the extras.
    install_requires=[
        "keras==3.15.*",
        "numpy==2.4.*",
        # k-means and the maps of reports; statistics of comparisons and the annotations of CARS196.
        "scikit-learn",
        "scipy",
        "h5py",
        "safetensors",
        # bfloat16 in checkpoints of PyTorch.
        "ml_dtypes",
        # Checksums of TFRecords, which are read under every backend.
        "google-crc32c",
        # Decodes images where TensorFlow does not.
        "pillow",
        # Progress bars, and the pages and charts of `keras-dml report`.
        "tqdm",
        "jinja2",
        "markupsafe",
        "matplotlib",
    ],
    extras_require={
        "tensorflow": TENSORFLOW,
        # Its parts, for who wants few of them: TensorFlow without CUDA's stubs, and what goes with it.
        "tensorflow-cpu": ["tensorflow-cpu==2.20.*"],
        "scann": SCANN,
        "tfsim": SIMILARITY,
        "tfds": DATASETS,
        "jax": ["jax==0.10.*"],
        # CUDA as Python packages, for TensorFlow and for JAX.
        "gpu": [*TENSORFLOW, "tensorflow[and-cuda]==2.20.*"],
        "jax-gpu": ["jax[cuda12]==0.10.*"],
        "serve": SERVE,
        "hub": MODELS,
        # The name of `hub` in 0.1.0.
        "models": MODELS,
        # Everything but a GPU's libraries: what `make` installs.
        "all": [*TENSORFLOW, *SERVE, *MODELS],
        # What the tests and checks need besides.
        "dev": ["pytest", "pytest-xdist", "ruff", "mypy", "trustme"],
        # Peers that benchmarks/ measures against.
        "benchmark": ["torch", "pytorch-metric-learning", "faiss-cpu", "hnswlib"],
    },
    classifiers=[
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Typing :: Typed",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
