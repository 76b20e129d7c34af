"""Batches that are added to a corpus one after the other, held against one run over all of them and a brute force."""

from __future__ import annotations

import collections
import functools
import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import Ended, comparisons, dedup, duplicates, finish, read_parquet, segments_in, start, vectors, wait
from strategies import blobs, unit_rows

from beam_semdedup import InputError, RunError, Summary
from beam_semdedup.cli import commands
from beam_semdedup.config.parameters import CorpusParameters
from beam_semdedup.workflow import corpus

BATCH, BATCHES, DIMENSION = 110, 3, 16
SIZES = {"comparison_rows": 60, "assign_unit_bytes": 40 * 4 * DIMENSION, "max_cluster_rows": 30, "n_clusters": 6}
"""Many units, keys of several centroids, and split clusters."""
BY_QUALITY = {"metadata_cols": ["quality"], "ascending": [False]}


def rows_of_all() -> np.ndarray:
    """Vectors with near and exact copies within and across batches."""
    rng, number = np.random.default_rng(3), BATCH * BATCHES
    rows = np.concatenate([blobs(1, number - 60, DIMENSION, 8, 0.12), unit_rows(2, 60, DIMENSION)])
    rows = rng.permutation(rows)
    for low in range(20, number - 25, 60):
        near = rng.choice([0, 0, 1e-7, 1e-4, 0.03], (25, 1)) * unit_rows(low, 25, DIMENSION)
        rows[low : low + 25] = rows[rng.integers(0, number, 25)] + near
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A directory for each batch, with two files; ids differ."""
    root, rows = tmp_path_factory.mktemp("batches"), rows_of_all()
    rng = np.random.default_rng(0)
    ids, quality = rng.permutation(len(rows)), rng.integers(0, 4, len(rows))
    table = pa.table(
        {
            "id": [f"row {i}" for i in ids],
            "embeddings": pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), DIMENSION),
            "quality": quality,
            "batch": np.arange(len(rows)) // BATCH,
        }
    )
    found = []
    for number in range(BATCHES):
        (root / str(number)).mkdir()
        for name, low, rows_of_it in (("a", 0, 50), ("b", 50, BATCH - 50)):
            part = table.slice(number * BATCH + low, rows_of_it)
            pq.write_table(part, root / str(number) / f"{name}.parquet", row_group_size=30)
        found.append(root / str(number))
    return found


def add(batch: Path, output: Any, corpus: Any, runner: Any = None, **parameters: Any) -> Summary:
    return dedup(batch, output, runner, corpus_path=str(corpus), **{**SIZES, **parameters})


def found(table: pa.Table) -> dict[str, tuple[str, float]]:
    columns = (table.column(name).to_pylist() for name in ("id", "max_id", "cosine_sim_score"))
    return {i: (j, score) for i, j, score in zip(*columns, strict=True)}


def of_all(summaries: Sequence[Summary]) -> dict[str, tuple[str, float]]:
    return {i: match for summary in summaries for i, match in found(duplicates(summary)).items()}


@pytest.fixture(scope="module")
def in_order(batches: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Summary]]:
    """A corpus of all batches, and what the runs found that added them."""
    root = tmp_path_factory.mktemp("corpus")
    parameters = {"n_probes": "exact", "eps": 0.1, "ranking_strategy": BY_QUALITY, "remove": True}
    return root, [add(batch, root / f"{n}", root / "corpus", **parameters) for n, batch in enumerate(batches)]


def test_batches_find_what_one_run_over_all_finds(
    batches: list[Path], in_order: tuple[Path, list[Summary]], tmp_path: Path
) -> None:
    ranking = {"metadata_cols": ["batch", "quality"], "ascending": [True, False]}
    parameters = {"n_probes": "exact", "eps": 0.1, "ranking_strategy": ranking}
    whole = dedup([str(batch) for batch in batches], tmp_path, **SIZES, **parameters)
    assert of_all(in_order[1]) == found(duplicates(whole))
    assert sum(s.num_duplicates for s in in_order[1]) == whole.num_duplicates > 100
    for batch, summary in zip(batches, in_order[1], strict=True):
        kept = read_parquet(Path(summary.paths["deduplicated"])).column("id").to_pylist()
        given = read_parquet(batch).column("id").to_pylist()
        assert set(kept) == set(given) - found(duplicates(summary)).keys()
    batch_of = {i: n for n, batch in enumerate(batches) for i in read_parquet(batch).column("id").to_pylist()}
    for number, summary in enumerate(in_order[1]):
        assert summary.generation == number
        table = duplicates(summary)
        for max_id, source in zip(
            table.column("max_id").to_pylist(), table.column("max_source").to_pylist(), strict=True
        ):
            place = batches[batch_of[max_id]]
            assert source == "input" if batch_of[max_id] == number else Path(source).parent == place


@pytest.mark.parametrize(
    ("exact", "within", "against"),
    [
        (True, True, False),
        pytest.param(True, False, False, marks=pytest.mark.slow),
        pytest.param(False, True, False, marks=pytest.mark.slow),
        (True, True, True),
        pytest.param(True, False, True, marks=pytest.mark.slow),
        (False, True, True),
        (False, False, True),
    ],
)
def test_batches_find_what_comparing_all_with_all_gives(
    batches: list[Path], tmp_path: Path, exact: bool, within: bool, against: bool
) -> None:
    """With `against` the first batch is no generation: it has references, which rank before all generations."""
    parameters: dict[str, Any] = {"n_probes": "exact" if exact else 1, "eps": 0.07}
    if against:
        parameters["against"] = str(batches[0])
    summaries = [
        add(batch, tmp_path / f"{n}", tmp_path / "corpus", within=within or (n == 0 and not against), **parameters)
        for n, batch in enumerate(batches[against:])
    ]
    tables, before = [], 0
    order: list[int] = []
    references = sorted((tmp_path / "corpus").rglob("references/*"))
    assert len(references) == against
    for folder in [*references, *(Path(summary.paths["kmeans_results"]) for summary in summaries)]:
        table = segments_in(folder).select(["id", "embedding", "centroid", "cosine_dist_to_cent"])
        keys = [(table.column("cosine_dist_to_cent").to_pylist(), False), (table.column("id").to_pylist(), False)]
        order += [before + i for i in oracle.rank_order([0] * len(table), keys)]
        before += len(table)
        tables.append(table)
    whole = pa.concat_tables(tables)
    rows, ids = vectors(whole), whole.column("id").to_pylist()
    batch, labels = np.arange(len(rows)) // BATCH, whole.column("centroid").to_numpy()
    met = np.ones((len(rows), len(rows)), bool) if exact else labels[:, None] == labels
    if not within:
        met &= (batch[:, None] != batch) | (batch == (-1 if against else 0))
    true = {}
    if exact:
        scores, winners = oracle.best_earlier(rows, order, met, 0.07)
        true = {ids[i]: (ids[winners[i]], float(scores[i])) for i in np.flatnonzero(~np.isnan(scores))}
    else:
        for place, i in enumerate(order):
            earlier = [j for j in order[:place] if met[i, j]]
            if earlier:
                score, winner = oracle.best_of(rows[earlier], rows[i])
                true[ids[i]] = (ids[earlier[winner]], float(score))
    if against:
        of_files = np.where(np.isin(ids[:BATCH], pq.read_table(batches[0] / "a.parquet").column("id")), "a", "b")
        true = {i: match for i, match in true.items() if i not in ids[:BATCH]}
        for number, summary in enumerate(summaries, 1):
            similar = oracle.products(rows[:BATCH], rows[batch == number]) >= 1 - 0.07
            resembled = (similar & met[:BATCH, batch == number]).any(axis=1)
            removes = collections.Counter(duplicates(summary).column("max_source").to_pylist())
            for file in summary.references:
                assert file.resembled == np.count_nonzero(resembled[of_files == Path(file.file).stem]) > 0
                assert file.removes == removes[file.file]
    compared = pa.concat_tables(
        [comparisons(summary).select(["id", "max_id", "cosine_sim_score"]) for summary in summaries]
    )
    compared = {i: match for i, match in found(compared).items() if match[1] is not None and i in true}
    assert compared == true
    assert of_all(summaries) == {i: match for i, match in true.items() if match[1] >= 1 - 0.07}


def test_references_are_assigned_to_a_corpus_once(batches: list[Path], tmp_path: Path) -> None:
    given = {"against": str(batches[0]), "eps": 0.1}
    first = add(batches[1], tmp_path / "1", tmp_path / "corpus", **given)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "corpus").rglob("references/*/segments/*")}
    add(batches[2], tmp_path / "2", tmp_path / "corpus", **given)
    after = {file: file.stat().st_mtime_ns for file in (tmp_path / "corpus").rglob("references/*/segments/*")}
    assert after == before != {}
    again = add(batches[1], tmp_path / "1", tmp_path / "corpus", **given)
    assert {stage.units_done for stage in again.stages.values()} == {0}
    assert (again.generation, again.references) == (0, first.references)
    for file in before:
        file.write_bytes(b"no such file")
    shutil.rmtree(tmp_path / "1" / "pairwise_results")
    with pytest.raises(RunError, match="the same command computes it again"):
        add(batches[1], tmp_path / "1", tmp_path / "corpus", **given)
    again = add(batches[1], tmp_path / "1", tmp_path / "corpus", **given)
    assert (again.num_duplicates, again.references) == (first.num_duplicates, first.references)


@pytest.mark.parametrize("wrong", ["nothing", "dimension", "ids"])
def test_references_that_do_not_fit_leave_no_number(batches: list[Path], tmp_path: Path, wrong: str) -> None:
    references = tmp_path / "references"
    references.mkdir()
    if wrong != "nothing":
        dimension, ids = (5, ["x"]) if wrong == "dimension" else (DIMENSION, [7])
        table = {"id": ids, "embeddings": unit_rows(0, 1, dimension).tolist()}
        pq.write_table(pa.table(table), references / "x.parquet")
    said = {"nothing": "against: no files at", "dimension": "16 values in input_path and 5 in", "ids": "ids are string"}
    with pytest.raises(InputError, match=said[wrong]):
        add(batches[0], tmp_path / "0", tmp_path / "corpus", against=str(references), eps=0.1)
    assert not list((tmp_path / "corpus").rglob("generations/*"))


def test_the_same_command_changes_nothing(batches: list[Path], in_order: tuple[Path, list[Summary]]) -> None:
    root, summaries = in_order
    before = {file: file.stat().st_mtime_ns for file in (root / "corpus").rglob("*")}
    parameters = {"n_probes": "exact", "eps": 0.1, "ranking_strategy": BY_QUALITY, "remove": True}
    for number in (1, 0):
        again = add(batches[number], root / f"{number}", root / "corpus", **parameters)
        assert {stage.units_done for stage in again.stages.values()} == {0}
        assert found(duplicates(again)) == found(duplicates(summaries[number]))
        assert again.generation == number
    assert {file: file.stat().st_mtime_ns for file in (root / "corpus").rglob("*")} == before


@pytest.mark.slow
def test_workers_and_another_output_find_the_same(
    batches: list[Path], in_order: tuple[Path, list[Summary]], tmp_path: Path
) -> None:
    shutil.copytree(in_order[0] / "corpus", tmp_path / "corpus")
    parameters = {"n_probes": "exact", "eps": 0.1, "ranking_strategy": BY_QUALITY}
    again = add(batches[2], tmp_path / "out", tmp_path / "corpus", {"name": "direct", "num_workers": 2}, **parameters)
    assert again.stages["assign"].units_done == 0
    assert again.stages["pairwise"].units_done > 0
    assert found(duplicates(again)) == found(duplicates(in_order[1][2]))


@pytest.mark.slow
def test_a_corpus_on_ray(
    local_ray: Any, batches: list[Path], in_order: tuple[Path, list[Summary]], tmp_path: Path
) -> None:
    parameters = {"n_probes": "exact", "eps": 0.1, "ranking_strategy": BY_QUALITY}
    runner = {"name": "ray", "num_workers": 2}
    summaries = [
        add(batch, tmp_path / f"{n}", tmp_path / "corpus", runner, **parameters) for n, batch in enumerate(batches)
    ]
    assert of_all(summaries) == of_all(in_order[1])


@pytest.mark.slow
def test_a_corpus_in_a_bucket(
    s3: Any, batches: list[Path], in_order: tuple[Path, list[Summary]], tmp_path: Path
) -> None:
    parameters = {"n_probes": "exact", "eps": 0.1, "ranking_strategy": BY_QUALITY, "comparison_rows": 1000}
    kwargs = {"storage_options": s3.options}
    summaries = [
        add(batch, tmp_path / f"{n}", s3.join("corpus"), corpus_kwargs=kwargs, **parameters)
        for n, batch in enumerate(batches[:2])
    ]
    assert of_all(summaries) == of_all(in_order[1][:2])


def command(batch: Path, output: str, corpus: Path, cwd: Path, *more: str) -> subprocess.Popen[str]:
    given = {"input_path": batch, "output_path": output, "corpus_path": corpus, "eps": 0.1, "n_probes": "exact"}
    sizes = [f"{name}={value}" for name, value in {**given, **SIZES}.items()]
    return start([*sizes, "ranking_strategy={metadata_cols: [quality], ascending: [false]}", *more], cwd)


def test_two_writers_started_together(batches: list[Path], tmp_path: Path) -> None:
    both = [command(batch, f"{n}", tmp_path / "corpus", tmp_path) for n, batch in enumerate(batches[:2])]
    for ended in [finish(process) for process in both]:
        assert ended.code == 0, ended.err
    numbers = sorted((tmp_path / "corpus").rglob("generations/*.json"))
    assert [file.name for file in numbers] == ["000000.json", "000001.json"]
    order = [int(Path(json.loads(file.read_text())["first_file"]).parent.name) for file in numbers]
    parameters = {"n_probes": "exact", "eps": 0.1, "ranking_strategy": BY_QUALITY}
    expected = [add(batches[n], tmp_path / f"alone {n}", tmp_path / "alone", **parameters) for n in order]
    for n, summary in zip(order, expected, strict=True):
        assert found(read_parquet(tmp_path / f"{n}" / "duplicates")) == found(duplicates(summary))


def count(corpus: Path, pattern: str) -> int:
    return len(list(corpus.rglob(pattern)))


def wait_for_more(number: Callable[[], int], process: subprocess.Popen[str]) -> None:
    """Waits until there are more than now, or the process has ended."""
    known = number()
    wait(lambda: number() > known or process.poll() is not None, 200)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_runs_that_are_killed_go_on(
    seed: int, batches: list[Path], in_order: tuple[Path, list[Summary]], tmp_path: Path
) -> None:
    random_ = random.Random(seed)
    for number, batch in enumerate(batches[:2]):
        output, kills = tmp_path / f"{number}", 0
        while True:
            process = command(batch, f"{number}", tmp_path / "corpus", tmp_path)
            if kills <= number:
                after = random_.choice(["*.json", "segments/*.arrow", "visits/*/*.arrow", "manifest.json"])
                wait_for_more(functools.partial(count, tmp_path / "corpus", after), process)
                time.sleep(random_.random() * 0.2)
                process.kill()
                process.communicate()
                kills += 1
                continue
            ended = finish(process)
            assert ended.code == 0, ended.err
            break
        assert found(read_parquet(output / "duplicates")) == found(duplicates(in_order[1][number]))
    assert len(list((tmp_path / "corpus").rglob("generations/*.json"))) == 2


def test_what_another_left_unfinished_is_waited_for_and_said(batches: list[Path], tmp_path: Path) -> None:
    add(batches[0], tmp_path / "0", tmp_path / "corpus")
    add(batches[1], tmp_path / "1", tmp_path / "corpus")
    next((tmp_path / "corpus").rglob("000001/manifest.json")).unlink()
    with pytest.raises(RunError, match=r"generation 1 .* is not finished, .* or drop it: semdedup-corpus drop"):
        add(batches[2], tmp_path / "2", tmp_path / "corpus", corpus_timeout=0.1)
    add(batches[1], tmp_path / "1", tmp_path / "corpus")
    assert add(batches[2], tmp_path / "2", tmp_path / "corpus", corpus_timeout=0.1).generation == 2


def test_damage_of_an_earlier_generation_is_said(batches: list[Path], tmp_path: Path) -> None:
    add(batches[0], tmp_path / "0", tmp_path / "corpus")
    next((tmp_path / "corpus").rglob("segments/*.arrow")).write_bytes(b"no such file")
    with pytest.raises(RunError, match=r"is damaged or gone: .*; the command that added generation 0"):
        add(batches[1], tmp_path / "1", tmp_path / "corpus")
    add(batches[0], tmp_path / "0", tmp_path / "corpus")
    assert add(batches[1], tmp_path / "1", tmp_path / "corpus").num_duplicates > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"eps": 0.2}, r"eps=0.2 is above the reach of its rows, 0.1"),
        ({"n_probes": 1}, r"n_probes must be the same .*: exact there, 1 in this run"),
        ({"assume_normalized": True}, "assume_normalized must be the same .*: False there, True in this run"),
        ({"n_clusters": 7}, "it has 6 clusters, n_clusters=7"),
        ({"which_to_keep": "easy", "ranking_strategy": None}, "the order of rows"),
        ({"metadata_fields": ["batch"]}, r"\['quality: int64'\] there, \['batch: int64', 'quality: int64'\] in this"),
        ({"reuse_cache": False}, "reuse_cache=false would take rows out of the corpus"),
        ({"against": "nowhere"}, "against: no files at nowhere"),
        ({"dimension": 5}, "the dimension of vectors must be the same .*: 16 there, 5 in this run"),
        ({"ids": [7]}, "the type of ids must be the same .*: string there, int64 in this run"),
    ],
)
def test_what_does_not_fit_is_said_and_adds_nothing(
    batches: list[Path], in_order: tuple[Path, list[Summary]], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    batch, corpus, change = batches[0], in_order[0] / "corpus", dict(change)
    dimension, ids = change.pop("dimension", DIMENSION), change.pop("ids", ["x"])
    if (dimension, ids) != (DIMENSION, ["x"]):
        batch = tmp_path / "other"
        batch.mkdir()
        table = {"id": ids, "embeddings": unit_rows(0, 1, dimension).tolist(), "quality": [1]}
        pq.write_table(pa.table(table), batch / "x.parquet")
    before = sorted(corpus.rglob("*"))
    given = {"n_probes": "exact", "eps": 0.1, "ranking_strategy": BY_QUALITY, **change}
    with pytest.raises(InputError, match=said):
        add(batch, tmp_path / "out", corpus, **given)
    assert sorted(corpus.rglob("*")) == before
    assert not (tmp_path / "out").exists()


# The command that looks after a corpus


@pytest.fixture
def copied(in_order: tuple[Path, list[Summary]], tmp_path: Path) -> Path:
    """A corpus of all batches."""
    return Path(shutil.copytree(in_order[0] / "corpus", tmp_path / "corpus"))


def test_list_and_verify(copied: Path, called: Callable[..., Ended]) -> None:
    told = called(commands.corpus_main, "list", f"corpus_path={copied}")
    assert told.code == 0, told.err
    assert f"{BATCH * BATCHES} rows of {DIMENSION} values in 3 generations" in told.out
    assert [line.split()[:3] for line in told.out.splitlines()[4:7]] == [[str(n), str(BATCH), "0"] for n in range(3)]
    whole = called(commands.corpus_main, "verify", f"corpus_path={copied}")
    assert (whole.code, whole.out) == (0, f"The corpus {copied} is whole\n"), whole.err

    damaged = sorted(copied.rglob("000001/segments/*.arrow"))[0]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    next(copied.rglob("000002/manifest.json")).unlink()
    wrong = called(commands.corpus_main, "verify", f"corpus_path={copied}")
    assert wrong.code == 1
    assert str(damaged) in wrong.err
    assert "generation 2 is not finished" in wrong.err
    damaged.unlink()
    listed = called(commands.corpus_main, "list", f"corpus_path={copied}")
    assert (listed.code, "see semdedup-corpus verify" in listed.err) == (1, True), listed.err


@pytest.mark.parametrize(
    ("what", "said"), [("plan.json", "generation 1 has no plan"), (".json", "generation 1 is not used, as what says")]
)
def test_a_generation_that_cannot_be_read_is_said_and_not_lost(
    batches: list[Path], copied: Path, tmp_path: Path, called: Callable[..., Ended], what: str, said: str
) -> None:
    generations = copied / "fits/0000/generations"
    file = generations / "000001" / what if what == "plan.json" else generations / "000001.json"
    file.write_bytes(file.read_bytes()[:-9])
    wrong = called(commands.corpus_main, "verify", f"corpus_path={copied}")
    assert (wrong.code, said in wrong.err) == (1, True), wrong.err
    refitted = called(commands.corpus_main, "refit", f"corpus_path={copied}", "n_clusters=5")
    assert (refitted.code, str(file) in refitted.err) == (1, True), refitted.err
    assert generations.exists()
    if what != "plan.json":
        with pytest.raises(RunError, match="whose rows generation 1 has: restore it, or drop them"):
            add(batches[0], tmp_path / "again", copied, n_probes="exact", eps=0.1, ranking_strategy=BY_QUALITY)
    assert called(commands.corpus_main, "drop", f"corpus_path={copied}", "generation=1").code == 0
    assert called(commands.corpus_main, "verify", f"corpus_path={copied}").code == 0


def test_a_generation_that_is_dropped_is_compared_with_no_more(
    batches: list[Path], copied: Path, tmp_path: Path, called: Callable[..., Ended]
) -> None:
    assert called(commands.corpus_main, "drop", f"corpus_path={copied}").code == 2
    assert called(commands.corpus_main, "drop", f"corpus_path={copied}", "generation=7").code == 2
    told = called(commands.corpus_main, "drop", f"corpus_path={copied}", "generation=0")
    assert told.code == 0, told.err
    parameters = {"n_probes": "exact", "eps": 0.1, "ranking_strategy": BY_QUALITY}
    after = [add(batches[n], tmp_path / f"{n}", copied, **parameters) for n in (1, 2)]
    alone = [add(batches[n], tmp_path / f"alone {n}", tmp_path / "alone", **parameters) for n in (1, 2)]
    assert of_all(after) == of_all(alone)
    assert [summary.stages["assign"].units_done for summary in after] == [0, 0]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_corpus_clustered_anew_finds_the_same_without_the_inputs(
    batches: list[Path],
    in_order: tuple[Path, list[Summary]],
    copied: Path,
    tmp_path: Path,
    called: Callable[..., Ended],
    workers: int,
) -> None:
    refit = ["refit", f"corpus_path={copied}", "n_clusters=11", "comparison_rows=40"]
    segment = min((copied / "fits/0000/generations/000002/segments").iterdir())
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-1] + b"?")
    told = called(commands.corpus_main, *refit, f"runner.num_workers={workers}")
    assert (told.code, "see semdedup-corpus verify" in told.err) == (1, True), told.err
    segment.write_bytes(whole)  # the same command goes on then
    told = called(commands.corpus_main, *refit, f"runner.num_workers={workers}")
    assert told.code == 0, told.err
    assert "11 clusters" in told.out
    assert called(commands.corpus_main, "verify", f"corpus_path={copied}").code == 0
    assert [place.name for place in (copied / "fits").iterdir()] == ["0001"]
    parameters = {"n_probes": "exact", "eps": 0.1, "ranking_strategy": BY_QUALITY, "n_clusters": 11}
    for number in (1, 2):
        again = add(batches[number], tmp_path / f"{number}", copied, **parameters)
        assert again.stages["assign"].units_done == 0
        assert found(duplicates(again)) == found(duplicates(in_order[1][number]))


def interrupted_refit(copied: Path, called: Callable[..., Ended], *given: str) -> None:
    """A refit that ends before its result counts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus.Present, "write", lambda *_: (_ for _ in ()).throw(RunError("interrupted")))
        assert called(commands.corpus_main, "refit", f"corpus_path={copied}", *given).code == 1
    assert (copied / "fits/0001/generations/000001/manifest.json").exists()


