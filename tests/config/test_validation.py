from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_semdedup.config import validation
from beam_semdedup.config.choices import GROUPS
from beam_semdedup.config.parameters import Parameters, RemovalParameters
from beam_semdedup.config.types import number_of_bytes
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError
from beam_semdedup.fields import declared
from beam_semdedup.runners.direct import DirectConfig
from beam_semdedup.storage.columns import RESULT_COLUMNS, SEGMENT_COLUMNS

REQUIRED = {"input_path": "in", "output_path": "out"}
REQUIRED_FOR_REMOVAL = {**REQUIRED, "duplicates_path": "list"}


def parameters(**values: Any) -> Parameters:
    return resolve({**REQUIRED, **values})


def message(schema: type = Parameters, **values: Any) -> str:
    """What the InputError says that these values raise."""
    required = REQUIRED if schema is Parameters else REQUIRED_FOR_REMOVAL
    with pytest.raises(InputError) as raised:
        resolve({**required, **values}, schema)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("id_field", ["id", "key"])
def test_what_was_resolved_resolves_to_itself(id_field):
    given_ = parameters(
        eps=0.1,
        id_field=id_field,
        metadata_fields=["text", id_field, "text"],
        ranking_strategy={"metadata_cols": ["quality", id_field], "ascending": [False, True]},
        memory_budget="1GiB",
        runner={"name": "direct", "num_workers": 3},
    )
    assert resolve(dataclasses.asdict(given_)) == given_


class TestNames:
    @pytest.mark.parametrize(
        ("wrong", "meant"),
        [
            *(("n_cluster", "n_clusters"), ("epsilon", "eps"), ("inputpath", "input_path"), ("k", "n_clusters")),
            *(("kmeans_max_iter", "max_iter"), ("perform_removal", "remove"), ("id_column", "id_field")),
            *(("threshold", "eps (= 1 - threshold)"), ("embedding_column", "embedding_field")),
        ],
    )
    def test_an_unknown_name_is_an_error_that_suggests_what_was_meant(self, wrong, meant):
        assert message(**{wrong: 1}) == f"unknown parameter {wrong}; did you mean {meant}?"

    def test_an_unknown_name_like_no_other_is_an_error_that_lists_the_known_ones(self):
        said = message(zzz=1)
        assert said.startswith("unknown parameter zzz; known: input_path, output_path, ")
        assert message(RemovalParameters, n_clusters=3).startswith("unknown parameter n_clusters")

    @pytest.mark.parametrize("missing", ["input_path", "output_path"])
    def test_a_missing_required_parameter_is_named(self, missing):
        with pytest.raises(InputError, match=f"^{missing} is required: give {missing}=…$"):
            resolve({k: v for k, v in REQUIRED.items() if k != missing})

    def test_the_removal_needs_its_list(self):
        with pytest.raises(InputError, match=r"^duplicates_path is required"):
            resolve(REQUIRED, RemovalParameters)

    @pytest.mark.parametrize(
        ("group", "setting", "owners"),
        [
            ("runner", "num_cpus", ["ray"]),
            ("runner", "flink_master", ["flink"]),
            ("kmeans", "num_actors", ["ray"]),
            ("kmeans", "device_buffer_samples", ["cuml"]),
        ],
    )
    def test_a_setting_of_another_choice_is_an_error_that_says_whose_it_is(self, group, setting, owners):
        said = message(**{group: {"name": next(iter(GROUPS[group])), setting: 1}})
        assert said == f"{group}.{setting} belongs to {group}={owners[0]}: add {group}={owners[0]}"

    def test_a_former_name_is_taken_and_the_new_one_told(self, caplog):
        assert parameters(unit_rows=5).comparison_rows == 5
        assert "unit_rows is called comparison_rows now" in caplog.text
        assert message(unit_rows=5, comparison_rows=5).startswith("unit_rows and comparison_rows are the same")
        assert message(unit_rows=0) == "comparison_rows=0 is out of range: it must be at least 1"

    def test_every_other_name_is_of_a_parameter_that_exists_and_of_none_itself(self):
        names = {f.name for f in dataclasses.fields(Parameters)}
        assert {other.partition(" ")[0] for other in validation._OTHER_NAMES.values()} <= names
        assert not set(validation._OTHER_NAMES) & names


