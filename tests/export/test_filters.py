"""Filters: which items they keep, and that search among them is exact."""

import itertools
import operator
import random
import re

import numpy as np
import pytest
from export_helpers import clustered

import export
from export.filtered_search import BLOCK_ROWS, FilteredSearch
from export.gallery import Gallery
from export.where import where_mask

COMPARE = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
    "$in": lambda value, wanted: value in wanted,
    "$nin": lambda value, wanted: value not in wanted,
}
VALUES = {
    "label": ["cup", "jug", "", "Käse"],
    "price": [-1, 0, 5, 2**62],
    "weight": [0.5, -2.0, 5.0],
    "sold": [True, False],
    "ids": ["item 0", "item 7", "nobody"],
}


def gallery(size=60, dim=4, seed=0):
    chosen = random.Random(seed)
    columns = {name: [chosen.choice(values) for _ in range(size)] for name, values in VALUES.items() if name != "ids"}
    return Gallery(clustered(size, dim, seed), tuple(f"item {row}" for row in range(size)), columns)


def keeps(where, item):
    """Whether a filter keeps an item, one after the other."""
    for name, value in where.items():
        if name == "$not":
            kept = not keeps(value, item)
        elif name == "$and":
            kept = all(keeps(part, item) for part in value)
        elif name == "$or":
            kept = any(keeps(part, item) for part in value)
        elif isinstance(value, dict):
            kept = all(COMPARE[sign](item[name], wanted) for sign, wanted in value.items())
        else:
            kept = item[name] == value
        if not kept:
            return False
    return True


def random_filter(chosen, depth=0):
    join = chosen.choice(["$and", "$or", "$not", None, None]) if depth < 3 else None
    if join == "$not":
        return {"$not": random_filter(chosen, depth + 1)}
    if join:
        return {join: [random_filter(chosen, depth + 1) for _ in range(chosen.randint(1, 3))]}
    name = chosen.choice(sorted(VALUES))
    signs = [sign for sign in COMPARE if name != "sold" or sign in ("$eq", "$ne", "$in", "$nin")]
    sign = chosen.choice(signs)
    value = chosen.choice(VALUES[name])
    if sign in ("$in", "$nin"):
        value = chosen.sample(VALUES[name], chosen.randint(0, 2))
    elif sign == "$eq" and chosen.random() < 0.5:
        return {name: value}
    return {name: {sign: value}}


