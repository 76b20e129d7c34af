"""From texts to duplicates in one run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sentence_model
from prism_on_this_machine import PRISM, needs_prism
from reading import write_lines
from runs import Ended, dedup, duplicates, read_parquet
from sentence_model import PAIRS, TEXTS

from beam_semdedup import InputError, RunError, SemanticDeduplicationWorkflow, Summary
from beam_semdedup.cli import commands
from beam_semdedup.config.parameters import EmbedParameters, WatchParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.embed import unit
from beam_semdedup.embed.job import embed_texts
from beam_semdedup.inputs import vectors
from beam_semdedup.streams.watch import watch

pytestmark = pytest.mark.skipif(not sentence_model.is_there(), reason="the packages with the model are not installed")
GIVEN = {"id_field": "doc", "text_field": "text", "n_clusters": 1, "eps": 0.15}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(sentence_model.model_in(tmp_path_factory.mktemp("model")))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Two files with these texts, the second of four rows."""
    (tmp_path / "texts").mkdir()
    table = pa.table({"doc": range(len(TEXTS)), "text": TEXTS, "lang": ["en"] * len(TEXTS)})
    pq.write_table(table[:4], tmp_path / "texts/a.parquet", row_group_size=3)
    pq.write_table(table[4:], tmp_path / "texts/b.parquet")
    return tmp_path / "texts"


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "ROWS", 3)


def run(texts: Path, model: str, tmp_path: Path, **parameters: Any) -> Summary:
    return dedup(str(texts), str(tmp_path / "out"), **{**GIVEN, "model": model, **parameters})


def pairs(summary: Summary) -> set[frozenset[str | None]]:
    """The texts of the duplicates, each with that which it resembles."""
    return {frozenset(TEXTS[id_] for id_ in (row["id"], row["max_id"])) for row in duplicates(summary).to_pylist()}


EXPECTED = {frozenset(pair) for pair in PAIRS.items()}


def units_of(summary: Summary, stage: str = "embed") -> tuple[int, int]:
    return summary.stages[stage].units_done, summary.stages[stage].units_reused


def test_one_command_removes_from_the_texts(
    texts: Path, model: str, tmp_path: Path, semdedup: Callable[..., Ended]
) -> None:
    given = [f"input_path={texts}", f"output_path={tmp_path}/out", f"model={model}"]
    given += [f"{name}={value}" for name, value in GIVEN.items()]
    ended = semdedup(*given, "remove=true", "report=true", "metadata_fields=[text]")
    assert ended.code == 0, ended.err
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["rejected"] == {"embedding is null": 1}
    listed = pq.read_table(tmp_path / "out/duplicates").to_pylist()
    assert {frozenset((row["text"], TEXTS[row["max_id"]])) for row in listed} == EXPECTED
    (rejected,) = read_parquet(tmp_path / "out/rejected").to_pylist()
    assert (rejected["source_file"], rejected["row"], rejected["id"]) == (f"{texts}/b.parquet", 2, 6)
    gone = {row["id"] for row in listed}
    for name in ("a", "b"):
        before, after = (
            pq.read_table(texts / f"{name}.parquet"),
            pq.read_table(tmp_path / f"out/deduplicated/{name}.parquet"),
        )
        assert after.schema.equals(before.schema)
        assert after.to_pylist() == [row for row in before.to_pylist() if row["doc"] not in gone]
    page = (tmp_path / "out/report.html").read_text()
    assert "a.parquet" in page
    assert "embedding_results" not in page
    assert summary["stages"]["embed"]["units_done"] == 4
    assert "\nembed " in ended.out


