"""Files that a run stored, damaged between two runs: the second must find what it would without them, or say so."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz import in_process
from fuzz.damage import EXTREMES, damaged
from fuzz.pool import Fault
from runs import Ended, read_parquet

_ATTEMPTS = 4
_PLACES = ("in", "victim", "out", "cache", "removed")
_FOREIGN = (
    "out/notes.txt",
    "out/duplicates/notes.txt",
    "out/deduplicated/notes.txt",
    "cache/notes.txt",
    "victim/a.parquet",
)
_ODD: tuple[Any, ...] = (
    None,
    True,
    "",
    "x",
    [],
    {},
    [[]],
    1.5,
    float("nan"),
    "\x00",
    "../../../victim/a.parquet",
    *EXTREMES,
)


@dataclass(frozen=True)
class _Prepared:
    """Where the cases of a process lie, the files that stand there before each, and what the runs over them find."""

    place: Path
    saved: Path
    right: dict[str, Any]


_PREPARED: dict[int, _Prepared] = {}
"""By process: a case begins with the files of one run, at the paths that they were written to."""


def run(rng: random.Random, scratch: Path) -> str:
    """Runs a case and returns in a word how it ended; raises `Fault`."""
    ready = _PREPARED.get(os.getpid()) or _prepare(scratch)
    for name in _PLACES:
        shutil.rmtree(ready.place / name, ignore_errors=True)
        shutil.copytree(ready.saved / name, ready.place / name, symlinks=True)
    command = rng.choice(["same", "same", "eps", "removal", "removal"])
    about = command
    if rng.random() < 0.5:
        about += f", {_interrupted(ready.place, rng)}"
    for _ in range(rng.choice([1, 1, 1, 2])):
        about += f"; {_damage(ready.place, rng)}"
    before = _foreign(ready.place)
    try:
        ended = _attempts(command, ready)
        if _foreign(ready.place) != before:
            raise Fault("a file that is not the program's was touched")
    except Fault as fault:
        raise Fault(f"{str(fault)[:1200]}\n  about: {about}") from None
    return ended


def _attempts(command: str, ready: _Prepared) -> str:
    ended, last = "", ""
    for _ in range(_ATTEMPTS):
        how = _COMMANDS[command](ready.place)
        if how.code == 0:
            found = _results(command, ready.place)
            if found != ready.right[command]:
                raise Fault(f"other results than a clean run's: {_difference(found, ready.right[command])}")
            return ended or "right"
        _check_error(how, ready.place)
        if how.err == last:  # the same again: it is for a person to mend, who was told how
            if how.code == 1:
                raise Fault(f"the same again and again: {how.err}")
            return "error"
        ended, last = "healed", how.err
    raise Fault(f"no end of errors, {_ATTEMPTS} runs long: {last}")


def _check_error(how: Ended, place: Path) -> None:
    said = how.err.strip()
    if how.code not in (1, 2) or not re.search(r"^(Error|Failed): ", said, re.MULTILINE):
        raise Fault(f"ended with {how.code}: {said[-1500:]}")
    if re.search(r"Traceback|Error: \w+Error:|Failed: \w+Error:|\[while running", said):
        raise Fault(f"an error with a part of a traceback: {said[-1500:]}")
    if str(place) not in said:
        raise Fault(f"an error that names no file: {said[-1500:]}")


def _parameters(place: Path) -> dict[str, Any]:
    return {
        "input_path": str(place / "in"),
        "output_path": str(place / "out"),
        "cache_path": str(place / "cache"),
        "n_clusters": 3,
        "eps": 0.05,
        "metadata_fields": ["text"],
        "assign_unit_bytes": 20 * 4 * 3,
        "comparison_rows": 10,
    }


_COMMANDS: dict[str, Callable[[Path], Ended]] = {
    "same": lambda place: in_process.semdedup(remove=True, **_parameters(place)),
    "eps": lambda place: in_process.semdedup(**{**_parameters(place), "eps": 0.3}),
    "removal": lambda place: in_process.semdedup_remove(
        input_path=str(place / "in"), duplicates_path=str(place / "out"), output_path=str(place / "removed")
    ),
}


def _prepare(scratch: Path) -> _Prepared:
    place = scratch / f"stored-{os.getpid()}"
    (place / "in").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(8, 3))[rng.integers(0, 8, 60)] + 0.05 * rng.normal(size=(60, 3))
    for number in range(2):
        ids = range(30 * number, 30 * number + 30)
        vectors = [None if i % 17 == 3 else list(rows[i].astype("f4")) for i in ids]
        columns = {
            "id": ids,
            "embeddings": pa.array(vectors, pa.list_(pa.float32())),
            "text": [f"text {i}" for i in ids],
        }
        pq.write_table(pa.table(columns), place / "in" / f"part-{number}.parquet", row_group_size=10)
    for name in _FOREIGN:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(f"foreign {name}")
    right = {}
    for command in ("eps", "same", "removal"):  # the run before the removal is the one that it follows
        ended = _COMMANDS[command](place)
        if ended.code:
            raise RuntimeError(ended.err)
        right[command] = _results(command, place)
    saved = scratch / f"saved-{os.getpid()}"
    for name in _PLACES:
        shutil.copytree(place / name, saved / name)
    return _PREPARED.setdefault(os.getpid(), _Prepared(place, saved, right))


def _results(command: str, place: Path) -> dict[str, Any]:
    """Returns the values of all result files that a command is for."""
    kinds = {"same": ("out/duplicates", "out/rejected", "out/deduplicated"), "removal": ("removed",)}
    found = {}
    for kind in kinds.get(command, ("out/duplicates", "out/rejected")):
        try:
            found[kind] = sorted(map(repr, read_parquet(place / kind).to_pylist()))
        except (pa.ArrowException, OSError) as error:
            raise Fault(f"a finished run left what cannot be read in {kind}: {error}") from None
    return found


def _difference(found: dict[str, Any], right: dict[str, Any]) -> str:
    kind = next(kind for kind in right if found[kind] != right[kind])
    lacks, has = set(right[kind]) - set(found[kind]), set(found[kind]) - set(right[kind])
    return f"{kind}: {len(found[kind])} rows, without {sorted(lacks)[:2]}, with {sorted(has)[:2]}"


def _foreign(place: Path) -> dict[str, bytes]:
    """Returns the content of all files that are not the program's to change."""
    files = [*(place / "in").iterdir(), *(place / "victim").iterdir(), *(place / name for name in _FOREIGN)]
    return {str(file): file.read_bytes() for file in files if file.exists()}


