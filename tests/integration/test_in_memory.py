"""Rows in memory, as they are in a notebook."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sentence_model
from runs import dedup, duplicates

from beam_semdedup import InputError, RankingStrategy, deduplicate

datasets = pytest.importorskip("datasets")
N, D = 120, 6
VECTORS = np.random.default_rng(8).normal(size=(N, D)).astype(np.float32)
VECTORS[90:] = VECTORS[:30] + np.random.default_rng(9).normal(size=(30, D)).astype(np.float32) * 0.02
IDS = [f"doc-{7 * row % N}" for row in range(N)]
TEXTS = [f"text {row}" for row in range(N)]
GIVEN = {"eps": 0.01, "n_probes": "exact", "ranking_strategy": {"metadata_cols": ["id"], "ascending": True}}
"""With which the duplicates depend on the rows alone."""


def expected(ids: list[Any]) -> dict[Any, Any]:
    """The duplicates by a brute force, and the row that each resembles."""
    unit = VECTORS.astype(np.float64) / np.linalg.norm(VECTORS.astype(np.float64), axis=1, keepdims=True)
    order = oracle.rank_order([0] * N, [(ids, True)])
    scores, winners = oracle.best_earlier(unit.astype(np.float32), order, reach=0.01)
    found = np.flatnonzero(scores.astype(np.float64) >= 1 - 0.01)
    assert 10 < len(found) < 40
    return {ids[row]: ids[winners[row]] for row in found}


def frame() -> dict[str, Any]:
    return {"doc": IDS, "vector": VECTORS.tolist(), "text": TEXTS}


KINDS: dict[str, Callable[[], Any]] = {
    "pandas": lambda: pd.DataFrame(frame(), index=range(1000, 1000 + N)),
    "polars": lambda: pl.DataFrame({**frame(), "vector": pl.Series(VECTORS, dtype=pl.Array(pl.Float32, D))}),
    "pyarrow": lambda: pa.table(frame()),
    "datasets": lambda: datasets.Dataset.from_dict(frame()),
}


def columns(rows: Any) -> dict[str, list[Any]]:
    """The columns of a table of any kind."""
    if isinstance(rows, pd.DataFrame):
        return {name: rows[name].tolist() for name in rows.columns}
    if isinstance(rows, pl.DataFrame):
        return rows.to_dict(as_series=False)
    return dict(rows.to_pydict() if isinstance(rows, pa.Table) else rows.to_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_comes_back_as_what_it_was(kind: str) -> None:
    rows = KINDS[kind]()
    found = deduplicate(rows, embeddings="vector", ids="doc", metadata_fields=["text"], **GIVEN)
    pairs = expected(IDS)
    assert type(found.kept) is type(found.duplicates) is type(rows)
    said = columns(found.duplicates)
    assert dict(zip(said["id"], said["max_id"], strict=True)) == pairs
    assert said["text"] == [TEXTS[IDS.index(id_)] for id_ in said["id"]]
    assert min(said["cosine_sim_score"]) >= 0.99
    kept = [row for row in range(N) if IDS[row] not in pairs]
    assert found.kept_rows.tolist() == kept
    assert columns(found.kept)["text"] == [TEXTS[row] for row in kept]
    assert list(columns(found.kept)) == ["doc", "vector", "text"]
    if kind == "pandas":
        assert found.kept.index.tolist() == [1000 + row for row in kept]


@pytest.mark.parametrize("dtype", [">f4", "g", *(pytest.param(t, marks=pytest.mark.slow) for t in ("<f2", "<f8"))])
def test_vectors_alone_are_called_by_their_numbers(dtype: str) -> None:
    vectors = np.asfortranarray(VECTORS.astype(dtype))
    found = deduplicate(embeddings=vectors, eps=0.01, n_probes="exact")
    assert found.kept_rows.tolist() == sorted(set(range(N)) - set(found.duplicates["id"].to_pylist()))
    np.testing.assert_array_equal(found.kept, vectors[found.kept_rows])
    assert found.kept.dtype == vectors.dtype
    assert set(found.duplicates["id"].to_pylist()) | set(found.duplicates["max_id"].to_pylist()) <= set(range(N))
    assert found.summary.num_duplicates == found.duplicates.num_rows == N - len(found.kept) > 10


@pytest.mark.parametrize("ids", [np.array(IDS), IDS, pa.array(IDS), pd.Series(IDS)], ids=lambda ids: type(ids).__name__)
def test_ids_and_vectors_may_be_apart_from_the_rows(ids: Any) -> None:
    found = deduplicate(pd.DataFrame({"text": TEXTS}), embeddings=VECTORS, ids=ids, **GIVEN)
    pairs = dict(zip(found.duplicates["id"], found.duplicates["max_id"], strict=True))
    assert pairs == expected(IDS)
    assert found.kept["text"].tolist() == [TEXTS[row] for row in range(N) if IDS[row] not in pairs]


def test_it_finds_what_a_run_over_files_does(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", VECTORS)
    np.save(tmp_path / "ids.npy", np.arange(N))
    given = {"eps": 0.01, "n_clusters": None, "n_probes": 1}
    summary = dedup(str(tmp_path / "vectors.npy"), str(tmp_path / "out"), ids_path=str(tmp_path / "ids.npy"), **given)
    found = deduplicate(
        embeddings=VECTORS, eps=0.01, output_path=str(tmp_path / "memory"), n_clusters=summary.n_clusters
    )
    assert found.duplicates.equals(duplicates(summary))
    assert Path(found.summary.paths["output"]) == tmp_path / "memory"


def test_another_rule_and_columns_for_it() -> None:
    rows = pa.table({"vector": VECTORS.tolist(), "quality": range(N)})
    best = RankingStrategy.metadata_based(["quality"], ascending=False)
    found = deduplicate(rows, embeddings="vector", eps=0.01, n_probes="exact", ranking_strategy=best)
    assert found.duplicates.column_names == ["id", "max_id", "cosine_sim_score", "centroid"]
    assert found.duplicates.num_rows > 10
    assert all(pair["max_id"] > pair["id"] for pair in found.duplicates.to_pylist())


def test_rows_that_cannot_be_used_are_kept_and_counted() -> None:
    vectors = VECTORS.copy()
    vectors[5], vectors[6] = 0, np.nan
    found = deduplicate(embeddings=vectors, eps=0.01)
    assert {5, 6} <= set(found.kept_rows.tolist())
    assert found.summary.rejected == {"embedding has zero norm": 1, "embedding has NaN or infinite values": 1}


def test_repeated_ids_are_no_matter_as_rows_go_by_their_place() -> None:
    found = deduplicate(embeddings=np.concatenate([VECTORS[:50]] * 2), ids=[*range(50)] * 2, eps=1e-6)
    assert len(found.kept) == 50


def test_the_report_is_a_page_where_one_wants_it(tmp_path: Path) -> None:
    found = deduplicate(pa.table(frame()), embeddings="vector", ids="doc", metadata_fields=["text"], eps=0.01)
    page = found.report(tmp_path / "report.html")
    assert page == tmp_path / "report.html"
    assert page.read_bytes().startswith(b"<!doctype html>")
    assert TEXTS[0][:4] in page.read_text()
    assert found.report().parent == Path(found.summary.paths["output"])


def test_the_results_go_with_the_object() -> None:
    found = deduplicate(embeddings=VECTORS, eps=0.01)
    place = Path(found.summary.paths["output"])
    assert (place / "summary.json").exists()
    del found
    assert not place.exists()


@pytest.mark.slow
def test_nothing_is_imported_for_kinds_that_are_not_there() -> None:
    script = (
        "import sys, numpy as np\nfrom beam_semdedup import deduplicate\ndeduplicate(embeddings=np.eye(5), eps=0.1)\n"
        "print([name for name in ('polars', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({}, "embeddings is required where there are no rows: the vectors, (n, d) floats or integers"),
            ({"embeddings": np.ones(3)}, "embeddings: an array of shape (3,) and type float64, expected (n, d) floats"),
            ({"embeddings": np.array([["a"]])}, "embeddings: an array of shape (1, 1) and type <U1, expected"),
            ({"embeddings": np.array([[None]])}, "embeddings: an array of shape (1, 1) and type object, expected"),
            ({"embeddings": np.ones((0, 3))}, "there are no rows"),
            ({"embeddings": VECTORS, "ids": [1, 2]}, "ids: 2 for 120 rows; give one for each"),
            ({"embeddings": VECTORS, "ids": "doc"}, "rows: no column 'doc'; there are vectors alone"),
            ({"rows": pa.table(frame())}, "rows: no column 'embeddings'; it has: doc, vector, text"),
            ({"rows": pa.table({"a": [1]}), "embeddings": VECTORS}, "embeddings: 120 for 1 row; give one for each"),
            ({"rows": {"a": 1}, "embeddings": VECTORS}, "rows is dict, expected one of pandas.DataFrame, polars.Data"),
            ({"rows": TEXTS}, "rows is list, expected one of pandas.DataFrame, polars.Data"),
            ({"rows": TEXTS, "embeddings": "x"}, "rows: no column 'x'; there are vectors alone"),
            ({"rows": TEXTS, "model": "m", "embeddings": "x"}, "embeddings and model are given: give the vectors, or"),
            ({"rows": TEXTS, "text_field": "x"}, "text_field=x needs model=…, which embeds the texts"),
            ({"model": "m"}, "model=m: there are no rows with texts"),
            ({"rows": TEXTS, "model": "m"}, "model=m is no directory"),
            ({"rows": pa.table(frame()), "model": "m", "text_field": "t"}, "rows: no column 't'; it has: doc, vector"),
            ({"rows": [*TEXTS, 1], "model": "m"}, "text: not values of one type: Arrow"),
            (
                {"rows": TEXTS, "model": "m", "metadata_fields": ["lang"]},
                "rows: no column 'lang'; there are texts alone",
            ),
            ({"embeddings": VECTORS, "remove": True}, "remove has no meaning for rows in memory: rows, embeddings and"),
            ({"embeddings": VECTORS, "nclusters": 3}, "unknown parameter nclusters; did you mean n_clusters?"),
        ],
    )
    def test_they_are_said(self, arguments, said):
        with pytest.raises(InputError) as raised:
            deduplicate(eps=0.1, **arguments)
        assert str(raised.value).startswith(said)


def test_in_a_notebook_beam_changes_no_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    from apache_beam import pipeline

    def fail(*_: Any) -> None:
        raise ImportError("no module of interactive Beam")  # what it is without its extra, or with another pandas

    monkeypatch.setattr(pipeline, "alter_label_if_ipython", fail)
    assert len(deduplicate(embeddings=VECTORS, eps=0.01).kept) < N
    assert pipeline.alter_label_if_ipython is fail


SENTENCES = [
    "How do I install the package?",
    "A recipe for bread with rye flour",
    "How can I install the package?",
    None,
    "Cats purr",
]
OF_TEXTS: dict[str, Callable[[], Any]] = {
    "list": lambda: SENTENCES,
    "pandas.Series": lambda: pd.Series(SENTENCES, index=range(10, 15)),
    "polars.Series": lambda: pl.Series(SENTENCES),
    "pyarrow.Array": lambda: pa.array(SENTENCES),
    "pandas": lambda: pd.DataFrame({"text": SENTENCES}, index=range(10, 15)),
    "datasets": lambda: datasets.Dataset.from_dict({"text": SENTENCES}),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    if not sentence_model.is_there():
        pytest.skip("the packages with the model are not installed")
    return str(sentence_model.model_in(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * kind.endswith(("Series", "Array"))) for kind in OF_TEXTS]
)
def test_texts_are_embedded_and_come_back_as_what_they_were(kind: str, model: str) -> None:
    rows = OF_TEXTS[kind]()
    fields = ["text"] if kind in KINDS else []
    found = deduplicate(rows, model=model, eps=0.2, n_clusters=1, metadata_fields=fields)
    assert type(found.kept) is type(rows)
    assert found.summary.rejected == {"embedding is null": 1}
    (gone,) = set(range(5)) - set(found.kept_rows.tolist())
    kept = found.kept if kind not in KINDS else columns(found.kept)["text"]
    kept = kept.to_pylist() if kind == "pyarrow.Array" else list(kept)
    assert [None if pd.isna(text) else text for text in kept] == [t for row, t in enumerate(SENTENCES) if row != gone]
    said = columns(found.duplicates)
    assert {said["id"][0], said["max_id"][0]} == {0, 2}
    if fields:
        assert said["text"] == [SENTENCES[gone]]
    if kind.startswith("pandas"):
        assert found.kept.index.tolist() == [10 + row for row in found.kept_rows]


def test_texts_in_another_column_with_their_ids(model: str) -> None:
    rows = pa.table({"doc": list("abcde"), "body": SENTENCES})
    found = deduplicate(rows, model=model, text_field="body", ids="doc", eps=0.2, n_clusters=1)
    assert set(found.duplicates.to_pylist()[0].items()) & {("id", "a"), ("id", "c")}
    assert found.kept.column_names == ["doc", "body"]


def test_vectors_of_texts_in_a_list() -> None:
    found = deduplicate(TEXTS, embeddings=VECTORS, **GIVEN)
    assert found.kept == [TEXTS[row] for row in found.kept_rows]
    assert len(found.kept) < N
