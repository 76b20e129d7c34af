"""The parquet files of the stages: a table, and what the program says of it in the file's metadata."""

from __future__ import annotations

import json
import logging
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_semdedup.storage import files as storage

_LOG = logging.getLogger(__name__)
_FACTS = b"semdedup"


def write(
    path: str,
    table: pa.Table,
    facts: dict[str, Any],
    options: storage.Options,
    compression: str,
    row_group_size: int = 65_536,
) -> None:
    """Writes a table, whole, with `facts` in place of its schema's metadata."""
    table = table.replace_schema_metadata({_FACTS: json.dumps(facts).encode()})
    with storage.whole_file(path, options) as scratch:
        pq.write_table(table, scratch, compression=compression, row_group_size=row_group_size)


def read_facts(path: str, options: storage.Options) -> dict[str, Any] | None:
    """The facts that `write` put into a file; None where there is no file that can be read."""
    try:
        with storage.open_input(path, options) as source:
            return json.loads(pq.read_schema(source).metadata[_FACTS])
    except FileNotFoundError:
        return None
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        _LOG.warning("%s is damaged: %s", path, error)
        return None
