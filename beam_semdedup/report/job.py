"""The whole job: a finished run's results in, `report.html` in its `output_path` out."""

from __future__ import annotations

from beam_semdedup.config.parameters import ReportParameters
from beam_semdedup.config.places import naming_places
from beam_semdedup.errors import InputError
from beam_semdedup.report.content import Content, count_rows, gather
from beam_semdedup.report.labels import Labels
from beam_semdedup.report.page import MARK, write_page
from beam_semdedup.report.results import FinishedRun, find_run
from beam_semdedup.runners.resources import free_memory
from beam_semdedup.storage import layout
from beam_semdedup.storage.damage import DamagedFile
from beam_semdedup.storage.folder import File, Folder


def read_report(p: ReportParameters) -> tuple[FinishedRun, Content]:
    """Reads what there is to say of the run that ended in `p.output_path`.

    Raises:
        InputError: there is no finished run, its cache is gone or damaged, or the parameters do not fit it.
    """
    with naming_places(p, InputError):
        labels = Labels.load(p.labels) if p.labels else {}
        run, results = find_run(p)
        try:
            return run, gather(results, p, count_rows(results, p, memory_of(p)), labels)
        except DamagedFile as error:
            raise InputError(f"{error}; run semdedup again, which computes it") from error


def write_report(p: ReportParameters, run: FinishedRun, content: Content) -> tuple[File, int]:
    """Writes `report.html`, whole; returns it, and its size in bytes.

    Raises:
        InputError: another file of that name is there.
    """
    with naming_places(p, InputError):
        file = Folder.at(p.output_path, p.write_options).file(layout.REPORT)
        check_own(file)
        page = write_page(run, content)
        file.write_bytes(page)
        return file, len(page)


def check_own(file: File) -> None:
    """Raises InputError where a file is there that is no report."""
    try:
        with file.open() as source:
            own = source.read(len(MARK)) == MARK
    except (FileNotFoundError, NotADirectoryError):
        return
    if not own:
        raise InputError(f"{file} is not from this program; choose another output_path")


def memory_of(p: ReportParameters) -> int:
    """Returns the bytes that a report may use."""
    return p.memory_budget or free_memory() // 2