class TestTypes:
    def test_scalars_of_numpy_are_those_of_python(self):
        resolved = parameters(
            n_clusters=np.int64(5),
            eps=np.float32(0.05),
            tol=np.float64(0.5),
            assume_normalized=np.bool_(True),
            id_field=np.str_("key"),
            metadata_fields=[np.str_("text")],
            runner={"name": "direct", "num_workers": np.int32(2)},
            ranking_strategy={"metadata_cols": ["text"], "ascending": np.bool_(False)},
        )
        found = dataclasses.asdict(resolved)
        assert found["n_clusters"] == 5
        assert found["eps"] == pytest.approx(0.05)
        assert (found["tol"], found["assume_normalized"], found["runner"]["num_workers"]) == (0.5, True, 2)
        assert json.loads(json.dumps(found)) == found

    def test_arrays_of_numpy_are_lists(self):
        assert parameters(metadata_fields=np.array(["a", "b"])).metadata_fields == ["a", "b"]
        assert message(n_clusters=np.arange(2)) == "n_clusters=[0, 1]: expected an integer"

    @pytest.mark.parametrize("value", ["${HOME}/o", "${eps}", "a${b"])
    def test_an_interpolation_is_of_the_command_line(self, value):
        assert message(output_path=value) == f"output_path: ${{…}} in {value!r} has a meaning on the command line only"
        assert message(metadata_fields=["a", value]).startswith("metadata_fields: ")

    def test_credentials_that_are_not_stored_are_asked_for(self):
        said = message(read_kwargs={"storage_options": {"anon": False, "key": "***"}})
        assert said.startswith("read_kwargs.storage_options.key is not stored")
        assert said.endswith("give it again: read_kwargs.storage_options.key=…")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("n_clusters", "many"),
            ("n_clusters", 2.5),
            ("n_clusters", True),
            ("n_clusters", [3]),
            ("eps", "small"),
            ("eps", True),
            ("eps", {"value": 1}),
            ("remove", "maybe"),
            ("verbose", 3.7),
            ("metadata_fields", "text"),
            ("metadata_fields", {"a": 1}),
            ("metadata_fields", [["text"]]),
            ("metadata_fields", [None]),
            ("n_init", object()),
            ("input_file_extensions", ".parquet"),
            ("output_path", ["a", "b"]),
            ("read_kwargs", 5),
            ("read_kwargs", ["a"]),
            ("n_init", "three"),
            ("n_init", 2.0),
            ("n_init", True),
            ("memory_budget", "much"),
            ("memory_budget", True),
            ("memory_budget", [1]),
            ("assign_unit_bytes", "64Mi B"),
            ("runner", 3),
            ("runner", [1]),
            ("runner", {"name": ["direct"]}),
            ("runner", {"num_workers": 2}),
            ("tol", "${no_such}"),
            ("output_path", "a${b"),
        ],
    )
    def test_a_wrong_type_is_an_error_that_names_the_parameter(self, name, value):
        assert message(**{name: value}).startswith(name)

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("n_clusters", "abc", "n_clusters='abc': expected an integer"),
            ("eps", "small", "eps='small': expected a number"),
            ("remove", "maybe", "remove='maybe': expected true or false or mark"),
            ("output_path", ["a"], "output_path=['a']: expected text"),
            ("metadata_fields", "text", "metadata_fields='text': expected a list of text"),
            ("metadata_fields", {"a": 1}, "metadata_fields={'a': 1}: expected a list of text"),
            ("read_kwargs", 5, "read_kwargs: expected a mapping, found int"),
        ],
    )
    def test_a_wrong_type_is_told_once_and_in_words(self, name, value, said):
        assert message(**{name: value}) == said

    @pytest.mark.parametrize(
        "name", [f.name for f in declared(Parameters) if f.default not in (None, dataclasses.MISSING)]
    )
    def test_null_is_an_error_where_it_has_no_meaning(self, name):
        if name in GROUPS:
            assert getattr(parameters(**{name: None}), name) == getattr(parameters(), name)
        elif name == "id_field":  # the one whose null has a meaning and is not its default
            assert parameters(id_field=None).id_column == "id"
        else:
            assert message(**{name: None}).startswith(name)

    @pytest.mark.parametrize("name", ["output_path", "cache_path", "id_field", "embedding_field", "init"])
    def test_an_empty_text_is_an_error(self, name):
        assert message(**{name: ""}) == f"{name} is empty"

    def test_numbers_may_be_written_as_text(self):
        resolved = parameters(n_clusters="12", eps="0.25", tol="1e-3")
        assert (resolved.n_clusters, resolved.eps, resolved.tol) == (12, 0.25, 1e-3)


