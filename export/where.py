"""Filters on a gallery's ids and metadata columns: `{"label": "cup", "price": {"$lt": 20}}`."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from export.gallery import Gallery
from keras_dml.utils.suggestions import unknown_name

# The name under which a filter knows the ids.
IDS = "ids"
# Of a condition inside another, and of values in a list: what is longer is no filter that somebody wrote.
MOST_DEPTH = 16
MOST_VALUES = 10_000
# Each is a pass over the gallery.
MOST_CONDITIONS = 256
# Integer columns hold 64 bits, and NumPy compares no integer that a float cannot hold.
LARGEST_INTEGER = 2**64
ORDERS: dict[str, Callable[[Any, Any], Any]] = {
    "$gt": np.greater,
    "$gte": np.greater_equal,
    "$lt": np.less,
    "$lte": np.less_equal,
}
LISTS = ("$in", "$nin")
OPERATORS = ("$eq", "$ne", *LISTS, *ORDERS)
JOINS = ("$and", "$or", "$not")


def parse_where(text: str) -> Any:
    """The filter in a JSON text.

    Raises:
        ValueError: The text is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(
            f'`where` must be JSON, such as {{"label": "cup"}}: {reason[:200]}. Received: {text[:100]!r}'
        ) from None


def where_mask(where: Any, gallery: Gallery) -> np.ndarray:
    """The items that a filter keeps.

    The operators are those that vector databases took from MongoDB. `{"column": value}` keeps equal items; instead of
    the value may stand `{"$eq" | "$ne" | "$gt" | "$gte" | "$lt" | "$lte": value}` or `{"$in" | "$nin": [value, ...]}`,
    several of them together. Several columns must all hold; `{"$and": [...]}`, `{"$or": [...]}` and `{"$not": {...}}`
    join filters. `ids` names the items' ids. Strings are ordered by code points, so ISO dates are ordered by time.

    Args:
        where: The filter.
        gallery: The items.

    Returns:
        `(n,)` bool.

    Raises:
        ValueError: A column, an operator or a type of value does not fit.
    """
    count = _conditions(where, 0)
    if count > MOST_CONDITIONS:
        raise ValueError(f"A filter may have {MOST_CONDITIONS} conditions. Received: {count}. Use $in for many values")
    return _mask(where, gallery, 0)


def _conditions(where: Any, depth: int) -> int:
    """Columns and joins in a filter, those of its parts among them."""
    if isinstance(where, list | tuple):
        return sum(_conditions(part, depth) for part in where)
    if not isinstance(where, Mapping) or depth > MOST_DEPTH:
        return 0
    return sum(1 + (_conditions(value, depth + 1) if name in JOINS else 0) for name, value in where.items())


def _mask(where: Any, gallery: Gallery, depth: int) -> np.ndarray:
    if depth > MOST_DEPTH:
        raise ValueError(f"A filter may be nested {MOST_DEPTH} deep")
    if not isinstance(where, Mapping):
        raise ValueError(f'A filter must be an object such as {{"label": "cup"}}. Received: {_shown(where)}')
    mask: np.ndarray = np.ones(len(gallery), dtype=bool)
    for name, value in where.items():
        if name == "$not":
            mask &= ~_mask(value, gallery, depth + 1)
        elif name in JOINS:
            if not isinstance(value, list | tuple) or not value:
                raise ValueError(f"{name} must hold a list of filters. Received: {_shown(value)}")
            parts = [_mask(part, gallery, depth + 1) for part in value]
            mask &= (np.logical_and if name == "$and" else np.logical_or).reduce(parts)
        else:
            mask &= _column_mask(name, value, gallery)
    return mask


def _column_mask(name: Any, condition: Any, gallery: Gallery) -> np.ndarray:
    known = [*gallery.metadata, IDS, *JOINS]
    if name not in known:
        raise ValueError(unknown_name("column of a filter", name if isinstance(name, str) else _shown(name), known))
    if name == IDS:
        values: np.ndarray = np.empty(len(gallery), dtype=object)
        values[:] = gallery.ids
    else:
        values = gallery.metadata[name]
    conditions = condition if isinstance(condition, Mapping) else {"$eq": condition}
    if not conditions:
        raise ValueError(f"The filter of column {name!r} is empty. Use one of {', '.join(OPERATORS)}")
    mask: np.ndarray = np.ones(len(gallery), dtype=bool)
    for operator, value in conditions.items():
        if operator not in OPERATORS:
            raise ValueError(unknown_name(f"operator on column {name!r}", operator, OPERATORS))
        if operator in LISTS:
            if not isinstance(value, list | tuple) or len(value) > MOST_VALUES:
                raise ValueError(
                    f"{operator} of column {name!r} must be a list of at most {MOST_VALUES} values. "
                    f"Received: {_shown(value)}"
                )
            for entry in value:
                _check(name, values, operator, entry)
            wanted = set(value)
            found = np.fromiter((entry in wanted for entry in values.tolist()), dtype=bool, count=len(values))
            mask &= ~found if operator == "$nin" else found
        else:
            _check(name, values, operator, value)
            compare = ORDERS.get(operator, np.not_equal if operator == "$ne" else np.equal)
            mask &= compare(values, value).astype(bool)
    return mask


def _check(name: str, values: np.ndarray, operator: str, value: Any) -> None:
    """Raises where a column's values cannot be compared with `value` so."""
    if values.dtype == object:
        kind, fits = "strings", isinstance(value, str)
    elif values.dtype == bool:
        kind, fits = "true or false", isinstance(value, bool)
        if operator in ORDERS:
            raise ValueError(f"Column {name!r} holds {kind}, which {operator} does not order. Use $eq, $ne or $in")
    else:
        kind = "numbers"
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = number and (abs(value) < LARGEST_INTEGER if isinstance(value, int) else math.isfinite(value))
    if not fits:
        raise ValueError(f"Column {name!r} holds {kind}. Received for {operator}: {_shown(value)}")


def _shown(value: Any) -> str:
    return repr(value)[:100]
