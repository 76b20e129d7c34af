"""Multiruns: what they share, where their results and their table go, and how they end."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pyarrow.compute as pc
import pytest
from runs import DEMO, Ended, dedup, duplicates, finish, read_parquet, start

from beam_semdedup.cli import commands as cli
from beam_semdedup.cli.sweep import _common_parent
from beam_semdedup.config import parameters
from beam_semdedup.config.parameters import EmbedParameters
from beam_semdedup.embed.job import EmbeddingResult
from beam_semdedup.runners import base as runners
from beam_semdedup.storage.folder import File
from beam_semdedup.workflow import run as workflow

Command = Callable[..., Ended]
EPS = (0.01, 0.05, 0.1, 0.2, 0.5)


@pytest.fixture
def sweep(semdedup: Command, make_dataset: Callable[..., Any], tmp_path: Path) -> Command:
    """Calls the command on 60 rows with -m, quietly, from a directory beside the input `data`."""
    make_dataset(tmp_path / "data", rows=60, copies=10, files=2, clusters=3)

    def call(*arguments: str, output_path: str = "../out", recall_sample: int = 0) -> Ended:
        where = ("input_path=../data", f"output_path={output_path}")
        common = (*where, "n_clusters=3", f"recall_sample={recall_sample}", "verbose=false")
        return semdedup(*common, "-m", *arguments)

    return call


def _summary(output: Path) -> dict[str, Any]:
    return json.loads((output / "summary.json").read_text())


def _units(output: Path) -> tuple[int, int]:
    stages = _summary(output)["stages"]
    return stages["assign"]["units_done"], stages["pairwise"]["units_done"]


def _table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_five_values_of_eps_cost_one_fit_and_one_comparison(sweep: Command, tmp_path: Path) -> None:
    ended = sweep(f"eps={','.join(map(str, EPS))}")
    assert (ended.code, ended.err) == (0, "")
    outputs = [tmp_path / "out" / f"eps={eps}" for eps in EPS]
    assert [_units(output) for output in outputs] == [(1, 1), (0, 0), (0, 0), (0, 0), (0, 0)]
    assert len(list((tmp_path / "out").glob("kmeans_results/*/centroids.npy"))) == 1
    scores = read_parquet(_summary(outputs[0])["paths"]["pairwise_results"])["cosine_sim_score"]
    for eps, output in zip(EPS, outputs, strict=True):
        found = read_parquet(output / "duplicates")
        assert found.num_rows == pc.sum(pc.greater_equal(scores, 1 - eps)).as_py()
        assert _summary(output)["num_duplicates"] == found.num_rows
        assert (output / "semdedup.yaml").exists()
    assert found.num_rows > 0


def test_five_values_of_eps_are_one_composition_and_one_pipeline(
    sweep: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed, compose = [], hydra.compose
    monkeypatch.setattr(hydra, "compose", lambda *a, **kw: composed.append(1) or compose(*a, **kw))
    piped, run = [], runners.run
    monkeypatch.setattr(runners, "run", lambda *a: piped.append(1) or run(*a))
    ended = sweep(f"eps={','.join(map(str, EPS))}")
    assert (ended.code, ended.err) == (0, "")
    assert (composed, piped) == ([1], [1])


def test_without_a_pipeline_the_same_duplicates_are_written(
    sweep: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = ["comparison_rows=5", "eps=0.5"]
    assert sweep(*sizes).code == 0
    assert sweep(*sizes, "cache_path=../out", output_path="../here").code == 0
    monkeypatch.setattr(workflow, "_FEW_ROWS", 59)
    piped, run = [], runners.run
    monkeypatch.setattr(runners, "run", lambda *a: piped.append(1) or run(*a))
    assert sweep(*sizes, "cache_path=../out", output_path="../piped").code == 0
    assert piped == [1]
    found = [{f.name: f.read_bytes() for f in tmp_path.glob(f"{n}/duplicates/*")} for n in ("out", "here", "piped")]
    assert len(found[0]) > 0
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("argument", ["runner=direct,nothing", "kmeans=local,direct"])
def test_a_choice_that_is_not_known_is_told_before_the_first_job(argument: str, sweep: Command, tmp_path: Path) -> None:
    ended = sweep(argument, "eps=0.05,0.5")
    assert (ended.code, ended.out) == (2, "")
    assert re.search(f"{argument.partition(',')[2]}: {argument.partition('=')[0]} is one of: ", ended.err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("output_path", "said"),
    [
        ("../out/${nope}", "output_path: Interpolation key 'nope' not found"),
        ("../out/${hydra:job.num}", "ValueError raised while resolving interpolation: .*output_path"),
        ("???", "output_path is required"),
    ],
)
def test_an_output_path_that_cannot_be_known_is_told(output_path: str, said: str, sweep: Command) -> None:
    ended = sweep("eps=0.05,0.5", output_path=output_path)
    assert (ended.code, ended.out) == (2, "")
    assert re.match(f"Error: {said}.*\n$", ended.err)


def test_a_sweep_that_asks_something_of_hydra_is_run_by_it(sweep: Command, tmp_path: Path) -> None:
    ended = sweep("eps=0.05,0.5", "hydra.sweeper.max_batch_size=1", f"hydra.sweep.dir={tmp_path}/hydra")
    assert (ended.code, ended.err) == (0, "")
    assert (tmp_path / "hydra" / "multirun.yaml").exists()
    assert [row["exit_code"] for row in _table(tmp_path / "out" / "sweep.csv")] == ["0", "0"]


def test_a_sweep_ends_with_a_table_and_a_csv(sweep: Command, tmp_path: Path) -> None:
    ended = sweep("eps=0.05,0.5", recall_sample=1000)
    rows = _table(tmp_path / "out" / "sweep.csv")
    assert [row["eps"] for row in rows] == ["0.05", "0.5"]
    for row in rows:
        found = _summary(tmp_path / "out" / f"eps={row['eps']}")
        assert int(row["duplicates"]) == found["num_duplicates"]
        assert float(row["kept_share"]) == round(found["rows_kept"] / 60, 4)
        assert float(row["seconds"]) == found["total_time"]
        assert row["output_path"] == found["paths"]["output"]
        assert row["exit_code"] == "0"
        printed = next(line for line in ended.out.splitlines() if f"│ {row['eps']} " in line)
        assert all(value in printed for value in (row["duplicates"], row["kept_share"], row["seconds"], row["reused"]))
    assert [row["reused"] for row in rows] == ["", "fit, assign, pairwise, recall"]
    assert f"The table is in {tmp_path}/out/sweep.csv" in ended.out
    assert ended.out.index("\neps=0.05\n") < ended.out.index("\neps=0.5\n") < ended.out.index("Sweep")


def test_jobs_with_their_own_output_paths_keep_them(sweep: Command, tmp_path: Path) -> None:
    ended = sweep("eps=0.05,0.5", output_path="../results/eps-${eps}")
    assert ended.code == 0, ended.err
    outputs = [tmp_path / "results" / f"eps-{eps}" for eps in ("0.05", "0.5")]
    assert [_units(output) for output in outputs] == [(1, 1), (1, 1)]
    assert len(_table(tmp_path / "results" / "sweep.csv")) == 2


def test_jobs_with_their_own_output_paths_share_a_cache_where_the_table_goes(sweep: Command, tmp_path: Path) -> None:
    ended = sweep("eps=0.05,0.5", "cache_path=../cache", output_path="../results/eps-${eps}")
    assert ended.code == 0, ended.err
    outputs = [tmp_path / "results" / f"eps-{eps}" for eps in ("0.05", "0.5")]
    assert [_units(output) for output in outputs] == [(1, 1), (0, 0)]
    assert len(_table(tmp_path / "cache" / "sweep.csv")) == 2
    assert not list((tmp_path / "results").glob("*/kmeans_results"))


@pytest.mark.slow
def test_jobs_that_share_an_output_path_and_name_a_cache_use_it(sweep: Command, tmp_path: Path) -> None:
    sweep("eps=0.05,0.5", "cache_path=../cache")
    assert len(_table(tmp_path / "out" / "sweep.csv")) == 2
    assert not (tmp_path / "out" / "kmeans_results").exists()
    assert (tmp_path / "cache" / "kmeans_results").exists()


def test_a_sweep_over_which_to_keep_costs_one_fit(sweep: Command, tmp_path: Path) -> None:
    assert sweep("which_to_keep=hard,easy,random", "eps=0.05").code == 0
    outputs = [tmp_path / "out" / f"which_to_keep={which}" for which in ("hard", "easy", "random")]
    assert [_units(output) for output in outputs] == [(1, 1), (0, 1), (0, 1)]


@pytest.mark.slow
def test_a_sweep_over_n_clusters_computes_each_number_once(sweep: Command, tmp_path: Path) -> None:
    assert sweep("n_clusters=2,3", "eps=0.05,0.5").code == 0
    names = [f"n_clusters={clusters},eps={eps}" for clusters in (2, 3) for eps in (0.05, 0.5)]
    assert [_units(tmp_path / "out" / name) for name in names] == [(1, 1), (0, 0), (1, 1), (0, 0)]
    assert [_summary(tmp_path / "out" / name)["n_clusters"] for name in names] == [2, 2, 3, 3]


def test_the_worst_job_gives_the_exit_code_and_the_others_are_done(sweep: Command, tmp_path: Path) -> None:
    ended = sweep("n_clusters=2,100,3", "eps=0.05")
    assert ended.code == 2
    assert "n_clusters=100 is more than the 60 rows of the input" in ended.err
    assert "Traceback" not in ended.err
    rows = _table(tmp_path / "out" / "sweep.csv")
    assert [(row["n_clusters"], row["exit_code"]) for row in rows] == [("2", "0"), ("100", "2"), ("3", "0")]
    assert rows[1]["duplicates"] == ""
    assert not (tmp_path / "out" / "n_clusters=100" / "summary.json").exists()


def test_what_is_wrong_with_every_job_is_told_once(sweep: Command, tmp_path: Path) -> None:
    ended = sweep("n_cluster=2,3", "eps=0.05")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "Error: unknown parameter n_cluster; did you mean n_clusters?\n"
    assert not (tmp_path / "out").exists()


def test_a_sweep_leaves_nothing_in_the_working_directory(sweep: Command, tmp_path: Path) -> None:
    assert sweep("eps=0.05,0.5").code == 0
    assert list(Path.cwd().iterdir()) == []
    assert len(list((tmp_path / "data").iterdir())) == 2
    names = {"eps=0.05", "eps=0.5", "kmeans_results", "pairwise_results", "sweep.csv"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


@pytest.mark.parametrize(
    ("outputs", "parent"),
    [
        (["s3://b/x", "s3://b/y"], "s3://b"),
        (["s3://b/r/eps-1", "s3://b/r/eps-2"], "s3://b/r"),
        (["s3://b/r", "s3://b/r/inner"], "s3://b/r"),
        (["s3://b/r-1", "s3://b/r-2"], "s3://b"),
        (["s3://b/x", "s3://c/x"], "s3://b/x"),
        (["s3://b/x", "gs://b/x"], "s3://b/x"),
        (["/data/x", "s3://b/x"], "/data/x"),
        (["/data/x", "/data/y"], "/data"),
        (["/data/x", "/mnt/x"], "/data/x"),
        (["ftp://u@host/x"], "ftp://u@host/x"),
    ],
)
def test_the_table_goes_where_the_outputs_have_a_directory_in_common(outputs: list[str], parent: str) -> None:
    assert _common_parent(outputs) == parent


@pytest.mark.parametrize("cache", [[], ["cache_path=../cache"], ["cache_path=../cache", "cache_kwargs={}"]])
@pytest.mark.parametrize("output_path", ["../out", "../results/eps-${eps}"])
def test_the_table_is_written_with_the_options_of_its_place(
    output_path: str, cache: list[str], sweep: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr(File, "write_bytes", lambda file, data: written.append((Path(file.url), file.options)))
    monkeypatch.setattr(cli, "_deduplicate", _pretend)
    ended = sweep("eps=0.05,0.5", "write_kwargs={storage_options: {key: w}}", *cache, output_path=output_path)
    assert ended.code == 0, ended.err
    root = Path.cwd().parent
    if output_path == "../out":
        expected = root / "out", {"key": "w"}
    elif cache:
        expected = root / "cache", {} if "cache_kwargs={}" in cache else {"key": "w"}
    else:
        expected = root / "results", {"key": "w"}
    assert written == [(expected[0] / "sweep.csv", expected[1])]


def _pretend(parameters: Any) -> dict[str, Any]:
    """The outcome of a job that was not run."""
    output = Path(parameters.output_path).resolve()
    facts = {"num_duplicates": 1, "rows_kept": 59, "rows_read": 60, "total_time": 0.1, "stages": {}}
    return {"summary": {**facts, "paths": {"output": str(output)}}}


@pytest.mark.parametrize(
    "override",
    ["id_field='甲','乙'", "embedding_field=x/a,x_a", f"embedding_field={'a' * 200},{'a' * 201}"],
    ids=["letters", "slash", "long"],
)
def test_jobs_whose_values_cannot_name_a_directory_have_one_each(
    override: str, sweep: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli, "_deduplicate", _pretend)
    outputs = []
    for _ in range(2):
        ended = sweep(override)
        assert ended.code == 0, ended.err
        outputs.append([Path(row["output_path"]) for row in _table(tmp_path / "out" / "sweep.csv")])
    assert outputs[0] == outputs[1]
    first, second = outputs[0]
    assert first != second
    for output in (first, second):
        assert output.parent == tmp_path / "out"
        assert re.fullmatch(r"\w+_field=[\w.-]{1,150}", output.name, re.ASCII)


def test_jobs_of_a_removal_do_not_replace_each_others_files(
    called: Callable[..., Ended], make_dataset: Callable[..., Any], tmp_path: Path
) -> None:
    data = make_dataset(tmp_path / "data", rows=60, copies=10)
    for eps in EPS[::4]:
        dedup(data.path, tmp_path / f"{eps}", eps=eps)
    fixed = (f"input_path={data.path}", f"output_path={tmp_path}/kept", "verbose=false")
    ended = called(
        cli.remove_main, *fixed, "-m", f"duplicates_path={','.join(f'{tmp_path}/{eps}' for eps in EPS[::4])}"
    )
    assert ended.code == 0, ended.err
    kept = [read_parquet(directory).num_rows for directory in (tmp_path / "kept").iterdir()]
    assert len(set(kept)) == 2


def test_a_table_that_cannot_be_written_is_a_warning(sweep: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, *_: Any) -> None:
        raise PermissionError(url)

    monkeypatch.setattr(File, "write_bytes", refuse)
    monkeypatch.setattr(cli, "_deduplicate", _pretend)
    ended = sweep("eps=0.05,0.5")
    assert ended.code == 0
    assert ended.err.startswith("Warning: the table could not be written: PermissionError: ")
    assert "Traceback" not in ended.err
    assert "Sweep" in ended.out


@pytest.mark.parametrize(
    ("arguments", "output_path", "home"),
    [
        (["eps=0.05,0.5"], "../out", "out"),
        (["eps=0.05,0.5", "cache_path=../cache"], "../results/eps-${eps}", "cache"),
        (["eps=0.05"], "../results/a,../results/b", "results"),
        (["eps=0.05,0.5"], "../results/a,../results/b", "results"),
    ],
)
def test_a_foreign_table_is_not_replaced(
    arguments: list[str], output_path: str, home: str, sweep: Command, tmp_path: Path
) -> None:
    table = tmp_path / home / "sweep.csv"
    table.parent.mkdir()
    table.write_text("precious\n")
    ended = sweep(*arguments, output_path=output_path)
    assert (ended.code, ended.out) == (2, "")
    assert re.fullmatch(f"Error: {table} is not from this program; .* give another output_path\n", ended.err)
    assert table.read_text() == "precious\n"
    assert [path for path in tmp_path.rglob("*") if path.suffix in (".arrow", ".json", ".yaml")] == []


@pytest.mark.slow
def test_a_table_of_an_earlier_sweep_is_replaced_even_of_one_whose_jobs_failed(sweep: Command, tmp_path: Path) -> None:
    assert sweep("n_clusters=100,2").code == 2
    assert sweep("n_clusters=2,3", "eps=0.1").code == 0
    assert [row["n_clusters"] for row in _table(tmp_path / "out" / "sweep.csv")] == ["2", "3"]


def test_brackets_are_shown(sweep: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cli, "_deduplicate", _pretend)
    ended = sweep("ranking_strategy={metadata_cols: [id]},{metadata_cols: [text]}")
    assert ended.code == 0, ended.err
    assert "│ {metadata_cols:[id]} " in ended.out
    assert _table(tmp_path / "out" / "sweep.csv")[1]["ranking_strategy"] == "{metadata_cols:[text]}"


def test_paths_with_special_characters_are_swept(sweep: Command, tmp_path: Path) -> None:
    outputs = [tmp_path / "a=1", tmp_path / "ä (2)"]
    ended = sweep("eps=0.05", output_path=",".join(map(str, outputs)))
    assert (ended.code, ended.err) == (0, "")
    rows = _table(tmp_path / "sweep.csv")
    assert [row["output_path"] for row in rows] == list(map(str, outputs))
    assert all((output / "summary.json").exists() for output in outputs)


def test_jobs_that_share_one_of_several_outputs_are_named_by_what_else_they_vary(
    sweep: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_deduplicate", _pretend)
    ended = sweep("eps=0.05,0.5", output_path=f"{tmp_path}/a=1,{tmp_path}/b")
    assert ended.code == 0, ended.err
    found = [row["output_path"] for row in _table(tmp_path / "sweep.csv")]
    assert found == [f"{tmp_path}/{output}/eps={eps}" for output in ("a=1", "b") for eps in ("0.05", "0.5")]


def test_no_credential_of_a_sweep_is_written_or_shown(
    sweep: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, write = [], Path.write_text
    monkeypatch.setattr(Path, "write_text", lambda self, text: written.append(text) or write(self, text))
    ended = sweep("eps=0.05,0.5", "write_kwargs.storage_options.key=SECRET")
    assert ended.code == 0, ended.err
    assert len(written) == 2
    assert "SECRET" not in ended.out + "".join(written)
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in kept if b"SECRET" in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.7])
def test_jobs_that_need_the_same_stages_at_the_same_time_all_find_what_one_alone_finds(
    seconds: float, tmp_path: Path
) -> None:
    """They share a cache and differ in eps, in the sizes of their units, and in what they would plan."""
    fixed = [f"input_path={DEMO}", "n_clusters=40", f"cache_path={tmp_path}/cache", "max_iter=5", "verbose=false"]
    sizes = [["comparison_rows=300", "assign_unit_bytes=500KB"], ["comparison_rows=1000", "assign_unit_bytes=1MB"], []]
    processes = []
    for number, own in enumerate(sizes):
        processes.append(start([*fixed, *own, f"output_path={tmp_path}/{number}", f"eps=0.0{number + 3}"], tmp_path))
        time.sleep(seconds)
    for process in processes:
        assert finish(process).code == 0, process.args
    init = np.load(next((tmp_path / "cache").glob("kmeans_results/*/centroids.npy")))
    for number in range(len(sizes)):
        alone = dedup(DEMO, tmp_path / "alone", init=init, max_iter=0, n_clusters=40, eps=0.01 * (number + 3))
        assert read_parquet(tmp_path / str(number) / "duplicates").sort_by("id").equals(duplicates(alone))


@pytest.mark.slow
def test_jobs_of_a_sweep_run_beside_each_other_with_the_joblib_launcher_and_it_ends(
    sweep: Command, tmp_path: Path
) -> None:
    given = ["input_path=data", "output_path=beside", "n_clusters=3", "eps=0.05,0.2"]
    ended = finish(start(["-m", *given, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], tmp_path), seconds=100)
    assert ended.code == 0, ended.err
    sweep("eps=0.05,0.2")
    beside, after = (
        {row["eps"]: int(row["duplicates"]) for row in _table(tmp_path / name / "sweep.csv")}
        for name in ("beside", "out")
    )
    assert beside == after
    assert len(beside) == 2


def test_every_command_that_writes_gives_its_jobs_an_output_each(
    called: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs: list[str] = []

    def embed(p: EmbedParameters) -> EmbeddingResult:
        outputs.append(p.output_path)
        return EmbeddingResult(rows=1, nulls=0, malformed=0, broken=0, files=(), seconds=1.0)

    monkeypatch.setattr("beam_semdedup.embed.job.embed_texts", embed)
    ended = called(cli.embed_main, "input_path=t", "output_path=out", "model=m", "-m", "dtype=float32,float16")
    assert ended.code == 0, ended.err
    assert outputs == ["out/dtype=float32", "out/dtype=float16"]


@pytest.mark.parametrize("name", [n for n in vars(parameters) if n.endswith("Parameters") and n != "WriterParameters"])
def test_what_has_an_output_to_clear_says_that_it_writes(name: str) -> None:
    schema = getattr(parameters, name)
    names = {field.name for field in dataclasses.fields(schema)}
    assert issubclass(schema, parameters.WriterParameters) == ({"clear_output", "runner"} <= names)
