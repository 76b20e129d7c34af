"""The keys that name the folders of a run's results: each hashes everything that these depend on, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from beam_semdedup.config.parameters import Parameters
from beam_semdedup.fit import model
from beam_semdedup.fit.registry import make_engine
from beam_semdedup.plan.job import init_file, ranking_of
from beam_semdedup.storage.folder import FileInfo
from beam_semdedup.storage.layout import fingerprint
from beam_semdedup.text import without_secrets

_FORMAT = 7
"""The version of what the stages write."""


def stage_fingerprints(
    p: Parameters, files: Sequence[FileInfo], ids: Sequence[FileInfo], carried: Sequence[str]
) -> tuple[str, str, str]:
    """Returns the keys of the k-means results, of the pairwise results, and of the output.

    Args:
        p: with absolute paths, and `n_clusters` set.
        files: the input.
        ids: the files with its ids, where it holds none.
        carried: the columns that are read besides id and embedding.
    """
    kmeans = _kmeans_fingerprint(p, [*files, *ids], carried)
    ranking = ranking_of(p).describe()
    probes = [] if p.n_probes == 1 else [p.n_probes, p.matching_reach]
    pairwise = fingerprint([_FORMAT, kmeans, ranking, p.metadata_fields, p.screening_threshold, *probes])
    return kmeans, pairwise, fingerprint([_FORMAT, pairwise, p.eps])


def _kmeans_fingerprint(p: Parameters, files: Sequence[FileInfo], carried: Sequence[str]) -> str:
    init = init_file(p)
    fit: dict[str, Any] = {
        "init": model.content_hash(init.read_bytes()) if init else p.init,
        "max_iter": p.max_iter,
    }
    if p.max_iter:
        fit["engine"] = make_engine(p).depends_on()
        names = ["tol", "min_moved", "random_state", "fit_data_fraction"]
        if not init:
            names += ["n_init"]
        if p.init == "k-means||":
            names += ["oversampling_factor", "max_samples_per_batch"]
        fit.update((name, getattr(p, name)) for name in names)
    return fingerprint(
        {
            "format": _FORMAT,
            "files": [[without_secrets(f.url), f.size, f.version] for f in files],
            "filetype": p.input_filetype,
            "columns": [p.id_field, p.embedding_field, *carried],
            "embedding_dim": p.embedding_dim,
            "assume_normalized": p.assume_normalized,
            "n_clusters": p.n_clusters,
            "fit": fit,
        }
    )
