"""Items changed while a model is served: found at once, lost never, folded into the next version."""

import base64
import http.client
import io
import shutil
import signal
import threading
import time

import numpy as np
import pytest
from export_helpers import Server, clustered
from PIL import Image

import export
from export.changes import NAME, Change, ChangeLog
from export.overlay import MOST_HIDDEN, Overlay, items_gallery
from export.thumbnails import Thumbnails
from export.update import main as update
from export.versions import GALLERY

DIM = 8
SIZE = 600
ITEMS = "/v1/models/m/items"


def gallery(size=SIZE, seed=0):
    prices = np.arange(size) % 10
    labels = np.array(["cup", "jug"])[prices % 2]
    return export.Gallery(
        clustered(size, DIM, seed), [f"item {row}" for row in range(size)], {"label": labels, "price": prices}
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """By metric, a model directory of one version without an encoder."""
    folder = tmp_path_factory.mktemp("built")
    for metric in ("cosine", "euclidean"):
        export.build_model(folder / metric / "m", gallery(), index=export.IndexSpec(metric=metric))
    return folder


@pytest.fixture
def directory(built, tmp_path):
    shutil.copytree(built / "cosine" / "m", tmp_path / "m")
    return tmp_path / "m"


def space(directory):
    from export.changes import embedding_space

    return embedding_space(export.load(directory).manifest)


def test_the_log_keeps_the_newest_state_of_each_item(tmp_path):
    log = ChangeLog(tmp_path)
    assert log.last == 0
    assert log.since(0) == []
    one, two = np.arange(3, dtype=np.float32), np.array([1e-30, -2, 3], np.float32)
    assert log.append([Change("a", one, {"x": 1, "y": "ä"}, b"picture", "s"), Change("b", one, {}, b"", "s")]) == 2
    assert log.append([Change("a", two, {"x": 2}, b"", "s"), Change("c")]) == 4
    again = ChangeLog(tmp_path)
    found = again.since(0)
    assert [(change.id, change.sequence) for change in found] == [("b", 2), ("a", 3), ("c", 4)]
    np.testing.assert_array_equal(found[1].embedding, two)
    assert found[1].metadata == {"x": 2}
    assert found[2].embedding is None
    assert [change.id for change in again.since(3)] == ["c"]
    again.forget(3)
    assert [change.id for change in log.since(0)] == ["c"]
    again.forget(4)
    # Numbers go on, though nothing is left.
    assert log.append([Change("d")]) == 5
    (tmp_path / "other").mkdir()
    assert ChangeLog.existing(tmp_path / "other") is None


def test_a_log_that_is_none_is_named(tmp_path):
    (tmp_path / NAME).write_bytes(b"no database, but longer than a header of one" * 50)
    with pytest.raises(ValueError, match=NAME):
        ChangeLog(tmp_path)


def test_a_full_disk_changes_nothing(tmp_path):
    log = ChangeLog(tmp_path)
    log.append([Change("a")])
    log._connection.execute("PRAGMA max_page_count = 12")
    with pytest.raises(OSError, match=f"{NAME}: database or disk is full"):
        log.append([Change(f"b{row}", picture=bytes(4000)) for row in range(100)])
    assert [change.id for change in log.since(0)] == ["a"]
    assert log.append([Change("c")]) == 2


def reference(items, queries, k, metric):
    """Ids and scores by comparing everything."""
    ids = np.array(list(items))
    rows = np.stack([items[name] for name in ids]).astype(np.float64)
    queries = queries.astype(np.float64)
    if metric == "cosine":
        scores = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
            rows / np.linalg.norm(rows, axis=1, keepdims=True)
        ).T
    else:
        scores = -((queries[:, None] - rows[None]) ** 2).sum(axis=2)
    order = np.argsort(-scores, axis=1)[:, :k]
    return ids[order], np.take_along_axis(scores, order, axis=1)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("count", [5, 2 * MOST_HIDDEN])