def test_filters_keep_what_a_loop_keeps():
    items = gallery()
    columns = {"ids": items.ids, **{name: values.tolist() for name, values in items.metadata.items()}}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    chosen = random.Random(1)
    shares = set()
    for where in itertools.chain([{}], (random_filter(chosen) for _ in range(400))):
        mask = where_mask(where, items)
        assert mask.tolist() == [keeps(where, row) for row in rows], where
        shares.add(mask.sum())
    assert len(shares) > 20


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ([], "must be an object"),
        ("label", "must be an object"),
        ({"lable": "cup"}, "Unknown column of a filter 'lable'. Did you mean 'label'?"),
        ({"$nor": []}, "Unknown column of a filter '$nor'"),
        ({"label": {}}, "'label' is empty"),
        ({"label": {"gt": "a"}}, "Unknown operator on column 'label' 'gt'. Did you mean '$gt'?"),
        ({"label": 5}, "'label' holds strings. Received for $eq: 5"),
        ({"label": None}, "'label' holds strings. Received for $eq: None"),
        ({"label": ["cup"]}, r"'label' holds strings. Received for $eq: ['cup']"),
        ({"label": {"$in": "cup"}}, "$in of column 'label' must be a list"),
        ({"label": {"$in": ["cup", 1]}}, "'label' holds strings. Received for $in: 1"),
        ({"label": {"$in": ["cup"] * 10_001}}, "at most 10000 values"),
        ({"price": "5"}, "'price' holds numbers"),
        ({"price": True}, "'price' holds numbers"),
        ({"price": 10**400}, "'price' holds numbers"),
        ({"weight": {"$lt": float("nan")}}, "'weight' holds numbers"),
        ({"sold": 1}, "'sold' holds true or false"),
        ({"sold": {"$gt": False}}, "$gt does not order"),
        ({"$and": []}, "$and must hold a list"),
        ({"$or": {"label": "cup"}}, "$or must hold a list"),
        ({"$not": ["cup"]}, "must be an object"),
    ],
)
def test_filters_that_do_not_fit_say_so(where, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        where_mask(where, gallery())


def test_a_filter_has_so_many_conditions_only():
    with pytest.raises(ValueError, match=r"may have 256 conditions\. Received: 301"):
        where_mask({"$or": [{"label": "cup"}] * 300}, gallery())
    assert where_mask({"$or": [{"label": "cup"}] * 255}, gallery()).any()


def test_the_rows_of_a_few_filters_are_kept(monkeypatch):
    monkeypatch.setattr("export.filtered_search.KEPT_ROWS", 100)
    search = FilteredSearch(gallery(), "cosine")
    for price in (-1, 0, 5):
        for _ in range(2):
            assert (search.rows({"price": price}) == np.flatnonzero(gallery().metadata["price"] == price)).all()
    assert len(search.rows({})) == len(search.rows({"ids": {"$ne": "x"}})) == 60
    assert sum(map(len, search._rows.values())) <= 100


def test_filters_are_nested_so_deep_only():
    where = {"label": "cup"}
    for _ in range(100):
        where = {"$not": where}
    with pytest.raises(ValueError, match="nested 16 deep"):
        where_mask(where, gallery())


@pytest.mark.parametrize("metric", ["cosine", "dot_product", "euclidean"])
def test_the_search_among_kept_items_is_exact(metric):
    random_ = np.random.default_rng(0)
    size = 2 * BLOCK_ROWS + 77
    embeddings = random_.normal(size=(size, 6)).astype(np.float32) * random_.uniform(0.5, 2, (size, 1))
    embeddings[5] = embeddings[size - 1] = embeddings[BLOCK_ROWS + 3]
    embeddings[9] = 0
    items = Gallery(embeddings, tuple(map(str, range(size))), {"share": random_.integers(0, 100, size)})
    queries = np.concatenate([random_.normal(size=(3, 6)), embeddings[5:6], np.zeros((1, 6))]).astype(np.float32)
    search = FilteredSearch(items, metric)
    for percent, k in ((100, 30), (50, 30), (10, 30), (1, 5000), (0, 10)):
        rows, scores = search.search(queries, k, {"share": {"$lt": percent}})
        kept = np.flatnonzero(items.metadata["share"] < percent)
        gallery_, query_ = items.embeddings[kept].astype(np.float64), queries.astype(np.float64)
        if metric == "cosine":
            gallery_ /= np.maximum(np.linalg.norm(gallery_, axis=1, keepdims=True), 1e-30)
            query_ /= np.maximum(np.linalg.norm(query_, axis=1, keepdims=True), 1e-30)
        wanted = query_ @ gallery_.T
        if metric == "euclidean":
            wanted = -((query_[:, None] - gallery_[None]) ** 2).sum(axis=2)
        assert rows.shape == scores.shape == (5, min(k, len(kept)))
        assert np.isin(rows, kept).all()
        np.testing.assert_allclose(scores, -np.sort(-wanted, axis=1)[:, :k], atol=2e-5)
        own = np.take_along_axis(wanted, np.searchsorted(kept, rows), axis=1)
        np.testing.assert_allclose(scores, own, atol=2e-5)
        assert all(len(set(row)) == len(row) for row in rows.tolist())
    # Equal items come by their rows, across blocks too; a query of zeros finds the first rows.
    rows, _ = search.search(queries[3:4], 3, {})
    if metric != "dot_product":
        assert rows[0].tolist() == [5, BLOCK_ROWS + 3, size - 1]
    if metric == "cosine":
        assert (
            search.search(queries[4:], 4, {"share": {"$gte": 50}})[0][0].tolist()
            == np.flatnonzero(items.metadata["share"] >= 50)[:4].tolist()
        )


def test_cosines_of_tiny_and_huge_rows():
    rows = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    stretched = rows * np.float32(10.0) ** np.random.default_rng(1).integers(-30, 30, (40, 1)).astype(np.float32)
    found, scores = FilteredSearch(Gallery(stretched, tuple(map(str, range(40)))), "cosine").search(rows[:7], 5, {})
    wanted, wanted_scores = FilteredSearch(Gallery(rows, tuple(map(str, range(40)))), "cosine").search(rows[:7], 5, {})
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_allclose(scores, wanted_scores, atol=1e-6)


def test_a_model_searches_under_a_filter(digits_model):
    model = export.load(digits_model)
    queries = model.gallery.embeddings[:20]
    labels = model.gallery.metadata["label"]
    name = str(labels[-1])
    plain, kept = model.search_embeddings(queries, 5), model.search_embeddings(queries, 5, where={})
    np.testing.assert_array_equal(plain.ids, kept.ids)
    np.testing.assert_allclose(plain.scores, kept.scores, atol=1e-5)
    found = model.search_embeddings(queries, 5, where={"label": name})
    assert set(found.labels.ravel()) == {name}
    assert (labels[found.indices] == name).all()
    assert model.search_embeddings(queries, 5, where={"label": "nobody"}).ids.shape == (20, 0)
    # Pages of results follow each other, with a filter and without.
    for where in (None, {"label": name}):
        whole = model.search_embeddings(queries, 9, where=where)
        second = model.search_embeddings(queries, 4, where=where, offset=5)
        np.testing.assert_array_equal(second.ids, whole.ids[:, 5:])
        assert second.metadata.keys() == whole.metadata.keys()
    ids = [model.gallery.ids[3], model.gallery.ids[800]]
    assert model.search_items(ids, 1).ids[:, 0].tolist() == ids
    others = model.search_items(ids[0], 4, where={"ids": {"$nin": [ids[0]]}})
    assert ids[0] not in others.ids
    np.testing.assert_array_equal(others.ids[0], model.search_items(ids[0], 5).ids[0, 1:])
    with pytest.raises(ValueError, match="has none of the id 'nobody'"):
        model.search_items("nobody")
    with pytest.raises(ValueError, match="offset"):
        model.search_embeddings(queries, offset=-1)


def test_the_command_filters_and_searches_by_item(digits_model, capsys):
    from export.search import main

    model = export.load(digits_model)
    name, label = model.gallery.ids[0], str(model.gallery.metadata["label"][-1])
    assert main([str(digits_model), "--item", name, "--k", "3", "--where", f'{{"label": "{label}"}}']) == 0
    lines = capsys.readouterr().out.splitlines()
    kept = int((model.gallery.metadata["label"] == label).sum())
    assert lines[0] == f"{name}: nearest of {kept} items"
    assert len(lines) == 5
    assert all(line.rstrip().endswith(label) for line in lines[2:])
    assert main([str(digits_model), "--item", name, "--where", "label=5"]) == 1
    assert "must be JSON" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(digits_model)])
    assert "--item" in capsys.readouterr().err
