"""Where a run's input is and where its results go: the files, the keys, and the places that the keys name.

A stage's folder is named by a key that hashes everything its result depends on.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from beam_semdedup.config.parameters import Parameters
from beam_semdedup.errors import InputError, RunError
from beam_semdedup.fit import model
from beam_semdedup.inputs import dataset
from beam_semdedup.inputs.dataset import Columns, InputFacts
from beam_semdedup.inputs.listing import filetype_of, list_files, list_ids
from beam_semdedup.inputs.registry import copier, format_named, marker
from beam_semdedup.plan import fingerprints
from beam_semdedup.plan.checks import check_installed, check_places
from beam_semdedup.plan.corpus import Corpus
from beam_semdedup.plan.job import Places, init_file, ranking_of
from beam_semdedup.plan.probes import choose_clusters
from beam_semdedup.plan.sizes import default_clusters
from beam_semdedup.storage import layout
from beam_semdedup.storage.folder import FileInfo, Folder
from beam_semdedup.text import without_secrets

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embedding:
    """What the plan knows of the model by which a run embeds texts: its key, and d."""

    key: str
    dimension: int


@dataclass(frozen=True)
class Located:
    """A run whose input is found and whose places are known.

    `ids` are the files with the ids of each of `files`, where these hold none. `carried` are the columns to read
    besides id and embedding; `inspect` opens the files, once. `references` are the rows of `against`, and `corpus` is
    what the input is added to.
    """

    places: Places
    files: tuple[FileInfo, ...]
    ids: tuple[FileInfo, ...]
    carried: tuple[str, ...]
    inspect: Callable[[], InputFacts]
    references: Located | None = None
    corpus: Corpus | None = None

    @property
    def vector_names(self) -> list[str]:
        """What the files with the vectors of each input file are called; none where the input holds them."""
        if not self.places.embedding_key:
            return []
        return [fingerprints.vectors_fingerprint(self.places.parameters, file) for file in self.files]


def locate(
    parameters: Parameters, given: Sequence[FileInfo] | None = None, embedding: Embedding | None = None
) -> Located:
    """Finds the input and names the places of the results; writes nothing, but for the number that it has in a corpus.

    Args:
        given: the files of the input; None: all that are there.
        embedding: the model, where the input is texts.

    Raises:
        InputError: no input, results that would mix with it, rows to remove from a format that has no copier, unusable
            centroids, no GPU where one is asked for, rows that do not fit to those of a corpus.
        RunError: another run does not go on that adds rows to the corpus.
    """
    p = dataclasses.replace(parameters)
    check_installed(p)
    files = list_input(p) if given is None else list(given)
    p.input_filetype = p.input_filetype or filetype_of(files)
    if p.remove:
        (marker if p.remove == "mark" else copier)(p.input_filetype)
    ids = list_ids(p, files)
    p.input_path = [Folder.at(path, p.read_options).url for path in p.input_path]
    p.ids_path = p.ids_path and Folder.at(p.ids_path, p.read_options).url
    p.output_path = Folder.at(p.output_path, p.write_options).url
    p.cache_path = Folder.at(p.cache_root, p.cache_options).url
    carried = sorted({*p.metadata_fields, *ranking_of(p).input_columns})
    corpus = None if p.corpus_path is None else Corpus.at(Folder.at(p.corpus_path, p.corpus_options))
    init = None if corpus and corpus.model.file(layout.CENTROIDS).exists() else init_file(p)
    if init:
        p.init = init.url
        p.n_clusters = len(model.load_init(init, p.n_clusters, p.embedding_dim))
    inspect = _inspector(p, files, ids, carried, embedding)
    if corpus:
        p.corpus_path = corpus.place.url
        key = fingerprints.generation_fingerprint(p, [*files, *(ids or ())], carried)
        places = _in_corpus(p, corpus, key, [file.url for file in files], inspect)
        return Located(places, tuple(files), tuple(ids or ()), tuple(carried), inspect, corpus=corpus)
    _choose_clusters(p, inspect)
    key = embedding.key if embedding else ""
    kmeans = fingerprints.kmeans_fingerprint(p, [*files, *(ids or ())], carried, model=key)
    places = dataclasses.replace(_places(p, kmeans), embedding_key=key)
    located = Located(places, tuple(files), tuple(ids or ()), tuple(carried), inspect)
    return located if p.against is None else _with_references(located, embedding)


def _choose_clusters(p: Parameters, inspect: Callable[[], InputFacts]) -> None:
    if p.n_clusters is None:
        rows = inspect().num_rows
        p.n_clusters = choose_clusters(p, rows, inspect().dimension, p.n_probes, p.matching_reach)
        usual = p.n_clusters == default_clusters(rows)
        why = "the square root" if usual else f"with n_probes={p.n_probes} it takes less time than the square root"
        _LOG.info("n_clusters=%s chosen: %s of %s rows", p.n_clusters, why, f"{rows:,}")


def _in_corpus(
    p: Parameters, corpus: Corpus, key: str, files: Sequence[str], inspect: Callable[[], InputFacts]
) -> Places:
    """Claims a number for the input in a corpus, and waits until what has an earlier one is assigned.

    Args:
        p: gets the parameters that the corpus decides.
        key: of the input.
    """

    def check() -> None:
        common = corpus.common()
        if common:
            common.check(corpus.place.url, p, inspect())

    inspect()  # what cannot be read has no number
    check()
    corpus.begin()
    number = corpus.claim(key, without_secrets(files))
    try:
        claims = corpus.wait(number, p.corpus_timeout)
        check()  # what the first generation may have decided meanwhile
        if corpus.claims()[number].key != key:  # where files cannot be created exclusively
            raise RunError(f"another run has taken number {number} of the corpus {corpus.place}; run again")
    except InputError:
        corpus.release(number)
        raise
    common = corpus.common()
    if common:
        p.n_clusters = common.n_clusters
        p.reach = None if p.n_probes == 1 else common.reach
    _choose_clusters(p, inspect)
    pairwise = fingerprints.pairwise_fingerprint(p, key, [claim.key for claim in claims.values()])
    output = fingerprints.output_fingerprint(p, pairwise)
    return Places(p, key, pairwise, output, corpus.home, generation=number, earlier=tuple(claims))


def _with_references(located: Located, embedding: Embedding | None) -> Located:
    """Finds the rows of `against` too."""
    p, files = located.places.parameters, located.files
    q = p.of_references(ranking_of(p).without_columns())
    theirs = list_files(q, name="against")
    check_places(q, theirs, "against")
    both = {file.url for file in files} & {file.url for file in theirs}
    if both:
        raise InputError(f"against: {min(both)} is a file of input_path too: every row would be found in itself")
    q.input_filetype = q.input_filetype or filetype_of(theirs)
    q.input_path = p.against = [Folder.at(path, q.read_options).url for path in q.input_path]
    ids = list_ids(q, theirs)
    inspect = _inspector(q, theirs, ids, [], embedding, "against")
    assert p.n_clusters is not None
    # Products with all of them cost no more then than those with the centroids, and leave out no pair.
    without_clusters = not p.within and inspect().num_rows <= p.n_clusters
    embeds = located.places.embedding_key
    kmeans = fingerprints.kmeans_fingerprint(p, [*files, *located.ids], located.carried, without_clusters, embeds)
    key = fingerprints.references_fingerprint(q, [*theirs, *(ids or ())], kmeans, embeds)
    places = dataclasses.replace(
        _places(p, kmeans, [key], without_clusters),
        generation=1,
        earlier=(0,),
        without_clusters=without_clusters,
        embedding_key=embeds,
    )
    of_theirs = dataclasses.replace(places, parameters=q, kmeans_fingerprint=key, generation=0, earlier=())
    references = Located(of_theirs, tuple(theirs), tuple(ids or ()), (), inspect)
    return dataclasses.replace(located, places=places, references=references)


def _places(p: Parameters, kmeans: str, earlier: Sequence[str] = (), without_clusters: bool = False) -> Places:
    pairwise = fingerprints.pairwise_fingerprint(p, kmeans, earlier, without_clusters)
    return Places(p, kmeans, pairwise, fingerprints.output_fingerprint(p, pairwise), kmeans)


def _inspector(
    p: Parameters,
    files: Sequence[FileInfo],
    ids: Sequence[FileInfo] | None,
    carried: Sequence[str],
    embedding: Embedding | None,
    name: str = "input_path",
) -> Callable[[], InputFacts]:
    """Returns what opens the files, once."""
    assert p.input_filetype is not None
    kind = format_named(p.input_filetype)

    @functools.cache
    def inspect() -> InputFacts:
        dimension = embedding.dimension if embedding else p.embedding_dim
        columns = Columns(p.id_column, p.embedding_field, carried, dimension, ids, p.text_field)
        return dataset.inspect(files, kind, columns, name)

    return inspect


def list_input(p: Parameters, *, warn: bool = True) -> list[FileInfo]:
    """Returns the input files, as `list_files` does; InputError also where results and input would mix."""
    files = list_files(p, warn=warn)
    check_places(p, files)
    return files
