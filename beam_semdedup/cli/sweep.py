"""A sweep (Hydra multirun): where its jobs write, and the table over them."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from beam_semdedup.cli import console
from beam_semdedup.cli.composition import CommandLine, plain
from beam_semdedup.cli.overrides import LISTED, jobs_of, key_of, shown
from beam_semdedup.config.parameters import Parameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError, as_input_error
from beam_semdedup.text import printable, without_secrets

if TYPE_CHECKING:
    from beam_semdedup.storage.folder import File

_LONGEST_NAME = 150
_TABLE = "sweep.csv"
_COLUMNS = (
    "duplicates",
    "kept_share",
    "recall",
    "recall_low",
    "recall_high",
    "seconds",
    "reused",
    "output_path",
    "exit_code",
)
"""The columns of the table, after those that are swept."""


def outputs(line: CommandLine) -> list[str]:
    """Returns the output path of each job of the sweep."""
    return [str(plain(line.compose(overrides)).get("output_path")) for overrides in jobs_of(line.overrides)]


def shared(outputs: Sequence[str]) -> set[str]:
    """Returns the output paths that more than one job would write to."""
    return {path for path in outputs if outputs.count(path) > 1}


def reach_of(line: CommandLine) -> float | None:
    """Returns the largest eps of a sweep over eps, for which rows are matched once; None where there is none."""
    values = []
    for overrides in jobs_of(line.overrides):
        for override in overrides:
            if key_of(override) == "eps":
                with contextlib.suppress(ValueError):  # null, or what the job itself complains of
                    values.append(float(override.partition("=")[2]))
    return max(values, default=None)


def table_place(line: CommandLine, outputs: Sequence[str]) -> File:
    """Says where the jobs of a sweep have a place in common for their table.

    Raises:
        InputError: another file is there, or no job is valid.
    """
    from beam_semdedup.storage.folder import Folder

    first = _first_valid(line)
    if len(set(outputs)) == 1:
        home, options = first.output_path, first.write_options
    elif first.cache_path:
        home, options = first.cache_path, first.cache_options
    else:
        options = first.write_options
        home = _common_parent([Folder.at(output, options).url for output in outputs])
    table = Folder.at(home, options).file(_TABLE)
    with as_input_error(f"{table}: cannot be read"):
        if table.exists() and not _is_own(table.read_bytes()):
            raise InputError(
                f"{table} is not from this program; the table of the sweep would replace it: move it, or give "
                "another output_path"
            )
    return table


def _first_valid(line: CommandLine) -> Parameters:
    """Returns the parameters of the first job with valid ones; where none has any, raises the first's error."""
    wrong = []
    for overrides in jobs_of(line.overrides):
        try:
            return resolve(plain(line.compose(overrides)), Parameters, LISTED)
        except InputError as error:  # which the job itself tells where another one is valid
            wrong.append(error)
    raise wrong[0]


def _is_own(table: bytes) -> bool:
    header = table.decode(errors="replace").partition("\n")[0].rstrip()
    return tuple(header.split(","))[-len(_COLUMNS) :] == _COLUMNS


def give_own_output(parameters: Any, overrides: Sequence[str]) -> None:
    """Changes the output_path of a job, which others share, to a directory in it that is named for its overrides."""
    shared = parameters.output_path
    others = [shown(o) for o in overrides if key_of(o) != "output_path"]
    parameters.output_path = f"{shared.rstrip('/')}/{_directory(','.join(others))}"
    if hasattr(parameters, "cache_path"):
        parameters.cache_path = parameters.cache_path or shared


def _directory(name: str) -> str:
    """`name` as far as it can be the name of a directory, made unique where that is not all of it."""
    from beam_semdedup.storage.layout import fingerprint

    able = re.sub(r"[^A-Za-z0-9_.=,+-]+", "_", without_secrets(name))[:_LONGEST_NAME]
    return able if able == name else f"{able}-{fingerprint(name)[:8]}"


def report(outcomes: Sequence[dict[str, Any]], place: File | None) -> None:
    """Writes the table over the jobs of a sweep, on standard output and as a CSV file."""
    from rich.table import Table
    from rich.text import Text

    rows = [without_secrets(_row(outcome)) for outcome in outcomes]
    columns = [*dict.fromkeys(name for row in rows for name in row if name not in _COLUMNS), *_COLUMNS]
    table = Table(*columns, title="Sweep")
    for row in rows:
        table.add_row(*(Text("" if row.get(c) is None else printable(str(row[c]))) for c in columns))
    console.wide().print(table)
    if place is None or not any(outcome.get("summary") for outcome in outcomes):
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    try:
        place.write_bytes(text.getvalue().encode())
    except Exception as error:  # the runs are done, whatever the storage makes of the table
        console.say(f"Warning: the table could not be written: {type(error).__name__}: {error}")
        return
    console.tell(f"The table is in {place.url}")


def _row(outcome: dict[str, Any]) -> dict[str, Any]:
    row = dict(shown(o).split("=", 1) for o in outcome["overrides"])
    summary = outcome.get("summary")
    if summary:
        reused = [name for name, s in summary["stages"].items() if s["units_reused"] and not s["units_done"]]
        row |= {
            "duplicates": summary["num_duplicates"],
            "kept_share": "" if summary["rows_kept"] is None else f"{summary['rows_kept'] / summary['rows_read']:.4f}",
            **_recall(summary.get("recall")),
            "seconds": summary["total_time"],
            "reused": ", ".join(reused),
            "output_path": summary["paths"]["output"],
        }
    return {**row, "exit_code": outcome["exit_code"]}


def _recall(recall: dict[str, float | None] | None) -> dict[str, str]:
    """Returns the estimate and its interval, as far as they are known."""
    names = {"recall": "estimate", "recall_low": "low", "recall_high": "high"}
    values = {column: recall[name] for column, name in names.items()} if recall else {}
    return {column: f"{value:.4f}" for column, value in values.items() if value is not None}


def _common_parent(urls: Sequence[str]) -> str:
    """Returns the innermost directory that holds all absolute `urls`; the first of them where there is none."""
    columns = zip(*(url.split("/") for url in urls), strict=False)
    common = [names[0] for names in itertools.takewhile(lambda names: len(set(names)) == 1, columns)]
    root = 2 if "://" in urls[0] else 1  # components before a bucket's, a host's or a directory's name
    return "/".join(common) if len(common) > root else urls[0]
