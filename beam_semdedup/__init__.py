"""Semantic deduplication of embeddings with Apache Beam.

`SemanticDeduplicationWorkflow` runs a whole job; the transforms are for pipelines of your own.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beam_semdedup.config import Parameters, RemovalParameters
    from beam_semdedup.failures import InputError, RunError
    from beam_semdedup.kmeans import FittedKMeans
    from beam_semdedup.plan import Plan
    from beam_semdedup.ranking import RankingStrategy
    from beam_semdedup.removal import RemovalResult, remove_duplicates
    from beam_semdedup.transforms import (
        AssignCentroids,
        FitKMeans,
        IdentifyDuplicates,
        PairwiseSimilarity,
        SemanticDedup,
    )
    from beam_semdedup.workflow import SemanticDeduplicationWorkflow, Summary

_HOMES = {
    "config": ("InputError", "Parameters", "RemovalParameters"),
    "kmeans": ("FittedKMeans",),
    "plan": ("Plan",),
    "ranking": ("RankingStrategy",),
    "removal": ("RemovalResult", "remove_duplicates"),
    "failures": ("RunError",),
    "transforms": (
        "AssignCentroids",
        "FitKMeans",
        "IdentifyDuplicates",
        "PairwiseSimilarity",
        "SemanticDedup",
    ),
    "workflow": ("SemanticDeduplicationWorkflow", "Summary"),
}

__all__ = [
    "AssignCentroids",
    "FitKMeans",
    "FittedKMeans",
    "IdentifyDuplicates",
    "InputError",
    "PairwiseSimilarity",
    "Parameters",
    "Plan",
    "RankingStrategy",
    "RemovalParameters",
    "RemovalResult",
    "RunError",
    "SemanticDedup",
    "SemanticDeduplicationWorkflow",
    "Summary",
    "remove_duplicates",
]


def __getattr__(name: str) -> Any:
    # Beam takes seconds to import; `semdedup --help` and workers should not wait for what they do not use.
    for module, names in _HOMES.items():
        if name in names:
            handlers = logging.root.handlers[:]
            found = getattr(import_module(f"beam_semdedup.{module}"), name)
            # Beam's import logs, which sets logging up: the caller's own logging.basicConfig would do nothing then.
            logging.root.handlers[:] = handlers
            return found
    raise AttributeError(f"module 'beam_semdedup' has no attribute {name!r}")
