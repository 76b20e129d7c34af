"""Lance datasets as input: the fragments of the version that there is when the files are listed.

A fragment is called by its first data file. Its rows have the numbers there that Lance's row addresses have, which stay
when others are deleted; those that were deleted are not read.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_semdedup.errors import InputError, RunError, StorageError, reason
from beam_semdedup.inputs import embeddings
from beam_semdedup.inputs.base import (
    Copied,
    Copier,
    FileFacts,
    Format,
    InputUnit,
    IsListed,
    Piece,
    RowBatch,
    Versioned,
)
from beam_semdedup.storage import scratch
from beam_semdedup.storage.folder import File, FileInfo, Folder, Found

_VERSIONS, _DATA, _MANIFEST = "_versions", "data", ".manifest"
_FIRST = f"{_VERSIONS}/{2**64 - 2:020d}{_MANIFEST}"
_PART_ROWS = 65_536
_SAMPLED_ROWS = 1024
_READ_BYTES, _CACHE_BYTES = 32 << 20, 64 << 20
_ADDRESS, _OFFSET = "_rowaddr", 0xFFFFFFFF
_BLOBS = "lance.blob"
_COMMITS = 100  # of others, at most, between a commit and a look for it
_S3 = {
    "key": "aws_access_key_id",
    "secret": "aws_secret_access_key",
    "token": "aws_session_token",
    "anon": "aws_skip_signature",
    "endpoint_url": "aws_endpoint",
    "region_name": "aws_region",
}
"""What Lance calls the storage options of s3fs, and those that its `client_kwargs` hold."""
_OF_LISTINGS = ("use_listings_cache", "skip_instance_cache", "listings_expiry_time")
_SCHEMES = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "abfss", "abfss": "abfss"}


class _Pin(NamedTuple):
    """Where a fragment is in the versions of its dataset: what stands as the version of a listed file.

    Attributes:
        made: when that version was, since a dataset that is written anew begins with 1 again.
    """

    version: int
    fragment: int
    made: str

    def __str__(self) -> str:
        return f"version {self.version} of {self.made}, fragment {self.fragment}"

    @classmethod
    def of(cls, file: FileInfo) -> _Pin:
        """Reads it; InputError where a file was not listed with its dataset."""
        found = re.fullmatch(r"version (\d+) of (\S+), fragment (\d+)", file.version)
        if not found:
            raise InputError(f"{file}: a data file of a Lance dataset, which is read as a whole: give its directory")
        return cls(int(found[1]), int(found[3]), found[2])


class Lance(Format, Copier, Versioned):
    """Lance datasets. A piece says of which version and which fragment the rows are."""

    extensions = (".lance",)
    pinned = True
    first_manifest = _FIRST

    def __init__(self, batch_bytes: int = 4 << 20) -> None:
        """Creates the format.

        Args:
            batch_bytes: about how many bytes of the columns a table has.
        """
        self.batch_bytes = batch_bytes

    def chosen(self, found: Found) -> Found:
        """See `Format.chosen`; of each dataset, the first data file of each fragment of its latest version."""
        roots = {url.partition(f"/{_VERSIONS}")[0] for url in found.hidden if f"/{_VERSIONS}/" in f"{url}/"}
        roots = {root for root in roots if not _inside(root, roots)}  # but for branches of one
        homes = {f.url.rpartition(f"/{_DATA}/")[0] for f in found.files if f.name.endswith(self.extensions)}
        roots &= homes  # other programs may call a directory so
        files = [file for file in found.files if not _inside(file.url, roots)]
        hidden = [url for url in found.hidden if not _inside(url, roots)]
        for root in sorted(roots):
            files += _fragments(root, [file for file in found.files if _inside(file.url, [root])])
        return Found(sorted(files, key=lambda file: file.url), hidden)

    def inspect(self, file: FileInfo) -> FileFacts:
        """See `Format.inspect`; from the manifest."""
        pin = _Pin.of(file)
        with _naming(file):
            fragment = _fragment(file, pin.version, pin.fragment)
            rows, schema = fragment.count_rows(), embeddings.plain_schema(fragment.schema)
        parts = tuple(
            InputUnit(file.url, 0, first, min(_PART_ROWS, rows - first), (pin.version, pin.fragment))
            for first in range(0, rows, _PART_ROWS)
        )
        return FileFacts(file, schema, rows, parts)

    def dimension(self, facts: FileFacts, embedding_field: str) -> int | None:
        """See `Format.dimension`; from the type, or the first rows with a vector."""
        type_ = facts.schema.field(embedding_field).type
        if pa.types.is_fixed_size_list(type_):
            return int(type_.list_size)
        return super().dimension(facts, embedding_field)

    def num_bytes(self, facts: FileFacts, columns: Sequence[str]) -> int:
        """See `Format.num_bytes`; as many as the first rows have."""
        names = [name for name in columns if name in facts.schema.names]
        if not names or not facts.num_rows:
            return 0
        pin = _Pin.of(facts.info)
        with _naming(facts.info):
            fragment = _fragment(facts.info, pin.version, pin.fragment)
            head = fragment.to_table(columns=names, limit=_SAMPLED_ROWS, blob_handling="all_binary")
        size: int = head.nbytes * facts.num_rows // max(1, head.num_rows)
        return size

    def join(self, pieces: Sequence[Piece]) -> Piece:
        """See `Format.join`."""
        return pieces[0]

    def where(self, piece: Piece) -> str:
        """See `Format.where`."""
        version, fragment = piece
        return f"fragment {fragment} of version {version}"

    def read(self, file: File, unit: InputUnit, schema: pa.Schema) -> Iterator[RowBatch]:
        """See `Format.read`."""
        version, fragment = unit.piece
        no_lines, position = np.empty(0, dtype=np.int64), unit.first_row
        with _naming(file):
            rows = {"offset": unit.first_row, "limit": unit.num_rows}
            for batch in self._scan(_fragment(file, version, fragment), schema.names, **rows):
                offsets = _offsets(batch)
                positions = np.arange(position, position + batch.num_rows)
                position += batch.num_rows
                table = embeddings.with_types(pa.Table.from_batches([batch]), schema)
                yield RowBatch(table, positions, offsets, no_lines, offsets)

    def copy_without(
        self,
        source: FileInfo,
        targets: Sequence[Path],
        id_column: pa.Field | None,
        is_listed: IsListed,
        batch_bytes: int,
    ) -> Copied:
        """See `Copier.copy_without`; the copy of a fragment without rows is no part of its dataset."""
        pin = _Pin.of(source)
        with _naming(source):
            fragment = _fragment(source, pin.version, pin.fragment)
            _, listed = self._listed(fragment, id_column, is_listed)
            metadata = None
            if not listed.all():
                metadata = self._write(source, targets[0], ~listed)
                metadata["files"][0]["path"] = source.name
        return Copied(len(listed), int(listed.sum()), self._receipt(source, metadata))

    def dataset_of(self, file: File) -> Folder:
        """See `Versioned.dataset_of`."""
        return Folder(file.url.rpartition(f"/{_DATA}/")[0], file.options)

    def first_version(self, dataset: Folder, receipts: Sequence[str], key: str) -> bytes:
        """See `Versioned.first_version`; schema and metadata are those of the dataset, its indices are left out."""
        lance = _lance()
        from lance.fragment import FragmentMetadata

        own = sorted((r for r in map(json.loads, receipts) if r["dataset"] == dataset.url), key=lambda r: r["fragment"])
        kept = [receipt["metadata"] for receipt in own if receipt["metadata"]]
        with _naming(dataset), scratch.directory() as place:
            original = _open(dataset, own[0]["version"])
            fragments = [FragmentMetadata.from_json(json.dumps({**m, "id": n})) for n, m in enumerate(kept)]
            lance.LanceDataset.commit(
                place,
                lance.LanceOperation.Overwrite(original.schema, fragments),
                commit_message=_message(key),
                enable_v2_manifest_paths=True,
                enable_stable_row_ids=original.has_stable_row_ids,
            )
            return Path(place, _FIRST).read_bytes()

    def delete(self, source: FileInfo, id_column: pa.Field | None, is_listed: IsListed, batch_bytes: int) -> Copied:
        """See `Versioned.delete`; Lance's clean-up of old versions removes what it writes and nobody commits."""
        pin = _Pin.of(source)
        with _naming(source):
            fragment = _fragment(source, pin.version, pin.fragment)
            offsets, listed = self._listed(fragment, id_column, is_listed)
            if not listed.any():
                return Copied(len(listed), 0)
            left = fragment.delete_rows(offsets[listed])
        receipt = self._receipt(source, None if left is None else left.to_json())
        return Copied(len(listed), int(listed.sum()), receipt)

    def commit(self, dataset: Folder, receipts: Sequence[str], key: str) -> int:
        """See `Versioned.commit`."""
        lance = _lance()
        from lance.commit import CommitConflictError
        from lance.fragment import FragmentMetadata

        changed = [json.loads(receipt) for receipt in receipts if receipt]
        updated = [FragmentMetadata.from_json(json.dumps(r["metadata"])) for r in changed if r["metadata"]]
        emptied = [receipt["fragment"] for receipt in changed if not receipt["metadata"]]
        version = changed[0]["version"]
        try:
            with _naming(dataset):
                url, options = _reached(dataset)
                operation = lance.LanceOperation.Delete(updated, emptied, _message(key))
                made = lance.LanceDataset.commit(
                    url, operation, read_version=version, storage_options=options, commit_message=_message(key)
                )
        except InputError as error:
            if not isinstance(error.__cause__, CommitConflictError):
                raise
            raise RunError(
                f"{dataset}: rows of the same fragments were changed since version {version}, which was read; nothing "
                "is deleted: run again"
            ) from error
        return int(made.version)

    def is_committed(self, dataset: Folder, key: str) -> bool:
        """See `Versioned.is_committed`."""
        with _naming(dataset):
            found = _open(dataset, None).get_transactions(_COMMITS)
        messages = [(commit.transaction_properties or {}).values() for commit in found if commit is not None]
        return any(_message(key) in values for values in messages)

    def _scan(self, fragment: Any, columns: Sequence[str] | None, **rows: int) -> Iterator[pa.RecordBatch]:
        """Yields rows of a fragment with their addresses."""
        schema = fragment.schema
        names = schema.names if columns is None else columns
        size = 8 + sum(_width(schema.field(name).type) for name in names if name in schema.names)
        scanner = fragment.scanner(
            columns=list(names),
            with_row_address=True,
            batch_size=max(1, self.batch_bytes // size),
            batch_readahead=2,
            io_buffer_size=_READ_BYTES,
            blob_handling="all_binary",
            **rows,
        )
        yield from scanner.to_batches()

    def _listed(
        self, fragment: Any, id_column: pa.Field | None, is_listed: IsListed
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Returns the numbers of a fragment's rows, and which of them are listed; (n,)."""
        offsets, masks = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=bool)]
        for batch in self._scan(fragment, [] if id_column is None else [id_column.name]):
            offsets.append(_offsets(batch))
            if id_column is None:
                asked = pa.chunked_array([pa.array(offsets[-1])])
            else:
                ids = embeddings.decoded(pa.chunked_array([batch.column(id_column.name)]))
                asked = ids.cast(embeddings.carried_type(ids.type))
            masks.append(is_listed(asked))
        return np.concatenate(offsets), np.concatenate(masks)

    def _write(self, source: FileInfo, target: Path, kept: npt.NDArray[np.bool_]) -> dict[str, Any]:
        """Writes the kept rows of a fragment as the one data file of another, and returns its metadata."""
        from lance.fragment import write_fragments

        pin, dataset = _Pin.of(source), self.dataset_of(source)
        fragment, original = _fragment(source, pin.version, pin.fragment), _open(dataset, pin.version)
        if blobs := [field.name for field in original.schema if _BLOBS in str(field.type)]:
            raise InputError(
                f"{dataset}: column {blobs[0]!r} holds blobs that lie beside the data files, which no copy has: give "
                "output_path=input_path to delete rows in a new version"
            )

        def batches() -> Iterator[pa.RecordBatch]:
            position = 0
            for batch in self._scan(fragment, None):
                mask = pa.array(kept[position : position + batch.num_rows])
                position += batch.num_rows
                yield batch.drop_columns([_ADDRESS]).filter(mask)

        first = next(found := batches())
        schema = pa.schema(
            [field.with_type(column.type) for field, column in zip(original.schema, first.columns, strict=True)],
            metadata=original.schema.metadata,
        )
        aligned = (pa.record_batch(batch.columns, schema=schema) for batch in _after(first, found))
        with scratch.directory(target.parent) as place:
            (written,) = write_fragments(
                pa.RecordBatchReader.from_batches(schema, aligned),
                place,
                schema=schema,
                mode="create",
                max_rows_per_file=int(kept.sum()),
                max_bytes_per_file=1 << 50,
                data_cache_bytes=2 * self.batch_bytes,
                data_storage_version=original.data_storage_version,
                enable_stable_row_ids=original.has_stable_row_ids,
            )
            Path(place, _DATA, written.files[0].path).replace(target)
        return dict(written.to_json())

    def _receipt(self, source: FileInfo, metadata: Mapping[str, Any] | None) -> str:
        pin = _Pin.of(source)
        place = {"dataset": self.dataset_of(source).url, "version": pin.version, "fragment": pin.fragment}
        return json.dumps({**place, "metadata": metadata})