def ids_in(copied: Path) -> dict[int, list[str]]:
    """The ids of the rows of each generation."""
    (home,) = (copied / "fits").iterdir()
    claimed = sorted(int(file.stem) for file in (home / "generations").glob("*.json"))
    return {n: sorted(segments_in(home / f"generations/{n:06d}").column("id").to_pylist()) for n in claimed}


@pytest.mark.parametrize("add_another", [False, True])
def test_what_a_refit_of_other_rows_left_is_not_used(
    batches: list[Path], copied: Path, tmp_path: Path, called: Callable[..., Ended], add_another: bool
) -> None:
    interrupted_refit(copied, called, "n_clusters=5")
    for number in (1, 2):
        assert called(commands.corpus_main, "drop", f"corpus_path={copied}", f"generation={number}").code == 0
    given = {"n_probes": "exact", "eps": 0.1, "ranking_strategy": BY_QUALITY}
    if add_another:
        assert add(batches[2], tmp_path / "2", copied, **given).generation == 1
    assert called(commands.corpus_main, "refit", f"corpus_path={copied}", "n_clusters=5").code == 0
    of_batches = [sorted(read_parquet(batch).column("id").to_pylist()) for batch in batches]
    assert ids_in(copied) == {0: of_batches[0], **({1: of_batches[2]} if add_another else {})}
    assert called(commands.corpus_main, "verify", f"corpus_path={copied}").code == 0


