"""HTTPS and gRPC over TLS."""

import http.client
import json
import ssl

import grpc
import numpy as np
import pytest
import tensorflow as tf
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from export_helpers import Server
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

import export
from export.serve.__main__ import main


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    authority.issue_cert("localhost").private_key_pem.write_to_path(folder / "other.pem")
    key = load_pem_private_key((folder / "key.pem").read_bytes(), None)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (folder / "secret.pem").write_bytes(secret)
    (folder / "text.pem").write_text("no certificate")
    return folder


def test_both_protocols_speak_tls(digits_model, files):
    model = export.load(digits_model)
    queries = model.gallery.embeddings[:2]
    wanted = model.search_embeddings(queries, 3).ids
    server = Server(digits_model, "--tls-cert", files / "cert.pem", "--tls-key", files / "key.pem")
    try:
        context = ssl.create_default_context(cafile=files / "authority.pem")
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=60)
        payload = {"signature_name": "search_embeddings", "inputs": {"embeddings": queries.tolist(), "k": 3}}
        connection.request("POST", "/v1/models/digits:predict", json.dumps(payload))
        answer = json.loads(connection.getresponse().read())
        assert np.array_equal(answer["outputs"]["ids"], wanted)
        connection.close()
        credentials = grpc.ssl_channel_credentials((files / "authority.pem").read_bytes())
        with grpc.secure_channel(server.grpc, credentials) as channel:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "digits"
            request.model_spec.signature_name = "search_embeddings"
            request.inputs["embeddings"].CopyFrom(tf.make_tensor_proto(queries))
            request.inputs["k"].CopyFrom(tf.make_tensor_proto(3, tf.int32))
            response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30)
            found = tf.make_ndarray(response.outputs["ids"])
            assert np.array_equal([[name.decode() for name in row] for row in found], wanted)
        # Nobody who speaks in the clear gets anything, nor does a stranger's authority.
        with pytest.raises((OSError, http.client.HTTPException)):
            server.request("GET", "/healthz")
        with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError):
            prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=5)
        distrustful = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=60)
        with pytest.raises(ssl.SSLCertVerificationError):
            distrustful.request("GET", "/healthz")
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("certificate", "key", "message"),
    [
        ("none.pem", None, "none.pem"),
        ("cert.pem", "none.pem", "none.pem"),
        ("", None, "is a folder"),
        ("text.pem", None, "a PEM file of a certificate"),
        ("cert.pem", None, "a PEM file of a certificate"),
        ("cert.pem", "other.pem", "the key does not belong to the certificate"),
        ("cert.pem", "secret.pem", "is encrypted"),
        (None, "key.pem", "needs the certificate"),
    ],
)
def test_files_that_do_not_fit_are_named_before_a_model_is_loaded(
    digits_model, files, capsys, certificate, key, message
):
    arguments = [str(digits_model), "--rest-port", "0", "--no-grpc"]
    for flag, name in (("--tls-cert", certificate), ("--tls-key", key)):
        if name is not None:
            arguments += [flag, str(files / name)]
    assert main(arguments) == 1
    found = capsys.readouterr().err
    assert message in found
    assert found.count("\n") == 1
