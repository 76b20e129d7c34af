"""The parquet files of the stages: a table, and what the program says of it in the file's metadata."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from beam_semdedup.storage.damage import DamagedFile, as_damage
from beam_semdedup.storage.folder import File
from beam_semdedup.storage.records import Record

_LOG = logging.getLogger(__name__)
_FACTS = b"semdedup"
_R = TypeVar("_R", bound=Record)


def write(
    file: File, table: pa.Table, facts: Record | None, compression: str, row_group_size: int = 65_536, **options: Any
) -> None:
    """Writes a table, whole, with `facts` in place of its schema's metadata; `options` are `pq.write_table`'s.

    Its pages have checksums.
    """
    table = table.replace_schema_metadata({_FACTS: facts.to_json()} if facts else None)
    with file.atomic_write() as scratch:
        pq.write_table(
            table,
            scratch,
            compression=compression,
            row_group_size=row_group_size,
            write_page_checksum=True,
            **options,
        )


def opened(source: pa.NativeFile, footer: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """Opens a parquet file, whose pages are held against their checksums as they are read, where they have some.

    Args:
        footer: where it is known, so that it is not read again.
    """
    return pq.ParquetFile(source, metadata=footer, page_checksum_verification=True)


def read_facts(file: File, kind: type[_R]) -> _R | None:
    """Returns the facts that `write` put into a file; None where there is no file that can be read."""
    try:
        with as_damage(file), file.open() as source:
            return kind.from_json(pq.read_schema(source).metadata[_FACTS])
    except DamagedFile as error:
        if file.exists():
            _LOG.warning("%s", error)
        return None