def _interrupted(place: Path, rng: random.Random) -> str:
    """Takes the files away that finish a stage, as if the run had been killed before they were written."""
    gone = []
    ends = ["out/summary.json", "cache/pairwise_results/*/manifest.json", "cache/kmeans_results/*/manifest.json"]
    for pattern in ends[: rng.choice([1, 2, 3])]:
        for file in place.glob(pattern):
            file.unlink()
            gone.append(file.name)
    return f"interrupted before {', '.join(gone)}"


def _damage(place: Path, rng: random.Random) -> str:
    files = sorted(
        file
        for name in ("out", "cache", "removed")
        for file in (place / name).rglob("*")
        if file.is_file() and str(file.relative_to(place)) not in _FOREIGN
    )
    kinds = sorted({_kind(file) for file in files})
    kind = rng.choice(kinds)
    file = rng.choice([file for file in files if _kind(file) == kind])
    how = rng.choice(["bytes", "bytes", "bytes", "whole", "inside", "inside"])
    data = file.read_bytes()
    changed, what = damaged(data, rng)
    if how == "inside" and file.suffix in _INSIDE:
        with contextlib.suppress(ValueError, KeyError, OSError, pa.ArrowException):  # damaged before
            changed, what = _INSIDE[file.suffix](data, rng, place)
    elif how == "whole":
        what = rng.choice(["gone", "emptied", "another's", "twice", "zeros"])
        if what == "gone":
            file.unlink()
            return f"{file.relative_to(place)} gone"
        other = rng.choice([other for other in files if other.suffix == file.suffix]).read_bytes()
        changed = {"emptied": b"", "another's": other, "twice": data + data, "zeros": bytes(len(data))}[what]
    status = file.stat()
    file.write_bytes(changed)
    if rng.random() < 0.5:  # a disk's fault, of which the file system knows nothing
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    return f"{file.relative_to(place)}: {what}"


def _kind(file: Path) -> str:
    return f"{file.parent.name if len(file.parent.name) != 16 else file.parent.parent.name}/{file.suffix}{file.name[0]}"


def _json(data: bytes, rng: random.Random, place: Path) -> tuple[bytes, str]:
    """Changes a value in a document, or takes one away, or adds one."""
    document = json.loads(data)
    holder, key, at = None, None, document
    while isinstance(at, dict | list) and at and (holder is None or rng.random() < 0.85):
        holder, key = at, rng.choice(sorted(at) if isinstance(at, dict) else range(len(at)))
        at = at[key]
    if holder is None:
        return b"null", "null"
    odd = rng.choice([*_ODD, str(place / "victim" / "a.parquet"), at * 2 if isinstance(at, str | list) else at])
    what = rng.choice(["changed", "changed", "changed", "gone", "more", "number"])
    if what == "gone":
        del holder[key]
    elif what == "more" and isinstance(holder, list):
        holder.append(at)
    elif what == "number" and isinstance(at, int):
        holder[key] = at + rng.choice([-1, 1])
    else:
        what, holder[key] = f"changed to {odd!r:.60}", odd
    return json.dumps(document).encode(), f"{key!r:.40} {what}"


def _npy(data: bytes, rng: random.Random, place: Path) -> tuple[bytes, str]:
    """Changes an array: its numbers, shape or type, or what the header says of them."""
    array = np.load(io.BytesIO(data))
    what = rng.choice(["nan", "other", "shape", "type", "huge", "object", "rows"])
    if what == "huge":
        return data.replace(b"(3, 3)", b"(99999999999, 3)"[: rng.choice([16, 16])]), what
    if what == "object":
        return data.replace(b"'<f4'", b"'|O'  "[:5]), what
    changed = array.copy()
    changed.flat[rng.randrange(array.size)] = np.nan if what == "nan" else 0.25
    changed = {"shape": changed.reshape(-1), "type": changed.astype("f8"), "rows": changed[:2]}.get(what, changed)
    sink = io.BytesIO()
    np.save(sink, changed)
    return sink.getvalue(), what


def _parquet(data: bytes, rng: random.Random, place: Path) -> tuple[bytes, str]:
    """Writes a table again without its metadata, as a tool that compacts files would."""
    sink = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(data)).replace_schema_metadata(None), sink)
    return sink.getvalue(), "without its metadata"


_INSIDE: dict[str, Callable[[bytes, random.Random, Path], tuple[bytes, str]]] = {
    ".json": _json,
    ".npy": _npy,
    ".parquet": _parquet,
}
