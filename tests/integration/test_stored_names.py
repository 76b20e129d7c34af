"""Whatever the stored files of a run name, nothing outside of its directories is read, written or deleted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import dedup, duplicates

from beam_semdedup import InputError, RunError, Summary
from beam_semdedup.config.parameters import RemovalParameters
from beam_semdedup.removal.job import remove_duplicates

WAYS = ("../victim/{}", "{victim}/{}", "x/../../victim/{}", "file://{victim}/{}", "link/{}", "./../victim/{}")
"""How a name may lead out: `victim` is beside the directory, `link` in it points there."""


@pytest.fixture
def finished(parquet_dataset: Any, tmp_path: Path) -> Summary:
    """A run whose output and cache are beside a directory `victim`."""
    return _again(parquet_dataset, tmp_path)


def _again(dataset: Any, tmp_path: Path, **parameters: Any) -> Summary:
    return dedup(dataset.path, tmp_path / "out", cache_path=str(tmp_path / "cache"), remove=True, **parameters)


def _victim(directory: Path, *like: Path) -> Path:
    """A directory beside `directory`, with copies of some files of a run."""
    victim = directory.parent / "victim"
    victim.mkdir()
    for file in like:
        (victim / file.name).write_bytes(file.read_bytes())
    (directory / "link").symlink_to(victim, target_is_directory=True)
    return victim


def _content(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {str(f): (f.read_bytes(), f.stat().st_mtime_ns) for f in sorted(directory.iterdir())}


def _change(file: Path, change: Callable[[Any], None]) -> None:
    document = json.loads(file.read_text())
    change(document)
    document.pop("checksum", None)  # whoever writes such a file leaves it out, or computes it
    file.write_text(json.dumps(document))


def _led_out(way: str, victim: Path, name: str) -> str:
    return way.format(name, victim=victim)


@pytest.mark.parametrize("stored", ["_removal.json", "_removal/plan.json"])
def test_a_removal_deletes_nothing_outside(
    finished: Summary, parquet_dataset: Any, tmp_path: Path, stored: str
) -> None:
    place = Path(finished.paths["deduplicated"])
    victim = _victim(place, *place.glob("*.parquet"))
    before = _content(victim)
    file = place / stored
    file.parent.mkdir(exist_ok=True)
    if stored != "_removal.json":
        file.write_text('{"files": [], "key": "0"}')
    for way in WAYS:
        names = [_led_out(way, victim, name) for name in ("part-0.parquet", "part-1.parquet")]
        _change(file, lambda document, names=names: document.update(files=names))
        with pytest.raises(InputError, match=r"is not the name of something in it|lies elsewhere, through a link"):
            _again(parquet_dataset, tmp_path, eps=0.01)
        assert _content(victim) == before


def test_a_list_of_ids_is_read_of_its_own_run_alone(finished: Summary, tmp_path: Path) -> None:
    own = Path(finished.paths["duplicates"])
    victim = _victim(own, *own.glob("*.parquet"))
    name = next(victim.iterdir()).name
    given = {"duplicates_path": str(tmp_path / "out"), "output_path": str(tmp_path / "clean"), "verbose": False}
    for way in WAYS[:4]:
        names = [_led_out(way, victim, name)]
        _change(tmp_path / "out/summary.json", lambda summary, names=names: summary.update(duplicates_files=names))
        with pytest.raises(InputError, match="is not the name of something in it"):
            remove_duplicates(RemovalParameters(input_path=str(tmp_path / "in"), **given))
    assert not (tmp_path / "clean").exists()


@pytest.mark.parametrize("stage", ["kmeans_results", "pairwise_results"])
def test_a_manifest_names_files_of_its_own_stage_alone(
    finished: Summary, parquet_dataset: Any, tmp_path: Path, stage: str
) -> None:
    manifest = Path(finished.paths[stage], "manifest.json")
    home = manifest.parent / "segments" if stage == "kmeans_results" else manifest.parent
    victim = _victim(home, *home.glob("*.arrow"), *home.glob("*.parquet"))
    before = _content(victim)
    name = next(file.name for file in sorted(victim.iterdir()))
    if stage == "kmeans_results":  # whose files are read where there are no comparisons yet
        Path(finished.paths["pairwise_results"], "manifest.json").unlink()
    for way in WAYS[:4]:

        def change(document: Any, way: str = way) -> None:
            if stage == "kmeans_results":
                document["files"][0] = _led_out(way, victim, name)
            else:
                document["units"][0]["name"] = _led_out(way, victim, name)

        _change(manifest, change)
        with pytest.raises((InputError, RunError), match="is not the name of something in it"):
            _again(parquet_dataset, tmp_path, eps=0.01)
        assert _content(victim) == before


def test_a_plan_names_the_files_of_the_input_alone(finished: Summary, parquet_dataset: Any, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    for file in map(Path, parquet_dataset.files):  # the same rows with other ids: what is read shows in the results
        table = pq.read_table(file)
        pq.write_table(table.set_column(0, "id", pa.array(range(10**6, 10**6 + len(table)))), victim / file.name)
    kmeans = Path(finished.paths["kmeans_results"])
    _change(kmeans / "plan.json", lambda plan: plan.update(files=[str(f) for f in sorted(victim.iterdir())]))
    (kmeans / "manifest.json").unlink()
    for segment in sorted((kmeans / "segments").iterdir())[1:]:  # an attempt that was interrupted
        segment.unlink()
    again = _again(parquet_dataset, tmp_path)
    assert set(duplicates(again).column("id").to_pylist()) <= set(parquet_dataset.ids)
    assert again.num_duplicates == finished.num_duplicates


def test_a_name_of_this_place_in_a_store_cannot_lead_out(tmp_path: Path, parquet_dataset: Any) -> None:
    import fsspec

    from beam_semdedup.storage.folder import Folder

    memory = fsspec.filesystem("memory")
    memory.pipe("/stored-names/victim.parquet", b"kept")
    folder = Folder("memory://stored-names/out", {})
    with pytest.raises(InputError, match=re.escape("'../victim.parquet' is not the name")):
        folder.delete(["../victim.parquet"])
    assert memory.cat("/stored-names/victim.parquet") == b"kept"
