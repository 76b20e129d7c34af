"""The keys that name the folders of a run's results: each hashes everything that these depend on, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from beam_semdedup.config.parameters import CorpusParameters, Parameters
from beam_semdedup.fit import model
from beam_semdedup.fit.registry import make_engine
from beam_semdedup.plan.job import init_file, ranking_of
from beam_semdedup.storage.folder import File, FileInfo
from beam_semdedup.storage.layout import fingerprint
from beam_semdedup.text import without_secrets

_FORMAT = 8
"""The version of what the stages write."""


def kmeans_fingerprint(
    p: Parameters,
    files: Sequence[FileInfo],
    carried: Sequence[str],
    without_clusters: bool = False,
    model: str = "",
) -> str:
    """Returns the key of the k-means results.

    Args:
        p: with absolute paths, and `n_clusters` set.
        files: the input, and the files with its ids, where it holds none.
        carried: the columns that are read besides id and embedding.
        without_clusters: whether nothing is fitted.
        model: the key of the model that embeds texts, where that is part of the run.
    """
    fit = "none" if without_clusters else {"n_clusters": p.n_clusters, "fit": fit_facts(p, init_file(p))}
    return fingerprint([_FORMAT, _rows(p, files, carried, model), fit])


def generation_fingerprint(p: Parameters, files: Sequence[FileInfo], carried: Sequence[str], model: str = "") -> str:
    """Returns the key of the rows of an input in a corpus, whose centroids do not depend on them.

    Args:
        p, files, carried, model: as for `kmeans_fingerprint`.
    """
    return fingerprint([_FORMAT, _rows(p, files, carried, model), "corpus"])


def references_fingerprint(p: Parameters, files: Sequence[FileInfo], kmeans: str, model: str = "") -> str:
    """Returns the key of the rows of `against`, assigned to the model of what has the key `kmeans`: a run or a corpus.

    Args:
        p: by which they are read.
        files, model: as for `kmeans_fingerprint`, of `against`.
    """
    return fingerprint([_FORMAT, _rows(p, files, [], model), kmeans])


def pairwise_fingerprint(p: Parameters, kmeans: str, earlier: Sequence[str], without_clusters: bool = False) -> str:
    """Returns the key of the pairwise results.

    Args:
        kmeans: the key of the rows' k-means results.
        earlier: those of the generations before.
        without_clusters: whether each row is compared with all of these.
    """
    ranking = ranking_of(p).describe()
    probes = [] if p.n_probes == 1 or without_clusters else [p.n_probes, p.matching_reach]
    references = [earlier, p.within] if earlier else []
    return fingerprint([_FORMAT, kmeans, ranking, p.metadata_fields, p.screening_threshold, *probes, *references])


def output_fingerprint(p: Parameters, pairwise: str) -> str:
    """Returns the key of the duplicates that are found in the pairwise results with the key `pairwise`."""
    return fingerprint([_FORMAT, pairwise, p.eps])


def vectors_fingerprint(p: Parameters, file: FileInfo) -> str:
    """Returns what the files with the vectors of an input file are called, in the folder of the model."""
    return fingerprint([_FORMAT, without_secrets(file.url), file.size, file.version, p.input_filetype, p.text_field])


def fit_facts(p: Parameters | CorpusParameters, init: File | None) -> dict[str, Any]:
    """Returns all that a fit depends on besides its rows and the number of clusters.

    Args:
        init: the file of the initial centroids, where they are given.
    """
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
    return fit


def _rows(p: Parameters, files: Sequence[FileInfo], carried: Sequence[str], model: str = "") -> dict[str, Any]:
    texts = {"texts": [p.text_field, model]} if model else {}
    return texts | {
        "files": [[without_secrets(f.url), f.size, f.version] for f in files],
        "filetype": p.input_filetype,
        "columns": [p.id_field, p.embedding_field, *carried],
        "embedding_dim": p.embedding_dim,
        "assume_normalized": p.assume_normalized,
    }
