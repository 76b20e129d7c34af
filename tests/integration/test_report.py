"""What a report says of a run, against what follows from the run's files; and the command that writes it."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import DEMO, Ended, comparisons, dedup, segments, vectors

from beam_semdedup.cli import commands as cli
from beam_semdedup.config.parameters import ReportParameters
from beam_semdedup.report.content import Content, as_json
from beam_semdedup.report.job import read_report
from beam_semdedup.report.page import write_page
from beam_semdedup.report.results import FinishedRun

MARK = b"<!doctype html><!-- a report of beam-semdedup -->"


@pytest.fixture(scope="module", params=[1, "exact"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run on the demo data with its texts."""
    exact = {"n_probes": "exact", "reach": 0.2} if request.param == "exact" else {}
    output = tmp_path_factory.mktemp("run") / "out"
    return dedup(DEMO, output, n_clusters=40, eps=0.05, metadata_fields=["text"], report=True, **exact)


def read(run: Any, **parameters: Any) -> tuple[FinishedRun, Content]:
    return read_report(ReportParameters(output_path=run.paths["output"], **parameters))


@pytest.fixture
def reported(called: Callable[..., Ended]) -> Callable[..., Ended]:
    """The command `semdedup-report`."""
    return lambda *arguments: called(cli.report_main, *arguments)


def test_rows_are_counted_at_every_eps_by_source_and_cluster(run: Any) -> None:
    table = comparisons(run)
    scores = table.column("cosine_sim_score").to_numpy().astype(np.float64)
    ids, winners = (table.column(name).to_pylist() for name in ("id", "max_id"))
    comparable = np.array([a != b for a, b in zip(ids, winners, strict=True)])
    collected = read(run)[1].collected
    for eps in (0, 0.0003, 0.01, 0.05, 0.1234, 0.2):
        assert collected.found_at(eps) == (comparable & (scores >= 1 - eps)).sum()
    similar = comparable & (scores >= 0.95)
    assert collected.found_at(0.05) == similar.sum() == run.num_duplicates
    centroids = table.column("centroid").to_numpy()
    assert collected.clusters[:, 0].tolist() == np.bincount(centroids, minlength=40).tolist()
    assert collected.clusters[:, 1].tolist() == np.bincount(centroids[similar], minlength=40).tolist()
    found = segments(run)
    files = dict(zip(found.column("id").to_pylist(), found.column("source_file").to_pylist(), strict=True))
    rows, lost = Counter(files.values()), Counter(files[i] for i, s in zip(ids, similar.tolist(), strict=True) if s)
    at = 1 + int(np.searchsorted(collected.scale.source_places, collected.scale.place(0.05)))
    said = {name: (int(counts[0]), int(counts[at])) for name, counts in collected.sources.items()}
    assert said == {f"part-0000{file}.parquet": (rows[file], lost[file]) for file in range(3)}
    hardest = max(said, key=lambda name: said[name][1] / said[name][0])
    assert collected.hardest_hit() == (hardest, said[hardest][1], said[hardest][0])


def test_pairs_are_drawn_from_every_band_and_told_with_their_texts(run: Any) -> None:
    table, (_, content) = comparisons(run), read(run)
    known = {
        row["id"]: (row["max_id"], row["cosine_sim_score"], row["text"])
        for row in table.select(["id", "max_id", "cosine_sim_score", "text"]).to_pylist()
    }
    scores = sorted((score for i, (other, score, _) in known.items() if i != other and score is not None), reverse=True)
    places = content.collected.scale.places(np.array(scores))
    edges = content.collected.scale.edges(16)
    rows = np.bincount(content.collected.scale.parts_of(places, edges), minlength=17)[:16]
    drawn = Counter(pair.band for pair in content.pairs if pair.band >= 0)
    assert [drawn[band] for band in range(16)] == np.minimum(rows, 64).tolist()
    for pair in content.pairs:
        row, other = content.rows[pair.row], content.rows[pair.other]
        assert known[row.id][:2] == (other.id, pytest.approx(pair.score))
        assert (row.values, other.values) == ((known[row.id][2],), (known[other.id][2],))
    shown = [pair.score for pair in content.pairs]
    removed, kept = [s for s in scores if s >= 0.95], [s for s in scores if s < 0.95]
    assert sorted(s for s in shown if s >= 0.95)[:20] == pytest.approx(sorted(removed)[:20])
    assert sorted((s for s in shown if s < 0.95), reverse=True)[:20] == pytest.approx(kept[:20])


