"""A corpus: a model, and generations of rows that are assigned to it, each the input of a run.

`corpus.json` says what all generations have in common, and which folder holds the present model. In that folder the
generations are numbered; a run claims a number by a file of that name, which is created only if there is none, and
assigns its rows in the folder beside it. A generation whose assign stage has its manifest is finished.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from beam_semdedup.config.parameters import Parameters
from beam_semdedup.errors import InputError, RunError
from beam_semdedup.fit import model
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.inputs.dataset import InputFacts
from beam_semdedup.plan.job import ranking_of
from beam_semdedup.plan.stored import AssignManifest
from beam_semdedup.storage import layout
from beam_semdedup.storage.folder import File, Folder
from beam_semdedup.storage.records import Record

_LOG = logging.getLogger(__name__)
_POLL_SECONDS, _TOLD_SECONDS = 0.5, 30.0
FIRST_HOME = "fits/0000"


@dataclass(frozen=True)
class Common(Record):
    """What the rows of all generations have in common.

    Attributes:
        columns: the names and types of the columns that segments hold besides id and embedding.
        probes, reach: the `n_probes` and the reach that rows visit clusters by.
        ranking: what the order of rows depends on.
        centroids_per_key: as in `Sizes`.
    """

    dimension: int
    id_type: str
    columns: tuple[str, ...]
    assume_normalized: bool
    probes: str
    reach: float
    ranking: str
    n_clusters: int
    centroids_per_key: int

    @property
    def n_probes(self) -> int | Literal["exact"]:
        """The `n_probes` that rows visit clusters by."""
        return "exact" if self.probes == "exact" else int(self.probes)

    @classmethod
    def of(cls, p: Parameters, facts: InputFacts, centroids_per_key: int) -> Common:
        """Returns what a first generation decides for all."""
        assert p.n_clusters is not None
        carried = [f for f in facts.schema if f.name not in (p.id_column, p.embedding_field)]
        return cls(
            dimension=facts.dimension,
            id_type=str(facts.schema.field(p.id_column).type),
            columns=tuple(f"{field.name}: {field.type}" for field in carried),
            assume_normalized=p.assume_normalized,
            probes=str(p.n_probes),
            reach=p.matching_reach if p.n_probes != 1 else 0.0,
            ranking=str(ranking_of(p).describe()),
            n_clusters=p.n_clusters,
            centroids_per_key=centroids_per_key,
        )

    def check(self, place: str, p: Parameters, facts: InputFacts) -> None:
        """Raises InputError where an input does not fit, or asks for what the stored rows do not serve."""
        self.check_parameters(place, p)
        if differs := _first_difference(self._of_input(p, facts)):
            raise InputError(f"corpus_path={place}: {differs} in this run; give what it has, or another corpus_path")

    def check_parameters(self, place: str, p: Parameters) -> None:
        """Raises InputError where a run asks for what the stored rows do not serve."""
        ranking = "the order of rows (which_to_keep, distance_metric, ranking_strategy)"
        values = (
            ("assume_normalized", p.assume_normalized, self.assume_normalized),
            ("n_probes", str(p.n_probes), self.probes),
            (ranking, str(ranking_of(p).describe()), self.ranking),
        )
        if differs := _first_difference(values):
            raise InputError(f"corpus_path={place}: {differs} in this run; give what it has, or another corpus_path")
        if p.n_clusters not in (None, self.n_clusters):
            raise InputError(
                f"corpus_path={place}: it has {self.n_clusters} clusters, n_clusters={p.n_clusters}: leave it out, or "
                "cluster it anew with semdedup-corpus refit"
            )
        if p.n_probes != 1 and p.matching_reach > self.reach:
            given = f"reach={p.reach}" if p.reach is not None else f"eps={p.eps}"
            raise InputError(
                f"corpus_path={place}: {given} is above the reach of its rows, {self.reach:g}, beyond which they are "
                f"not compared; give a smaller one, or begin a corpus with reach={p.matching_reach:g}"
            )

    def what_differs(self, p: Parameters, facts: InputFacts) -> str:
        """Says what of the rows of an input does not fit to those of the corpus; nothing where they fit."""
        return _first_difference(self._of_input(p, facts))

    def _of_input(self, p: Parameters, facts: InputFacts) -> Iterator[tuple[str, object, object]]:
        other = Common.of(replace_clusters(p, self.n_clusters), facts, self.centroids_per_key)
        yield "the dimension of vectors", other.dimension, self.dimension
        yield "the type of ids", other.id_type, self.id_type
        yield "metadata_fields and columns that rank", list(other.columns), list(self.columns)


def _first_difference(values: Iterable[tuple[str, object, object]]) -> str:
    """Says which of some things, with its value here and in the corpus, differs first; nothing where none does."""
    different = (
        f"{what} must be the same for all rows of a corpus: {theirs} there, {ours}"
        for what, ours, theirs in values
        if ours != theirs
    )
    return next(different, "")


def replace_clusters(p: Parameters, n_clusters: int) -> Parameters:
    """Returns the parameters with this `n_clusters`, where they have none."""
    return replace(p, n_clusters=p.n_clusters or n_clusters)


@dataclass(frozen=True)
class Claim(Record):
    """Who has a number: the `key` of an input; for people its files, and when it came, in seconds since the epoch."""

    key: str
    first_file: str
    num_files: int
    at: float


@dataclass(frozen=True)
class _Texts(Record):
    """The key of the model by which the first texts were embedded; what computed other vectors is not known."""

    model: str


@dataclass(frozen=True)
class Present(Record):
    """The folder with the model and the generations that count."""

    home: str


@dataclass(frozen=True)
class Corpus:
    """The present model and generations of the corpus at a place."""

    place: Folder
    home: str

    @classmethod
    def at(cls, place: Folder) -> Corpus:
        """Returns the corpus at a place, which need not have been begun."""
        file = place.file(layout.CORPUS)
        found = Present.read(file)
        if found is None and file.exists():
            raise RunError(f"{file} is damaged: it says where the present model of the corpus is; restore it")
        return cls(place, found.home if found else FIRST_HOME)

    def begin(self) -> None:
        """Makes it a corpus, if it is none."""
        self.place.file(layout.CORPUS).create_if_absent(Present(self.home).to_json())

    @property
    def homes(self) -> list[str]:
        """The folders of all fits up to the present one, and that of the next."""
        return [f"fits/{number:04d}" for number in range(int(self.home.rpartition("/")[2]) + 2)]

    @property
    def folder(self) -> Folder:
        """What holds the model and the generations."""
        return self.place / self.home

    @property
    def model(self) -> Folder:
        """The folder of the model."""
        return self.folder / layout.MODEL_FOLDER

    @property
    def _generations(self) -> Folder:
        return self.folder / layout.GENERATIONS

    def generation(self, number: int) -> Folder:
        """The folder with the rows of a generation."""
        return self._generations / f"{number:06d}"

    def claim_file(self, number: int) -> File:
        """The file that says whose a number is."""
        return self._generations.file(f"{number:06d}.json")

    def common(self) -> Common | None:
        """Returns what the generations have in common; None where none was planned."""
        return Common.read(self.folder.file(layout.COMMON))

    def agree(self, common: Common) -> Common:
        """Stores what all generations have in common, if nothing is stored; returns what is."""
        file = self.folder.file(layout.COMMON)
        file.create_if_absent(common.to_json())
        found = Common.read(file)
        if found is None:
            raise RunError(f"{file} is damaged; restore it")
        return found

    def model_of_texts(self) -> str:
        """Returns the key of the model by which texts were embedded; empty where there were none."""
        found = _Texts.read(self.folder.file(layout.TEXTS))
        return found.model if found else ""

    def keep_model_of_texts(self, key: str) -> None:
        """Stores the key of the model by which texts are embedded, if there are any and none is stored."""
        if key:
            self.folder.file(layout.TEXTS).create_if_absent(_Texts(key).to_json())

    def check_model(self, p: Parameters, key: str) -> None:
        """Raises InputError where texts are embedded by another model, with this key, than those that are there."""
        if key and self.model_of_texts() not in ("", key):
            raise InputError(
                f"corpus_path={self.place}: the model that embedded its texts is another than model={p.model}: vectors "
                "of two models cannot be compared; give that one, or another corpus_path"
            )

    def numbers(self) -> list[int]:
        """Returns the numbers that are claimed, in their order."""
        stems = (name.removesuffix(".json") for name in self._generations.names() if name.endswith(".json"))
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def claims(self) -> dict[int, Claim]:
        """Returns who has which number, in their order.

        Raises:
            RunError: what says it of one is damaged.
        """
        found = {}
        for number in self.numbers():
            file = self.claim_file(number)
            claim = Claim.read(file)
            if claim is not None:
                found[number] = claim
            elif file.exists():
                raise RunError(
                    f"{file} is damaged, and says whose rows generation {number} has: restore it, or drop them: "
                    f"semdedup-corpus drop corpus_path={self.place} generation={number}"
                )
        return found

    def claim(self, key: str, files: Sequence[str]) -> int:
        """Returns the number of the generation of an input, the next one if it has none."""
        claims = self.claims()
        for number, claim in claims.items():
            if claim.key == key:
                return number
        number, data = max(claims, default=-1) + 1, Claim(key, files[0], len(files), time.time()).to_json()
        while Claim.from_json(self.claim_file(number).create_if_absent(data)).key != key:
            number += 1
        return number

    def release(self, number: int) -> None:
        """Gives a number back whose rows were not begun to be assigned."""
        if not layout.finished_units(self.generation(number) / layout.SEGMENTS):
            self.claim_file(number).delete()
            self.generation(number).delete_tree()

    def finished(self, number: int) -> AssignManifest | None:
        """Returns the manifest of a generation, None where it is not finished."""
        return AssignManifest.find(self.generation(number))

    def wait(self, number: int, seconds: float) -> dict[int, Claim]:
        """Waits until all generations before one are assigned; returns them.

        Raises:
            RunError: nothing of one was seen to go on for so many seconds.
        """
        seen, since, told = -1, time.monotonic(), 0.0
        while True:
            earlier = {n: claim for n, claim in self.claims().items() if n < number}
            missing = [n for n in earlier if not self.finished(n)]
            if not missing:
                return earlier
            first = missing[0]
            progress = len(layout.finished_units(self.generation(first) / layout.SEGMENTS)) + 1000 * -len(missing)
            if progress != seen:
                seen, since = progress, time.monotonic()
            what = f"generation {first} of the corpus {self.place} (of {earlier[first].first_file})"
            if time.monotonic() - since > seconds:
                raise RunError(
                    f"{what} is not finished, and nothing of it was seen to go on for {seconds:g} s: run the command "
                    f"again that adds it, or drop it: semdedup-corpus drop corpus_path={self.place} generation={first}"
                )
            if time.monotonic() - told > _TOLD_SECONDS:
                told = time.monotonic()
                _LOG.info("Waiting for another run to assign the rows of %s", what)
            time.sleep(_POLL_SECONDS)

    def fitted(self, common: Common) -> FittedKMeans | None:
        """Returns the model; None where it is not fitted yet.

        Raises:
            RunError: it is damaged.
        """
        return model.load(self.model, common.n_clusters, common.dimension)
