"""The job of `semdedup-embed`: a dataset of texts in, one of embeddings out; a run that was killed goes on."""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass

from beam_semdedup.config.parameters import EmbedParameters
from beam_semdedup.config.places import naming_places
from beam_semdedup.embed.plan import EmbeddingManifest, make_plan, prepare
from beam_semdedup.embed.transform import EmbedTexts
from beam_semdedup.errors import InputError, RunError
from beam_semdedup.inputs.listing import check_unchanged, filetype_of, list_files
from beam_semdedup.runners import base as runners
from beam_semdedup.runners import progress
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.text import counted

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddingResult:
    """What was embedded: `rows` of which `nulls` have no text or image, and so no embedding; `malformed` are left out.

    `broken` rows have an image that cannot be read, and no embedding either.
    """

    rows: int
    nulls: int
    malformed: int
    broken: int
    files: tuple[str, ...]
    seconds: float


def embed_texts(p: EmbedParameters) -> EmbeddingResult:
    """Writes the embeddings of the texts at `p.input_path`, with their ids and the metadata_fields.

    Raises:
        InputError: the texts, the model or the output are not as they must be.
        RunError: a unit or a worker failed, or the input changed meanwhile; the same call goes on.
    """
    with naming_places(p, RunError):
        return _embed(p)


def _embed(p: EmbedParameters) -> EmbeddingResult:
    started = time.time()
    runner = make_runner(p)
    runner.check("auto")
    with naming_places(p, InputError):
        files = list_files(p)
        p = dataclasses.replace(p, input_filetype=p.input_filetype or filetype_of(files))
        job, planned = make_plan(p, files)
        job.model.check(p.device if runner.workers_are_here else "auto")
        prepare(job, planned)
    rows = sum(unit.num_rows for unit in planned)
    _LOG.info("Embedding %s by %s", counted(rows, "text" if p.image_field is None else "image"), p.model)
    wanted = {job.name(unit) for unit in planned}
    done = progress.StageProgress("Embed texts", len(planned), lambda: len(wanted.intersection(job.output.names())))
    with progress.shown([done], p.verbose, progress.interval(job.output.url)):
        runners.run(lambda pipeline: pipeline | EmbedTexts(job, planned), runner)
    manifest = EmbeddingManifest.find(job.output)
    if not manifest or manifest.key != job.key:
        raise RunError(f"{job.output}: the embedding ended without finishing; run it again")
    try:
        check_unchanged(p, files)
    except RunError:
        job.output.delete([EmbeddingManifest.file_name, *manifest.files])
        raise
    if manifest.counts.num_rows + manifest.malformed != rows:
        raise RunError(f"{job.output}: {manifest.counts.num_rows:,} rows of {rows:,}; run it again")
    if manifest.malformed:
        _LOG.warning("Left out, as they cannot be read: %s", counted(manifest.malformed, "malformed line"))
    if manifest.broken:
        which = "; ".join(manifest.examples)
        _LOG.warning("Without an embedding, as they cannot be read: %s: %s", counted(manifest.broken, "image"), which)
    written = tuple(job.output.file(name).url for name in manifest.files)
    counts = manifest.counts.num_rows, manifest.nulls, manifest.malformed, manifest.broken
    return EmbeddingResult(*counts, written, time.time() - started)
