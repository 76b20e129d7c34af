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
from beam_semdedup.plan.corpus import Claim, Corpus
from beam_semdedup.plan.job import REFERENCES, Places, init_file, ranking_of
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
    theirs = None if p.against is None else find_references(p, files, embedding)
    embeds, all_files = embedding.key if embedding else "", [*files, *(ids or ())]
    without_clusters = False
    if corpus:
        p.corpus_path = corpus.place.url
        kmeans = fingerprints.generation_fingerprint(p, all_files, carried, embeds)
        number, claims = _claim(p, corpus, kmeans, [file.url for file in files], inspect, embeds)
        fitted, earlier = corpus.home, tuple(claims)
        keys = [claim.key for claim in claims.values()]
        assigned_to = layout.fingerprint([without_secrets([p.corpus_path]), corpus.home, p.n_clusters])
    else:
        _choose_clusters(p, inspect)
        assert p.n_clusters is not None
        # Products with all of them cost no more then than those with the centroids, and leave out no pair.
        without_clusters = theirs is not None and not p.within and theirs.inspect().num_rows <= p.n_clusters
        kmeans = fingerprints.kmeans_fingerprint(p, all_files, carried, without_clusters, embeds)
        number, fitted, earlier, keys, assigned_to = 0, kmeans, (), [], kmeans
    key = ""
    if theirs:
        key = fingerprints.references_fingerprint(theirs.parameters, theirs.files, assigned_to, embeds)
        earlier, keys = (REFERENCES, *earlier), [f"against {key}", *keys]
    pairwise = fingerprints.pairwise_fingerprint(p, kmeans, keys, without_clusters)
    output = fingerprints.output_fingerprint(p, pairwise)
    places = Places(p, kmeans, pairwise, output, fitted, number, earlier, without_clusters, embeds)
    references = theirs.located(places, key) if theirs else None
    return Located(places, tuple(files), tuple(ids or ()), tuple(carried), inspect, references, corpus)


def _choose_clusters(p: Parameters, inspect: Callable[[], InputFacts]) -> None:
    if p.n_clusters is None:
        rows = inspect().num_rows
        p.n_clusters = choose_clusters(p, rows, inspect().dimension, p.n_probes, p.matching_reach)
        usual = p.n_clusters == default_clusters(rows)
        why = "the square root" if usual else f"with n_probes={p.n_probes} it takes less time than the square root"
        _LOG.info("n_clusters=%s chosen: %s of %s rows", p.n_clusters, why, f"{rows:,}")


def _claim(
    p: Parameters,
    corpus: Corpus,
    key: str,
    files: Sequence[str],
    inspect: Callable[[], InputFacts],
    embeds: str,
) -> tuple[int, dict[int, Claim]]:
    """Claims a number for the input in a corpus, and waits until what has an earlier one is assigned.

    Args:
        p: gets the parameters that the corpus decides.
        key: of the input.
        embeds: the key of the model, where the input is texts.

    Returns:
        the number, and the claims of the earlier ones.
    """

    def check() -> None:
        common = corpus.common()
        if common:
            common.check(corpus.place.url, p, inspect())
        corpus.check_model(p, embeds)

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
    return number, claims


@dataclass(frozen=True)
class References:
    """The rows of `against`: the parameters that they are read by, and the files, where their ids are too if any."""

    parameters: Parameters
    files: tuple[FileInfo, ...]
    inspect: Callable[[], InputFacts]

    def located(self, places: Places, key: str) -> Located:
        """Returns where they lie, assigned, beside the input whose places are given; `key` is theirs."""
        p = places.parameters
        q = dataclasses.replace(self.parameters, n_clusters=p.n_clusters, reach=p.reach)
        theirs = dataclasses.replace(places, parameters=q, kmeans_fingerprint=key, generation=REFERENCES, earlier=())
        return Located(theirs, self.files, (), (), self.inspect)


def find_references(p: Parameters, files: Sequence[FileInfo], embedding: Embedding | None) -> References:
    """Finds the rows of `against`, whose paths `p` gets.

    Raises:
        InputError: there are none, or some are rows of the input too.
    """
    q = p.of_references(ranking_of(p).without_columns())
    theirs = list_files(q, name="against")
    check_places(q, theirs, "against")
    both = {file.url for file in files} & {file.url for file in theirs}
    if both:
        raise InputError(f"against: {min(both)} is a file of input_path too: every row would be found in itself")
    q.input_filetype = q.input_filetype or filetype_of(theirs)
    q.input_path = p.against = [Folder.at(path, q.read_options).url for path in q.input_path]
    return References(q, tuple(theirs), _inspector(q, theirs, list_ids(q, theirs), [], embedding, "against"))


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