def test_a_version_with_changes_is_searched_as_one(built, tmp_path, metric, count):
    shutil.copytree(built / metric / "m", tmp_path / "m")
    model = export.load(tmp_path / "m")
    mark = space(tmp_path / "m")
    random = np.random.default_rng(3)
    items = dict(zip(model.gallery.ids, model.gallery.embeddings, strict=True))
    prices = dict(zip(model.gallery.ids, model.gallery.metadata["price"].tolist(), strict=True))
    log = ChangeLog(tmp_path / "m")
    overlay = Overlay(model, log)
    queries = np.concatenate([clustered(6, DIM, 9), model.gallery.embeddings[:4]])
    for turn in range(3):
        changes = []
        for row in random.choice(SIZE, count, replace=False):
            name = f"item {row}"
            if row % 3 == 0:
                changes.append(Change(name))
            elif row % 3 == 1:
                changes.append(
                    Change(name, random.normal(size=DIM).astype(np.float32), {"label": "cup", "price": 77}, b"", mark)
                )
            else:
                changes.append(
                    Change(
                        f"new {row}", random.normal(size=DIM).astype(np.float32), {"label": "x", "price": 5}, b"", mark
                    )
                )
        log.append(changes)
        overlay.refresh()
        for change in changes:
            if change.embedding is None:
                items.pop(change.id, None)
            else:
                items[change.id], prices[change.id] = change.embedding, change.metadata["price"]
        for where, kept in (
            (None, items),
            ({"price": {"$gte": 5}}, {n: v for n, v in items.items() if prices[n] >= 5}),
        ):
            for k in (1, 20, 5000):
                found = overlay.search(queries, k, where)
                ids, scores = reference(kept, queries, k, metric)
                np.testing.assert_allclose(found["scores"], scores, atol=2e-5)
                assert np.mean(np.char.decode(found["ids"].astype(bytes)) == ids) > 0.99, (turn, where, k)
                assert (found["price"] == [[prices[name.decode()] for name in row] for row in found["ids"]]).all()
                assert ((found["indices"] >= 0) | (found["ids"] != b"item 0")).all()
    assert overlay.holds("item 2") == ("item 2" in items)
    assert not overlay.holds("nobody")


def test_everything_may_be_deleted(directory):
    log = ChangeLog(directory)
    log.append([Change(f"item {row}") for row in range(SIZE)])
    overlay = Overlay(export.load(directory), log)
    assert overlay.search(np.ones((2, DIM), np.float32), 5)["ids"].shape == (2, 0)
    log.append([Change("one", np.ones(DIM, np.float32), {"label": "x", "price": 1}, b"", space(directory))])
    overlay.refresh()
    assert overlay.search(np.ones((2, DIM), np.float32), 5)["ids"].tolist() == [[b"one"], [b"one"]]


def test_changes_of_another_encoder_are_refused(directory):
    log = ChangeLog(directory)
    log.append([Change("one", np.ones(DIM, np.float32), {"label": "x", "price": 1}, b"", "other")])
    with pytest.raises(ValueError, match="'one', were embedded by another encoder"):
        Overlay(export.load(directory), log)
    with pytest.raises(ValueError, match="'one', were embedded by another encoder"):
        export.update_model(directory)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"label": "x"}, "must have the gallery's metadata columns, label, price. Received: label"),
        ({"label": "x", "price": 1, "y": 2}, "Received: label, price, y"),
        ({"label": 5, "price": 1}, "column 'label' holds strings. Received: 5"),
        ({"label": "x", "price": 1.5}, "column 'price' holds whole numbers. Received: 1.5"),
        ({"label": "x", "price": True}, "column 'price' holds whole numbers. Received: True"),
        ({"label": "x", "price": 2**63}, "column 'price' holds whole numbers"),
    ],
)
def test_items_that_do_not_fit_are_named(metadata, message):
    with pytest.raises(ValueError, match="Item 'a'") as error:
        items_gallery(gallery(3), "cosine", ["a"], np.ones((1, DIM)), [metadata])
    assert message in str(error.value)


def test_an_update_folds_the_changes_in(directory, capsys):
    mark = space(directory)
    log = ChangeLog(directory)
    vectors = clustered(3, DIM, 5)
    log.append([Change("item 3"), Change("item 4", vectors[0], {"label": "bowl", "price": 1}, b"", mark)])
    log.append([Change("new", vectors[1], {"label": "bowl", "price": 2}, b"", mark)])
    assert update([str(directory)]) == 0
    assert "3 changes since version 1 folded in" in capsys.readouterr().err
    second = export.load(directory)
    assert second.version == 2
    assert len(second) == SIZE
    assert second.gallery.ids[-2:] == ("item 4", "new")
    np.testing.assert_array_equal(second.gallery.embeddings[-2:], vectors[:2])
    assert second.gallery.metadata["label"][-2:].tolist() == ["bowl", "bowl"]
    assert "item 3" not in second.gallery.ids
    assert len(Overlay(second, log)) == 0
    # The older version lacks them still, and can be served again.
    assert len(Overlay(export.load(directory / "1"), log)) == 3
    log.append([Change("new")])
    export.update_model(directory, [gallery(1, 7).take([0])], ["item 5"], keep=1, replace=True)
    third = export.load(directory)
    assert not {"new", "item 5"} & set(third.gallery.ids)
    assert len(third) == SIZE - 2
    assert log.since(0) == []


@pytest.fixture(scope="module")
def server(built, tmp_path_factory):
    directory = tmp_path_factory.mktemp("served") / "m"
    shutil.copytree(built / "cosine" / "m", directory)
    (directory.parent / "admin").write_text("secret\n")
    running = Server(
        directory,
        "--writable",
        "--poll",
        "0.2",
        "--admin-token-file",
        directory.parent / "admin",
        EXPORT_SERVE_TOKEN="reader",
    )
    running.directory = directory
    yield running
    running.kill()