def test_another_eps_embeds_nothing_and_needs_nothing_for_it(
    texts: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(texts, model, tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    again = run(texts, model, tmp_path, eps=0.1)
    assert "embed" not in again.stages  # the assigned rows are there
    other = run(texts, model, tmp_path, n_clusters=2)
    assert (units_of(first), units_of(other)) == ((4, 0), (0, 4))
    assert pairs(first) == EXPECTED


@pytest.mark.slow
def test_it_finds_what_two_commands_do(texts: Path, model: str, tmp_path: Path) -> None:
    embed_texts(
        EmbedParameters(
            input_path=str(texts), model=model, output_path=str(tmp_path / "e"), id_field="doc", file_rows=3
        )
    )
    two = dedup(str(tmp_path / "e"), str(tmp_path / "two"), id_field="doc", n_clusters=1, eps=0.15)
    one = run(texts, model, tmp_path)
    columns = ["id", "max_id", "centroid"]
    assert duplicates(one).select(columns).equals(duplicates(two).select(columns))


def test_a_killed_run_goes_on_and_a_new_file_alone_is_embedded(
    texts: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = unit.embed_input

    def stop(*given: Any) -> Any:
        if list(tmp_path.glob("out/embedding_results/*/*.parquet")):
            raise OSError("killed")
        return original(*given)

    with monkeypatch.context() as patched:
        patched.setattr(unit, "embed_input", stop)
        with pytest.raises(RunError, match="killed"):
            run(texts, model, tmp_path)
    assert units_of(run(texts, model, tmp_path)) == (3, 1)
    pq.write_table(pa.table({"doc": [100], "text": ["Cats purr"], "lang": ["en"]}), texts / "c.parquet")
    summary = run(texts, model, tmp_path)
    assert units_of(summary) == (1, 3)
    assert summary.rows_read == 9
    assert duplicates(summary).column("id").to_pylist()[-1] in (7, 100)
    assert units_of(run(texts, model, tmp_path, reuse_cache=False)) == (4, 0)


def test_lines_of_json_that_go_by_their_places(model: str, tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}) for text in TEXTS]
    write_lines(tmp_path / "a.jsonl", *lines[:3], "no object", *lines[3:])
    summary = run(tmp_path / "a.jsonl", model, tmp_path, id_field=None, remove=True)
    assert summary.rejected == {"embedding is null": 1, "malformed line": 1}
    gone = {int(id_.rpartition(":")[2]) for id_ in duplicates(summary).column("id").to_pylist()}
    assert len(gone) == 2
    kept = [line for row, line in enumerate([*lines[:3], "no object", *lines[3:]]) if row not in gone]
    assert (tmp_path / "out/deduplicated/a.jsonl").read_text().splitlines() == kept


def test_texts_are_compared_with_those_of_against(texts: Path, model: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "b.jsonl", {"id": 1, "question": "What must I do to install this package?"})
    summary = run(
        texts, model, tmp_path, against=str(tmp_path / "b.jsonl"), against_text_field="question", within=False, eps=0.4,
        against_id_field="id",
    )  # fmt: skip
    assert duplicates(summary).column("id").to_pylist() == [0, 4]
    assert duplicates(summary).column("max_source").to_pylist() == [str(tmp_path / "b.jsonl")] * 2
    assert units_of(summary) == (5, 0)


def apart(texts: Path) -> list[Path]:
    """The two files, in directories of their own."""
    made = []
    for name in ("a", "b"):
        (texts.parent / name).mkdir()
        made.append((texts / f"{name}.parquet").rename(texts.parent / name / f"{name}.parquet").parent)
    return made


def test_texts_are_added_to_a_corpus(texts: Path, model: str, tmp_path: Path) -> None:
    corpus, found = str(tmp_path / "corpus"), set[frozenset[str | None]]()
    batches = apart(texts)
    for number, batch in enumerate(batches):
        summary = dedup(batch, tmp_path / f"out-{number}", model=model, corpus_path=corpus, **GIVEN)
        assert (summary.generation, units_of(summary)) == (number, (2, 0))
        found |= pairs(summary)
    assert found == EXPECTED
    again = dedup(batches[1], tmp_path / "out-1", model=model, corpus_path=corpus, **GIVEN)
    assert (again.generation, again.num_duplicates, "embed" in again.stages) == (1, summary.num_duplicates, False)
    with pytest.raises(InputError, match="the model that embedded its texts is another than model="):
        dedup(batches[0], tmp_path / "other", model=model, pooling="cls", corpus_path=corpus, **GIVEN)


def test_a_corpus_of_vectors_takes_the_texts_of_one_model(texts: Path, model: str, tmp_path: Path) -> None:
    corpus, (first, second) = str(tmp_path / "corpus"), apart(texts)
    given = EmbedParameters(input_path=str(first), model=model, output_path=str(tmp_path / "e"), id_field="doc")
    embed_texts(given)
    dedup(tmp_path / "e", tmp_path / "0", corpus_path=corpus, **{**GIVEN, "text_field": None})
    dedup(second, tmp_path / "1", corpus_path=corpus, model=model, **GIVEN)
    with pytest.raises(InputError, match="the model that embedded its texts is another than model="):
        dedup(first, tmp_path / "2", corpus_path=corpus, model=model, pooling="cls", **GIVEN)


@needs_prism
@pytest.mark.slow
def test_watched_texts_are_embedded(texts: Path, model: str, tmp_path: Path) -> None:
    batches = apart(texts)
    given = {"input_path": str(texts), "output_path": str(tmp_path / "out"), "corpus_path": str(tmp_path / "corpus")}
    against = tmp_path / "b.jsonl"
    write_lines(against, {"doc": 1, "text": TEXTS[0]})
    p = resolve(
        {
            **{**GIVEN, **given},
            "model": model,
            "against": str(against),
            "runner": {"name": "prism", "prism_location": PRISM},
            "poll_interval": 0.3,
            "stop_after": 1,
            "input_file_extensions": ["parquet"],
        },
        WatchParameters,
    )
    found = []
    for batch in batches:
        (batch / f"{batch.name}.parquet").rename(texts / f"{batch.name}.parquet")
        for segment in (tmp_path / "corpus").rglob("references/*/segments/*"):
            segment.write_bytes(b"no such file")
            with pytest.raises(RunError):
                watch(p)  # their vectors are not there any more, and are made again by the next one
        (finished,) = watch(p)
        (file,) = (tmp_path / f"out/duplicates/generation={finished.generation:04d}").glob("*.parquet")
        found += pq.read_table(file, partitioning=None).select(["id", "max_source"]).to_pylist()
    assert {"id": 0, "max_source": str(against)} in found
    expected = {max(TEXTS.index(text) for text in pair) for pair in PAIRS.items()}
    assert {row["id"] for row in found} == expected | {0}
    assert not list(tmp_path.glob("out/arrivals/*/"))


def test_a_sweep_embeds_once(texts: Path, model: str, tmp_path: Path, semdedup: Callable[..., Ended]) -> None:
    given = {**GIVEN, "eps": "0.1,0.15", "model": model, "input_path": texts, "output_path": tmp_path / "out"}
    ended = semdedup("-m", *(f"{name}={value}" for name, value in given.items()))
    assert ended.code == 0, ended.err
    assert ended.err.count("Embedding 8 texts") == 1
    assert len(list((tmp_path / "out/embedding_results").glob("*/*.parquet"))) == 4


@pytest.mark.slow
def test_worker_processes_embed_too(texts: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "ROWS", 8192)  # what workers have
    assert pairs(run(texts, model, tmp_path, runner={"name": "direct", "num_workers": 2})) == EXPECTED


@pytest.mark.slow
def test_vectors_that_are_damaged_are_computed_again(texts: Path, model: str, tmp_path: Path) -> None:
    run(texts, model, tmp_path)
    damaged = sorted((tmp_path / "out/embedding_results").glob("*/*.parquet"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(RunError, match=rf"{damaged} is damaged or gone.*the same command computes it again"):
        run(texts, model, tmp_path, n_clusters=2)
    summary = run(texts, model, tmp_path, n_clusters=2)
    assert units_of(summary) == (1, 3)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"text_field": None}, r"model=.* needs text_field=…, the column with the texts"),
        ({"model": None}, r"text_field=text needs model=…, which embeds the texts"),
        ({"model": None, "text_field": None, "pooling": "cls"}, r"pooling=cls is given without model=…"),
        ({"text_field": "body"}, r"a\.parquet: no column 'body'; it has: doc, text, lang"),
        ({"text_field": "doc"}, r"text_field='doc' is int64, expected text"),
        ({"model": "nowhere"}, r"model=nowhere is no directory"),
        ({"embedding_dim": 384}, r"embedding_dim=384: the model says how long vectors are"),
        ({"device": "gpu"}, r"device=gpu"),
        ({"n_clusters": 9}, r"n_clusters=9 is more than the 8 rows"),
        ({"output_path": "texts/out"}, r"output_path=.* lies inside input_path="),
    ],
)
def test_mistakes_are_said_before_anything_is_embedded(
    texts: Path, model: str, tmp_path: Path, parameters: dict[str, Any], said: str
) -> None:
    output = tmp_path / parameters.get("output_path", "out")
    given = {**GIVEN, "input_path": str(texts), "model": model, "verbose": False, **parameters}
    with pytest.raises(InputError, match=said):
        SemanticDeduplicationWorkflow(**{**given, "output_path": str(output)}).run()
    assert not list(tmp_path.glob("**/embedding_results"))


def test_the_extra_is_named_where_it_is_missing(
    texts: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="onnxruntime is not installed; `make install EXTRAS=embed` does"):
        run(texts, model, tmp_path)


def test_a_plan_for_a_pipeline_of_ones_own_is_one_of_embeddings(texts: Path, model: str, tmp_path: Path) -> None:
    given = {**GIVEN, "input_path": str(texts), "output_path": str(tmp_path / "out")}
    with pytest.raises(InputError, match=r"plan\(\) is of embeddings: write them by semdedup-embed"):
        SemanticDeduplicationWorkflow(**given, model=model).plan()


def test_semdedup_plan_says_what_embedding_takes(texts: Path, model: str, called: Callable[..., Ended]) -> None:
    given = [f"input_path={texts}", f"model={model}", "text_field=text", "id_field=doc", "eps=0.1"]
    ended = called(commands.plan_main, *given)
    assert ended.code == 0, ended.err
    assert "8 rows of 384 values" in ended.out
    assert "Embed       8 texts at " in ended.out
    ended = called(commands.plan_main, f"model={model}", "text_field=text", "rows=10", "dimension=5")
    assert (ended.code, "give input_path=… in place of rows" in ended.err) == (2, True)
