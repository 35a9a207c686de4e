"""What a result depends on beside its recipe: code, packages, machine, threads, weights."""

import importlib.metadata
import os
import pathlib
import platform
import re
import shutil
import subprocess
import warnings
from typing import Any

from keras_dml.utils.cores import available_cores
from keras_dml.utils.files import sha256

PACKAGES = ("keras-dml", "tensorflow", "keras", "tensorflow-similarity", "tensorflow-datasets", "numpy", "scann")
INSTRUCTION_SETS = ("avx512f", "avx2", "avx", "asimd")
"""What vector code of TensorFlow's kernels and numpy's BLAS is chosen by, best first."""


def session() -> dict[str, Any]:
    """What this process computes with; a run that was interrupted has had several."""
    return {"versions": versions(), "code": code_version(), "machine": machine()}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a result depends on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def code_version() -> dict[str, Any]:
    """Version of keras_dml and, in a git checkout, its commit and whether files were changed since."""
    found: dict[str, Any] = {"keras-dml": importlib.metadata.version("keras-dml"), "commit": None, "modified": None}
    root = pathlib.Path(__file__).parents[2]
    if (root / ".git").exists() and shutil.which("git"):
        answers = [
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
        # Git refuses checkouts of other users; the run goes on without the commit.
        if not any(answer.returncode for answer in answers):
            found |= {"commit": answers[0].stdout.strip(), "modified": bool(answers[1].stdout.strip())}
    return found


def machine() -> dict[str, Any]:
    """What a run is computed on. Sums of float32 depend on the instruction set and the threads that share them."""
    import tensorflow as tf

    accelerators = [
        tf.config.experimental.get_device_details(device).get("device_name", device.name)
        for device in tf.config.list_physical_devices("GPU")
    ]
    return {
        "architecture": platform.machine(),
        "cpu": cpu_model(),
        "instruction_set": instruction_set(),
        "cores": available_cores(),
        "threads": threads(),
        "accelerators": accelerators,
    }


def cpu_model() -> str | None:
    """The processor's name as the system gives it; None where it gives none."""
    match = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return match[1].strip() if match else platform.processor() or None


def instruction_set() -> str | None:
    """The best of `INSTRUCTION_SETS` that the processor has."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    flags = set(match[1].split()) if match else set()
    return next((name for name in INSTRUCTION_SETS if name in flags), None)


def _cpuinfo() -> str:
    path = pathlib.Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if os.access(path, os.R_OK) else ""


def threads() -> int:
    """Threads that share one operation of TensorFlow (its intra-op parallelism)."""
    import tensorflow as tf

    return tf.config.threading.get_intra_op_parallelism_threads() or available_cores()


def use_threads(count: int) -> None:
    """Lets `count` threads share one operation of TensorFlow.

    Warns where TensorFlow already runs with another number: that cannot be changed within a process.
    """
    import tensorflow as tf

    if threads() == count:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(count)
    except RuntimeError:
        warnings.warn(
            f"TensorFlow already runs with {threads()} threads for an operation in this process, and the run asks for "
            f"{count}. It goes on with {threads()}; the last digits of its numbers may differ from those with {count}. "
            "Set the number before anything else: tf.config.threading.set_intra_op_parallelism_threads",
            stacklevel=2,
        )


def weights_identity(weights: str | None) -> Any:
    """What the backbone starts from, for records. A weights file is identified by its SHA-256, not by its path.

    Raises:
        FileNotFoundError: If the file is missing.
    """
    if weights in (None, "imagenet"):
        return weights
    path = pathlib.Path(str(weights))
    if not path.is_file():
        raise FileNotFoundError(
            f'There is no weights file {path}. --weights takes "imagenet" or a file; --set weights=None starts from '
            "random weights"
        )
    return {"file": path.name, "sha256": sha256(path)}
