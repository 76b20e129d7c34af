"""The command as a user types it: what it says, how it ends, what it leaves and what it does not."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from runs import Ended, dedup, finish, read_parquet, start

from beam_semdedup.cli import commands as cli
from beam_semdedup.storage import folder

Command = Callable[..., Ended]


@pytest.fixture
def data(make_dataset: Callable[..., Any], tmp_path: Path) -> Path:
    """60 rows in two files, in the directory `data`."""
    make_dataset(tmp_path / "data", rows=60, copies=10, files=2, ids="string", clusters=3)
    return tmp_path / "data"


@pytest.fixture
def refused(semdedup: Command, data: Path, tmp_path: Path) -> Command:
    """Calls the command and checks that it refuses as it should: exit code 2, a message, nothing done."""

    def call(*arguments: object, input_path: object = data) -> Ended:
        before = _tree(tmp_path)
        ended = semdedup(f"input_path={input_path}", f"output_path={tmp_path / 'out'}", "n_clusters=3", *arguments)
        assert ended.code == 2, ended
        assert "Traceback" not in ended.err
        assert ended.out == ""
        assert not list(tmp_path.rglob("*.arrow"))
        assert not (tmp_path / "out" / "summary.json").exists()
        assert {p for p in _tree(tmp_path) if not p.startswith("out")} == before
        return ended

    return call


def _tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("n_cluster=3", "unknown parameter n_cluster; did you mean n_clusters?"),
        ("fooled=3", "unknown parameter fooled; see --help"),
        ("runner.num_worker=2", "unknown parameter runner.num_worker; did you mean runner.num_workers?"),
        ("n_clusters=many", "n_clusters='many': expected an integer$"),
        ("verbose=maybe", "verbose='maybe': expected true or false$"),
        ("metadata_fields=text", "metadata_fields='text': expected a list of text$"),
        ("n_clusters=0", "n_clusters=0 is out of range: it must be at least 1"),
        ("eps=2", r"eps=2 is out of range: it must be below 2"),
        ("eps=-0.1", r"eps=-0.1 is out of range: it must be at least 0"),
        ("eps=nan", "eps=nan is out of range"),
        ("fit_data_fraction=1.5", "fit_data_fraction=1.5 is out of range: it must be at most 1"),
        ("runner.num_workers=0", "runner.num_workers=0 is out of range"),
        ("runner.num_workers=two", "runner.num_workers='two': expected an integer or auto"),
        ("runner=flank", "runner is one of: direct"),
        ("which_to_keep=soft", "which_to_keep='soft' is not known; it is one of: hard, easy, random"),
        ("memory_budget=4Giga", "memory_budget: '4Giga' is not a size such as 4GiB"),
        ("read_kwargs={option: 1}", "read_kwargs has an unknown key 'option'; known: storage_options"),
        ("write_kwargs.storage_option.key=1", "write_kwargs has an unknown key 'storage_option'"),
        (
            "n_clusters=[1,",
            r"n_clusters=\[1,: cannot be understood; a list is written \[a, b\], a mapping \{a: 1, b: 2\}$",
        ),
        ("eps=0.1;0.2", "eps='0.1;0.2': expected a number"),
        ("runner.num_cpus=2", "runner.num_cpus belongs to runner=ray: add runner=ray$"),
        ("kmeans.num_actors=2", "kmeans.num_actors belongs to kmeans=ray: add kmeans=ray$"),
        ("runner.flink_master=host:8081", "runner.flink_master belongs to runner=flink: add runner=flink$"),
        ("threshold=0.9", r"unknown parameter threshold; did you mean eps \(= 1 - threshold\)\?"),
        ("num_clusters=9", "unknown parameter num_clusters; did you mean n_clusters?"),
        ("cache_path=${HOME}/c", r"cache_path: Interpolation key 'HOME' not found; .* written \$\{oc.env:HOME\}"),
        ("cache_path=${HOME}/ä", r"cache_path: Interpolation key 'HOME' not found; .* written \$\{oc.env:HOME\}"),
        ("n_clusters", "cannot understand 'n_clusters': parameters are given as name=value"),
        ("=3", "cannot understand '=3'"),
        ("eps=0.1,0.2", "eps=0.1,0.2: several values are a sweep: add -m"),
        ("remove=true", "remove=true needs eps"),
        ("max_iter=0", "max_iter=0 fits nothing: it needs init="),
        ("init=nowhere.npy", r"init=\S*nowhere.npy: cannot be read: .*No such file"),
        ("n_clusters=61", "n_clusters=61 is more than the 60 rows of the input"),
        ("id_field=name", r"part-0.parquet: no column 'name'; it has: id, embeddings, text, quality"),
        ("embedding_field=vector", r"part-0.parquet: no column 'vector'; it has: id, embeddings, text, quality"),
        ("metadata_fields=[url]", r"part-0.parquet: no column 'url'; it has: id, embeddings, text, quality"),
        ("ranking_strategy={metadata_cols: [url]}", r"part-0.parquet: no column 'url'; it has: "),
        ("id_field=quality", r"part-0.parquet: id column 'quality' is double, expected integer, string or binary"),
        ("embedding_field=text", r"part-0.parquet: embedding column 'text' is string, expected a list of float"),
        ("input_filetype=jsonl", "no .jsonl .* files at .*data; it has 2 with .parquet: set input_filetype"),
    ],
)
def test_a_bad_parameter_is_named(argument: str, message: str, refused: Command) -> None:
    said = refused(argument).err
    assert re.search(message, said, re.MULTILINE), said


@pytest.mark.parametrize("missing", ["input_path", "output_path"])
def test_a_required_parameter_is_asked_for(missing: str, semdedup: Command, data: Path, tmp_path: Path) -> None:
    given = {"input_path": data, "output_path": tmp_path / "out"}
    ended = semdedup(*(f"{name}={value}" for name, value in given.items() if name != missing))
    assert (ended.code, ended.err) == (2, f"Error: {missing} is required: give {missing}=…\n")


@pytest.mark.parametrize("name", ["output_path", "input_path"])
def test_an_empty_path_is_refused(name: str, refused: Command) -> None:
    assert name in refused(f"{name}=").err


@pytest.mark.parametrize("path", ["nowhere", "nowhere/*.parquet", "s4://bucket/in"])
def test_input_that_does_not_exist_is_named(path: str, refused: Command) -> None:
    assert path in refused(input_path=path).err


def test_a_file_that_is_not_parquet_is_named(refused: Command, data: Path) -> None:
    (data / "b.parquet").write_text("id,embeddings\n" * 9)
    assert f"{data}/b.parquet: not a readable parquet file" in refused().err


@pytest.mark.parametrize("size", [0, 5, 1000, -9])
def test_a_truncated_file_is_named(size: int, refused: Command, data: Path) -> None:
    whole = (data / "part-1.parquet").read_bytes()
    (data / "part-1.parquet").write_bytes(whole[:size])
    assert f"{data}/part-1.parquet: not a readable parquet file" in refused().err


def test_two_files_with_different_dimensions_are_both_named(refused: Command, data: Path) -> None:
    table = pq.read_table(data / "part-1.parquet")
    shorter = pa.array([v[:7] for v in table["embeddings"].to_pylist()], pa.list_(pa.float32()))
    pq.write_table(table.set_column(1, "embeddings", shorter), data / "part-1.parquet")
    message = rf"dimension 16 in {data}/part-0.parquet and 7 in {data}/part-1.parquet"
    assert re.search(message, refused().err)


def test_two_files_with_different_types_are_both_named(refused: Command, data: Path) -> None:
    table = pq.read_table(data / "part-1.parquet")
    pq.write_table(table.set_column(0, "id", pa.array(range(len(table)))), data / "part-1.parquet")
    message = rf"column 'id' is string in {data}/part-0.parquet and int64 in {data}/part-1.parquet"
    assert re.search(message, refused().err)


@pytest.mark.parametrize("embedding_type", [pa.list_(pa.float32()), pa.list_(pa.float16(), 16)], ids=str)
def test_a_dimension_that_no_row_has_is_bad_input(
    embedding_type: pa.DataType, semdedup: Command, make_dataset: Callable[..., Any], tmp_path: Path
) -> None:
    data = make_dataset(rows=40, copies=0, embedding_type=embedding_type)
    ended = semdedup(f"input_path={data.path}", f"output_path={tmp_path}/out", "n_clusters=3", "embedding_dim=3")
    assert ended.code == 2
    assert ended.err.endswith("part-0.parquet: 'embeddings' has dimension 16, embedding_dim=3\n")


def test_input_without_rows_is_refused(refused: Command, data: Path) -> None:
    for file in data.iterdir():
        pq.write_table(pq.read_table(file).slice(0, 0), file)
    assert "without a single row" in refused().err


@pytest.mark.parametrize("content", [b"", b"nothing", np.zeros(3)], ids=["empty", "text", "one dimension"])
def test_centroids_that_are_none_are_refused(content: Any, refused: Command, data: Path) -> None:
    path = data.parent / "c.npy"
    np.save(path, content) if isinstance(content, np.ndarray) else path.write_bytes(content)
    assert f"init={path}: " in refused(f"init={path}").err


@pytest.mark.parametrize("shape", [(3, 5), (4, 16)])
def test_centroids_of_another_shape_are_refused(shape: tuple[int, int], refused: Command, data: Path) -> None:
    np.save(data.parent / "c.npy", np.ones(shape))
    assert "centroids" in refused(f"init={data.parent}/c.npy").err


@pytest.mark.parametrize("name", ["output_path", "cache_path"])
@pytest.mark.parametrize("place", ["data", "data/inner", "data/../data/inner/", "../{}/data"])
def test_results_inside_the_input_are_refused(name: str, place: str, refused: Command, data: Path) -> None:
    path = f"{data.parent}/{place.format(data.parent.name)}"
    assert f"{name}={path} lies inside input_path={data}" in refused(f"{name}={path}").err


def test_input_among_the_results_is_refused(semdedup: Command, data: Path, tmp_path: Path) -> None:
    data.rename(tmp_path / "duplicates")
    ended = semdedup(f"input_path={tmp_path}/duplicates", f"output_path={tmp_path}", "n_clusters=3")
    assert ended.code == 2
    assert "part-0.parquet is a result in output_path" in ended.err
    assert len(list((tmp_path / "duplicates").iterdir())) == 2


@pytest.mark.parametrize(
    "quoted", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["as it is", "in Hydra's quotes"]
)
@pytest.mark.parametrize("special", ["date=2026-01-01", "ä b", "a&b", "a(b", "it's", 'say "x"', "[a]"])
def test_a_path_may_have_special_characters(
    special: str, quoted: bool, semdedup: Command, data: Path, tmp_path: Path
) -> None:
    paths = {"input_path": tmp_path / special / "in", "output_path": tmp_path / special / "out"}
    paths["input_path"].parent.mkdir()
    data.rename(paths["input_path"])
    given = {name: str(path).replace('"', '\\"') if quoted else path for name, path in paths.items()}
    arguments = [f'{name}="{path}"' if quoted else f"{name}={path}" for name, path in given.items()]
    ended = semdedup(*arguments, "n_clusters=3", "eps=0.05", "recall_sample=0", "verbose=false")
    assert (ended.code, ended.err) == (0, "")
    assert (paths["output_path"] / "summary.json").exists()


def test_the_home_directory_may_be_written_as_in_a_shell(
    semdedup: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(data.parent))
    ended = semdedup("input_path=~/data", "output_path=~/out", "n_clusters=3", "eps=0.05")
    assert ended.code == 0, ended.err
    assert (data.parent / "out" / "summary.json").exists()


def test_a_path_with_a_comma_works_in_the_quotes_that_the_message_shows(
    semdedup: Command, data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a,b=1"
    data.rename(path)
    # More clusters than rows: the answer shows that the input was found, and nothing needs to run.
    others = (f"output_path={tmp_path}/out", "n_clusters=61")
    refused = semdedup(f"input_path={path}", *others)
    assert "several values are a sweep: add -m" in refused.err
    shown = re.search(r"'input_path=\"/.*\"'", refused.err)
    assert shown
    assert "n_clusters=61 is more than the 60 rows of the input" in semdedup(*shlex.split(shown[0]), *others).err


def test_a_removal_takes_special_characters(called: Callable[..., Ended], data: Path, tmp_path: Path) -> None:
    dedup(data, tmp_path / "sw" / "eps=0.03", n_clusters=3)
    paths = (f"input_path={data}", f"duplicates_path={tmp_path}/sw/eps=0.03", f"output_path={tmp_path}/ä=1")
    ended = called(cli.remove_main, *paths, "verbose=false")
    assert (ended.code, ended.err) == (0, "")
    assert read_parquet(tmp_path / "ä=1").num_rows < 60


@pytest.mark.parametrize("name", ["output_path", "cache_path"])
def test_a_place_that_cannot_be_written_is_named_as_it_was_given(
    name: str, refused: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(type(Path())):  # type: ignore[misc]
        def mkdir(self, *_: Any, **__: Any) -> None:
            raise PermissionError(13, "Permission denied")  # which the root of a container never meets

    monkeypatch.setattr(folder, "Path", Refused)
    cache = [f"cache_path={data.parent}/cache"] if name == "cache_path" else []
    place = data.parent / name.replace("output_path", "out").replace("_path", "")
    said = refused(*cache).err
    assert f"Error: {name}={place}: {place}/" in said
    assert "cannot be written: PermissionError: Permission denied" in said


def test_output_in_a_file_is_refused_by_name(semdedup: Command, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = semdedup(f"input_path={data}", f"output_path={tmp_path}/file", "n_clusters=3")
    assert ended.code == 2
    assert f"Error: output_path={tmp_path}/file: {tmp_path}/file/duplicates: NotADirectoryError" in ended.err


class TestAStoredRun:
    """`--config-path` with the output of an earlier run."""

    def test_is_repeated(self, semdedup: Command, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        given = ("input_path=../data", "output_path=../out", "n_clusters=4", "eps=0.05", "metadata_fields=[text]")
        assert semdedup(*given, "which_to_keep=easy", "verbose=false", "runner.num_workers=auto").code == 0
        out = data.parent / "out"
        first, configuration = _tree(out), (out / "semdedup.yaml").read_text()
        monkeypatch.chdir("/")
        ended = semdedup(f"--config-path={out}")
        assert (ended.code, ended.err) == (0, "")
        assert re.search(r"pairwise +0.0 +0 +1\n", ended.out)
        assert _tree(out) == first
        again = (out / "semdedup.yaml").read_text()
        assert re.sub("# Run .*", "", again) == re.sub("# Run .*", "", configuration)

    @pytest.mark.parametrize("option", [["--config-path", "../out"], ["-cp", "../out"], ["--config-path=../out"]])
    def test_is_repeated_with_something_else(self, option: list[str], semdedup: Command, data: Path) -> None:
        first = dedup(data, data.parent / "out", n_clusters=3, runner={"name": "direct", "num_workers": 1})
        ended = semdedup(*option, "output_path=../other=1", "cache_path=../out", "eps=0.5", "runner.num_workers=1")
        assert ended.code == 0, ended.err
        found = json.loads((data.parent / "other=1" / "summary.json").read_text())
        assert (found["n_clusters"], found["eps"], found["stages"]["pairwise"]["units_done"]) == (3, 0.5, 0)
        assert found["num_duplicates"] > (first.num_duplicates or 0)
        assert list(Path.cwd().iterdir()) == []

    def test_keeps_the_settings_of_its_groups_unless_others_are_chosen(
        self, semdedup: Command, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stored = {"input_path": [str(data)], "output_path": "../out", "runner": {"name": "ray", "num_cpus": 2.0}}
        Path("semdedup.yaml").write_text(json.dumps(stored))
        seen = []
        monkeypatch.setattr(cli, "_deduplicate", lambda parameters: seen.append(parameters.runner) or {})
        for more in ([], ["runner.num_cpus=3"], ["runner=direct"], ["runner=ray"]):
            assert semdedup("--config-path=.", *more).code == 0
        assert [(r.name, getattr(r, "num_cpus", None)) for r in seen] == [
            *(("ray", 2.0), ("ray", 3.0), ("direct", None), ("ray", 2.0))
        ]
        assert "runner.options belongs to runner=flink" in semdedup("--config-path=.", "runner.options={}").err

    def test_is_swept(self, semdedup: Command, data: Path) -> None:
        dedup(data, data.parent / "out", n_clusters=3)
        ended = semdedup("-m", "--config-path=../out", "eps=0.1,0.5")
        assert ended.code == 0, ended.err
        for eps in ("0.1", "0.5"):
            found = json.loads((data.parent / "out" / f"eps={eps}" / "summary.json").read_text())
            assert (found["n_clusters"], found["stages"]["pairwise"]["units_done"]) == (3, 0)

    def test_may_be_written_by_hand(self, semdedup: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("semdedup.yaml").write_text(
            "input_path: in\noutput_path: o/${eps}\nkmeans: ray\nrunner: {num_workers: 3}\n"
        )
        seen = []
        monkeypatch.setattr(cli, "_deduplicate", lambda parameters: seen.append(parameters) or {})
        assert semdedup("--config-path=.", "eps=0.5").code == 0
        (found,) = seen
        assert (found.output_path, found.kmeans.name, found.runner.num_workers, found.max_iter) == (
            "o/0.5",
            "ray",
            3,
            300,
        )

    def test_may_lose_a_value(self, semdedup: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        stored = {"input_path": "in", "output_path": "out", "n_clusters": 3, "runner": "ray"}
        stored["read_kwargs"] = {"storage_options": {"profile": "***", "anon": False}}
        Path("semdedup.yaml").write_text(json.dumps(stored))
        seen = []
        monkeypatch.setattr(cli, "_deduplicate", lambda parameters: seen.append(parameters) or {})
        assert "give it again: read_kwargs.storage_options.profile=…" in semdedup("--config-path=.").err
        dropped = ("~read_kwargs.storage_options.profile", "~n_clusters", "~runner")
        ended = semdedup("--config-path=.", *dropped)
        assert ended.code == 0, ended.err
        (found,) = seen
        assert (found.read_options, found.n_clusters, found.runner.name) == ({"anon": False}, None, "direct")

    def test_may_be_of_a_time_when_parameters_had_other_names(
        self, semdedup: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("semdedup.yaml").write_text("input_path: in\noutput_path: out\nunit_rows: 7\n")
        seen = []
        monkeypatch.setattr(cli, "_deduplicate", lambda parameters: seen.append(parameters.comparison_rows) or {})
        for more in ([], ["comparison_rows=8"], ["unit_rows=9"]):
            assert semdedup("--config-path=.", *more).code == 0
        assert seen == [7, 8, 9]

    @pytest.mark.parametrize(
        ("runner", "setting", "given"),
        [
            ({"name": "ray", "runtime_env": {"pip": ["evil"]}}, "runtime_env", "{pip: [good]}"),
            ({"name": "flink", "flink_job_server_jar": "/evil.jar"}, "flink_job_server_jar", "/good.jar"),
            (
                {"name": "flink", "options": {"job_server_jvm_properties": ["-javaagent:/evil.jar"]}},
                "options",
                "{job_server_jvm_properties: [-Xmx1g]}",
            ),
        ],
    )
    def test_runs_no_code_that_it_names_unless_it_is_trusted(
        self,
        runner: dict[str, Any],
        setting: str,
        given: str,
        semdedup: Command,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        Path("semdedup.yaml").write_text(json.dumps({"input_path": "in", "output_path": "out", "runner": runner}))
        seen = []
        monkeypatch.setattr(cli, "_deduplicate", lambda parameters: seen.append(parameters.runner) or {})
        name = f"runner.{setting}"
        refused = (["eps=0.5"], ["trust_stored=false"], [f"runner={runner['name']}"])
        inner = [f"{name}.pip=[good]"] if setting == "runtime_env" else ["runner.num_workers=2"]
        for more in (*refused, inner):
            ended = semdedup("--config-path=.", *more)
            assert (ended.code, seen) == (2, [])
            assert f"--config-path=.: {name} has code run, and is not taken from a stored file: " in ended.err
        accepted: list[list[str]] = [["trust_stored=true"], [f"{name}={given}"], [f"~{name}"], ["runner=direct"]]
        for more in accepted:
            ended = semdedup("--config-path=.", *more)
            assert ended.code == 0, ended.err
        trusted, replaced, dropped, other = (getattr(found, setting, None) for found in seen)
        assert trusted == runner[setting]
        assert "good" in str(replaced) or "-Xmx1g" in str(replaced)
        assert "evil" not in f"{replaced}{dropped}{other}"
        assert "unknown parameter trust_stored" in semdedup("input_path=a", "output_path=b", "trust_stored=true").err

    def test_resolves_nothing_but_its_own_values_unless_it_is_trusted(
        self, semdedup: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("semdedup.yaml").write_text("input_path: in\noutput_path: s3://evil/${oc.env:HOME}\n")
        seen = []
        monkeypatch.setattr(cli, "_deduplicate", lambda parameters: seen.append(parameters.output_path) or {})
        ended = semdedup("--config-path=.")
        assert (ended.code, seen) == (2, [])
        assert "${…:…} in a stored file is not resolved" in ended.err
        assert semdedup("--config-path=.", "trust_stored=true").code == 0
        assert seen == [f"s3://evil/{os.environ['HOME']}"]

    @pytest.mark.parametrize(
        "content", [None, "- a", "a: [", "unheard: 1", "hydra: {job: {chdir: true}}", "defaults: [evil]"]
    )
    def test_that_is_none_is_refused(self, content: str | None, semdedup: Command) -> None:
        if content is not None:
            Path("semdedup.yaml").write_text(content)
        ended = semdedup("--config-path=.", "input_path=in", "output_path=out")
        assert ended.code == 2
        assert "Traceback" not in ended.err
        assert f"{Path.cwd()}/semdedup.yaml" in ended.err
        for name in ("unheard", "hydra", "defaults"):
            assert (f"unknown parameter {name}" in ended.err) == (name in (content or ""))


class TestAConfigurationOfOnesOwn:
    """`--config-dir` with a directory in which a user keeps what the commands are given."""

    @pytest.fixture
    def run(self, semdedup: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
        """Calls the command with `--config-dir=mine`, and returns the parameters of its jobs."""
        files = {
            "runner/mycluster.yaml": "name: ray\nnum_workers: 64\nnum_gpus: 1\n",
            "experiment/first.yaml": "# @package _global_\ndefaults: [override /runner: mycluster]\n"
            "input_path: in\noutput_path: out-${eps}\neps: 0.2\n",
            "whole.yaml": "defaults: [semdedup, override runner: mycluster, _self_]\n"
            "input_path: in\noutput_path: out\neps: 0.2\n",
        }
        for name, content in files.items():
            path = Path("mine", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

        def call(*arguments: str) -> list[Any]:
            seen: list[Any] = []
            monkeypatch.setattr(cli, "_deduplicate", lambda parameters: seen.append(parameters) or {})
            ended = semdedup("--config-dir=mine", *arguments)
            assert ended.code == 0, ended.err
            return seen

        return call

    def test_is_a_choice_as_the_others_are(self, run: Callable[..., list[Any]]) -> None:
        paths = ("input_path=in", "output_path=out")
        (found,) = run("runner=mycluster", *paths)
        assert (found.runner.name, found.runner.num_workers, found.runner.num_gpus) == ("ray", 64, 1)
        (found,) = run("runner=mycluster", "runner.num_workers=3", "runner.num_cpus=2", *paths)
        assert (found.runner.num_workers, found.runner.num_gpus, found.runner.num_cpus) == (3, 1, 2)
        swept = run("-m", "runner=mycluster,direct", *paths)
        assert [p.runner.name for p in swept] == ["ray", "direct"]

    @pytest.mark.parametrize("experiment", ["+experiment=first", "--config-name=whole"])
    def test_is_all_that_a_run_needs(self, experiment: str, run: Callable[..., list[Any]]) -> None:
        (found,) = run(experiment)
        assert (found.input_path, found.eps, found.runner.num_workers) == (["in"], 0.2, 64)
        swept = run("-m", experiment, "eps=0.1,0.3", "output_path=o/${eps}")
        assert [(p.eps, p.output_path, p.runner.num_workers) for p in swept] == [(0.1, "o/0.1", 64), (0.3, "o/0.3", 64)]

    def test_is_checked_as_what_is_typed(self, run: Callable[..., list[Any]], semdedup: Command) -> None:
        Path("mine/runner/wrong.yaml").write_text("name: ray\nnum_worker: 2\n")
        ended = semdedup("--config-dir=mine", "runner=wrong", "input_path=in", "output_path=out")
        said = "Error: unknown parameter runner.num_worker; did you mean runner.num_workers?\n"
        assert (ended.code, ended.err) == (2, said)

    def test_is_named_among_the_choices(self, run: Callable[..., list[Any]], semdedup: Command) -> None:
        ended = semdedup("--config-dir=mine", "runner=my", "input_path=in", "output_path=out")
        said = "Error: runner=my: runner is one of: direct, ray, flink, prism, mycluster\n"
        assert (ended.code, ended.err) == (2, said)

    def test_must_be_there(self, semdedup: Command) -> None:
        ended = semdedup("--config-dir=none", "input_path=in", "output_path=out")
        assert (ended.code, ended.err) == (2, "Error: --config-dir=none: no such directory\n")


def test_a_parameter_may_be_given_by_its_former_name(
    semdedup: Command, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []
    monkeypatch.setattr(cli, "_deduplicate", lambda parameters: seen.append(parameters.comparison_rows) or {})
    assert semdedup("input_path=in", "output_path=out", "unit_rows=7").code == 0
    assert seen == [7]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "unit_rows is called comparison_rows now"
    ]


def test_a_mapping_of_settings_is_given_as_help_shows_it(semdedup: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(cli, "_deduplicate", lambda parameters: seen.append(parameters.runner) or {})
    given = ("runner=flink", "runner.options={job_server_jvm_properties: [-Xmx4g]}", "runner.flink_version=1.20")
    assert semdedup("input_path=in", "output_path=out", *given).code == 0
    assert seen[0].options == {"job_server_jvm_properties": ["-Xmx4g"]}
    assert seen[0].flink_version == "1.20"


def test_the_shell_completes_parameters(semdedup: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = semdedup("-sc", "install=bash")
    assert (installed.code, installed.err) == (0, "")
    assert "complete -o nospace" in installed.out
    for typed, completed in (("n_cl", "n_clusters="), ("runner=r", "runner=ray")):
        monkeypatch.setenv("COMP_LINE", f"semdedup {typed}")
        assert semdedup("-sc", "query=bash").out.split() == [completed]


@pytest.mark.parametrize("options", [["-m", "--cfg", "job"], ["-m", "--info", "all"], ["--resolve"]])
def test_options_that_exclude_each_other_are_refused(options: list[str], semdedup: Command) -> None:
    ended = semdedup(*options, "input_path=in", "output_path=out")
    assert ended.code == 2
    assert re.fullmatch("Error: .*--cfg.*\n", ended.err)


def test_a_launcher_that_is_not_installed_says_how_to(
    semdedup: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra.core.config_store import ConfigStore

    groups = ConfigStore.instance().repo["hydra"]
    launchers = {name: node for name, node in groups["launcher"].items() if name != "joblib.yaml"}
    monkeypatch.setitem(groups, "launcher", launchers)
    ended = semdedup("-m", f"input_path={data}", "output_path=out", "eps=0.1,0.2", "hydra/launcher=joblib")
    assert ended.code == 2
    assert "hydra/launcher=joblib is not installed: pip install 'beam-semdedup[sweep]'" in ended.err


def test_a_finished_run_says_what_it_found_and_where_it_is(semdedup: Command, data: Path, tmp_path: Path) -> None:
    arguments = (f"input_path={data}", f"output_path={tmp_path}/out", "n_clusters=3", "eps=0.05")
    first = semdedup(*arguments)
    assert first.code == 0
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    for line in (
        r"Read +60 rows",
        rf"Kept +{found['rows_kept']}",
        rf"Duplicates +{found['num_duplicates']}  \(",
        r"Rejected +0",
        rf"Largest of 3 clusters: {found['largest_cluster']} rows",
        r"Stage +seconds +computed +reused +rows/s +MB/s +GFLOP/s",
        r"fit +[\d.]+ +1 +0( +[\d,]+){3}\n",
        r"assign +[\d.]+ +1 +0( +[\d,]+){3}\n",
        r"pairwise +[\d.]+ +1 +0( +[\d,]+){3}\n",
        rf"Results: {tmp_path}/out ",
    ):
        assert re.search(line, first.out), line
    assert re.search(r"Found 60 rows of dimension 16 in 2 files, ", first.err)
    assert re.search(r"Chosen: 3 clusters \(local fit on 60 rows\), 1 assign unit, 1 comparison unit", first.err)
    assert re.search(r"Assign nearest centroid: 1 of 1 units", first.err)
    again = semdedup(*arguments)
    assert re.search(r"Reusing the assigned rows in .*/kmeans_results/", again.err)
    assert re.search(r"fit +0.0 +0 +1\nassign +0.0 +0 +1\npairwise +0.0 +0 +1\n", again.out)


def test_nothing_but_the_results_is_written(semdedup: Command, data: Path, tmp_path: Path) -> None:
    before = _tree(data)
    ended = semdedup("input_path=../data", "output_path=../out", "n_clusters=3", "eps=0.05", "verbose=false")
    assert (ended.code, ended.err) == (0, "")
    assert list(Path.cwd().iterdir()) == []
    assert _tree(data) == before
    products = {"duplicates", "kmeans_results", "pairwise_results", "semdedup.yaml", "summary.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == products
    assert not [path for path in _tree(tmp_path / "out") if path.endswith(".tmp")]


def test_the_configuration_lies_beside_the_results_without_credentials(
    semdedup: Command, data: Path, tmp_path: Path
) -> None:
    from omegaconf import OmegaConf

    ended = semdedup(
        f"input_path={data}",
        f"output_path={tmp_path}/out",
        "n_clusters=3",
        "read_kwargs.storage_options.auto_mkdir=false",
        "write_kwargs={storage_options: {auto_mkdir: true}, compression: snappy}",
    )
    assert ended.code == 0, ended.err
    stored = OmegaConf.load(tmp_path / "out" / "semdedup.yaml")
    assert stored.read_kwargs == {"storage_options": {"auto_mkdir": "***"}}
    assert stored.write_kwargs == {"storage_options": {"auto_mkdir": "***"}, "compression": "snappy"}
    assert (stored.n_clusters, stored.runner.name, stored.max_iter) == (3, "direct", 300)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["configuration"] == OmegaConf.to_container(stored)
    (file,) = (tmp_path / "out" / "pairwise_results").glob("*/*.parquet")
    assert pq.ParquetFile(file).metadata.row_group(0).column(0).compression == "SNAPPY"


class _Private(MemoryFileSystem):
    """Files in the memory of this process, whose URLs have a password in them."""

    protocol = "private"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(re.sub("^private://[^/]*", "", path))

    def unstrip_protocol(self, name: str) -> str:
        return f"private://user:SECRET@host{self._strip_protocol(name)}"


def test_a_password_in_a_url_is_neither_shown_nor_stored(semdedup: Command, data: Path) -> None:
    fsspec.register_implementation("private", _Private, clobber=True)
    url = "private://user:SECRET@host"
    _Private.store.clear()
    _Private().put(f"{data}/", "/data/", recursive=True)
    arguments = (f"input_path={url}/data", f"output_path={url}/out", "n_clusters=3", "eps=0.05", "remove=true")
    for shown in (r"Going on|Found 60 rows", r"Reusing the assigned rows in private://\*\*\*@host/out/kmeans_results/"):
        ended = semdedup(*arguments)
        assert ended.code == 0, ended.err
        assert re.search(shown, ended.err)
        assert "Results: private://***@host/out " in ended.out
        assert "SECRET" not in ended.out + ended.err
    for name in ("summary.json", "semdedup.yaml"):
        assert b"SECRET" not in _Private().cat(f"/out/{name}")
    swept = semdedup("-m", *arguments, "which_to_keep=easy,hard")
    assert swept.code == 0, swept.err
    assert "SECRET" not in swept.out + swept.err
    assert "SECRET" not in "".join(_Private().find("/"))


@pytest.mark.parametrize(
    "argument",
    ["input_path=s4://user:SECRET@host/in", "eps=s4://user:SECRET@host", "cache_path=[s4://user:SECRET@host"],
)
def test_no_message_shows_a_password(argument: str, refused: Command) -> None:
    said = refused(argument).err
    assert "s4://***@host" in said
    assert "SECRET" not in said


def test_no_traceback_shows_a_password(semdedup: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise LookupError("cannot reach ftp://user:SECRET@host/a")

    monkeypatch.setattr(cli, "_deduplicate", fail)
    ended = semdedup("input_path=in", "output_path=out")
    assert ended.code == 1
    assert ended.err.startswith("Traceback")
    assert ended.err.endswith("LookupError: cannot reach ftp://***@host/a\n")


def test_an_earlier_runs_results_are_cleared_and_foreign_files_kept(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = dedup(data, out, n_clusters=3, eps=0.5, remove=True)
    for foreign in ("notes.txt", "duplicates/mine.parquet", "deduplicated/mine.parquet"):
        (out / foreign).write_text("mine")
    second = dedup(data, out, n_clusters=3, eps=0.01)
    assert second.duplicates_files != first.duplicates_files
    assert {p.name for p in (out / "duplicates").iterdir()} == {*second.duplicates_files, "mine.parquet"}
    assert {p.name for p in (out / "deduplicated").iterdir()} == {"mine.parquet"}
    assert (out / "notes.txt").read_text() == "mine"
    assert second.stages["pairwise"].units_done == 0


def test_results_of_other_parameters_are_not_mixed_without_clear_output(
    semdedup: Command, data: Path, tmp_path: Path
) -> None:
    arguments = (f"input_path={data}", f"output_path={tmp_path}/out", "n_clusters=3", "verbose=false")
    assert semdedup(*arguments, "eps=0.5").code == 0
    before = _tree(tmp_path / "out" / "duplicates")
    ended = semdedup(*arguments, "eps=0.01", "clear_output=false")
    assert ended.code == 2
    assert re.search(r"duplicates/part-\S+ is from a run with other parameters .* clear_output=true", ended.err)
    assert _tree(tmp_path / "out" / "duplicates") == before
    assert semdedup(*arguments, "eps=0.5", "clear_output=false").code == 0
    assert _tree(tmp_path / "out" / "duplicates") == before


@pytest.mark.parametrize("name", ["summary.json", "semdedup.yaml"])
def test_a_foreign_file_of_the_same_name_is_not_replaced(name: str, semdedup: Command, data: Path) -> None:
    out = data.parent / "out"
    out.mkdir()
    (out / name).write_text('{"mine": 1}')
    ended = semdedup(f"input_path={data}", f"output_path={out}", "n_clusters=3")
    assert ended.code == 2
    assert f"{out}/{name} is not from this program; choose another output_path" in ended.err
    assert (out / name).read_text() == '{"mine": 1}'


def test_reuse_cache_false_computes_again(data: Path, tmp_path: Path) -> None:
    dedup(data, tmp_path / "out", n_clusters=3)
    again = dedup(data, tmp_path / "out", n_clusters=3, reuse_cache=False)
    assert (again.stages["assign"].units_reused, again.stages["pairwise"].units_reused) == (0, 0)
    assert again.stages["assign"].units_done == 1


def test_changed_input_is_not_taken_from_the_cache(data: Path, tmp_path: Path) -> None:
    dedup(data, tmp_path / "out", n_clusters=3)
    table = pq.read_table(data / "part-1.parquet")
    pq.write_table(table.slice(0, 29), data / "part-1.parquet")
    again = dedup(data, tmp_path / "out", n_clusters=3)
    assert again.rows_read == 59
    assert again.stages["assign"].units_reused == 0


@pytest.fixture
def damaged(data: Path) -> Path:
    """A file whose footer is whole and in whose second row group the vectors are not."""
    path = data / "part-1.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=15, compression="zstd")
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    assert column.path_in_schema.startswith("embeddings")
    content = bytearray(path.read_bytes())
    first = column.dictionary_page_offset or column.data_page_offset
    middle = first + column.total_compressed_size // 2
    content[middle : middle + 100] = bytes(100)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("fits", [True, False])
def test_a_damaged_page_is_bad_input_that_names_file_column_and_row_group(
    fits: bool, semdedup: Command, damaged: Path, given_centroids: Callable[..., str], tmp_path: Path
) -> None:
    given = [] if fits else [f"init={given_centroids(np.eye(3, 16) + 0.1)}", "max_iter=0"]
    sizes = ["assign_unit_bytes=960", "verbose=false"]
    ended = semdedup(f"input_path={damaged.parent}", f"output_path={tmp_path}/out", "n_clusters=3", *sizes, *given)
    assert ended.code == 2
    said = rf"^Error: {damaged}: column 'embeddings' in row group 1 cannot be read: .*; the file is damaged"
    assert re.search(said, ended.err, re.MULTILINE)
    assert "Traceback" not in ended.err
    assert "[while running" not in ended.err
    assert not (tmp_path / "out" / "summary.json").exists()


def test_help_names_every_parameter_and_its_default(semdedup: Command) -> None:
    import dataclasses

    from beam_semdedup import Parameters

    ended = semdedup("--help")
    assert ended.code == 0
    for field in dataclasses.fields(Parameters):
        assert re.search(rf"^ *{field.name}\b", ended.out, re.MULTILINE), field.name
    assert ended.out.startswith("semdedup input_path=… output_path=… [eps=…] [name=value …]\n")
    assert re.search(r"distance_metric +cosine \| l2; .*\(cosine\)", ended.out)
    assert re.search(r"runner.num_workers +1: in this process, on all cores; .*\(1\)", ended.out)


@pytest.mark.parametrize("main", [cli.main, cli.remove_main, cli.plan_main])
def test_help_shows_defaults_as_they_are_typed(main: Callable[[], None], called: Callable[..., Ended]) -> None:
    said = called(main, "--help").out
    assert "object at" not in said
    assert "None" not in said
    assert re.search(r"^ *read_kwargs .* \(\{\}\) *$", said, re.MULTILINE)
    assert re.search(r"^ *(runner.flink_job_server_jar|max_cluster_rows) .*\(null\)", said, re.MULTILINE)


MAINS = [value for name, value in vars(cli).items() if name == "main" or name.endswith("_main")]


@pytest.mark.parametrize("main", MAINS, ids=lambda main: main.__name__)
def test_every_command_has_help(main: Callable[[], None], called: Callable[..., Ended]) -> None:
    ended = called(main, "--help")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("semdedup")


def test_the_version_is_that_of_the_installed_package(semdedup: Command) -> None:
    from importlib.metadata import version

    assert semdedup("--version") == Ended(0, version("beam-semdedup") + "\n", "")


def test_an_option_that_does_not_exist_is_refused(semdedup: Command) -> None:
    ended = semdedup("--hepl")
    assert ended.code == 2
    assert "Traceback" not in ended.err
    assert "--hepl" in ended.err


def test_options_of_hydra_cannot_hide_a_failed_run(semdedup: Command, tmp_path: Path) -> None:
    ended = semdedup("input_path=nowhere", f"output_path={tmp_path}/out", f"hydra.run.dir={tmp_path}/hydra")
    assert ended.code == 2


def test_the_installed_command_runs_from_any_directory(data: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    processes = [
        start(["input_path=../data", "output_path=../out", "n_clusters=3", "eps=0.05"], elsewhere),
        start(["input_path=../nowhere", "output_path=../none"], elsewhere),
    ]
    good, bad = map(finish, processes)
    assert good.code == 0, good.err
    assert re.search(r"Read +60 rows", good.out)
    assert (bad.code, bad.err, bad.out) == (2, "Error: input_path: no files at ../nowhere\n", "")
    assert list(elsewhere.iterdir()) == []
    assert read_parquet(tmp_path / "out" / "duplicates").num_rows > 0