class TestRanges:
    @pytest.mark.parametrize(
        ("name", "value", "rule"),
        [
            ("n_clusters", 0, "at least 1"),
            ("embedding_dim", 0, "at least 1"),
            ("max_iter", -1, "at least 0"),
            ("tol", -1e-9, "at least 0"),
            ("tol", float("nan"), "finite"),
            ("random_state", -1, "at least 0"),
            ("random_state", 2**32, "at most 4294967295"),
            ("n_init", 0, "at least 1"),
            ("oversampling_factor", 0, "above 0"),
            ("max_samples_per_batch", 0, "at least 1"),
            ("fit_data_fraction", 0, "above 0"),
            ("fit_data_fraction", 1.01, "at most 1"),
            ("eps", -0.01, "at least 0"),
            ("eps", 2, "below 2"),
            ("eps", float("nan"), "finite"),
            ("pairwise_batch_size", 0, "at least 1"),
            ("duplicates_num_row_groups_hint", 0, "at least 1"),
            ("max_cluster_rows", 0, "at least 1"),
            ("comparison_rows", 0, "at least 1"),
            ("memory_budget", 0, "at least 1"),
            ("assign_unit_bytes", "0GiB", "at least 1"),
            ("n_clusters", 2**63, "at most 9223372036854775807"),
            ("memory_budget", "1" + 400 * "0", "at most 9223372036854775807"),
            ("ray_timeout", float("inf"), "finite"),
        ],
    )
    def test_a_value_out_of_range_is_an_error_that_says_the_range(self, name, value, rule):
        assert re.fullmatch(rf"{name}=\S+ is out of range: it must be {rule}", message(**{name: value}))

    @pytest.mark.parametrize(
        ("name", "value"),
        [("eps", 0), ("eps", 1.999), ("fit_data_fraction", 1), ("random_state", 2**32 - 1), ("random_state", 0)],
    )
    def test_the_ends_of_a_range_belong_to_it_where_it_says_so(self, name, value):
        assert getattr(parameters(**{name: value}), name) == value

    @pytest.mark.parametrize(
        "name", ["input_filetype", "which_to_keep", "distance_metric", "repeated_ids", "runner", "kmeans"]
    )
    def test_an_unknown_choice_is_an_error_that_lists_the_choices(self, name):
        (f,) = (f for f in declared(Parameters) if f.name == name)
        choices = GROUPS.get(name) or f.choices
        assert message(**{name: "other"}) == f"{name}='other' is not known; it is one of: {', '.join(choices)}"

    @pytest.mark.parametrize("name", ["read_kwargs", "write_kwargs", "cache_kwargs"])
    def test_kwargs_hold_known_keys_only(self, name):
        assert message(**{name: {"storage_option": {}}}).startswith(
            f"{name} has an unknown key 'storage_option'; known"
        )
        assert message(**{name: {"storage_options": None}}).startswith(f"{name}.storage_options must be a mapping")

    def test_what_is_written_has_a_compression_that_parquet_knows(self):
        assert parameters(write_kwargs={"compression": "snappy"}).write_kwargs == {"compression": "snappy"}
        assert message(write_kwargs={"compression": "zip"}).startswith("write_kwargs.compression='zip' is not known")
        assert "unknown key 'compression'" in message(read_kwargs={"compression": "zstd"})