def test_a_refit_goes_on_with_what_it_is_of_and_takes_its_centroids(
    copied: Path, tmp_path: Path, called: Callable[..., Ended]
) -> None:
    interrupted_refit(copied, called, "n_clusters=5")
    before = {file: file.stat().st_mtime_ns for file in (copied / "fits/0001").rglob("*.arrow")}
    shutil.copytree(copied, tmp_path / "other")
    assert "5 clusters" in called(commands.corpus_main, "refit", f"corpus_path={copied}", "n_clusters=5").out
    assert {file: file.stat().st_mtime_ns for file in (copied / "fits/0001").rglob("*.arrow")} == before
    centroids = unit_rows(8, 7, DIMENSION)
    np.save(tmp_path / "centroids.npy", centroids)
    given = [f"corpus_path={tmp_path}/other", f"init={tmp_path}/centroids.npy", "max_iter=0"]
    (tmp_path / "other/fits/0000/left").mkdir()
    told = called(commands.corpus_main, "refit", *given)
    assert (told.code, "7 clusters" in told.out) == (0, True), told.err
    np.testing.assert_array_equal(np.load(tmp_path / "other/fits/0001/model/centroids.npy"), centroids)
    assert [place.name for place in (tmp_path / "other/fits").iterdir()] == ["0001"]
    told = called(commands.corpus_main, "refit", f"corpus_path={copied}", "max_iter=0")
    assert (told.code, "max_iter=0 fits nothing: it needs init" in told.err) == (2, True), told.err


def test_a_corpus_clustered_anew_has_as_many_clusters_as_a_run_of_its_rows(
    in_order: tuple[Path, list[Summary]], copied: Path, monkeypatch: pytest.MonkeyPatch, called: Callable[..., Ended]
) -> None:
    asked = []

    def choose(parameters: CorpusParameters, *about: object) -> int:
        asked.append(about)
        return 9

    monkeypatch.setattr(corpus, "choose_clusters", choose)
    told = called(commands.corpus_main, "refit", f"corpus_path={copied}", "comparison_rows=40")
    assert "9 clusters" in told.out, told.err
    rows = sum(summary.rows_read - summary.rows_rejected for summary in in_order[1])
    assert asked == [(rows, DIMENSION, "exact", 0.1)]


@pytest.mark.parametrize("action", ["list", "verify", "refit", "drop"])
def test_a_place_without_a_corpus(tmp_path: Path, action: str, called: Callable[..., Ended]) -> None:
    told = called(commands.corpus_main, action, f"corpus_path={tmp_path}", "generation=0")
    assert told.code == 2
    assert str(tmp_path) in told.err
    assert not list(tmp_path.rglob("*.json"))