def _lance() -> Any:
    """Returns the library; InputError where it is not installed."""
    try:
        import lance
    except ImportError as error:
        raise InputError(f'Lance datasets need pylance: {error}: pip install "beam-semdedup[lance]"') from error
    return lance


@contextmanager
def _naming(place: File | Folder) -> Iterator[None]:
    """Turns what Lance raises into an InputError that names the place, also where its Rust code gave up."""
    try:
        yield
    except (InputError, RunError, StorageError, GeneratorExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = reason(error if isinstance(error, Exception) else RuntimeError(str(error)))
        said = re.sub(r",? ?\S+\.rs:\d+:\d+", "", said)
        raise InputError(f"{place}: Lance cannot read or change it: {said}") from error


def _open(dataset: Folder, version: int | None) -> Any:
    """Returns a dataset at a version; at the latest one without."""
    url, options = _reached(dataset)
    if version is None:
        return _lance().dataset(url, storage_options=options)
    return _opened(url, version, tuple(sorted(options.items())))


@functools.lru_cache(maxsize=8)
def _opened(url: str, version: int, options: tuple[tuple[str, str], ...]) -> Any:
    return _lance().dataset(
        url,
        version=version,
        storage_options=dict(options),
        metadata_cache_size_bytes=_CACHE_BYTES,
        index_cache_size_bytes=1 << 20,
    )


def _fragment(file: File, version: int, number: int) -> Any:
    """Returns a fragment; InputError where it is another than that of the file."""
    fragment = _open(Lance().dataset_of(file), version).get_fragment(number)
    if fragment is None or fragment.data_files()[0].path != file.name:
        raise InputError(f"{file}: no longer fragment {number} of version {version}: the dataset was written anew")
    return fragment


def _fragments(root: str, files: Sequence[FileInfo]) -> list[FileInfo]:
    """Returns the fragments of the latest version of a dataset, as what its first data file is."""
    dataset = Folder(root, files[0].options if files else {})
    there = {file.url: file for file in files}
    listed = []
    with _naming(dataset):
        opened = _open(dataset, None)
        if not opened.version or not opened.schema.names:  # zeros, for one, are read as an empty one
            raise ValueError("the manifest of its latest version is damaged")
        made = opened.get_version()["timestamp"].isoformat()
        for fragment in opened.get_fragments():
            urls = []
            for data in fragment.data_files():
                urls.append(f"{root}/{_DATA}/{data.path}")
                if data.base_id is not None:
                    raise InputError(
                        f"{root}: fragment {fragment.fragment_id} lies in another dataset: make a deep clone"
                    )
                if urls[-1] not in there:
                    raise InputError(
                        f"{urls[-1]}: not there, though fragment {fragment.fragment_id} of version {opened.version} "
                        "names it: the dataset is not whole"
                    )
            size = sum(there[url].size for url in urls)
            pin = _Pin(opened.version, fragment.fragment_id, made)
            listed.append(FileInfo(urls[0], dataset.options, size, str(pin)))
    return listed


def _reached(dataset: Folder) -> tuple[str, dict[str, str]]:
    """Returns the URL and the storage options by which Lance reaches a dataset.

    Raises:
        InputError: it knows no such file system, or an option is one that it has no name for.
    """
    scheme, separator, rest = dataset.url.partition("://")
    if not separator:
        return dataset.url, {}
    if scheme not in _SCHEMES:
        raise InputError(f"{dataset}: Lance reads local disks, s3, gs and az: copy the dataset to one of them")
    given = {name: value for name, value in dataset.options.items() if name not in _OF_LISTINGS}
    given.update(given.pop("client_kwargs", None) or {})
    names = _S3 if _SCHEMES[scheme] == "s3" else {}
    if unknown := [name for name in given if name not in names]:
        raise InputError(
            f"{dataset}: storage_options: Lance has no name for {', '.join(sorted(unknown))}; give credentials in the "
            "environment, as Lance reads them"
        )
    options = {names[name]: _shown(value) for name, value in given.items() if value is not None}
    if options.get("aws_endpoint", "").startswith("http://"):
        options["allow_http"] = "true"
    if "aws_endpoint" in options:
        options.setdefault("aws_region", "us-east-1")
    return f"{_SCHEMES[scheme]}://{rest}", options


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _inside(url: str, roots: Sequence[str] | set[str]) -> bool:
    return any(url.startswith(f"{root}/") for root in roots)


def _message(key: str) -> str:
    return f"beam-semdedup removal {key}"


def _offsets(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """Returns the numbers of rows in their fragment, (n,)."""
    addresses: npt.NDArray[np.int64] = batch.column(_ADDRESS).to_numpy() & np.uint64(_OFFSET)
    return addresses.astype(np.int64)


def _width(type_: pa.DataType) -> int:
    """Returns about how many bytes a value has."""
    if pa.types.is_fixed_size_list(type_):
        return int(type_.list_size) * _width(type_.value_type)
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return 1024 * _width(type_.value_type)
    try:
        return int(max(1, type_.bit_width // 8))
    except ValueError:
        return 64


def _after(first: pa.RecordBatch, others: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from others
