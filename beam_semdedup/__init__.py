"""Semantic deduplication of embeddings with Apache Beam.

`SemanticDeduplicationWorkflow` runs a whole job, and `deduplicate` one over rows in memory; the transforms are for
pipelines of your own.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for tools that read types; `_HOMES` is for Python
    from beam_semdedup.compute.ranking import RankingStrategy as RankingStrategy
    from beam_semdedup.config.parameters import Parameters as Parameters
    from beam_semdedup.config.parameters import RemovalParameters as RemovalParameters
    from beam_semdedup.errors import InputError as InputError
    from beam_semdedup.errors import RunError as RunError
    from beam_semdedup.fit.model import FittedKMeans as FittedKMeans
    from beam_semdedup.plan.planning import Plan as Plan
    from beam_semdedup.removal.job import RemovalResult as RemovalResult
    from beam_semdedup.removal.job import remove_duplicates as remove_duplicates
    from beam_semdedup.streams.transforms import DeduplicateGenerations as DeduplicateGenerations
    from beam_semdedup.streams.transforms import ReadNewFiles as ReadNewFiles
    from beam_semdedup.streams.watch import watched_input as watched_input
    from beam_semdedup.transforms import AssignCentroids as AssignCentroids
    from beam_semdedup.transforms import FitKMeans as FitKMeans
    from beam_semdedup.transforms import IdentifyDuplicates as IdentifyDuplicates
    from beam_semdedup.transforms import PairwiseSimilarity as PairwiseSimilarity
    from beam_semdedup.transforms import SemanticDedup as SemanticDedup
    from beam_semdedup.workflow.in_memory import Deduplicated as Deduplicated
    from beam_semdedup.workflow.in_memory import deduplicate as deduplicate
    from beam_semdedup.workflow.run import SemanticDeduplicationWorkflow as SemanticDeduplicationWorkflow
    from beam_semdedup.workflow.run import Summary as Summary

_HOMES = {
    "Parameters": "config.parameters",
    "RemovalParameters": "config.parameters",
    "InputError": "errors",
    "RunError": "errors",
    "FittedKMeans": "fit.model",
    "Plan": "plan.planning",
    "RankingStrategy": "compute.ranking",
    "RemovalResult": "removal.job",
    "remove_duplicates": "removal.job",
    "AssignCentroids": "transforms",
    "FitKMeans": "transforms",
    "IdentifyDuplicates": "transforms",
    "PairwiseSimilarity": "transforms",
    "SemanticDedup": "transforms",
    "deduplicate": "workflow.in_memory",
    "Deduplicated": "workflow.in_memory",
    "SemanticDeduplicationWorkflow": "workflow.run",
    "Summary": "workflow.summary",
    "ReadNewFiles": "streams.transforms",
    "DeduplicateGenerations": "streams.transforms",
    "watched_input": "streams.watch",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    # Beam takes seconds to import; `semdedup --help` and workers should not wait for what they do not use.
    if name not in _HOMES:
        raise AttributeError(f"module 'beam_semdedup' has no attribute {name!r}")
    handlers, disabled = logging.root.handlers[:], logging.root.manager.disable
    # Beam's import warns of what is not installed, such as Google's file system, and nobody asked for.
    logging.disable(max(disabled, logging.WARNING))
    try:
        module = import_module(f"beam_semdedup.{_HOMES[name]}")
    finally:
        logging.disable(disabled)
        # Its warnings set logging up: the caller's own logging.basicConfig would do nothing then.
        logging.root.handlers[:] = handlers
    return getattr(module, name)
