"""The order within a cluster, in which a row can only be a duplicate of rows before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_semdedup.errors import InputError

DISTANCES = {"cosine": "cosine_dist_to_cent", "l2": "l2_dist_to_cent"}
_HASH = "__random"
_SOURCE = [("source_file", "ascending"), ("source_row", "ascending")]
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class RankingStrategy:
    """Defines a total order of the rows of a cluster; what ranks first is kept.

    Args:
        metadata_cols: input columns, or `cosine_dist_to_cent` and `l2_dist_to_cent`, to sort by; the most
            important first. Ties are broken by id, ascending; nulls and NaN rank last.
        ascending: one flag for all of the columns or one for each.
        strategy: `sort` by the columns, or `random`, where the columns do not matter.
        random_seed: what the order of `random` depends on, besides the id.

    Raises:
        InputError: an unknown strategy, or another number of flags than columns.
    """

    def __init__(
        self,
        metadata_cols: Sequence[str],
        ascending: Sequence[bool] | bool = True,
        strategy: str = "sort",
        random_seed: int = 42,
    ) -> None:
        if strategy not in ("sort", "random"):
            raise InputError(f"ranking_strategy: strategy={strategy!r} is not known; it is sort or random")
        if (
            not isinstance(metadata_cols, Sequence)
            or isinstance(metadata_cols, str)
            or not all(isinstance(name, str) for name in metadata_cols)
        ):
            raise InputError(f"ranking_strategy: metadata_cols must be a list of columns, found {metadata_cols!r}")
        if strategy == "sort" and not metadata_cols:
            raise InputError("ranking_strategy: metadata_cols is empty: give at least one column")
        if not isinstance(random_seed, int):
            raise InputError(f"ranking_strategy: random_seed={random_seed!r} must be an integer")
        flags = [ascending] * len(metadata_cols) if isinstance(ascending, (bool, np.bool_)) else ascending
        if (
            not isinstance(flags, Sequence)
            or len(flags) != len(metadata_cols)
            or not all(isinstance(flag, (bool, np.bool_)) for flag in flags)
        ):
            raise InputError(
                f"ranking_strategy: ascending={ascending!r} must be true, false or one of them for each of "
                f"{list(metadata_cols)}"
            )
        self.metadata_cols = list(metadata_cols)
        self.ascending = list(map(bool, flags))
        self.strategy = strategy
        self.random_seed = random_seed
        self._id_order = "ascending"

    @classmethod
    def metadata_based(
        cls, metadata_cols: Sequence[str], ascending: Sequence[bool] | bool = True, random_seed: int = 42
    ) -> RankingStrategy:
        """Returns a strategy that sorts by columns; see the class."""
        return cls(metadata_cols, ascending, "sort", random_seed)

    @classmethod
    def random(cls, random_seed: int = 42) -> RankingStrategy:
        """Returns a strategy whose order is a function of the id and the seed alone."""
        return cls([], strategy="random", random_seed=random_seed)

    @classmethod
    def by_distance(cls, which_to_keep: str, distance_metric: str, random_state: int) -> RankingStrategy:
        """Returns the strategy of `which_to_keep`: hard = (distance, id) descending, easy = both ascending, or random.

        Args:
            which_to_keep: hard, easy or random.
            distance_metric: cosine or l2; which distance to the centroid ranks.
            random_state: the seed of random.
        """
        if which_to_keep == "random":
            return cls.random(random_state)
        strategy = cls([DISTANCES[distance_metric]], which_to_keep == "easy")
        strategy._id_order = "ascending" if which_to_keep == "easy" else "descending"
        return strategy

    @classmethod
    def from_value(cls, value: Any, random_seed: int) -> RankingStrategy:
        """Returns the strategy that `{metadata_cols, ascending, strategy, random_seed}`, all optional, describes.

        Args:
            value: such a mapping, or a strategy, which is returned.
            random_seed: used where the mapping has none.

        Raises:
            InputError: another key or type, or what the class refuses.
        """
        if isinstance(value, RankingStrategy):
            return value
        known = ("metadata_cols", "ascending", "strategy", "random_seed")
        if not isinstance(value, Mapping) or not set(value) <= set(known):
            raise InputError(f"ranking_strategy={value!r}: expected a mapping with {', '.join(known)}")
        return cls(**{"metadata_cols": [], "random_seed": random_seed, **value})

    def to_value(self) -> dict[str, Any]:
        """Returns the mapping that `from_value` takes."""
        return {
            "metadata_cols": self.metadata_cols,
            "ascending": self.ascending,
            "strategy": self.strategy,
            "random_seed": self.random_seed,
        }

    def without_columns(self) -> dict[str, Any] | None:
        """Returns the value of the order of rows all of whose `input_columns` are null; None where there are none."""
        if not self.input_columns:
            return None
        flags = dict(zip(self.metadata_cols, self.ascending, strict=True))
        left = {name: flags[name] for name in self.metadata_cols if name not in self.input_columns} or {"id": True}
        return {**self.to_value(), "metadata_cols": list(left), "ascending": list(left.values())}

    def describe(self) -> dict[str, Any]:
        """Returns all that the order depends on, for keys."""
        seed = self.random_seed if self.strategy == "random" else None
        return {**self.to_value(), "random_seed": seed, "id_order": self._id_order}

    @property
    def input_columns(self) -> list[str]:
        """The columns that must be read for it, besides the id (here always `id`) and the distances."""
        if self.strategy == "random":
            return []
        return [name for name in self.metadata_cols if name not in ("id", *DISTANCES.values())]

    def check(self, schema: pa.Schema) -> None:
        """Checks that the columns can be sorted by.

        Raises:
            InputError: a column of a type without an order; names it.
        """
        for name in self.input_columns:
            type_ = schema.field(name).type
            if pa.types.is_nested(type_) or not _has_order(type_):
                raise InputError(
                    f"ranking_strategy: column {name!r} is {type_}, which has no order; rank by numbers, text or times"
                )

    @property
    def columns(self) -> list[str]:
        """The columns of rows that their order depends on, besides the centroid."""
        return list(dict.fromkeys(["id", *self.metadata_cols, *(name for name, _ in _SOURCE)]))

    def order(
        self, table: pa.Table, within: Sequence[tuple[str, str]] = (("centroid", "ascending"),)
    ) -> npt.NDArray[np.int64]:
        """Sorts the rows by centroid and within a centroid from the first-ranked to the last; (n,) their positions.

        Args:
            table: n rows with `columns` and those of `within`.
            within: columns with directions to sort by instead of the centroid; none: the order of the dataset.
        """
        if self.strategy == "random":
            table = table.append_column(_HASH, pa.array(hash_ids(table.column("id"), self.random_seed)))
            keys = [(_HASH, "ascending")]
        else:
            directions = ["ascending" if flag else "descending" for flag in self.ascending]
            keys = list(zip(self.metadata_cols, directions, strict=True))
        keys = [*within, *keys]
        if "id" not in self.metadata_cols:
            keys.append(("id", self._id_order))
        return _sorted(table, [*keys, *_SOURCE])


def _sorted(table: pa.Table, keys: Sequence[tuple[str, str]]) -> npt.NDArray[np.int64]:
    """Returns the positions (n,) of the rows in the order of the keys, columns with directions."""
    for index, field in enumerate(table.schema):
        if pa.types.is_float16(field.type):  # which Arrow does not sort
            table = table.set_column(index, field.name, table.column(index).cast(pa.float32()))
    order: npt.NDArray[np.uint64] = pc.sort_indices(table, sort_keys=[(*key, "at_end") for key in keys]).to_numpy()
    return order.astype(np.int64)


def _has_order(type_: pa.DataType) -> bool:
    """Returns whether Arrow sorts by a column of this type together with others."""
    try:
        _sorted(pa.table({"x": pa.nulls(1, type_), "y": [0]}), [("x", "ascending"), ("y", "ascending")])
    except pa.ArrowException:
        return False
    return True


def hash_ids(ids: pa.ChunkedArray, seed: int) -> npt.NDArray[np.uint64]:
    """Computes a 64-bit hash (n,) of each id and the seed, independent of the other ids.

    Integers and the polynomial of a string's or binary's bytes pass through the finaliser of SplitMix64
    (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    """
    if pa.types.is_integer(ids.type):
        values: npt.NDArray[np.uint64] = ids.to_numpy().astype(np.uint64)
    else:
        hashes = [_polynomial(chunk) for chunk in ids.cast(pa.large_binary()).chunks]
        values = np.concatenate([np.empty(0, dtype=np.uint64), *hashes])
    values += np.uint64(int(_MULTIPLIER) * (2 * seed + 1) % 2**64)
    for shift, multiplier in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(multiplier)
    return values ^ (values >> np.uint64(31))


def _polynomial(ids: pa.LargeBinaryArray) -> npt.NDArray[np.uint64]:
    """Adds over each value's bytes (byte + 1) · m^position, modulo 2^64; (n,)."""
    _, offsets, data = ids.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64)[ids.offset : ids.offset + len(ids) + 1]
    lengths = np.diff(bounds)
    if not lengths.sum():
        return np.zeros(len(ids), dtype=np.uint64)
    data_bytes = np.frombuffer(data, dtype=np.uint8)[bounds[0] : bounds[-1]]
    within = np.arange(len(data_bytes)) - np.repeat(bounds[:-1] - bounds[0], lengths)
    powers = np.cumprod(np.full(int(lengths.max()), _MULTIPLIER, dtype=np.uint64))
    terms = (data_bytes.astype(np.uint64) + np.uint64(1)) * powers[within]
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(terms, dtype=np.uint64)])
    ends: npt.NDArray[np.uint64] = sums[bounds - bounds[0]]
    return np.diff(ends)
