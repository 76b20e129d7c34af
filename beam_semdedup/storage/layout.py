"""What the files and folders of a run are called, and what their names say.

cache_path/kmeans_results/<key>/    plan.json, centroids.npy, model.json, segments/, rejected/, manifest.json;
                                    with n_probes visits/<key>/: basis.npy, a file for each file in segments/;
                                    the rows of against have a folder of their own, without centroids
cache_path/embedding_results/<key>/ of a model the vectors of each 8192 rows of a file
cache_path/pairwise_results/<key>/  plan.json, a parquet file for each unit, manifest.json; index/: where the rows of
                                    each key lie; with n_probes matches/;
                                    with against resembled/: a file for each unit; recall/<key>/: the sampled
                                    rows, <reach>/: what is found for them, <reach>.json
corpus_path/                        corpus.json, which says which of fits/ counts
corpus_path/fits/<number>/          common.json, texts.json where there are texts, refit.json where it was fitted anew;
                                    model/ with centroids.npy, model.json and visits/<key>/basis.npy;
                                    generations/: NNNNNN.json, and NNNNNN/ with what else kmeans_results/<key>/ has;
                                    references/<key>/: the same of the rows of against
output_path/                        duplicates/, rejected/, deduplicated/, marked/, report.html, summary.json; of a
                                    watched input arrivals/, set_aside/, generations/: a record for each, and
                                    watch.json, which says which process watches it
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from beam_semdedup.storage.folder import Folder

KMEANS, PAIRWISE, VECTORS = "kmeans_results", "pairwise_results", "embedding_results"
SEGMENTS, REJECTED, DUPLICATES, DEDUPLICATED, MARKED = "segments", "rejected", "duplicates", "deduplicated", "marked"
CORPUS, COMMON, TEXTS, REFIT, MODEL_FOLDER = "corpus.json", "common.json", "texts.json", "refit.json", "model"
GENERATIONS, REFERENCES = "generations", "references"
VISITS, MATCHES, RESEMBLED, BASIS = "visits", "matches", "resembled", "basis.npy"
RECALL, SAMPLE, INDEX = "recall", "sample.arrow", "index"
ARRIVALS, SET_ASIDE, BEGUN, WATCH = "arrivals", "set_aside", "begun.json", "watch.json"
SUMMARY, PLAN, MODEL, CENTROIDS, MANIFEST = "summary.json", "plan.json", "model.json", "centroids.npy", "manifest.json"
REPORT = "report.html"
PRODUCTS = (DUPLICATES, REJECTED, DEDUPLICATED, MARKED, KMEANS, PAIRWISE, VECTORS)
"""The folders in `cache_path` and `output_path` that are a run's own."""

_PART = re.compile(r"part-(?P<key>[0-9a-f]{16})-.*\.parquet")
_REACH = re.compile(r"\d+(\.\d+)?(e-\d+)?\.json")
_BLOCK = re.compile(r"(?P<centroids>\d+-\d+)-rows(?P<low>\d+)-(?P<high>\d+)-of(?P<rows>\d+)\.(?:parquet|arrow)")


def fingerprint(facts: Any) -> str:
    """Returns a key of 16 hexadecimal digits for a description that can be JSON, the same on every machine."""
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def part_name(key: str, name: str) -> str:
    """Returns the name of a file in `duplicates/` or `rejected/`, with the key of the results that it is from."""
    return f"part-{key}-{name}.parquet"


def parts(folder: Folder) -> dict[str, str]:
    """Returns the names in a folder that `part_name` made, sorted, with their keys."""
    return {name: match["key"] for name in sorted(folder.names()) if (match := _PART.fullmatch(name))}


def sampled_name(unit: str) -> str:
    """Returns the name of the file with the sampled rows of a unit, or of the unit that wrote a file of results."""
    return f"{unit.removesuffix('.parquet')}.arrow"


def recall_manifest(reach: float) -> str:
    """Returns the name of the manifest of what was found for sampled rows within a reach."""
    return f"{reach}.json"


def recall_reaches(folder: Folder) -> list[float]:
    """Returns the reaches for which there is such a manifest in a folder, ascending."""
    return sorted(float(name.removesuffix(".json")) for name in folder.names() if _REACH.fullmatch(name))


def comparison_name(first: int, last: int, low: int, high: int, num_rows: int) -> str:
    """Names a unit that compares rows `[low, high)` of the `num_rows` of the centroids `first` to `last`."""
    name = f"{first:08d}-{last:08d}"
    return name if high - low == num_rows else f"{name}-rows{low:010d}-{high:010d}-of{num_rows:010d}"


def num_compared(names: Iterable[str]) -> int:
    """Counts the groups of centroids all of whose units are finished, by the names of the finished units' files."""
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


def finished_units(folder: Folder) -> list[str]:
    """Returns the names of the files in a folder of the cache that finished units of a stage wrote."""
    return [name for name in folder.names() if not name.startswith(".") and name.endswith((".arrow", ".parquet"))]
