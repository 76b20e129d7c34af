"""Which file system a URL belongs to, and how its URLs are spelled.

`options` are the `storage_options` of fsspec that a URL is reached with.
"""

from __future__ import annotations

import os
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from beam_semdedup.errors import InputError

Options = dict[str, Any]
_OBJECT_STORES = frozenset(
    ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "ocilake", "tos", "hf")
)


def filesystem(url: str, options: Options) -> tuple[fsspec.AbstractFileSystem, str]:
    """Returns the file system of `url` and the path in it; InputError where there is neither.

    Object stores come without a cache of listings, in which a file that another worker just wrote is missing.
    """
    if "::" in url:
        raise InputError(
            f"{url}: fsspec takes :: for a chain of file systems, such as an archive in a bucket, which is not "
            "supported; give the place of the files themselves"
        )
    try:
        url.encode()
    except UnicodeEncodeError as error:  # Arrow, Beam and the stored plans know paths as UTF-8 alone
        raise InputError(
            f"{url}: the name is not UTF-8, as all paths must be: rename it, or where it is, use a locale with UTF-8, "
            "such as LC_ALL=C.UTF-8"
        ) from error
    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
        if isinstance(fs, AsyncFileSystem):
            fs, path = fsspec.core.url_to_fs(url, **{"use_listings_cache": False, **options})
        return fs, path
    except ImportError as error:
        hint = ': pip install "beam-semdedup[s3]"' if url.startswith(("s3:", "s3a:")) else ""
        raise InputError(f"{url}: {error}{hint}") from error
    except FileNotFoundError as error:  # of a relative path
        raise InputError(f"{url}: the working directory does not exist any more; give an absolute path") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{url}: no such file system, or its storage_options are wrong: {error}") from error


def absolute(url: str, options: Options) -> str:
    """Returns `url` in one spelling: with its protocol, absolute, without a trailing slash; local paths stay plain."""
    fs, path = filesystem(url, options)
    if isinstance(fs, LocalFileSystem):
        return os.path.abspath(path)  # noqa: PTH100 - resolve() would follow links
    return url_of(fs, path.rstrip("/") or path, url)


def url_of(fs: fsspec.AbstractFileSystem, path: str, near: str) -> str:
    """Returns the URL of a path, on the host and as the user of `near`: the URL of this path, one above it, or a glob.

    Some file systems have no host in their paths (webhdfs, hdfs, sftp, ftp, smb, github), and fsspec no way back to it.
    """
    if isinstance(fs, LocalFileSystem):
        return path
    url: str = fs.unstrip_protocol(path)
    if fs._get_kwargs_from_urls(url) == fs._get_kwargs_from_urls(near):
        return url
    protocol, _, place = near.partition("://")
    host, _, inner = place.rstrip("/").partition("/")
    inner = inner.lstrip("/")
    whole = fs._strip_protocol(near).rstrip("/")
    if not whole.endswith(inner):
        return url
    # What comes before the URL's path is / or nothing, or a container, which the URL names beside the host (abfs).
    return f"{protocol}://{host}/{path[len(whole) - len(inner) :].lstrip('/')}"


def is_object_store(fs: fsspec.AbstractFileSystem) -> bool:
    """Says whether a file appears there with its whole content at once, when its upload is committed."""
    return not _OBJECT_STORES.isdisjoint(_protocols(fs))


def has_conditional_puts(fs: fsspec.AbstractFileSystem) -> bool:
    """Says whether a put may be refused where the object exists already (If-None-Match)."""
    return "s3" in _protocols(fs)


def _protocols(fs: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
