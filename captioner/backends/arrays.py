"""What decoding needs of arrays beyond the array API standard, for numpy and for the library of an accelerator."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_FEW = 12


def to_numpy(array: Any) -> NDArray[Any]:
    """An array of any library in the host's memory."""
    if isinstance(array, np.ndarray):
        return array
    if hasattr(array, "detach"):  # torch
        return np.asarray(array.detach().cpu().numpy())
    return np.asarray(array)


def namespace(array: Any) -> Any:
    """The array API of an array's library; numpy's own functions for numpy's, which then needs no other package."""
    if isinstance(array, np.ndarray) and hasattr(np, "concat"):  # from 2.0 on numpy keeps the standard itself
        return np
    import array_api_compat

    return array_api_compat.array_namespace(array)


def like(values: NDArray[Any], array: Any) -> Any:
    """numpy's array as one of another array's library, on its device."""
    if isinstance(array, np.ndarray):
        return values
    import array_api_compat

    return namespace(array).asarray(values, device=array_api_compat.device(array))


def top_k(values: Any, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k largest of each row (P, M), the largest first, and their columns, both (P, k) in the host's memory.

    Only these few leave an accelerator. A NaN counts as the largest.
    """
    if isinstance(values, np.ndarray):
        return _top_k(values, k)
    if hasattr(values, "topk"):  # torch
        found, columns = values.topk(k, 1)
        return to_numpy(found), to_numpy(columns)
    xp = namespace(values)
    columns = to_numpy(xp.argsort(values, axis=1, descending=True)[:, :k])
    return np.take_along_axis(to_numpy(values), columns, axis=1), columns


def picked(values: Any, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    """Some values of an array (N, M), in the host's memory: one for each pair of a row and a column."""
    if isinstance(values, np.ndarray):
        return np.asarray(values[rows, columns])
    xp = namespace(values)
    places = like(rows * values.shape[1] + columns, values)
    return to_numpy(xp.take(xp.reshape(values, (-1,)), places, axis=0))


def _top_k(values: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    columns: NDArray[np.int64]
    if k <= _FEW:  # some passes over the array are faster than partitioning it
        left, rows = values.copy(), np.arange(len(values))
        columns, found = np.empty((len(values), k), dtype=np.int64), np.empty((len(values), k), dtype=values.dtype)
        for i in range(k):
            columns[:, i] = left.argmax(1)
            found[:, i] = left[rows, columns[:, i]]
            left[rows, columns[:, i]] = -np.inf
        return found, columns
    order = np.where(np.isnan(values), np.inf, values)
    columns = np.argpartition(order, max(0, values.shape[1] - k), axis=1)[:, -k:]
    best_first = np.argsort(-np.take_along_axis(order, columns, axis=1), axis=1, kind="stable")
    columns = np.take_along_axis(columns, best_first, axis=1)
    return np.take_along_axis(values, columns, axis=1), columns
