"""What a run must have made of its input: what each row is, and, in float64, what is similar to what."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import oracle
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz.pool import Fault
from runs import Ended, read_parquet

EPS = 0.05
_GENERAL = re.compile(
    "no row can be used|without a single row|rejected|has no vector in any|n_clusters=|init=|no files|"
    "not removed: .*repeat"
)
"""What an error may say without naming a file: it is about all of them."""
_DAMAGED_ON_ITS_WAY = re.compile(r"Traceback|Error: \w+Error:|\[while running")


@dataclass(frozen=True)
class File:
    """What a file holds: the id and the vector of each row, and where its row groups begin (jsonl: none).

    An id is None where there is none that can be used. `numbers` are the rows' numbers in `rejected/`, if not by row
    group. `either`: rows that readers disagree about, so that they may be used or rejected.
    `lines`: of jsonl, with the ids that a removal finds in them.
    """

    name: str
    ids: Sequence[Any]
    vectors: Sequence[Any]
    groups: Sequence[int] = ()
    numbers: Sequence[int] = ()
    either: frozenset[int] = frozenset()
    lines: Sequence[tuple[bytes, Any]] = ()

    def row(self, group: int | None, number: int) -> int:
        """Returns the position of a row in the file by what `rejected/` says of it."""
        return sum(self.groups[:group]) + number if group is not None else list(self.numbers).index(number)


@dataclass(frozen=True)
class Found:
    """The rows of a run: (file, row) to id and vector, and to the reason of a rejection."""

    used: dict[tuple[int, int], tuple[Any, np.ndarray]]
    rejected: dict[tuple[str, int | None, int], str]


def usable(id_: Any, vector: Any, dimension: int) -> bool:
    """Says whether a row is one: with an id, and a vector of finite numbers that are not all zero."""
    return (
        id_ is not None
        and isinstance(vector, list)
        and len(vector) == dimension
        and all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in vector)
        and any(vector)
    )


def unit(vector: Sequence[float]) -> np.ndarray:
    """Returns the vector divided by its length, in float64."""
    values = np.array([float(x) for x in vector])
    values = values / np.abs(values).max()
    return values / np.linalg.norm(values)


def check_ending(ended: Ended, names: Sequence[str]) -> None:
    """Raises Fault where a run did not end with 0, or with 2 and a clear error that names what it is about."""
    said = ended.err.strip()
    if ended.code not in (0, 2):
        raise Fault(f"ended with {ended.code}: {said[-1500:]}")
    if ended.code == 2:
        if not said.splitlines()[-1].startswith("Error: ") and "\nError: " not in f"\n{said}":
            raise Fault(f"an error that is not said as one: {said[-1500:]}")
        if not any(name in said for name in names) and not _GENERAL.search(said):
            raise Fault(f"an error that names no file: {said[-1500:]}")
    if _DAMAGED_ON_ITS_WAY.search(said):
        raise Fault(f"an error with a part of a traceback: {said[-1500:]}")


def check_results(out: Path, files: Sequence[File], dimension: int, n_probes: Any) -> None:
    """Raises Fault where what a finished run left is not what the rows of its files make it."""
    found, table = _found(out)
    expected = {
        (number, row): (id_, vector)
        for number, file in enumerate(files)
        for row, (id_, vector) in enumerate(zip(file.ids, file.vectors, strict=True))
        if usable(id_, vector, dimension) and not (row in file.either and (number, row) not in found.used)
    }
    rejected = {
        (file.name, file.row(group, row)) for file in files for name, group, row in found.rejected if name == file.name
    }
    unusable = {
        (file.name, row)
        for number, file in enumerate(files)
        for row in range(len(file.ids))
        if (number, row) not in expected
    }
    if missing := expected.keys() - found.used.keys():
        raise Fault(f"{len(missing)} usable rows are not used, such as {_shown(files, min(missing))}; {found.rejected}")
    if more := found.used.keys() - expected.keys():
        raise Fault(
            f"{len(more)} rows are used that cannot be, such as {_shown(files, min(more))}: {found.used[min(more)]}"
        )
    if rejected != unusable:
        raise Fault(f"rejected are {sorted(rejected)}, not {sorted(unusable)}")
    if not all(found.rejected.values()):
        raise Fault("rejected without a reason")
    for place, (id_, vector) in found.used.items():
        wanted_id, wanted = expected[place]
        if plain_id(id_) != plain_id(wanted_id):
            raise Fault(f"row {place} has id {id_!r}, not {wanted_id!r}")
        if not np.allclose(vector, unit(wanted), rtol=0, atol=2e-6):
            raise Fault(f"row {place} (id {id_!r}) has the vector {vector}, not {unit(wanted)} of {wanted}")
    if too_many_rejected(files, dimension, found.used.keys()):
        raise Fault("a finished run of which more than half is rejected")
    _check_summary(out, len(expected), len(unusable))
    _check_duplicates(out, table, n_probes)


def too_many_rejected(files: Sequence[File], dimension: int, used: Collection[tuple[int, int]] = ()) -> bool:
    """Says whether more than half of a file's rows, or of all, cannot be used; `used` are such as were."""
    counts = [
        (
            len(file.ids),
            sum(
                (number, row) in used or (usable(*values, dimension) and row not in file.either)
                for row, values in enumerate(zip(file.ids, file.vectors, strict=True))
            ),
        )
        for number, file in enumerate(files)
    ]
    counts.append((sum(rows for rows, _ in counts), sum(good for _, good in counts)))
    return any(2 * good < rows for rows, good in counts)


