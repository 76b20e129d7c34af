from __future__ import annotations

import dataclasses
from dataclasses import MISSING
from typing import Any

import pytest

from beam_semdedup.config.choices import GROUPS
from beam_semdedup.config.parameters import ForecastParameters, Parameters, RemovalParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.fields import HEADINGS, declared

REQUIRED = {"input_path": "in", "output_path": "out"}
REQUIRED_BY = {
    Parameters: REQUIRED,
    RemovalParameters: {**REQUIRED, "duplicates_path": "list"},
    ForecastParameters: {"input_path": "in"},
}
SETTINGS = {choice.settings: group for group, choices in GROUPS.items() for choice in choices.values()}
DECLARED = [
    pytest.param(schema, f, id=f"{schema.__name__}.{f.name}")
    for schema in (Parameters, RemovalParameters, ForecastParameters, *SETTINGS)
    for f in declared(schema)
    if f.name not in (*GROUPS, "name")
]


def parameters(**values: Any) -> Parameters:
    return resolve({**REQUIRED, **values})


class TestDeclarations:
    @pytest.mark.parametrize(("schema", "f"), DECLARED)
    def test_every_parameter_is_documented(self, schema, f):
        assert f.help or f.choices
        assert schema in SETTINGS or f.heading in HEADINGS

    @pytest.mark.parametrize(("schema", "f"), DECLARED)
    def test_every_default_passes_its_own_check_and_stays_what_it_is(self, schema, f):
        value = f.default
        if schema in SETTINGS:
            group = SETTINGS[schema]
            resolved = getattr(resolve({**REQUIRED, group: {"name": schema.name, f.name: value}}), group)
        elif value == MISSING:
            assert f.name in REQUIRED_BY[schema]
            return
        elif schema is ForecastParameters and f.name == "input_path":
            return
        else:
            resolved = resolve({**REQUIRED_BY[schema], f.name: value}, schema)
        assert getattr(resolved, f.name) == value

    def test_names_and_defaults_are_the_agreed_ones(self):
        found = {f.name: f.default for f in declared(Parameters) if f.name not in GROUPS}
        assert found == {
            **dict.fromkeys(["input_path", "output_path"], MISSING),
            **{"n_clusters": None, "cache_path": None, "id_field": "id", "embedding_field": "embeddings"},
            **{"embedding_dim": None, "metadata_fields": [], "input_filetype": None, "ids_path": None},
            **{"input_file_extensions": None, "max_iter": 300, "tol": 1e-4, "min_moved": 0.02},
            **{"random_state": 42, "ray_address": None, "ray_timeout": 60.0},
            **{"init": "k-means||", "n_init": 1, "oversampling_factor": 2.0, "max_samples_per_batch": 32768},
            **{"fit_data_fraction": None, "distance_metric": "cosine", "which_to_keep": "hard"},
            **{"ranking_strategy": None, "pairwise_batch_size": 1024, "eps": None, "assume_normalized": False},
            "max_rejected_share": 0.5,
            "write_arrays": False,
            **{"remove": False, "repeated_ids": "error", "read_kwargs": {}, "write_kwargs": {}, "cache_kwargs": None},
            **{"clear_output": True, "reuse_cache": True, "verbose": True, "duplicates_num_row_groups_hint": None},
            **{"memory_budget": None, "max_cluster_rows": None, "comparison_rows": None, "assign_unit_bytes": None},
            **{"device": "auto", "precision": "exact", "n_probes": 1, "reach": None, "target_rows": None},
            "mark_fields": ["duplicate_of", "similarity", "duplicate"],
            **{"report": False, "group_field": None, "image_field": None, "max_removed_share": None},
            **{"against": None, "against_filetype": None, "against_kwargs": None, "against_id_field": None},
            **{"against_embedding_field": None, "within": True, "corpus_path": None, "corpus_kwargs": None},
            **{"corpus_timeout": 600.0, "model": None, "text_field": None, "against_text_field": None},
            **{"pooling": None, "model_revision": None, "max_tokens": None, "batch_tokens": 8192},
            "recall_sample": 1000,
        }

    def test_two_instances_share_no_default(self):
        Parameters(**REQUIRED).metadata_fields.append("text")
        assert Parameters(**REQUIRED).metadata_fields == []

    def test_the_removal_spells_its_parameters_as_the_run_does(self):
        shared = {f.name: f for f in declared(Parameters)}
        own = [f for f in declared(RemovalParameters) if f.name not in ("duplicates_path", "partial")]
        assert {f.name for f in own} - set(shared) == {"duplicates_kwargs", "mode"}  # the run's remove
        differ = {f.name for f in own if f.name in shared and f.kind != shared[f.name].kind}
        assert differ == {"write_kwargs"}  # what a removal writes is compressed as its input is

    def test_a_plan_spells_its_parameters_as_the_run_does(self):
        shared = {f.name: f for f in declared(Parameters)}
        common = [f for f in declared(ForecastParameters) if f.name in shared]
        assert {f.name for f in common if (f.kind, f.default) != (shared[f.name].kind, shared[f.name].default)} == {
            "input_path"
        }
        assert {f.name for f in common if f.help != shared[f.name].help} == {"n_clusters", "corpus_kwargs"}

    def test_a_removal_of_a_run_has_its_input_its_cluster_and_its_storage(self):
        p = parameters(
            eps=0.1,
            id_field="key",
            memory_budget="1GiB",
            ray_address="host:1",
            runner={"name": "ray", "num_cpus": 2},
            read_kwargs={"storage_options": {"key": "r"}},
            write_kwargs={"storage_options": {"key": "w"}, "compression": "lz4"},
            repeated_ids="allow",
            clear_output=False,
        )
        removal = RemovalParameters.of_run(p, "out/deduplicated")
        assert (removal.input_path, removal.duplicates_path, removal.output_path) == (["in"], "out", "out/deduplicated")
        assert (removal.read_options, removal.duplicates_options, removal.write_options) == (
            {"key": "r"},
            {"key": "w"},
            {"key": "w"},
        )
        same = ("id_field", "memory_budget", "ray_address", "runner", "repeated_ids", "clear_output", "verbose")
        assert {name: getattr(removal, name) for name in same} == {name: getattr(p, name) for name in same}

    def test_a_plan_is_of_the_run_with_the_same_parameters(self):
        values = {"n_clusters": 7, "comparison_rows": 5, "memory_budget": 10**9, "metadata_fields": ["a"]}
        p = resolve({"input_path": "in", "workers": 3, **values}, ForecastParameters)
        expected = parameters(**values, runner={"name": "direct", "num_workers": 3})
        assert p.run(7) == dataclasses.replace(expected, output_path="")


class TestProperties:
    def test_the_cache_is_the_output_unless_it_has_its_own_place(self):
        assert parameters().cache_root == "out"
        assert parameters(cache_path="elsewhere").cache_root == "elsewhere"
        own = {"storage_options": {"key": "k"}, "compression": "lz4"}
        p, other = parameters(write_kwargs=own), parameters(write_kwargs=own, cache_kwargs={})
        assert (p.cache_options, p.cache_compression) == ({"key": "k"}, "lz4")
        assert (other.cache_options, other.cache_compression) == ({}, "zstd")

    def test_the_list_is_read_as_the_dataset_is_unless_it_has_its_own_options(self):
        given = {**REQUIRED_BY[RemovalParameters], "read_kwargs": {"storage_options": {"key": "k"}}}
        assert resolve(given, RemovalParameters).duplicates_options == {"key": "k"}
        assert resolve({**given, "duplicates_kwargs": {}}, RemovalParameters).duplicates_options == {}