READER, ADMIN = {"Authorization": "Bearer reader"}, {"Authorization": "Bearer secret"}


def nearest(server, vector, k=3, path="/v1/models/m:predict", headers=READER, **more):
    payload = {"signature_name": "search_embeddings", "inputs": {"embeddings": [list(map(float, vector))], "k": k}}
    status, body = server.json("POST", path, {**payload, **more}, headers)
    assert status == 200, body
    return body["outputs"]


def item(name, vector, label="new", price=1):
    return {"id": name, "embedding": [float(value) for value in vector], "metadata": {"label": label, "price": price}}


def test_items_are_added_replaced_and_deleted_by_requests(server):
    vectors = 3 * clustered(4, DIM, 11)
    status, body = server.json("POST", ITEMS, {"items": [item("a", vectors[0]), item("b", vectors[1])]}, ADMIN)
    assert (status, body["upserted"]) == (200, 2)
    found = nearest(server, vectors[0])
    assert found["ids"][0][0] == "a"
    assert found["label"][0][0] == "new"
    assert found["scores"][0][0] == pytest.approx(1, abs=1e-5)
    assert found["indices"][0][0] == -1
    assert nearest(server, vectors[0], where={"label": "new"})["ids"][0][0] == "a"
    assert nearest(server, vectors[0], offset=1)["ids"][0][0] == found["ids"][0][1]
    # An item of the version itself moves.
    assert nearest(server, gallery().embeddings[17], 1)["ids"] == [["item 17"]]
    server.json("POST", ITEMS, {"items": [item("item 17", vectors[2])]}, ADMIN)
    assert "item 17" not in nearest(server, gallery().embeddings[17], 20)["ids"][0]
    assert nearest(server, vectors[2], 1)["ids"] == [["item 17"]]
    status, body = server.json("DELETE", ITEMS, {"ids": ["a", "nobody", "item 18"]}, ADMIN)
    assert (status, body["deleted"], body["unknown"]) == (200, 2, ["nobody"])
    assert "a" not in nearest(server, vectors[0], 50)["ids"][0]
    assert "item 18" not in nearest(server, gallery().embeddings[18], 50)["ids"][0]
    shown = server.json("GET", "/gallery?contains=ITEM%201&limit=200", headers=READER)[1]
    assert shown["size"] == SIZE
    assert {"item 17", "item 18"} & {entry["id"] for entry in shown["items"]} == set()
    assert "item 16" in {entry["id"] for entry in shown["items"]}
    text = server.request("GET", "/metrics", headers=READER)[2].decode()
    assert "export_changes 4.0" in text


def test_an_update_while_serving_keeps_every_change(server):
    stop, written, failures = threading.Event(), [], []
    vectors = clustered(400, DIM, 21)

    def write():
        while not stop.is_set() and len(written) < len(vectors):
            name = f"w{len(written)}"
            status, body = server.json("POST", ITEMS, {"items": [item(name, vectors[len(written)])]}, ADMIN)
            if status != 200:
                failures.append(body)
                return
            written.append(name)
            found = nearest(server, vectors[len(written) - 1], 1)["ids"]
            if found != [[name]]:
                failures.append((name, found))
                return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        export.update_model(server.directory)
        server.wait_for("version loaded", version=2)
    finally:
        stop.set()
        writer.join()
    assert not failures
    assert written
    for name, vector in zip(written, vectors, strict=False):
        assert nearest(server, vector, 1)["ids"] == [[name]]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({}, "must be {'items': [...]}"),
        ({"items": []}, "at least one"),
        ({"items": [5]}, "must be an object with an 'id'"),
        ({"items": [{"id": ""}]}, "must be an object with an 'id'"),
        ({"items": [{"id": "x"}]}, "either an 'embedding' or an 'image'"),
        ({"items": [{"id": "x", "embedding": [1.0], "vector": []}]}, "unknown field 'vector'"),
        ({"items": [{"id": "x", "embedding": [1.0]}]}, f"must have {DIM} numbers"),
        ({"items": [{"id": "x", "embedding": "abc"}]}, "must be a list of numbers"),
        ({"items": [{"id": "x", "embedding": [True] * DIM}]}, "must be a list of numbers"),
        ({"items": [{"id": "x", "embedding": [1e39] * DIM}]}, "finite"),
        ({"items": [{"id": "x", "embedding": [1.0] * DIM}]}, "must have the gallery's metadata columns"),
        ({"items": [{"id": "x", "embedding": [1.0] * DIM, "metadata": []}]}, "'metadata' must be an object"),
        ({"items": [item("x", np.ones(DIM)), item("x", np.ones(DIM))]}, "must be unique"),
        ({"items": [item("\ud800", np.ones(DIM))]}, "must be text that UTF-8 can write"),
        (
            {"items": [{"id": "x", "image": {"b64": "eHg="}, "metadata": {"label": "x", "price": 1}}]},
            "without an encoder",
        ),
        ({"items": [item("x", np.ones(DIM))] * 1025}, "may hold 1024 items"),
    ],
)
def test_what_is_no_item_is_refused(server, payload, message):
    status, body = server.json("POST", ITEMS, payload, ADMIN)
    assert status == 400, body
    assert message in body["error"]


