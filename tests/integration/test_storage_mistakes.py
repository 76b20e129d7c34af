"""Places that cannot be reached, read or written: a message that names place and parameter, and no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import COMMAND, Ended, dedup
from servers import ftp, web

from beam_semdedup import InputError, RunError
from beam_semdedup.cli import commands as cli
from beam_semdedup.plan.stored import AssignManifest
from beam_semdedup.stages import fit
from beam_semdedup.workflow import run as workflow

Command = Callable[..., Ended]
REFUSED = "http://127.0.0.1:9"


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


def options(name: str, text: str) -> str:
    return f"{name}={{storage_options: {{{text}}}}}"


def checked(ended: Ended, *texts: str) -> None:
    assert ended.code == 2, ended.err
    assert "Traceback" not in ended.err
    (line,) = ended.err.strip().splitlines()[-1:]
    assert line.startswith("Error: ")
    for text in texts:
        assert text in line


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("", "NoCredentialsError: Unable to locate credentials"),
        ("profile: nosuch", "ProfileNotFound"),
        (
            f"key: a, secret: b, endpoint_url: '{REFUSED}', config_kwargs: {{retries: {{max_attempts: 0}}}}",
            "127.0.0.1:9",
        ),
        ("key: a, secret: b, endpoint_url: nonsense", "Invalid endpoint: nonsense"),
        ("key: a, secret: b, client_kwargs: {nosuch: 1}", "nosuch"),
    ],
)
@pytest.mark.parametrize("name", ["input_path", "output_path", "cache_path"])
def test_a_mistake_with_s3_is_named(
    semdedup: Command, no_credentials: None, parquet_dataset: Any, tmp_path: Path, name: str, mistake: str, said: str
) -> None:
    places = {"input_path": parquet_dataset.path, "output_path": tmp_path / "out", "cache_path": tmp_path / "cache"}
    places[name] = "s3://bucket/place"
    kwargs = {"input_path": "read_kwargs", "output_path": "write_kwargs", "cache_path": "cache_kwargs"}[name]
    given = [f"{key}={place}" for key, place in places.items()] + ["cache_kwargs={storage_options: {}}"]
    ended = semdedup(
        *(g for g in given if not g.startswith(kwargs)), options(kwargs, mistake), "n_clusters=3", "verbose=false"
    )
    checked(ended, f"{name}=s3://bucket/place: s3://bucket/place", said, f"{kwargs}.storage_options")


@pytest.mark.parametrize("name", ["input_path", "output_path", "cache_path"])
def test_a_mistyped_bucket_is_named(
    semdedup: Command, s3: Any, parquet_dataset: Any, tmp_path: Path, name: str
) -> None:
    places = {"input_path": parquet_dataset.path, "output_path": tmp_path / "out", "cache_path": tmp_path / "cache"}
    places[name] = "s3://mistyped-bucket/place"
    endpoint = s3.options["client_kwargs"]["endpoint_url"]
    kwargs = {"input_path": "read_kwargs", "output_path": "write_kwargs", "cache_path": "cache_kwargs"}[name]
    given = [f"{key}={place}" for key, place in places.items()]
    ended = semdedup(
        *given, options(kwargs, f"key: a, secret: b, endpoint_url: '{endpoint}'"), "n_clusters=3", "verbose=false"
    )
    checked(ended, name, "s3://mistyped-bucket/place")


def test_mistakes_of_a_removal_and_of_a_plan_are_named(
    called: Command, no_credentials: None, parquet_dataset: Any, tmp_path: Path
) -> None:
    dedup(parquet_dataset.path, tmp_path / "out")
    places = {
        "input_path": parquet_dataset.path,
        "output_path": tmp_path / "clean",
        "duplicates_path": tmp_path / "out",
    }
    for name in places:
        given = {**places, name: "s3://bucket/place"}
        ended = called(cli.remove_main, *(f"{key}={place}" for key, place in given.items()))
        checked(ended, f"{name}=s3://bucket/place: ", "NoCredentialsError")
    checked(
        called(cli.plan_main, "input_path=s3://bucket/place"), "input_path=s3://bucket/place: ", "NoCredentialsError"
    )
    checked(called(cli.main, "--config-path=s3://bucket/place"), "s3://bucket/place", "NoCredentialsError")


@pytest.mark.parametrize("url", [f"{REFUSED}/data", "http://no.such.host.invalid/data", "ftp://127.0.0.1:9/data"])
def test_a_server_that_does_not_answer_is_not_an_empty_directory(semdedup: Command, tmp_path: Path, url: str) -> None:
    checked(semdedup(f"input_path={url}", f"output_path={tmp_path}/out"), f"input_path={url}: {url}: cannot be read: ")


def test_a_run_from_a_server_equals_a_local_one(parquet_dataset: Any, tmp_path: Path) -> None:
    expected = dedup(parquet_dataset.path, tmp_path / "out")
    one = dedup(parquet_dataset.files[1], tmp_path / "one")
    for serve in (ftp, web):
        with serve(Path(parquet_dataset.path)) as url:
            found = dedup(url, tmp_path / serve.__name__)
            assert (found.rows_read, found.num_duplicates) == (300, expected.num_duplicates)
            single = dedup(f"{url}/part-1.parquet", tmp_path / f"{serve.__name__}-one")
            assert (single.rows_read, single.num_duplicates) == (100, one.num_duplicates)


def test_files_that_a_server_does_not_give_are_named(semdedup: Command, parquet_dataset: Any, tmp_path: Path) -> None:
    with web(Path(parquet_dataset.path), **{"part-1": 403}) as url:
        checked(
            semdedup(f"input_path={url}", f"output_path={tmp_path}/out"),
            f"input_path={url}: {url}/part-1.parquet: ",
            "403",
        )


def test_a_summary_that_cannot_be_read_is_named(semdedup: Command, parquet_dataset: Any, tmp_path: Path) -> None:
    (tmp_path / "out/summary.json").mkdir(parents=True)
    ended = semdedup(f"input_path={parquet_dataset.path}", f"output_path={tmp_path}/out", "n_clusters=3")
    checked(ended, f"output_path={tmp_path}/out: {tmp_path}/out/summary.json: cannot be read: IsADirectoryError")


def test_an_output_that_is_deleted_during_the_run_ends_it_with_a_message(
    parquet_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_results = workflow.find_results

    def find(plan: Any) -> Any:
        found = find_results(plan)
        shutil.rmtree(tmp_path / "out")
        (tmp_path / "out").write_text("a file now")
        return found

    monkeypatch.setattr(workflow, "find_results", find)
    with pytest.raises(RunError, match=rf"output_path={tmp_path}/out: "):
        dedup(parquet_dataset.path, tmp_path / "out")


def test_an_output_that_is_gone_at_the_end_is_not_taken_for_that_of_another_run(
    parquet_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = workflow._check_unchanged
    monkeypatch.setattr(workflow, "_check_unchanged", lambda plan: (check(plan), shutil.rmtree(tmp_path / "out")))
    with pytest.raises(RunError, match=rf"^{tmp_path}/out/semdedup\.yaml is gone, though the run wrote it"):
        dedup(parquet_dataset.path, tmp_path / "out")


def test_a_cache_that_is_deleted_at_the_end_of_a_stage_ends_the_run_with_a_message(
    parquet_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def delete(self: Any, folder: Any) -> None:
        shutil.rmtree(folder.url)
        Path(folder.url).write_text("a file now")
        self.write(folder.file(self.file_name))

    monkeypatch.setattr(AssignManifest, "store", delete)
    with pytest.raises(RunError, match=r"^the end of the stage: StorageError: .*manifest\.json: cannot be written"):
        dedup(parquet_dataset.path, tmp_path / "out")


def test_a_plan_that_is_deleted_before_the_fit_ends_the_run_with_a_message(
    parquet_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "KMeansPlan", SimpleNamespace(read=lambda _: None))
    with pytest.raises(RunError, match=r"^\S*plan\.json is gone, though the run wrote it; run again$"):
        dedup(parquet_dataset.path, tmp_path / "out")


def test_a_relative_path_in_a_directory_that_is_gone_is_refused(
    parquet_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError, match=r"^out: the working directory does not exist any more"):
        dedup(parquet_dataset.path, "out")
    assert dedup(parquet_dataset.path, tmp_path / "out").rows_read == 300


def test_the_command_in_a_directory_that_is_gone_says_so(
    semdedup: Command, parquet_dataset: Any, tmp_path: Path
) -> None:
    Path.cwd().rmdir()
    ended = semdedup(f"input_path={parquet_dataset.path}", f"output_path={tmp_path}/out")
    checked(ended, "the working directory does not exist any more; change to another")


def test_that_no_temporary_directory_can_be_made_is_said(
    semdedup: Command, parquet_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", refuse)
    ended = semdedup(f"input_path={parquet_dataset.path}", f"output_path={tmp_path}/out")
    checked(ended, "no temporary directory can be made: FileNotFoundError: No usable", "set TMPDIR")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs another user's rights")
@pytest.mark.parametrize(
    ("closed", "name", "said"),
    [
        ("out/summary.json", "output_path", "out/summary.json: cannot be read"),
        ("out", "output_path", "cannot be read"),
        ("cache", "cache_path", "plan.json: cannot be read"),
        ("in/a.parquet", "input_path", "in/a.parquet: cannot be read"),
        ("in", "input_path", "in: cannot be read"),
    ],
)
def test_what_may_not_be_read_is_named(tmp_path: Path, closed: str, name: str, said: str) -> None:
    for place in ("in", "out", "cache"):
        (tmp_path / place).mkdir()
    pq.write_table(pa.table({"id": [1, 2], "embeddings": [[1.0], [2.0]]}), tmp_path / "in/a.parquet")
    if closed == "out/summary.json":
        (tmp_path / closed).touch()
    (tmp_path / closed).chmod(0)
    rights = "-dac_override,-dac_read_search"  # with which root is asked for permission as anyone
    given = {"input_path": "in", "output_path": "out", "cache_path": "cache", "n_clusters": 1}
    arguments = [f"{key}={value}" for key, value in given.items()]
    command = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", str(COMMAND), *arguments]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    checked(Ended(ended.returncode, ended.stdout, ended.stderr), f"{name}={given[name]}: ", said, "Permission denied")