class TestSizes:
    @pytest.mark.parametrize(
        ("text", "number"),
        [
            ("4GiB", 4 << 30),
            ("4gib", 4 << 30),
            ("1.5 MiB", 3 << 19),
            ("512MB", 512 * 10**6),
            ("512 M", 512 * 10**6),
            ("2KiB", 2048),
            ("1TiB", 1 << 40),
            ("1T", 10**12),
            ("100", 100),
            ("100 b", 100),
            (1_500_000, 1_500_000),
            (1e9, 10**9),
        ],
    )
    def test_a_size_is_a_number_of_bytes_with_or_without_a_unit(self, text, number):
        assert parameters(memory_budget=text).memory_budget == number
        assert parameters(assign_unit_bytes=text).assign_unit_bytes == number

    @pytest.mark.parametrize("text", ["GiB", "4 GiBs", "-4GiB", "4PiB", "four", "4,5GiB", "", "0x10"])
    def test_anything_else_is_no_size(self, text):
        with pytest.raises(ValueError, match="is not a size such as 4GiB"):
            number_of_bytes(text)

    @given(st.integers(0, 2**50))
    def test_a_whole_number_stands_for_itself(self, number):
        assert number_of_bytes(number) == number_of_bytes(str(number)) == number


class TestGroups:
    @pytest.mark.parametrize("given_", [None, "direct", {"name": "direct"}, DirectConfig()])
    def test_a_group_is_a_name_a_mapping_or_its_settings(self, given_):
        assert parameters(runner=given_).runner == DirectConfig(num_workers=1)

    @pytest.mark.parametrize("workers", [1, 7, "auto"])
    def test_workers_are_a_number_or_auto(self, workers):
        assert parameters(runner={"name": "direct", "num_workers": workers}).runner == DirectConfig(num_workers=workers)

    @pytest.mark.parametrize("workers", [0, -1, "x", "2", 1.5, True, None])
    @pytest.mark.parametrize("schema", [Parameters, RemovalParameters])
    def test_other_numbers_of_workers_are_an_error_that_names_the_nested_parameter(self, schema, workers):
        said = message(schema, runner={"name": "direct", "num_workers": workers})
        assert said.startswith("runner.num_workers")

    def test_an_unknown_setting_of_a_group_is_named_with_its_group(self):
        said = message(runner={"name": "direct", "num_worker": 2})
        assert said == "unknown parameter runner.num_worker; did you mean runner.num_workers?"

    def test_the_mapping_that_was_given_is_not_changed(self):
        values = {**REQUIRED, "runner": {"name": "direct"}, "metadata_fields": ["id", "a", "a"]}
        before = json.dumps(values)
        resolve(values)
        assert json.dumps(values) == before


class TestPaths:
    @pytest.mark.parametrize(
        ("given_", "found"),
        [("a", ["a"]), (["a", "s3://b/c"], ["a", "s3://b/c"]), (("a", "b"), ["a", "b"]), (["a/*.parquet"],) * 2],
    )
    def test_the_input_is_one_path_or_several(self, given_, found):
        assert parameters(input_path=given_).input_path == found
        assert resolve({**REQUIRED_FOR_REMOVAL, "input_path": given_}, RemovalParameters).input_path == found

    def test_paths_may_be_path_objects_also_in_a_list(self):
        paths = {"output_path": Path("o"), "cache_path": Path("c"), "init": Path("i.npy")}
        resolved = parameters(**paths, input_path=[Path("a"), "b"])
        assert (resolved.input_path, resolved.output_path, resolved.cache_path) == (["a", "b"], "o", "c")
        assert resolved.init == "i.npy"
        removal = {"input_path": Path("a"), "duplicates_path": Path("d"), "output_path": Path("o")}
        resolved = resolve(removal, RemovalParameters)
        assert (resolved.input_path, resolved.duplicates_path, resolved.output_path) == (["a"], "d", "o")

    @pytest.mark.parametrize("given_", [5, [], [""], ["a", None], [["a"]], {"a": "b"}])
    def test_anything_else_is_an_error(self, given_):
        assert message(input_path=given_).startswith("input_path must be a path or a list of paths, found ")


