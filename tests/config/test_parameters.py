from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from omegaconf import MISSING

from beam_semdedup.config.groups import GROUPS, default
from beam_semdedup.config.parameters import Parameters, PlanParameters, RemovalParameters
from beam_semdedup.config.validation import resolve

REQUIRED = {"input_path": "in", "output_path": "out"}
REQUIRED_BY = {
    Parameters: REQUIRED,
    RemovalParameters: {**REQUIRED, "duplicates_path": "list"},
    PlanParameters: {"input_path": "in"},
}
SETTINGS = {choice: group for group, choices in GROUPS.items() for choice in choices.values()}
DECLARED = [
    pytest.param(schema, f, id=f"{schema.__name__}.{f.name}")
    for schema in (Parameters, RemovalParameters, PlanParameters, *SETTINGS)
    for f in dataclasses.fields(schema)
    if f.name not in (*GROUPS, "name")
]


def parameters(**values: Any) -> Parameters:
    return resolve({**REQUIRED, **values})


class TestDeclarations:
    @pytest.mark.parametrize(("schema", "f"), DECLARED)
    def test_every_parameter_is_documented(self, schema, f):
        assert f.metadata["help"] or f.metadata["choices"]
        assert schema in SETTINGS or f.metadata["group"]

    @pytest.mark.parametrize(("schema", "f"), DECLARED)
    def test_every_default_passes_its_own_check_and_stays_what_it_is(self, schema, f):
        value = default(f)
        if schema in SETTINGS:
            group = SETTINGS[schema]
            resolved = getattr(resolve({**REQUIRED, group: {"name": schema.name, f.name: value}}), group)
        elif value == MISSING:
            assert f.name in REQUIRED_BY[schema]
            return
        elif schema is PlanParameters and f.name == "input_path":
            return
        else:
            resolved = resolve({**REQUIRED_BY[schema], f.name: value}, schema)
        assert getattr(resolved, f.name) == value

    def test_names_and_defaults_are_the_agreed_ones(self):
        found = {f.name: default(f) for f in dataclasses.fields(Parameters) if f.name not in GROUPS}
        assert found == {
            **dict.fromkeys(["input_path", "output_path"], MISSING),
            **{"n_clusters": None, "cache_path": None, "id_field": "id", "embedding_field": "embeddings"},
            **{"embedding_dim": None, "metadata_fields": [], "input_filetype": "parquet"},
            **{"input_file_extensions": None, "max_iter": 300, "tol": 1e-4, "min_moved": 0.02},
            **{"random_state": 42, "ray_address": None, "ray_timeout": 60.0},
            **{"init": "k-means||", "n_init": 1, "oversampling_factor": 2.0, "max_samples_per_batch": 32768},
            **{"fit_data_fraction": None, "distance_metric": "cosine", "which_to_keep": "hard"},
            **{"ranking_strategy": None, "pairwise_batch_size": 1024, "eps": None, "assume_normalized": False},
            **{"remove": False, "repeated_ids": "error", "read_kwargs": {}, "write_kwargs": {}, "cache_kwargs": None},
            **{"clear_output": True, "reuse_cache": True, "verbose": True, "duplicates_num_row_groups_hint": None},
            **{"memory_budget": None, "max_cluster_rows": None, "unit_rows": None, "assign_unit_bytes": None},
            **{"device": "auto", "precision": "exact"},
        }

    def test_two_instances_share_no_default(self):
        Parameters(**REQUIRED).metadata_fields.append("text")
        assert Parameters(**REQUIRED).metadata_fields == []

    def test_the_removal_spells_its_parameters_as_the_run_does(self):
        shared = {f.name: f for f in dataclasses.fields(Parameters)}
        own = [f for f in dataclasses.fields(RemovalParameters) if f.name not in ("duplicates_path", "partial")]
        assert {f.name for f in own} - set(shared) == {"duplicates_kwargs"}
        assert {f.name for f in own if f.name in shared and f.type != shared[f.name].type} == set()

    def test_a_plan_is_of_the_run_with_the_same_parameters(self):
        values = {"n_clusters": 7, "unit_rows": 5, "memory_budget": 10**9, "metadata_fields": ["a"]}
        p = resolve({"input_path": "in", "workers": 3, **values}, PlanParameters)
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
