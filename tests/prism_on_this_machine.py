"""Prism for the tests, where it is built."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

PRISM = shutil.which("prism", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
needs_prism = pytest.mark.skipif(PRISM is None, reason="there is no Prism here: make install EXTRAS=prism builds it")