class TestTogether:
    @pytest.mark.parametrize("name", sorted({*RESULT_COLUMNS, *SEGMENT_COLUMNS} - {"id"}))
    def test_no_carried_column_may_have_the_name_of_one_of_the_results(self, name):
        assert message(metadata_fields=["text", name]).startswith(
            f"metadata_fields: '{name}' is a column of the results"
        )

    def test_the_id_is_carried_anyway_and_each_column_once(self):
        assert parameters(metadata_fields=["b", "id", "a", "b"]).metadata_fields == ["b", "a"]
        assert parameters(id_field="key", metadata_fields=["key", "a"]).metadata_fields == ["a"]
        assert message(id_field="key", metadata_fields=["id"]).startswith("metadata_fields: 'id' is a column of the")

    def test_vectors_are_not_carried(self):
        assert message(metadata_fields=["embeddings"]).startswith(
            "metadata_fields: 'embeddings' is the embedding_field"
        )

    def test_id_and_vectors_are_different_columns(self):
        assert message(id_field="a", embedding_field="a") == "id_field and embedding_field are both 'a'"

    @pytest.mark.parametrize(
        "value",
        [
            "quality",
            {"columns": ["quality"]},
            {"metadata_cols": []},
            {"metadata_cols": "quality"},
            {"metadata_cols": ["a", "b"], "ascending": [True]},
            {"metadata_cols": ["embeddings"]},
            {"metadata_cols": ["centroid"]},
        ],
    )
    def test_a_ranking_strategy_that_means_nothing_is_an_error(self, value):
        assert message(ranking_strategy=value).startswith("ranking_strategy")

    def test_a_ranking_strategy_takes_its_normal_form(self):
        value = parameters(ranking_strategy={"metadata_cols": ["a", "b"]}, random_state=7).ranking_strategy
        assert value == {
            "metadata_cols": ["a", "b"],
            "ascending": [True, True],
            "strategy": "sort",
            "random_seed": 7,
        }

    @pytest.mark.parametrize("name", ["id", "max_id", "embedding", "source_row"])
    def test_no_ranking_column_may_have_the_name_of_another_one_of_the_segments(self, name):
        value = {"metadata_cols": ["quality", name]}
        assert message(id_field="key", ranking_strategy=value).startswith(
            f"ranking_strategy: '{name}' is a column of the results"
        )
        assert parameters(id_field=name, ranking_strategy=value).ranking_strategy["metadata_cols"] == ["quality", name]

    def test_initial_centroids_are_a_method_or_an_npy(self):
        assert not parameters().centroids_given
        assert not parameters(init="random").centroids_given
        assert parameters(init="s3://b/c.npy", max_iter=0).centroids_given
        assert message(init="kmeans").startswith("init='kmeans' is not known; it is k-means||, random, or")

    def test_no_iterations_need_given_centroids(self):
        assert message(max_iter=0).startswith("max_iter=0 fits nothing: it needs init=")

    def test_screened_products_need_eps(self):
        assert message(precision="screened").startswith("precision=screened needs eps")
        assert parameters(precision="screened", eps=0.25).screening_threshold == 0.75
        assert parameters(eps=0.25).screening_threshold is None

    def test_what_is_to_use_a_gpu_must_have_one(self):
        said = message(device="gpu", runner="ray")
        assert said == "device=gpu with runner=ray needs runner.num_gpus, the share of a GPU that a worker has"
        assert parameters(device="gpu", runner={"name": "ray", "num_gpus": 0.5}).device == "gpu"
        assert message(device="cpu", kmeans="cuml") == "kmeans=cuml needs a GPU, found device=cpu"

    def test_a_removal_needs_eps(self):
        assert message(remove=True).startswith("remove=true needs eps")
        assert parameters(remove=True, eps=0).remove


def test_no_message_about_a_parameter_shows_a_credential():
    nested = {"storage_options": {"key": "SECRET"}, "other": 1}
    for wrong in (nested, {"storage_options": ["SECRET"]}, "{key: SECRET}", ["SECRET"]):
        assert "SECRET" not in message(read_kwargs=wrong)


@pytest.mark.parametrize(
    ("name", "value"), [("input_path", ["/x", "ftp://***@host/a"]), ("cache_path", "ftp://***@host/a")]
)
def test_a_url_whose_password_was_not_stored_is_asked_for(name, value):
    with pytest.raises(InputError, match=f"{name}: the password or signature of a URL is not stored"):
        resolve({"input_path": "/in", "output_path": "/out", name: value})
