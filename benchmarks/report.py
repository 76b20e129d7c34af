"""Results in a JSON file, and the Markdown and the plot made from it."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np  # noqa: F401 - so that its BLAS is there to be named
import psutil
from threadpoolctl import threadpool_info

from benchmarks.bench import Result

_LIBRARIES = ("beam-semdedup", "apache-beam", "numpy", "pyarrow", "scikit-learn", "faiss-cpu", "semhash")


def update(path: Path, scenario: str, result: Result, seconds: float) -> None:
    """Puts the result of one scenario into the JSON file, beside those of the others."""
    stored = json.loads(path.read_text()) if path.exists() else {"scenarios": {}}
    stored["machine"] = machine()
    stored["scenarios"][scenario] = {
        "finished": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "seconds": round(seconds, 1),
        "load": round(os.getloadavg()[2], 2),
        **as_stored(result),
    }
    write_json(stored, path)


def as_stored(result: Result) -> dict[str, Any]:
    """A result as it stands in the JSON file: of each goal also whether it is met."""
    goals = [{**asdict(goal), "met": goal.met, "verdict": goal.verdict} for goal in result.goals]
    return {**asdict(result), "goals": goals}


def write_json(stored: dict[str, Any], path: Path) -> None:
    """Writes the JSON file, and the directory that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n")


def write(path: Path) -> str:
    """Writes the Markdown and the plot beside the JSON file, and returns the Markdown."""
    stored = json.loads(path.read_text())
    plot = path.with_suffix(".svg")
    text = markdown(stored, plot.name)
    path.with_suffix(".md").write_text(text)
    draw(stored, plot)
    return text


def markdown(stored: dict[str, Any], plot: str) -> str:
    """The goals, then each scenario's table and remarks."""
    goals = [goal for scenario in stored["scenarios"].values() for goal in scenario["goals"]]
    parts = ["# Results", ", ".join(f"{k} {v}" for k, v in stored["machine"].items()), f"![]({plot})"]
    parts += ["## Goals", goals_table(goals)]
    for name, scenario in stored["scenarios"].items():
        title = importlib.import_module(f"benchmarks.scenarios.{name}").__doc__ or ""
        parts += [f"## {name}", title.strip(), table(scenario["table"]), *scenario["notes"]]
        parts.append(
            f"Finished {scenario['finished']} UTC after {scenario['seconds']:,.0f} s; 15-minute load "
            f"{scenario['load']:.1f}."
        )
    return "\n\n".join(parts) + "\n"


def goals_table(goals: list[dict[str, Any]]) -> str:
    """A Markdown table of goals `as_stored`: what was asked, what was measured, and the verdict."""
    return table(
        [
            {
                "goal": goal["what"],
                "asked": f"at {'most' if goal['at_most'] else 'least'} {number(goal['limit'])} {goal['unit']}",
                "measured": f"{number(goal['measured'])} {goal['unit']}",
                "": goal["verdict"],
            }
            for goal in goals
        ]
    )


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table; the columns are those of all rows in the order in which they appear."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([number(row.get(name)) for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def number(value: Any) -> str:
    """As a person would write it."""
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def machine() -> dict[str, str]:
    """The machine and the versions of what ran, without any name that says whose machine it is."""
    cores = f"{len(os.sched_getaffinity(0))} ({platform.machine()})"
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return {
        "cores:": cores,
        "memory:": memory,
        "BLAS:": ", ".join(f"{pool['internal_api']} for {pool.get('architecture', '?')}" for pool in pools),
        "python": platform.python_version(),
        **versions(_LIBRARIES),
    }


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """The versions of those libraries that are installed."""
    installed = {}
    for library in libraries:
        with contextlib.suppress(PackageNotFoundError):
            installed[library] = version(library)
    return installed


