"""A sweep (Hydra multirun): where its jobs write, and the table over them."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Sequence
from typing import Any

from beam_semdedup import composition, console
from beam_semdedup.validation import resolve
from beam_semdedup.wording import without_secrets

_LONGEST_NAME = 150


def shared_outputs(name: str, arguments: Sequence[str]) -> list[str]:
    """The output paths that more than one job of the sweep would write to."""
    from omegaconf import OmegaConf

    jobs = composition.jobs_of(arguments)
    first = composition.compose(name, jobs[0])
    if "output_path" not in composition.swept(arguments) and not OmegaConf.is_interpolation(first, "output_path"):
        return [str(first.output_path)] if len(jobs) > 1 else []  # composing takes longer than a job with another eps
    seen = [str(composition.compose(name, overrides).output_path) for overrides in jobs]
    return sorted({path for path in seen if seen.count(path) > 1})


def give_own_output(parameters: Any, overrides: Sequence[str]) -> None:
    """Changes the output_path of a job, which others share, to a directory in it that is named for its overrides."""
    shared = parameters.output_path
    parameters.output_path = f"{shared.rstrip('/')}/{_directory(','.join(overrides))}"
    if hasattr(parameters, "cache_path"):
        parameters.cache_path = parameters.cache_path or shared


def _directory(name: str) -> str:
    """`name` as far as it can be the name of a directory, made unique where that is not all of it."""
    from beam_semdedup import storage

    able = re.sub(r"[^A-Za-z0-9_.=,+-]+", "_", without_secrets(name))[:_LONGEST_NAME]
    return able if able == name else f"{able}-{storage.fingerprint(name)[:8]}"


def report(outcomes: Sequence[dict[str, Any]], arguments: Sequence[str], shared: Sequence[str]) -> None:
    """The table over the jobs of a sweep, on standard output and as a CSV file; `shared`: see `shared_outputs`."""
    rows = [without_secrets(_row(outcome)) for outcome in outcomes]
    columns = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    from rich.table import Table

    table = Table(*columns, title="Sweep")
    for row in rows:
        table.add_row(*("" if row.get(c) is None else str(row.get(c, "")) for c in columns))
    console.wide().print(table)
    done = [o for o in outcomes if o.get("summary")]
    if not done:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    try:
        target = _write_table(text.getvalue(), done, arguments, shared)
    except Exception as error:  # the runs are done, whatever the storage makes of the table
        console.say(f"Warning: the table could not be written: {type(error).__name__}: {error}")
        return
    print(f"The table is in {without_secrets(target)}")


def _row(outcome: dict[str, Any]) -> dict[str, Any]:
    row = dict(o.split("=", 1) for o in outcome["overrides"])
    summary = outcome.get("summary")
    if summary:
        reused = [name for name, s in summary["stages"].items() if s["units_reused"] and not s["units_done"]]
        row |= {
            "duplicates": summary["num_duplicates"],
            "kept": "" if summary["rows_kept"] is None else f"{summary['rows_kept'] / summary['rows_read']:.4f}",
            "seconds": summary["total_time"],
            "reused": ", ".join(reused),
            "output_path": summary["paths"]["output"],
        }
    return {**row, "exit_code": outcome["exit_code"]}


def _write_table(text: str, done: Sequence[dict[str, Any]], arguments: Sequence[str], shared: Sequence[str]) -> str:
    """Writes the table where the finished jobs of a sweep have a place in common, and returns its URL."""
    from beam_semdedup import storage

    common = [
        o for o in composition.overrides_of(arguments) if composition.key_of(o) not in composition.swept(arguments)
    ]
    first = resolve(composition.plain(composition.compose("semdedup", [*common, *done[0]["overrides"]])))
    if first.output_path in shared:
        home, options = first.output_path, first.write_options
    elif first.cache_path:
        home, options = first.cache_path, first.cache_options
    else:
        home, options = _common_parent([o["summary"]["paths"]["output"] for o in done]), first.write_options
    target = storage.join(storage.absolute(home, options), "sweep.csv")
    storage.write_bytes(target, text.encode(), options)
    return target


def _common_parent(urls: Sequence[str]) -> str:
    """The innermost directory that holds all absolute `urls`; the first of them where there is none."""
    columns = zip(*(url.split("/") for url in urls), strict=False)
    common = [names[0] for names in itertools.takewhile(lambda names: len(set(names)) == 1, columns)]
    root = 2 if "://" in urls[0] else 1  # components before a bucket's, a host's or a directory's name
    return "/".join(common) if len(common) > root else urls[0]
