"""What Beam and pyarrow import for no other reason than that it is installed, which a command need not wait for.

With pandas alone it is a fifth of the processor time of a small run, and 45 MB of every worker.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

_LEFT_OUT = {"pandas", "boto3", "pymongo"}
_CURIOUS = {"apache_beam", "pyarrow", __name__.partition(".")[0]}
"""Who does without. Code of pyarrow that is compiled has no frame, so that who calls it seems to import."""


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> None:
        if name in _LEFT_OUT and _importer() in _CURIOUS:
            raise ModuleNotFoundError(f"{name} is not needed here", name=name)


@contextmanager
def needed_alone() -> Iterator[None]:
    """Leaves out, while within it, what is not needed; others, such as cuML, import it as ever."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _importer() -> str:
    """Returns the name of the package whose code imports."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("importlib."):
        frame = frame.f_back
    return "" if frame is None else str(frame.f_globals.get("__name__", "")).partition(".")[0]