def test_groups_follow_max_id_and_chains_are_measured(run: Any) -> None:
    table, found = comparisons(run), segments(run)
    matrix = dict(zip(found.column("id").to_pylist(), vectors(found), strict=True))
    rows = table.select(["id", "max_id", "cosine_sim_score"]).to_pylist()
    towards = {
        row["id"]: row["max_id"]
        for row in rows
        if row["id"] != row["max_id"] and row["cosine_sim_score"] is not None and row["cosine_sim_score"] >= 0.95
    }

    def root(row: str) -> tuple[str, int]:
        steps = 0
        while row in towards:
            row, steps = towards[row], steps + 1
        return row, steps

    ends = {row: root(row) for row in towards}
    sizes = Counter(end for end, _ in ends.values())
    content = read(run)[1]
    groups = content.groups
    assert groups is not None
    assert groups.count == len(sizes)
    assert groups.sizes == Counter(size + 1 for size in sizes.values())
    largest = [(content.rows[group.root].id, group.size) for group in groups.largest]
    assert [size for _, size in largest] == sorted((size + 1 for size in sizes.values()), reverse=True)[:12]
    assert all(sizes[kept] + 1 == size for kept, size in largest)
    for group in groups.largest:
        for member, _, steps in group.members:
            assert ends[content.rows[member].id] == (content.rows[group.root].id, steps)
    chained = {row: end for row, (end, steps) in ends.items() if steps > 1}
    alike = {row: float(matrix[row].astype(float) @ matrix[end].astype(float)) for row, end in chained.items()}
    assert (groups.chains.count, groups.chains.measured) == (len(chained), len(chained))
    assert groups.chains.below == sum(np.float32(value) < 0.95 for value in alike.values())
    worst = groups.chains.worst[0]
    assert worst[2] == pytest.approx(min(alike.values()))
    assert content.rows[worst[1]].id == chained[content.rows[worst[0]].id]


def test_the_page_is_written_by_the_run_and_again_from_the_cache(
    run: Any, reported: Callable[..., Ended], tmp_path: Path
) -> None:
    page = Path(run.paths["report"])
    assert page == Path(run.paths["output"], "report.html")
    assert page.read_bytes().startswith(MARK)
    moved = tmp_path / "moved"
    shutil.copytree(run.paths["output"], moved)
    (moved / "report.html").unlink()
    ended = reported(f"output_path={moved}")
    assert (ended.code, ended.err) == (0, "")
    assert re.match(r"Report: \S+/moved/report.html \(\d+\.\d KiB\)", ended.out)
    times = re.compile(rb'"total_time":[\d.]+')
    assert times.sub(b"", (moved / "report.html").read_bytes()) == times.sub(b"", page.read_bytes())


def test_the_text_has_what_each_eps_would_find_and_pairs(run: Any, reported: Callable[..., Ended]) -> None:
    ended = reported(f"output_path={run.paths['output']}", "text=true")
    assert (ended.code, ended.err) == (0, "")
    assert re.search(rf"^ +0.05 +{run.num_duplicates:,} +{run.num_duplicates / 5000:.2%} .*<- this$", ended.out, re.M)
    least, most, drawn = re.split(r"\n\n(?=\w.*, at eps=0.05:\n)", ended.out)[1:]
    scores = [[float(score) for score in re.findall(r"^(\d\.\d{6})  ", part, re.M)] for part in (least, most, drawn)]
    assert [len(found) for found in scores] == [5, 5, 5]
    assert 0.95 <= min(scores[0]) <= max(scores[0]) < 0.96
    assert 0.94 < min(scores[1]) <= max(scores[1]) < 0.95
    assert min(scores[2]) >= 0.95
    assert re.search(r"^0.95\d+  \S+  \w.* \w.*\n is like  \S+  \w.* \w", least, re.M)
    other = reported(f"output_path={run.paths['output']}", "text=true", "eps=0.15", "pairs=1")
    assert "<- this" in other.out
    assert other.out.count("is like") == 3


