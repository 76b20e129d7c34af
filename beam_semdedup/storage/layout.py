"""Where the products of a run lie, what their names say, and the manifest that finishes a stage.

cache_path/kmeans_results/<key>/    plan.json, centroids.npy, model.json, segments/, rejected/, manifest.json
cache_path/pairwise_results/<key>/  plan.json, a parquet file for each unit, manifest.json
output_path/                        duplicates/, rejected/, deduplicated/, summary.json
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from typing import Any

from beam_semdedup.errors import UnitError
from beam_semdedup.storage import files as storage

KMEANS, PAIRWISE = "kmeans_results", "pairwise_results"
SEGMENTS, REJECTED, DUPLICATES, DEDUPLICATED = "segments", "rejected", "duplicates", "deduplicated"
SUMMARY, PLAN, MODEL = "summary.json", "plan.json", "model.json"
PRODUCTS = (DUPLICATES, REJECTED, DEDUPLICATED, KMEANS, PAIRWISE)
"""The directories in `cache_path` and `output_path` that are a run's own."""

_MANIFEST = "manifest.json"
_PART = re.compile(r"part-(?P<key>[0-9a-f]{16})-.*\.parquet")
_BLOCK = re.compile(r"(?P<centroids>\d+-\d+)-rows(?P<low>\d+)-(?P<high>\d+)-of(?P<rows>\d+)\.parquet")


def part_name(key: str, name: str) -> str:
    """The name of a file in `duplicates/` or `rejected/`, with the key of the results that it is from."""
    return f"part-{key}-{name}.parquet"


def parts(output: str, inner: str, options: storage.Options) -> dict[str, str]:
    """The files in a directory of `output` that `part_name` named, sorted, with their keys."""
    names = sorted(storage.names(storage.join(output, inner), options))
    return {name: match["key"] for name in names if (match := _PART.fullmatch(name))}


def comparison_name(first: int, last: int, low: int, high: int, num_rows: int) -> str:
    """The name of a unit that compares rows `[low, high)` of the `num_rows` of the centroids `first` to `last`."""
    name = f"{first:08d}-{last:08d}"
    return name if high - low == num_rows else f"{name}-rows{low:010d}-{high:010d}-of{num_rows:010d}"


def num_compared(names: Iterable[str]) -> int:
    """How many groups of centroids all units are finished of, by the names of the finished units' files."""
    missing: dict[str, int] = {}
    finished = 0
    for name in names:
        block = _BLOCK.fullmatch(name)
        if block:
            rows = missing.get(block["centroids"], int(block["rows"])) - int(block["high"]) + int(block["low"])
            missing[block["centroids"]] = rows
        else:
            finished += 1
    return finished + sum(rows == 0 for rows in missing.values())


def finished_units(directory: str, options: storage.Options) -> list[str]:
    """The names of the files in a directory of the cache that finished units of a stage wrote."""
    return [
        name
        for name in storage.names(directory, options)
        if not name.startswith(".") and name.endswith((".arrow", ".parquet"))
    ]


def read_manifest(directory: str, options: storage.Options) -> dict[str, Any] | None:
    """The manifest of a finished stage; None where the stage is not finished."""
    return storage.read_json(storage.join(directory, _MANIFEST), options)


def write_manifest(directory: str, manifest: dict[str, Any], units: Sequence[Any], options: storage.Options) -> None:
    """Finishes a stage; after all of its units, of which it says how much was computed and how much found."""
    fresh = [unit.num_rows for unit in units if not unit.reused]
    counts = {
        "num_rows": sum(unit.num_rows for unit in units),
        "units_done": len(fresh),
        "units_reused": len(units) - len(fresh),
        "rows_done": sum(fresh),
        "finished": time.time(),
    }
    storage.write_json(storage.join(directory, _MANIFEST), {**manifest, **counts}, options)


def discard(path: str, directory: str, options: storage.Options) -> UnitError:
    """Removes a finished unit's file that is damaged or gone, so that it is computed again; what to say of it."""
    storage.delete([path, storage.join(directory, _MANIFEST)], options)
    return UnitError(f"{path} is damaged or gone; the same command computes it again")


def forget(directories: Sequence[str], options: storage.Options) -> None:
    """Removes stages with all that they hold; the manifests first, so that the stages are unfinished then."""
    for directory in directories:
        storage.delete([storage.join(directory, _MANIFEST)], options)
        storage.delete_tree(directory, options)
