"""What is only there is not imported, and what is needed is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from runs import DEMO

from beam_semdedup.runners import imports


def test_a_package_is_left_out_for_those_alone_that_only_look_whether_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spare.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(imports, "_LEFT_OUT", {"spare"})
    with imports.needed_alone():
        for curious in ("apache_beam.typehints", "pyarrow", "beam_semdedup.inputs.parquet"):
            with pytest.raises(ModuleNotFoundError, match="spare is not needed here"):
                exec("import spare", {"__name__": curious})
        exec("import spare", {"__name__": "cudf.core"})
    monkeypatch.delitem(sys.modules, "spare")
    exec("import spare", {"__name__": "apache_beam.typehints"})
    monkeypatch.delitem(sys.modules, "spare")


def test_a_command_imports_no_pandas(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    code = f"""
import sys
from beam_semdedup.cli import commands
commands._end = sys.exit
sys.argv[1:] = ["input_path={DEMO}"]
try:
    commands.plan_main()
finally:
    assert "pyarrow" in sys.modules and "pandas" not in sys.modules
    import pandas, pyarrow
    assert pyarrow.table({{"a": [1]}}).to_pandas().a.to_list() == [1]
    assert pyarrow.array(pandas.Series([1])).to_pylist() == [1]
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