def test_labels_give_the_precision_in_the_text(run: Any, reported: Callable[..., Ended], tmp_path: Path) -> None:
    content = read(run)[1]
    labels = [{"pair": pair.key, "same": True} for pair in content.pairs if 0 <= pair.band < 7]
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({"program": "beam-semdedup", "labels": labels}))
    ended = reported(f"output_path={run.paths['output']}", "text=true", f"labels={file}")
    assert f"Precision: the interval of 95 % from {len(labels)} labels" in ended.out
    assert re.search(r"^ +0.03 .*9\d\.\d% to 100\.0%$", ended.out, re.M)


def test_a_run_without_eps_has_a_report_too(make_dataset: Callable[..., Any], tmp_path: Path) -> None:
    data = make_dataset(rows=60, copies=10, clusters=3)
    run = dedup(data.path, tmp_path / "out", n_clusters=3, eps=None, metadata_fields=["quality", "text"], report=True)
    told, content = read(run, group_field="text")
    page = as_json(told, content, 100, 1)
    assert (page["eps"], page["runEps"], page["run"]["rows_read"]) == (0.05, None, 60)
    assert content.collected.found_at(0) >= 4
    assert len(content.collected.sources) == 60
    assert page["run"]["command"].startswith("semdedup input_path=/")
    assert "metadata_fields=[" in page["run"]["command"]


def test_a_source_that_would_lose_too_much_ends_the_run_before_the_removal(
    semdedup: Callable[..., Ended], make_dataset: Callable[..., Any], tmp_path: Path
) -> None:
    data = make_dataset(rows=100, copies=20, clusters=3)
    given = [f"input_path={data.path}", f"output_path={tmp_path}/out", "eps=0.05", "n_clusters=3", "remove=true"]
    ended = semdedup(*given, "max_removed_share=0.05", "report=true", "verbose=false")
    assert ended.code == 2
    assert re.search(r"Error: input file part-\d.parquet: \d+ of 3\d rows are duplicates at eps=0.05, more", ended.err)
    assert "max_removed_share=0.05" in ended.err
    assert not (tmp_path / "out" / "deduplicated").exists()
    assert (tmp_path / "out" / "report.html").exists()
    assert semdedup(*given, "max_removed_share=0.9", "verbose=false").code == 0
    assert (tmp_path / "out" / "deduplicated").exists()
    assert not (tmp_path / "out" / "report.html").exists()  # it was of the earlier run


def test_mistakes_are_told(
    run: Any, reported: Callable[..., Ended], semdedup: Callable[..., Ended], tmp_path: Path
) -> None:
    output = run.paths["output"]

    def error(*arguments: str) -> str:
        ended = reported(*arguments)
        assert ended.code == 2
        assert "Traceback" not in ended.err
        return ended.err

    assert "output_path is required" in error()
    assert "no summary.json of a finished run there" in error(f"output_path={tmp_path}")
    assert "group_field=lang: not one of the run's metadata_fields (text)" in error(
        f"output_path={output}", "group_field=lang"
    )
    assert "image_field=url: not one of" in error(f"output_path={output}", "image_field=url")
    assert "no such file" in error(f"output_path={output}", "labels=none.json")
    if run.configuration["n_probes"] == "exact":
        assert "the scores of this run end at eps=0.2" in error(f"output_path={output}", "eps=0.3")
    foreign = tmp_path / "out"
    shutil.copytree(output, foreign)
    (foreign / "report.html").write_text("mine")
    assert "report.html is not from this program" in error(f"output_path={foreign}")
    ended = semdedup(f"input_path={DEMO}", f"output_path={foreign}", "eps=0.05", "verbose=false")
    assert (ended.code, (foreign / "report.html").read_text()) == (2, "mine")
    shutil.rmtree(foreign / "pairwise_results")
    (foreign / "report.html").unlink()
    summary = json.loads((foreign / "summary.json").read_text())
    summary["paths"]["pairwise_results"] = f"{tmp_path}/gone/pairwise_results/0123"
    (foreign / "summary.json").write_text(json.dumps(summary))
    assert "give cache_path, or run semdedup again" in error(f"output_path={foreign}")
    ended = semdedup("input_path=x", "output_path=y", "eps=0.1", "group_field=lang")
    assert "group_field=lang: not one of metadata_fields" in ended.err


