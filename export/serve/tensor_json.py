"""TensorFlow Serving's JSON for tensors: row format (`instances`), column format (`inputs`), base64 for bytes."""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from export.serve.validation import invalid


def parse(body: bytes) -> dict[str, Any]:
    """A request's JSON object.

    Raises:
        ServiceError: The body is not a JSON object. JSON has no NaN and no infinity.
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        payload = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise invalid(f"The request's body must be JSON: {reason[:200]}") from None
    if not isinstance(payload, dict):
        raise invalid(f"The request's body must be a JSON object. Received: {type(payload).__name__}")
    return payload


def decode_request(
    payload: Mapping[str, Any], specs: Mapping[str, tf.TensorSpec]
) -> tuple[dict[str, np.ndarray], bool]:
    """Input arrays of a predict request.

    Args:
        payload: With either `instances` or `inputs`.
        specs: The signature's inputs.

    Returns:
        The arrays, and whether the request was in row format.
    """
    if ("instances" in payload) == ("inputs" in payload):
        raise invalid("A predict request must have either 'instances' (rows) or 'inputs' (columns)")
    main = next(name for name in specs if name != "k")
    rows = "instances" in payload
    if rows:
        columns = _columns_of_rows(payload["instances"], main)
    else:
        inputs = payload["inputs"]
        named = isinstance(inputs, dict) and not _is_base64(inputs)
        columns = inputs if named else {main: inputs}
    unknown = next((name for name in columns if name not in specs), None)
    if unknown is not None:
        raise invalid(f"Unknown input {unknown[:100]!r}. The signature's inputs are: {', '.join(specs)}")
    return {name: _array(name, value, specs[name]) for name, value in columns.items()}, rows


def encode_response(outputs: Mapping[str, np.ndarray], rows: bool) -> bytes:
    """The JSON body of a predict response."""
    values = {name: _json(name, value) for name, value in outputs.items()}
    single = next(iter(values.values())) if len(values) == 1 else None
    if not rows:
        body: dict[str, Any] = {"outputs": values if single is None else single}
    elif single is not None:
        body = {"predictions": single}
    else:
        count = len(next(iter(values.values())))
        body = {"predictions": [{name: value[row] for name, value in values.items()} for row in range(count)]}
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _columns_of_rows(instances: Any, main: str) -> dict[str, list[Any]]:
    if not isinstance(instances, list) or not instances:
        raise invalid("'instances' must be a list of at least one row")
    named = [isinstance(row, dict) and not _is_base64(row) for row in instances]
    if not any(named):
        return {main: instances}
    if not all(named) or any(row.keys() != instances[0].keys() for row in instances):
        raise invalid("Every row of 'instances' must have the same inputs")
    return {name: [row[name] for row in instances] for name in instances[0]}


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"}


def _array(name: str, value: Any, spec: tf.TensorSpec) -> np.ndarray:
    if spec.dtype == tf.string:
        values = value if isinstance(value, list) else [value]
        contents: np.ndarray = np.empty(len(values), dtype=object)
        for number, item in enumerate(values):
            contents[number] = to_bytes(name, item)
        return contents if isinstance(value, list) else contents.reshape(())
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError, RecursionError):
        raise invalid(f"Input {name!r} must be a regular array: its lists have different lengths") from None
    if array.dtype.kind not in "iuf":
        raise invalid(f"Input {name!r} must hold numbers of type {spec.dtype.name}")
    if spec.dtype.is_integer:
        bounds = np.iinfo(spec.dtype.as_numpy_dtype)
        low, high = bounds.min, bounds.max
        if array.size and (array.dtype.kind == "f" or array.min() < low or array.max() > high):
            raise invalid(f"Input {name!r} must hold integers in [{low}, {high}]")
    with np.errstate(over="ignore"):
        return array.astype(spec.dtype.as_numpy_dtype)


def to_bytes(name: str, value: Any) -> bytes:
    """What a JSON value stands for: `{"b64": ...}`, or text."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if _is_base64(value) and isinstance(value["b64"], str):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise invalid(f"Input {name!r} holds invalid base64: {error}") from None
    raise invalid(f'Input {name!r} must hold strings, or bytes as {{"b64": "..."}}')


def _json(name: str, values: np.ndarray) -> list[Any]:
    if values.dtype != object:
        nested = values.tolist()
        assert values.dtype.kind != "f" or not values.size or math.isfinite(float(np.abs(values).max()))
        return nested
    if values.ndim > 1:
        return [_json(name, row) for row in values]
    if name.endswith("_bytes"):
        return [{"b64": base64.b64encode(value).decode()} for value in values]
    return [value.decode("utf-8", "replace") for value in values]