def plain_id(id_: Any) -> Any:
    """Returns an id as what it is compared by: a UUID is its bytes."""
    return getattr(id_, "bytes", id_)


def duplicate_ids(out: Path) -> list[Any]:
    """Returns the ids in duplicates/."""
    return read_parquet(out / "duplicates").column("id").to_pylist()


def _found(out: Path) -> tuple[Found, pa.Table]:
    parts = sorted(out.glob("kmeans_results/*/segments/*.arrow"))
    table = pa.concat_tables([pa.ipc.open_file(pa.memory_map(str(part))).read_all() for part in parts])
    vectors = _matrix(table)
    places = zip(table["source_file"].to_pylist(), table["source_row"].to_pylist(), strict=True)
    try:
        ids = table["id"].to_pylist()
    except UnicodeDecodeError as error:
        raise Fault(f"an id that is no text is used: {error}") from None
    used = {place: (ids[i], vectors[i]) for i, place in enumerate(places)}
    if len(used) != table.num_rows:
        raise Fault("rows are used twice")
    rejected: dict[tuple[str, int | None, int], str] = {}
    if list((out / "rejected").glob("*.parquet")):
        rows = read_parquet(out / "rejected").to_pydict()
        names = [Path(name).name for name in rows["source_file"]]
        keys = list(zip(names, rows["row_group"], rows["row"], strict=True))
        rejected = dict(zip(keys, rows["reason"], strict=True))
        if len(rejected) != len(keys):
            raise Fault("rows are rejected twice")
    return Found(used, rejected), table


def _matrix(table: pa.Table) -> np.ndarray:
    column = table["embedding"].combine_chunks()
    return column.flatten().to_numpy().reshape(table.num_rows, -1)


def _check_summary(out: Path, used: int, rejected: int) -> None:
    summary = json.loads((out / "summary.json").read_bytes())
    counted = (summary["rows_read"], summary["rows_rejected"], summary["rows_kept"] + summary["num_duplicates"])
    if counted != (used + rejected, rejected, used):
        raise Fault(f"the summary counts {counted}, not {(used + rejected, rejected, used)}")