def test_who_may_change_items(server, directory):
    payload = {"items": [item("x", np.ones(DIM))]}
    for headers in ({}, READER, {"Authorization": "Bearer wrong"}):
        status, body = server.json("POST", ITEMS, payload, headers)
        assert status == 401
        assert "administrator" in body["error"]
        assert server.json("DELETE", ITEMS, {"ids": ["item 1"]}, headers)[0] == 401
    assert server.json("POST", ITEMS, payload, {**ADMIN, "Origin": "https://elsewhere.example"})[0] == 403
    assert server.json("DELETE", ITEMS, {"ids": ["nobody"]}, {**ADMIN, "Origin": server.rest})[0] == 200
    assert nearest(server, np.ones(DIM), headers=ADMIN)["ids"]
    assert server.json("POST", "/v1/models/other/items", payload, ADMIN)[0] == 404
    closed = Server(directory, "--poll", "0.1")
    try:
        status, body = closed.json("POST", ITEMS, payload)
        assert status == 403
        assert "--writable" in body["error"]
        # It reads what others write.
        log = ChangeLog(directory)
        new = Change("z", np.ones(DIM, np.float32), {"label": "x", "price": 1}, b"", space(directory))
        log.append([Change("item 5"), new])
        deadline = time.monotonic() + 60
        while nearest(closed, np.ones(DIM), 1, headers={})["ids"] != [["z"]]:
            assert time.monotonic() < deadline, "the other server's change was never seen"
            time.sleep(0.05)
    finally:
        closed.kill()


def test_a_killed_server_loses_no_change_that_it_acknowledged(directory):
    vectors = clustered(3000, DIM, 31)
    acknowledged = []
    for turn in range(3):
        server = Server(directory, "--writable")
        killer = threading.Timer(0.2 + 0.15 * turn, server.process.send_signal, [signal.SIGKILL])
        killer.start()
        try:
            while len(acknowledged) < len(vectors):
                row = len(acknowledged)
                batch = [item(f"k{row + place}", vectors[row + place]) for place in range(3)]
                if server.json("POST", ITEMS, {"items": batch})[0] == 200:
                    acknowledged += [entry["id"] for entry in batch]
        except (OSError, http.client.HTTPException):
            # The kill came before the answer, or in it.
            pass
        finally:
            killer.join()
            server.kill()
        assert acknowledged
    model = export.load(directory)
    overlay = Overlay(model, ChangeLog(directory))
    found = overlay.search(vectors[: len(acknowledged)], 1)["ids"][:, 0]
    assert [name.decode() for name in found] == acknowledged


def test_images_are_embedded_pictured_and_folded_in(digits_model, digits, tmp_path):
    shutil.copytree(digits_model, tmp_path / "digits")
    random = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(random).save(stream, "PNG")
    server = Server(tmp_path / "digits", "--writable")
    try:
        encoded = {"b64": base64.b64encode(stream.getvalue()).decode()}
        entry = {"id": "noise", "image": encoded, "metadata": {"label": "noise"}}
        status, body = server.json("POST", "/v1/models/digits/items", {"items": [entry]})
        assert status == 200, body
        status, body = server.json("POST", "/v1/models/digits:predict", {"instances": [encoded]})
        assert body["predictions"][0]["ids"][0] == "noise"
        assert body["predictions"][0]["label"][0] == "noise"
        status, body = server.json("POST", "/v1/models/digits/items", {"items": [{**entry, "image": "no image"}]})
        assert status == 400
        status, body = server.json("POST", "/search?k=2", stream.getvalue())
        assert body["items"][0]["id"] == "noise"
        assert not body["items"][0]["picture"]
    finally:
        server.kill()
    export.update_model(tmp_path / "digits")
    model = export.load(tmp_path / "digits")
    assert model.gallery.ids[-1] == "noise"
    assert model.search(stream.getvalue(), 1).ids.tolist() == [["noise"]]
    pictures = Thumbnails.open(model.folder / GALLERY)
    with Image.open(io.BytesIO(pictures[len(model) - 1])) as picture:
        assert picture.size == (30, 40)
    with Image.open(io.BytesIO(pictures[3])) as picture:
        assert picture.size == digits.image(3).shape[1::-1]