def test_a_damaged_file_is_named(run: Any, reported: Callable[..., Ended], tmp_path: Path) -> None:
    shutil.copytree(run.paths["output"], tmp_path / "out")
    file = next((tmp_path / "out" / "pairwise_results").rglob("*.parquet"))
    data = bytearray(file.read_bytes())
    data[200:260] = bytes(60)
    file.write_bytes(data)
    ended = reported(f"output_path={tmp_path}/out")
    assert ended.code == 2
    assert re.search(rf"{file.name} is damaged or gone: .*; run semdedup again", ended.err)


def test_without_the_segments_all_else_is_shown(run: Any, tmp_path: Path) -> None:
    shutil.copytree(run.paths["output"], tmp_path / "out")
    shutil.rmtree(next((tmp_path / "out" / "kmeans_results").iterdir()) / "segments")
    content = read_report(ReportParameters(output_path=str(tmp_path / "out")))[1]
    assert content.groups is not None
    assert content.groups.chains.measured == len(content.distances) == 0
    assert "segments" in content.groups.chains.why_not
    assert content.collected.found_at(0.05) == run.num_duplicates


@pytest.mark.parametrize("n_probes", [1, "exact"])
def test_rows_of_other_files_are_told_by_their_file(
    make_dataset: Callable[..., Any], tmp_path: Path, n_probes: Any
) -> None:
    """Their ids are those of rows of the input too, which are others."""
    data, others = make_dataset(rows=120, copies=20, clusters=3), make_dataset(rows=120, copies=20, clusters=3)
    common = {"n_clusters": 3, "n_probes": n_probes, "metadata_fields": ["text"], "report": True}
    run = dedup(data.path, tmp_path / "out", against=others.path, **common)
    content = read(run)[1]
    assert run.num_duplicates == content.collected.found_at(0.05) == 120
    for pair in content.pairs:
        row, other = content.rows[pair.row], content.rows[pair.other]
        assert re.fullmatch(r"\d+ \(\S*part-\d\.parquet\)", other.id)
        assert (row.values, other.values) == ((f"text of {row.id}",), ())
    assert content.groups is not None
    assert sum((size - 1) * times for size, times in content.groups.sizes.items()) == 120
    assert content.groups.chains.count == 0
    assert b'"references":[{"file":' in Path(run.paths["report"]).read_bytes()


@pytest.mark.parametrize("n_probes", [1, "exact"])
def test_rows_of_earlier_generations_are_shown_whole(
    make_dataset: Callable[..., Any], tmp_path: Path, n_probes: Any
) -> None:
    """The corpus has them, if the inputs and the earlier outputs are gone."""
    common = {"n_clusters": 3, "n_probes": n_probes, "metadata_fields": ["text"], "corpus_path": str(tmp_path / "c")}
    for day in ("monday", "tuesday"):
        dataset = make_dataset(rows=120, copies=20, clusters=3)
        run = dedup(dataset.path, tmp_path / day, report=True, **common)
        if day == "monday":
            shutil.rmtree(dataset.path)
            shutil.rmtree(tmp_path / day)
    content = read(run)[1]
    earlier = [content.rows[pair.other] for pair in content.pairs if content.rows[pair.other].id.endswith(")")]
    assert len(earlier) == len(content.pairs) > 10
    for row in earlier:
        assert row.values == (f"text of {row.id.partition(' ')[0]}",)
    (segment,) = (tmp_path / "c").rglob("generations/000000/segments/*.arrow")
    segment.write_bytes(segment.read_bytes()[:-1] + b"?")
    content = read(run)[1]  # without them, and without touching what is not its own
    assert {row.values for row in content.rows.values() if row.id.endswith(")")} == {()}
    assert segment.exists()