def draw(stored: dict[str, Any], path: Path) -> None:
    """The plot of what there is: the jobs next to their peers, growth curves, each goal as a share of its limit."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "beam-semdedup"
    from matplotlib import pyplot

    def table(name: str) -> list[dict[str, Any]]:
        return stored["scenarios"].get(name, {}).get("table", [])

    goals = [goal for scenario in stored["scenarios"].values() for goal in scenario["goals"] if goal["limit"]]
    growth = {series: [row for row in table("growth") if row["series"] == series] for series in ("rows", "clusters")}
    panels = [
        (4.5, table("given"), _draw_jobs),
        (4.5, [row for row in table("exact") if "CPU ratio" in row], _draw_exact),
        (4.5, growth["rows"], lambda axes, found: _draw_growth(axes, found, "rows", "rows (1,000 per cluster)")),
        (4.5, growth["clusters"], lambda axes, found: _draw_growth(axes, found, "clusters", "clusters (250,000 rows)")),
        (1 + 0.18 * len(goals), goals, _draw_goals),
    ]
    panels = [panel for panel in panels if panel[1]]
    heights = [height for height, _, _ in panels] or [1.0]
    figure, axes = pyplot.subplots(
        len(heights), 1, figsize=(9, sum(heights)), height_ratios=heights, layout="constrained", squeeze=False
    )
    for one, (_, found, draw_panel) in zip(axes.ravel(), panels, strict=False):
        draw_panel(one, found)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _draw_jobs(axes: Any, table: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(row["who"] for row in table))
    sizes = list(dict.fromkeys(row["rows"] for row in table))
    width = 0.8 / max(1, len(names))
    for i, name in enumerate(names):
        found = [row for row in table if row["who"] == name]
        bars = axes.bar(
            [sizes.index(row["rows"]) + i * width for row in found],
            [row["seconds"] for row in found],
            width,
            label=name,
        )
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.set_xticks([n + width * (len(names) - 1) / 2 for n in range(len(sizes))], [f"{s:,} rows" for s in sizes])
    axes.set(title="Whole job, given centroids", ylabel="seconds")
    if names:
        axes.legend()


def _draw_exact(axes: Any, table: list[dict[str, Any]]) -> None:
    for rows, style in zip(dict.fromkeys(row["rows"] for row in table), ("-", "--", ":"), strict=False):
        for who, colour in (("n_probes=2", "tab:blue"), ("exact", "tab:red")):
            found = [row for row in table if (row["rows"], row["who"]) == (rows, who)]
            if found:
                label = f"{who}, {rows:,} rows"
                axes.plot(
                    [row["eps"] for row in found], [row["CPU ratio"] for row in found], style, color=colour, label=label
                )
    axes.axhline(1, color="black", linewidth=1)
    axes.set(title="Whole job: CPU time as a multiple of n_probes=1", xlabel="eps", ylabel="multiple", ylim=(0, None))
    axes.legend()


def _draw_goals(axes: Any, goals: list[dict[str, Any]]) -> None:
    shown = goals[::-1]
    shares = [goal["measured"] / goal["limit"] for goal in shown]
    shares = [share if goal["at_most"] else 1 / share for share, goal in zip(shares, shown, strict=True)]
    bars = axes.barh(
        [goal["what"] for goal in shown], shares, color=["tab:green" if goal["met"] else "tab:red" for goal in shown]
    )
    axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.tick_params(axis="y", labelsize=7)
    axes.set(title="Goals: 1 is the limit, less is better")


def _draw_growth(axes: Any, table: list[dict[str, Any]], column: str, label: str) -> None:
    axes.loglog([row[column] for row in table], [row["seconds"] for row in table], "o-")
    axes.set(title=f"Time against {column}, given centroids", xlabel=label, ylabel="seconds")
    if table:
        seconds = [row["seconds"] for row in table]
        axes.set_ylim(min(seconds) / 2, max(seconds) * 2)
    for row in table:
        place = (row[column], row["seconds"])
        axes.annotate(number(row["seconds"]), place, xytext=(0, 8), textcoords="offset points", ha="center", fontsize=8)
    if table:
        axes.set_xticks([row[column] for row in table], [f"{row[column]:,}" for row in table], minor=False)
        axes.minorticks_off()
    axes.grid(True, alpha=0.3)
