"""A store at an address: objects of a bucket, or files that a web server shows, read with obstore."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import zarr

from influencekit._trajectory.schema import MOST_BYTES, needed_chunks, parse_document
from influencekit._trajectory.schema.arrays import Described
from influencekit.errors import InputError, StoreError

try:
    import obstore
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
    from obstore.store import from_url
except ImportError as error:
    raise InputError(
        "stores at s3://, gs:// and https:// are read with obstore: pip install 'influencekit[remote]'"
    ) from error

__all__ = ["Remote"]

_ROOT = "zarr.json"
_KEPT = 64 << 20  # bytes of objects that stay in memory
_AT_ONCE = 8  # requests
_RETRY = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}
_PATIENCE = {
    "connect_timeout": timedelta(seconds=10), "read_timeout": timedelta(seconds=30),
    "timeout": timedelta(minutes=10),
}  # fmt: skip
# where a machine in a cloud asks for its credentials, if there are no others; and half of them
_NO_KEYS = ("/latest/api/token", "/computeMetadata/", "Missing AccessKeyId", "Missing SecretAccessKey")
_process: int | None = None


class Remote(zarr.storage.ObjectStore[Any]):
    """The store at `given`, an address. Objects that were held by `hold` are those that zarr decodes.

    Errors: `StoreError`, one line, for whatever the server or the network does; `FileNotFoundError` for an
    object that is not there. A process that was forked from one which has read addresses is refused: the
    threads that do the work are not in it.
    """

    def __init__(self, given: str) -> None:
        self.given = given
        self._held: OrderedDict[str, bytes] = OrderedDict()
        with self._told(""):
            super().__init__(_objects(given), read_only=True)

    def document(self, name: str = "") -> dict[str, Any]:
        """The zarr.json of the store, which stays in memory, or of an array."""
        key = f"{name}/{_ROOT}" if name else _ROOT
        data = self._fetch(key, MOST_BYTES)
        if not name:
            self._held[key] = data
        try:
            return parse_document(data, f"{self.given}/{key}")
        except StoreError as error:
            raise StoreError(
                f"{error}; see what the address gives (a page that asks for a login? half a file?), or copy "
                "the store there again"
            ) from None

    def hold(self, keys: Sequence[str], most: int) -> list[bytes]:
        """The objects of these keys, of at most `most` bytes each. They are in memory until the next call.

        Cost: one request for each that is not there, eight at a time.
        """
        new = [key for key in keys if key not in self._held]
        self._held.update(zip(new, self._each(partial(self._chunk, most=most), new), strict=True))
        for key in keys:
            self._held.move_to_end(key)
        found, total = [self._held[key] for key in keys], sum(map(len, self._held.values()))
        for key in [k for k in self._held if k != _ROOT][: -len(keys) or None]:
            if total > _KEPT:
                total -= len(self._held.pop(key))
        return found

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if byte_range is None and key in self._held:
            return prototype.buffer.from_bytes(self._held[key])
        with self._told(key):
            return await super().get(key, prototype, byte_range)

    def keys(self) -> set[str] | None:
        """The keys of all objects; None where they cannot be listed: of a web server, or not allowed."""
        if self.given.startswith("http"):
            return None
        with self._told(""):
            try:
                return {each["path"] for some in obstore.list(self.store) for each in some}
            except (PermissionDeniedError, UnauthenticatedError):
                return None

    def check_there(self, arrays: Iterable[tuple[str, Described, int]]) -> None:
        """Whether the chunks that the first rows of arrays need are there: all of them where the address can
        be listed, else the last one of each. Errors: the first that is missing."""
        listed = self.keys()
        needed = [[f"{name}/{key}" for key in needed_chunks(array, rows)] for name, array, rows in arrays]
        if listed is None:
            last = [keys[-1] for keys in needed if keys]
            lost = [k for k, there in zip(last, self._each(self._has, last), strict=True) if not there]
        else:
            lost = [key for keys in needed for key in keys if key not in listed]
        if lost:
            more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
            raise StoreError(f"{self.given}: chunk {lost[0]} is missing{more}; copy the store there again")

    def _each(self, call: Any, keys: Sequence[str]) -> list[Any]:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(call, keys))

    def _chunk(self, key: str, most: int) -> bytes:
        try:
            return self._fetch(key, most)
        except FileNotFoundError:
            raise StoreError(f"{self.given}: chunk {key} is missing; copy the store there again") from None

    def _has(self, key: str) -> bool:
        with self._told(key):
            try:
                return bool(obstore.head(self.store, key))
            except FileNotFoundError:
                return False

    def _fetch(self, key: str, most: int) -> bytes:
        with self._told(key):
            found = obstore.get(self.store, key)
            if (size := found.meta["size"]) > most:
                raise StoreError(f"{self.given}: {key} has {size:,} bytes, expected at most {most:,}")
            return bytes(found.bytes())

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """Errors of obstore, which have many lines, in one."""
        global _process
        if _process not in (None, os.getpid()):
            raise StoreError(
                f"{self.given} cannot be read in a process that was forked from one which has read an "
                "address; start processes with the method 'spawn', or copy the store to this machine"
            )
        _process = os.getpid()
        try:
            yield
        except (FileNotFoundError, StoreError):
            raise
        except (BaseError, OSError, ValueError) as error:
            what = f"{self.given}{f': {key}' if key else ''}"
            refused = isinstance(error, PermissionDeniedError | UnauthenticatedError)
            if refused or any(words in str(error) for words in _NO_KEYS):
                why = "access is denied" if refused else "no credentials were found"
                raise StoreError(
                    f"{what} cannot be read: {why}; set them in the environment, or for a public bucket "
                    "AWS_SKIP_SIGNATURE=true (GOOGLE_SKIP_SIGNATURE=true); docs/store.md"
                ) from error
            if (why := _reason(error)).endswith("builder error"):  # of a request that may not be sent
                raise StoreError(
                    f"{what} cannot be read: its server is asked by plain http; use https, or set "
                    "AWS_ALLOW_HTTP=true (GOOGLE_ALLOW_HTTP=true) if the server is yours"
                ) from error
            raise StoreError(f"{what} cannot be read ({why}); try again") from error


def _objects(address: str) -> Any:
    """What obstore reads. Plain http is for this machine alone, or where the user allows it for a bucket."""
    allowed = {"s3:": "AWS_ALLOW_HTTP", "gs:": "GOOGLE_ALLOW_HTTP"}.get(address[:3], "")
    http = address.startswith("http:") or os.environ.get(allowed, "").lower() in ("1", "true")
    return from_url(address, client_options={**_PATIENCE, "allow_http": http}, retry_config=_RETRY)  # type: ignore[call-overload]


def _reason(error: Exception) -> str:
    """What went wrong, of the first line of obstore's message, without the address and a server's page."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.rpartition(" - ")[2].partition(": <")[0][:160]