@pytest.mark.parametrize("probes", [{}, {"n_probes": "exact", "reach": 0.2}])
def test_target_rows_finds_the_eps_that_leaves_so_many(
    semdedup: Callable[..., Ended], tmp_path: Path, probes: dict[str, Any]
) -> None:
    given = {"input_path": DEMO, "cache_path": tmp_path / "cache", "n_clusters": 40, "n_probes": 1, **probes}
    arguments = [f"{name}={value}" for name, value in given.items()]
    for number, wanted in enumerate((3999, 6000)):
        output = tmp_path / f"out-{number}"
        ended = semdedup(*arguments, f"output_path={output}", f"target_rows={wanted}")
        assert ended.code == 0
        summary = json.loads((output / "summary.json").read_text())
        assert summary["rows_kept"] <= wanted
        eps = summary["eps"]
        assert f"target_rows={wanted}: eps={eps} leaves {summary['rows_kept']:,} rows" in ended.err
        assert (summary["configuration"]["eps"], summary["configuration"]["target_rows"]) == (eps, None)
        again = dedup(output_path=tmp_path / "again", eps=eps, **{**given, "input_path": DEMO})
        assert (again.rows_kept, again.stages["pairwise"].units_done) == (summary["rows_kept"], 0)
        if eps:
            assert dedup(output_path=tmp_path / "again", eps=eps - 1e-4, **given).rows_kept > wanted
    ended = semdedup(*arguments, f"output_path={tmp_path}/none", "target_rows=1")
    assert ended.code == 2
    expected = (
        "eps=0.2, the largest that the scores serve, leaves 2,8.. rows; a larger reach" if probes else "leaves 40 r"
    )
    assert re.search(expected, ended.err)


def test_target_rows_is_one_of_two(semdedup: Callable[..., Ended]) -> None:
    given = ["input_path=x", "output_path=y", "target_rows=5"]
    assert "leave eps=0.1 out, or target_rows" in semdedup(*given, "eps=0.1").err
    assert "needs reach" in semdedup(*given, "n_probes=exact").err
    assert "precision=screened needs eps" in semdedup(*given, "precision=screened").err


def test_too_many_sources_are_not_counted_silently(
    semdedup: Callable[..., Ended], make_dataset: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from beam_semdedup.report import collect

    monkeypatch.setattr(collect, "MOST_SOURCES", 50)
    data = make_dataset(rows=100, copies=20, clusters=3)
    given = [f"input_path={data.path}", f"output_path={tmp_path}/out", "eps=0.05", "n_clusters=3"]
    given += ["metadata_fields=[text]", "group_field=text", "verbose=false"]
    ended = semdedup(*given, "max_removed_share=0.5")
    assert ended.code == 2
    assert "group_field=text: more than 50 values, too many to hold max_removed_share to" in ended.err
    assert semdedup(*given, "report=true").code == 0
    assert b'"isCut":true' in (tmp_path / "out" / "report.html").read_bytes()


@pytest.mark.slow
def test_a_report_is_written_and_read_on_s3(
    make_dataset: Callable[..., Any], s3: Any, called: Callable[..., Ended]
) -> None:
    data = make_dataset(s3.join("in"), rows=60, copies=10, clusters=3, options=s3.options)
    options = {"storage_options": s3.options}
    run = dedup(
        data.path, s3.join("out"), n_clusters=3, report=True, read_kwargs=options, write_kwargs=options, eps=0.05
    )
    assert run.paths["report"] == s3.join("out", "report.html")
    assert s3.keys() >= {"out/report.html", "out/summary.json"}
    told, content = read_report(ReportParameters(output_path=s3.join("out"), write_kwargs=options))
    assert (told.num_duplicates, content.collected.found_at(0.05)) == (run.num_duplicates, run.num_duplicates)
    assert r"\"secret\": \"***\"" in write_page(told, content).decode()
