"""TensorFlow Serving's gRPC services."""

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import any_pb2
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from export.serve.logs import event
from export.serve.search_service import SearchService, answer_bytes, off_loop
from export.serve.service_error import Code, ServiceError
from export.serve.validation import invalid
from export.where import parse_where

NARROWING = ("where", "offset")
SIGNATURE_FIELD = "signature_def"
VALUE_FIELDS = {
    tf.string: "string_val",
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int32: "int_val",
    tf.int64: "int64_val",
    tf.bool: "bool_val",
}


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; Classify, Regress and MultiInference answer UNIMPLEMENTED.

    Args:
        service: Does the work.
    """

    def __init__(self, service: SearchService) -> None:
        self._service = service

    async def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.aio.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Computes a signature."""

        async def answer(record: dict[str, object]) -> predict_pb2.PredictResponse:
            name, number = _model(request.model_spec)
            limit = self._service.config.max_body_bytes
            where, offset = _narrowing(request.inputs, limit)
            outputs, version, signature = await self._service.predict(
                name,
                number,
                request.model_spec.signature_name,
                lambda version, signature: {
                    key: _array(key, value, limit) for key, value in request.inputs.items() if key not in NARROWING
                },
                timeout=context.time_remaining(),
                record=record,
                wanted=request.output_filter,
                where=where,
                offset=offset,
            )

            def write() -> predict_pb2.PredictResponse:
                response = predict_pb2.PredictResponse()
                response.model_spec.name = name
                response.model_spec.version.value = version.number
                response.model_spec.signature_name = signature
                for key, values in outputs.items():
                    _write(response.outputs[key], values)
                return response

            return await off_loop(sum(map(answer_bytes, outputs.values())), write)

        return await _answer(self._service, context, "predict", answer)

    async def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """The signatures of a version."""

        async def answer(record: dict[str, object]) -> get_model_metadata_pb2.GetModelMetadataResponse:
            if not request.metadata_field or any(field != SIGNATURE_FIELD for field in request.metadata_field):
                raise invalid(f"The only metadata field is {SIGNATURE_FIELD!r}, and it must be named")
            name, number = _model(request.model_spec)
            version = self._service.store.find(name, number)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name = name
            response.model_spec.version.value = version.number
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for key, definition in version.signature_defs.items():
                signatures.signature_def[key].CopyFrom(definition)
            packed = any_pb2.Any()
            packed.Pack(signatures)
            response.metadata[SIGNATURE_FIELD].CopyFrom(packed)
            return response

        return await _answer(self._service, context, "metadata", answer)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus; versions are managed by what lies in the model directory, not by HandleReloadConfigRequest.

    Args:
        service: Does the work.
    """

    def __init__(self, service: SearchService) -> None:
        self._service = service

    async def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.aio.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """The state of every version, or of one."""

        async def answer(record: dict[str, object]) -> get_model_status_pb2.GetModelStatusResponse:
            name, number = _model(request.model_spec)
            store = self._service.store
            if name != store.name:
                store.find(name)
            response = get_model_status_pb2.GetModelStatusResponse()
            for version, state, error in store.states():
                if number in (None, version):
                    entry = response.model_version_status.add()
                    entry.version = version
                    entry.state = get_model_status_pb2.ModelVersionStatus.State.Value(state)
                    entry.status.error_code = 2 if error else 0
                    entry.status.error_message = error
            if not response.model_version_status:
                raise ServiceError(Code.NOT_FOUND, f"Could not find version {number} of model {name}")
            return response

        return await _answer(self._service, context, "status", answer)


async def _answer(
    service: SearchService,
    context: grpc.aio.ServicerContext,
    method: str,
    answer: Callable[[dict[str, object]], Awaitable[Any]],
) -> Any:
    """Authorizes, answers, accounts, and turns errors into statuses."""
    start = time.perf_counter()
    record: dict[str, object] = {}
    code, error, response = "OK", None, None
    try:
        headers = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        service.authorize(headers.get("authorization"))
        response = await answer(record)
    except ServiceError as refused:
        code, error = refused.code.grpc_name, refused.message
    except Exception:
        code, error = "INTERNAL", "The server failed to answer this request; its log has the details"
        event("unexpected error", 40, exc_info=True, method=method)
    service.account("grpc", method, code, start, record, error)
    if error is not None:
        await context.abort(grpc.StatusCode[code], error)
    return response


def _model(spec: Any) -> tuple[str, int | None]:
    if spec.version_label:
        raise ServiceError(Code.NOT_FOUND, f"There are no version labels here. Received: {spec.version_label[:100]!r}")
    if not spec.HasField("version"):
        return spec.name, None
    return spec.name, int(spec.version.value)


def _narrowing(inputs: Mapping[str, tensor_pb2.TensorProto], limit: int) -> tuple[Any, int]:
    """The inputs `where`, a filter as JSON text, and `offset`, which belong to a request and not to the graph."""
    where, offset = (_array(name, inputs[name], limit) if name in inputs else None for name in NARROWING)
    if where is not None and (where.dtype != object or where.size != 1):
        raise invalid("Input 'where' must be one string, a filter as JSON")
    if offset is not None and (offset.dtype.kind not in "iu" or offset.size != 1):
        raise invalid("Input 'offset' must be one whole number")
    try:
        filtered = None if where is None else parse_where(where.flat[0].decode())
    except ValueError as error:
        raise invalid(str(error)) from None
    return filtered, 0 if offset is None else int(offset.flat[0])


def _array(name: str, proto: tensor_pb2.TensorProto, limit: int) -> np.ndarray:
    """A request's tensor, refused where a small message stands for a large one."""
    if proto.tensor_shape.unknown_rank or len(proto.tensor_shape.dim) > 8:
        raise invalid(f"Input {name[:100]!r} must have a known shape of at most 8 dimensions")
    sides = [dimension.size for dimension in proto.tensor_shape.dim]
    if any(side < 0 for side in sides):
        raise invalid(f"Input {name[:100]!r} has a negative dimension. Received: shape {sides}")
    count = math.prod(sides)
    try:
        dtype = tf.as_dtype(proto.dtype)
        if dtype == tf.string:
            if count != len(proto.string_val):
                raise invalid(f"Input {name[:100]!r} of shape {sides} must have {count} strings")
            values = np.empty(count, dtype=object)
            values[:] = list(proto.string_val)
            return values.reshape(sides)
        if count * dtype.size > limit:
            raise invalid(f"Input {name[:100]!r} of shape {sides} is larger than {limit} bytes")
        return tf.make_ndarray(proto)
    # Whatever stands in a client's bytes that TensorFlow's reader stumbles over.
    except Exception as error:
        if isinstance(error, ServiceError):
            raise
        raise invalid(f"Input {name[:100]!r} is no valid tensor: {str(error)[:200]}") from None


def _write(proto: tensor_pb2.TensorProto, values: np.ndarray) -> None:
    """Puts values where TensorFlow Serving puts them: clients may read `float_val` rather than call make_ndarray."""
    dtype = tf.as_dtype(values.dtype)
    proto.dtype = dtype.as_datatype_enum
    for side in values.shape:
        proto.tensor_shape.dim.add(size=side)
    getattr(proto, VALUE_FIELDS[dtype]).extend(values.ravel().tolist())
