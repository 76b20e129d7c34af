"""What can be known before a run: that what it needs is installed, and that its results and its input do not mix."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fsspec.utils import glob_translate

from beam_semdedup.config.parameters import Parameters
from beam_semdedup.errors import InputError
from beam_semdedup.fit.registry import make_engine
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.storage import layout
from beam_semdedup.storage.folder import FileInfo, Folder


def check_installed(p: Parameters) -> None:
    """Raises InputError where this machine lacks what the parameters ask for; `device=auto` asks for nothing."""
    runner, engine = make_runner(p), make_engine(p)
    runner.check(p.device)
    if runner.workers_are_here or engine.fits_ahead:  # elsewhere only the workers know
        engine.check()


def check_places(p: Parameters, files: Sequence[FileInfo], given_as: str = "input_path") -> None:
    """Raises InputError where a result would become input of a later run, or an input be taken for a result.

    Args:
        given_as: the parameter that says where the files are.
    """
    places = {
        "output_path": (p.output_path, Folder.at(p.output_path, p.write_options).realpath()),
        "cache_path": (p.cache_root, Folder.at(p.cache_root, p.cache_options).realpath()),
    }
    if p.corpus_path is not None:
        places["corpus_path"] = p.corpus_path, Folder.at(p.corpus_path, p.corpus_options).realpath()
    for name, (path, place) in places.items():
        for given in p.input_path:
            folder = Folder.at(given, p.read_options)
            root = folder.realpath()
            inside = place.is_inside(root)
            if folder.is_pattern():
                pattern = re.compile(glob_translate(root.url))
                results = [place.url, *(f"{place}/{product}/x.parquet" for product in layout.PRODUCTS)]
                inside = any(map(pattern.match, results))
            if inside:
                raise InputError(
                    f"{name}={path} lies inside {given_as}={given}: later runs would read the results; move it out"
                )
        for file in files:
            real = file.realpath()
            for product in layout.PRODUCTS:
                if real.is_inside(place / product):
                    raise InputError(
                        f"{given_as}: {file} is a result in {name}={path}, where results are cleared; give "
                        f"another {name}"
                    )


def check_dimension(own: int, place: str, theirs: int, name: str) -> None:
    """Raises InputError where vectors in two places have different numbers of values."""
    if own != theirs:
        raise InputError(f"vectors have {own} values in {place} and {theirs} in {name}: take one model's")
