"""A case: the files of an input, what they hold, and how a run over them must end."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fuzz import in_process, judge
from fuzz.judge import File
from fuzz.pool import Fault
from runs import Ended, finish, start


@dataclass(frozen=True)
class Case:
    """The files of an input by name, and what they hold.

    Attributes:
        contents: what the run may make of the files; the first is what it is told of where none fits.
        whole: they are not damaged, so that an error needs a reason.
        judged: the results are compared; else the ending alone.
        about: what was done to them, in words.
        ids: files with the ids of their rows, by the same names, where these are apart.
    """

    files: dict[str, bytes]
    contents: Sequence[Sequence[File]]
    dimension: int
    whole: bool
    judged: bool = True
    about: str = ""
    filetype: str = "parquet"
    ids: dict[str, bytes] | None = None


def run(case: Case, rng: random.Random, scratch: Path) -> str:
    """Runs a case, mostly in this process, and returns in a word how it ended; raises `Fault`."""
    place = Path(tempfile.mkdtemp(dir=scratch))
    try:
        return _run(case, rng, place)
    except Fault as fault:
        raise Fault(f"{str(fault)[:1200]}\n  about: {case.about}") from None
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _run(case: Case, rng: random.Random, place: Path) -> str:
    source, out = place / "in", place / "out"
    source.mkdir()
    for name, data in case.files.items():
        (source / name).write_bytes(data)
    for name, data in (case.ids or {}).items():
        (place / "ids").mkdir(exist_ok=True)
        (place / "ids" / name).write_bytes(data)
    np.save(place / "init.npy", np.eye(2, case.dimension, dtype=np.float32) - 0.5)
    parameters = {
        "input_path": str(source),
        "output_path": str(out),
        "input_filetype": rng.choice([None, case.filetype]),
        "ids_path": str(place / "ids") if case.ids else None,
        "init": str(place / "init.npy"),
        "max_iter": 0,
        "eps": judge.EPS,
        "ranking_strategy": {"metadata_cols": ["id"], "ascending": True},
        "remove": rng.random() < 0.3,
        "n_probes": rng.choice([1, 1, "exact"]),
        "embedding_dim": rng.choice([None, case.dimension]),
    }
    how = rng.random()
    ended = _by_command(parameters, place) if how < 0.004 else in_process.semdedup(beam=how < 0.02, **parameters)
    judge.check_ending(ended, sorted(case.files))
    if ended.code == 2:
        if case.whole and not _is_due(case, ended):
            raise Fault(f"an error without a reason: {ended.err}")
        return "error"
    if not case.judged:
        return "unjudged"
    faults = []
    for contents in case.contents:
        try:
            judge.check_results(out, contents, case.dimension, parameters["n_probes"])
            if parameters["remove"]:
                judge.check_removed(out, contents, source)
            return "right"
        except Fault as fault:
            faults.append(fault)
    raise faults[0]


def _by_command(parameters: dict[str, object], place: Path) -> Ended:
    """Runs the real command in a process of its own."""
    given = {**parameters, "ranking_strategy": "{metadata_cols: [id], ascending: true}"}
    arguments = [f"{name}={'null' if value is None else value}" for name, value in given.items()]
    return finish(start(arguments, place))


def _is_due(case: Case, ended: Ended) -> bool:
    """Says whether whole files are an error for what they hold."""
    contents = case.contents[0]
    ids = [judge.plain_id(id_) for file in contents for id_ in file.ids if id_ is not None]
    lengths = {_dimension(file) for file in contents} - {None}
    return (
        sum(len(file.ids) for file in contents) < 2
        or lengths != {case.dimension}
        or not any(
            judge.usable(*row, case.dimension) for file in contents for row in zip(file.ids, file.vectors, strict=True)
        )
        or judge.too_many_rejected(contents, case.dimension)
        or ("repeat" in ended.err and len(ids) > len(set(ids)))
    )


def _dimension(file: File) -> int | None:
    """Returns the commonest length of the vectors of the first row group that has one."""
    start = 0
    for rows in file.groups or [len(file.vectors)]:
        lengths = [len(vector) for vector in file.vectors[start : start + rows] if vector]
        if lengths:
            return min(set(lengths), key=lambda length: (-lengths.count(length), length))
        start += rows
    return None
