"""`semdedup-plan` as a user types it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import Ended, dedup

from beam_semdedup.cli import commands as cli
from beam_semdedup.config.parameters import ForecastParameters
from beam_semdedup.forecast import calibration


@pytest.fixture
def plan(called: Callable[..., Ended]) -> Callable[..., Ended]:
    """The command `semdedup-plan`, which writes nothing into the working directory; see `called`."""

    def call(*arguments: object) -> Ended:
        ended = called(cli.plan_main, *arguments)
        assert list(Path.cwd().iterdir()) == []
        return ended

    return call


def test_rows_and_dimension_are_enough(plan: Callable[..., Ended]) -> None:
    ended = plan("rows=1000000", "dimension=384", "n_clusters=1000", "workers=4", "cores=2", "memory_budget=8GiB")
    assert (ended.code, ended.err) == (0, "")
    for line in (
        r"1,000,000 rows of 384 values, on 4 workers with 2 cores and 8.0 GiB of memory budget each, 0 GPUs",
        r"n_clusters +1,000; recommended: [\d,]+ \([\d.]+ \w+\)",
        r"Fit +on 256,000 rows",
        r"Assign +23 units of 43,690 rows",
        r"Index +[\d,]+ segments of [\d,]+ rows, 1.\d MiB",
        r"Stage +TFLOP +read +written +predicted +bottleneck",
        r"assign +0.77 +1.4 GiB +1.5 GiB +[\d.]+ \w+ +\w+",
        r"total +[\d.]+ \w+ +\w+",
        r"rows +n_clusters +segments +rows each +worker +driver +predicted +bottleneck +breaks",
        r"10,000,000,000 +[\d,]+ +[\d,]+ +",
    ):
        assert re.search(line, ended.out), line


def test_the_input_says_how_much_there_is(
    plan: Callable[..., Ended], make_dataset: Callable[..., Any], tmp_path: Path
) -> None:
    data = make_dataset(rows=60)
    ended = plan(f"input_path={data.path}", "metadata_fields=[text]", "storage_bandwidth=1GB", "gpus=1")
    assert ended.code == 0, ended.err
    assert re.search(r"60 rows of 16 values, on 1 worker .* 1 GPU, 953.7 MiB/s of storage each", ended.out)
    assert re.search(r"Assign +1 unit of 60 rows", ended.out)


def test_what_exact_would_cost_is_said_where_it_is_not_asked_for(plan: Callable[..., Ended]) -> None:
    asked = ("rows=1000000", "dimension=384", "n_clusters=1000", "cores=2", "eps=0.05")
    within, across = plan(*asked), plan(*asked, "n_probes=exact")
    assert (within.code, across.code) == (0, 0), within.err + across.err
    times = r"([\d.]+) times as long"
    (would,) = re.findall(
        rf"n_probes=exact would take {times} \([\d.]+ \w+\); comparing alone [\d.]+ times", within.out
    )
    (takes,) = re.findall(rf"n_probes=exact takes {times} as n_probes=1 \([\d.]+ \w+\)", across.out)
    assert would == takes
    assert 1 < float(would) < 5
    visits = r"Visits +[\d.]+ a row \(as 63,541 real texts, assumed\), [\d.]+ GiB of them; 64 coordinates"
    for ended in (within, across):
        assert re.search(visits, ended.out), ended.out
    assert re.search(r"matches +[\d.]+ +", across.out)
    assert "fewer would lose" in within.out
    assert "fewer would lose" not in across.out
    assert "Visits" not in plan(*asked[:-1]).out


def test_visits_are_counted_on_a_sample_of_the_input(
    plan: Callable[..., Ended], make_dataset: Callable[..., Any], tmp_path: Path
) -> None:
    asked = (f"input_path={make_dataset(rows=500).path}", "n_clusters=10")
    near, far = (plan(*asked, f"eps={eps}", "n_probes=exact") for eps in (0.001, 1.9))
    visits = [float(re.search(r"Visits +([\d.]+) a row \(from a sample of the rows\)", e.out)[1]) for e in (near, far)]
    assert visits[0] < 3
    assert visits[1] > 8
    two = plan(*asked, "n_probes=3")
    assert re.search(r"Visits +2\.0 a row \(from a sample of the rows\)", two.out), two.err


def test_references_and_corpora_are_counted(
    plan: Callable[..., Ended], make_dataset: Callable[..., Any], tmp_path: Path
) -> None:
    """Their rows are assigned where they are not yet, and compared; a corpus says how many clusters it has."""
    own, other = make_dataset(rows=60), make_dataset(rows=90)
    corpus = tmp_path / "corpus"
    for number, data in enumerate((other, own)):
        dedup(data.path, tmp_path / f"out {number}", corpus_path=str(corpus), eps=0.1, n_clusters=7)
    told = {
        name: plan(f"input_path={own.path}", *given)
        for name, given in {
            "alone": ["n_clusters=7"],
            "against": [f"against={other.path}", "n_clusters=7"],
            "corpus": [f"corpus_path={corpus}"],
            "both": [f"corpus_path={corpus}", f"against={other.path}"],
            "none": [f"corpus_path={tmp_path}/none"],
        }.items()
    }
    assert {ended.code for ended in told.values()} == {0}, [ended.err for ended in told.values()]
    assert re.search(r"Earlier +90 rows of against, which are assigned too", told["against"].out)
    assert re.search(r"Assign +2 units of", told["against"].out)
    assert re.search(r"Earlier +150 rows of a corpus, which are assigned\n", told["corpus"].out)
    assert re.search(r"n_clusters +7; recommended", told["corpus"].out)
    assert re.search(r"Fit +none", told["corpus"].out)
    assert re.search(r"Assign +1 unit of", told["corpus"].out)
    assert re.search(r"Earlier +90 rows of against, .*\nEarlier +150 rows of a corpus", told["both"].out)
    assert re.search(r"Assign +2 units of", told["both"].out)
    few = plan(f"input_path={other.path}", f"against={own.path}", "within=false", "n_clusters=60")
    assert "none: each row is compared with all of against" in few.out, few.err
    assert "Earlier" not in told["alone"].out + told["none"].out
    for name, message in (("n_probes=2", "n_probes=1"), ("n_clusters=8", "has 7 clusters")):
        wrong = plan(f"input_path={own.path}", f"corpus_path={corpus}", name)
        assert (wrong.code, message in wrong.err) == (2, True), wrong.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rows=10", "dimension=3", "against=x", "against_rows=5"], "against says what against_rows=5 would"),
        (["rows=10", "dimension=3", "corpus_path=x", "corpus_rows=5"], "corpus_path says what corpus_rows=5 would"),
        (["rows=10", "dimension=3", "within=false"], "within=false compares with the rows of against alone"),
        (["rows=10", "dimension=3", "against=nowhere"], "against: no files at nowhere"),
        ([], "nothing to plan for: give input_path=…, or rows=… and dimension=…"),
        (["rows=10"], "nothing to plan for"),
        (["rows=10", "dimension=3", "input_path=in"], "input_path says what rows=10 would: give either"),
        (["rows=10", "dimension=3", "n_clusters=11"], "n_clusters=11 is more than the 10 rows; give fewer or null"),
        (["rows=0", "dimension=3"], "rows=0 is out of range: it must be at least 1"),
        (["rows=10", "dimension=3", "worker=2"], "unknown parameter worker; did you mean workers?"),
        (["rows=10", "dimension=3", "which_to_keep=easy"], "unknown parameter which_to_keep"),
        (["rows=10", "dimension=3", "n_probes=exact"], "n_probes=exact needs eps, or reach"),
        (["rows=10", "dimension=3", "reach=0.1"], "reach=0.1 has a meaning with n_probes above 1 only"),
        (["rows=10", "dimension=3", "storage_bandwidth=fast"], "storage_bandwidth: 'fast' is not a size"),
        (["rows=10", "dimension=3", "calibration=none.json"], "calibration=none.json: no such file"),
        (["input_path=nowhere"], "input_path: no files at nowhere"),
    ],
)
def test_what_is_wrong_is_named(arguments: list[str], message: str, plan: Callable[..., Ended]) -> None:
    ended = plan(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("Error: ")
    assert message in ended.err


def test_more_clusters_than_the_input_has_rows(plan: Callable[..., Ended], make_dataset: Callable[..., Any]) -> None:
    ended = plan(f"input_path={make_dataset(rows=60).path}", "n_clusters=61")
    assert (ended.code, ended.err) == (2, "Error: n_clusters=61 is more than the 60 rows; give fewer or null\n")


@pytest.mark.slow
def test_a_calibration_is_measured_once_and_used_again(
    plan: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sizes = {"_ROWS": 512, "_FEW": 2, "_SOME": 8, "_MORE": 16, "_MANY": 64, "_REPEATS": 1, "_DISK_BYTES": 1 << 20}
    for name, value in sizes.items():
        monkeypatch.setattr(calibration, name, value)
    path = tmp_path / "rates.json"
    asked = ("rows=100000", "dimension=8", "cores=1", "memory_budget=1GiB", f"calibration={path}")
    measured = plan(*asked, "calibrate=true")
    assert measured.code == 0, measured.err
    assert "measured on this machine now" in measured.out
    stored = json.loads(path.read_text())
    assert stored["cores"] == 1
    assert stored["start"] > 0.5
    again = plan(*asked)
    assert again.out.replace(f"from {path}", "measured on this machine now") == measured.out


def test_several_sizes_are_a_sweep(plan: Callable[..., Ended]) -> None:
    ended = plan("-m", "rows=1000,2000", "dimension=8", "verbose=false")
    assert ended.code == 0, ended.err
    assert re.search(r"rows=1000\n1,000 rows of 8 values[\s\S]*rows=2000\n2,000 rows of 8 values", ended.out)


def test_help_names_every_parameter(plan: Callable[..., Ended]) -> None:
    ended = plan("--help")
    assert ended.out.startswith("semdedup-plan input_path=… | rows=… dimension=… [workers=…] [name=value …]\n")
    for field in dataclasses.fields(ForecastParameters):
        assert re.search(rf"^ *{field.name}\b", ended.out, re.MULTILINE), field.name
    assert "which_to_keep" not in ended.out
