"""Whole runs and removals over what Hugging Face `datasets` saves, opened by that again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from runs import Ended, dedup, duplicates

from beam_semdedup import InputError
from beam_semdedup.cli import commands
from beam_semdedup.inputs.saved_datasets import without_others
from beam_semdedup.storage.folder import Folder

datasets = pytest.importorskip("datasets")
ROWS = np.random.default_rng(7).normal(size=(200, 8)).astype(np.float32)
COPIES = {150: 3, 151: 8, 199: 12}
"""Rows that are others again."""
for _copy, _row in COPIES.items():
    ROWS[_copy] = ROWS[_row]


def dataset(rows: slice = slice(None)) -> Any:
    values = {
        "id": [f"doc-{row}" for row in range(200)[rows]],
        "embeddings": ROWS[rows].tolist(),
        "text": [f"text {row}" for row in range(200)[rows]],
        "label": [row % 2 for row in range(200)[rows]],
    }
    vectors = datasets.Sequence(datasets.Value("float32"), length=8)
    kinds = {"id": datasets.Value("string"), "embeddings": vectors, "text": datasets.Value("large_string")}
    features = datasets.Features({**kinds, "label": datasets.ClassLabel(names=["even", "odd"])})
    return datasets.Dataset.from_dict(values, features=features)


@pytest.fixture(autouse=True)
def without_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    datasets.disable_progress_bars()


def test_a_saved_dataset_is_found_and_its_copy_opens_again(tmp_path: Path, called: Callable[..., Ended]) -> None:
    saved = tmp_path / "saved"
    dataset().save_to_disk(saved, num_shards=3)
    given = [f"input_path={saved}", f"output_path={tmp_path}/out", "n_clusters=4", "eps=0.0001", "n_probes=exact"]
    ended = called(commands.main, *given, "remove=true", "metadata_fields=[text]")
    assert ended.code == 0, ended.err
    assert "with other endings" not in ended.err
    found = pq.read_table(tmp_path / "out/duplicates").to_pylist()
    assert {frozenset((row["id"], row["max_id"])) for row in found} == {
        frozenset((f"doc-{a}", f"doc-{b}")) for a, b in COPIES.items()
    }
    kept = datasets.load_from_disk(str(tmp_path / "out/deduplicated"))
    gone = {row["id"] for row in found}
    original = datasets.load_from_disk(str(saved))
    expected = original.filter(lambda row: row["id"] not in gone, load_from_cache_file=False)
    assert kept.features == original.features
    assert kept.to_dict() == expected.to_dict()
    assert kept._fingerprint != original._fingerprint


def test_of_several_datasets_each_is_one_again(tmp_path: Path) -> None:
    both = datasets.DatasetDict(train=dataset(slice(0, 150)), test=dataset(slice(150, 200)))
    both.save_to_disk(tmp_path / "saved")
    summary = dedup(tmp_path / "saved", tmp_path / "out", eps=1e-4, n_probes="exact", remove=True)
    assert summary.num_duplicates == 3
    kept = datasets.load_from_disk(str(tmp_path / "out/deduplicated"))
    gone = set(duplicates(summary).column("id").to_pylist())
    for name, rows in (("train", range(150)), ("test", range(150, 200))):
        assert kept[name]["id"][:] == [f"doc-{row}" for row in rows if f"doc-{row}" not in gone]
    dedup(tmp_path / "saved/train", tmp_path / "one", eps=0.9, n_clusters=1, remove=True)
    assert datasets.load_from_disk(str(tmp_path / "one/deduplicated")).column_names == both["train"].column_names


def test_what_maps_left_beside_the_rows_is_not_read(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    dataset().save_to_disk(saved)
    loaded = datasets.load_from_disk(str(saved))
    loaded.map(lambda row: {"text": row["text"] + "!"})
    assert list(saved.glob("cache-*.arrow"))
    assert dedup(saved, tmp_path / "out").rows_read == 200
    (saved / "state.json").unlink()  # as in the cache of a dataset that was downloaded
    files = Folder(str(saved)).find()
    assert [file.name for file in without_others(files)] == ["data-00000-of-00001.arrow"]


def test_rows_without_ids_are_removed_by_their_places(tmp_path: Path) -> None:
    dataset().remove_columns("id").save_to_disk(tmp_path / "saved", num_shards=2)
    summary = dedup(tmp_path / "saved", tmp_path / "out", id_field=None, eps=1e-4, n_probes="exact", remove=True)
    assert summary.num_duplicates == 3
    assert len(datasets.load_from_disk(str(tmp_path / "out/deduplicated"))) == 197


class TestMistakes:
    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        dataset().save_to_disk(tmp_path / "saved", num_shards=2)
        return tmp_path / "saved"

    def said(self, saved: Path) -> str:
        with pytest.raises(InputError) as raised:
            dedup(saved, saved.parent / "out")
        return str(raised.value)

    def test_a_file_that_is_gone_is_named(self, saved):
        (saved / "data-00001-of-00002.arrow").unlink()
        assert self.said(saved) == (
            f"{saved}/data-00001-of-00002.arrow: not there, though state.json names it: the dataset is not whole"
        )

    @pytest.mark.parametrize(
        "state", ["", "[]", "{}", '{"_data_files": [{"filename": "../x.arrow"}]}', '{"_data_files": [1]}', "\xff"]
    )
    def test_a_state_that_is_none_is_named(self, saved, state):
        (saved / "state.json").write_bytes(state.encode("latin-1"))
        assert self.said(saved).startswith(f"{saved}/state.json: not the state of a dataset, though dataset_info.json")

    def test_a_dataset_that_an_index_chooses_from_is_refused(self, saved):
        state = json.loads((saved / "state.json").read_text())
        (saved / "state.json").write_text(json.dumps({**state, "_indices_data_files": [{"filename": "i.arrow"}]}))
        assert "chosen by an index: save it after flatten_indices()" in self.said(saved)

    def test_a_part_of_a_dataset_has_no_state(self, saved, tmp_path):
        shutil.copytree(saved, tmp_path / "copy")
        path = f"{saved}/data-00000-*.arrow"
        dedup(path, tmp_path / "out", eps=0.5, n_clusters=1, remove=True)
        assert sorted(file.name for file in (tmp_path / "out/deduplicated").iterdir()) == [
            "_removal.json",
            "data-00000-of-00002.arrow",
        ]