def _check_duplicates(out: Path, table: pa.Table, n_probes: Any) -> None:
    """Compares with a brute force over the rows, ranked by id: within clusters, or all."""
    labels, ids, vectors = table["centroid"].to_numpy(), table["id"].to_pylist(), _matrix(table)
    keys = [(ids, True), (table["source_file"].to_pylist(), True), (table["source_row"].to_pylist(), True)]
    if n_probes == "exact":
        scores, winners = oracle.best_earlier(vectors, oracle.rank_order([0] * len(ids), keys), reach=EPS)
        wanted = Counter((ids[i], ids[winners[i]]) for i in np.flatnonzero(scores.astype(np.float64) >= 1 - EPS))
    else:
        compared = oracle.compare(vectors, labels, ids, oracle.rank_order(labels, keys))
        found = read_parquet(next(out.glob("pairwise_results/*")))
        columns = (("id", compared.ids), ("max_id", compared.max_ids), ("cosine_sim_score", list(compared.scores)))
        for name, expected in columns:
            if found[name].to_pylist() != expected:
                raise Fault(f"{name} of the comparisons: {found[name].to_pylist()}, not {expected}")
        wanted = Counter((id_, max_id) for id_, max_id, _ in oracle.duplicates(compared, EPS))
    listed = read_parquet(out / "duplicates")
    pairs = Counter(zip(listed["id"].to_pylist(), listed["max_id"].to_pylist(), strict=True))
    if pairs != wanted:
        raise Fault(f"the duplicates are {pairs}, not {wanted}")


def _shown(files: Sequence[File], place: tuple[int, int]) -> str:
    if place[0] < len(files) and place[1] < len(files[place[0]].ids):
        file = files[place[0]]
        return f"{file.name} row {place[1]}: id {file.ids[place[1]]!r}, {file.vectors[place[1]]}"
    return f"{place}"


def check_removed(out: Path, files: Sequence[File], sources: Path) -> None:
    """Raises Fault where deduplicated/ is not the input without its duplicates, all columns as they were."""
    gone = set(map(plain_id, duplicate_ids(out)))
    for file in files:
        if file.lines:
            lines = [line for line, id_ in file.lines if id_ is None or id_ not in gone]
            if _unpacked(out / "deduplicated" / file.name) != b"".join(lines):
                raise Fault(f"{file.name} has other lines after the removal")
            continue
        kept = [row for row, id_ in enumerate(file.ids) if id_ is None or plain_id(id_) not in gone]
        if file.name.endswith(".npy"):
            found = np.load(out / "deduplicated" / file.name.replace(".npy", ".kept.npy")).tolist()
            if found != kept:
                raise Fault(f"of {file.name} the rows {found} are kept, not {kept}")
            continue
        try:
            source = read_table(sources / file.name)
        except (pa.ArrowException, OSError):  # this reader does not know it, or what nobody needs is damaged
            continue
        copy = read_table(out / "deduplicated" / file.name)
        if copy.num_rows != len(kept):
            raise Fault(f"{file.name} has {copy.num_rows} rows without its duplicates, not {len(kept)}")
        if copy.schema != source.schema:
            raise Fault(f"{file.name} has the columns {copy.schema}, not {source.schema}")
        values = source.to_pylist()
        if repr(copy.to_pylist()) != repr([values[row] for row in kept]):  # as text: NaN equals NaN
            raise Fault(f"{file.name} has other rows after the removal")


def read_table(path: Path) -> pa.Table:
    """Returns a parquet file, or an Arrow file or stream, by the library alone."""
    if path.suffix != ".arrow":
        return pq.read_table(path)
    with path.open("rb") as source:
        opened = pa.ipc.open_file if source.read(6) == b"ARROW1" else pa.ipc.open_stream
        source.seek(0)
        return opened(source).read_all()


def _unpacked(file: Path) -> bytes:
    with fsspec.open(str(file), "rb", compression="infer") as stream:
        data: bytes = stream.read()
        return data
