"""Downloads a file over HTTP: resumed, checked, renamed into place only when whole."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from diffplan.errors import DiffplanError

_PIECE = 1 << 18
_PROGRESS = 1 << 20  # bytes beyond the best attempt so far that count as getting on
_LONGEST_WAIT = 30.0


@dataclass(frozen=True)
class _Version:
    """What the server said about the file that a partial file is a part of."""

    url: str
    etag: str | None
    modified: str | None
    length: int | None

    def matches(self, other: _Version) -> bool:
        """Whether nothing that both know differs, and at least one thing is known to agree."""
        pairs = [
            (self.etag, other.etag),
            (self.modified, other.modified),
            (self.length, other.length),
        ]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        return self.url == other.url and bool(known) and all(a == b for a, b in known)

    @property
    def condition(self) -> str | None:
        """Value of If-Range, None without a validator that the header allows."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else None
        return strong or self.modified


class _TransferError(Exception):
    """The server gives no file, and asking again would change nothing."""


class _TryAgainError(_TransferError):
    """A transfer that stopped early; the partial file may be continued."""


def download(
    url: str,
    target: Path,
    check: Callable[[Path], None],
    *,
    attempts: int = 5,
    wait: float = 1.0,
    timeout: float = 60.0,
    progress: bool = True,
) -> Path:
    """Fetch `url` into the file `target` unless it is there, and return `target`.

    The bytes go to `target` + ".partial" and are continued by the next attempt or the next call,
    if the server still has the same file (If-Range, then ETag, Last-Modified and length). A whole
    file has the length that the server announced and passes `check`; then it is renamed. Several
    processes take turns, and those that waited use the file of the first.

    check: raises DiffplanError for a file that is not what it should be.
    attempts: transfers in a row that may stop without getting further by a MiB.
    wait: seconds before the second one, doubled each time. timeout: seconds without a byte.
    Raises DiffplanError, in one line with the URL and with where to put the file by hand.
    """
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(target):
            if not target.exists():
                partial = target.with_name(f"{target.name}.partial")
                _fetch(url, partial, target.name, attempts, wait, timeout, progress)
                _check(url, partial, target, check)
                os.replace(partial, target)
                _notes(partial).unlink(missing_ok=True)
    except _TransferError as error:
        raise _failure(url, target, str(error)) from None
    except OSError as error:
        raise DiffplanError(f"cannot write {target}: {_reason(error)}") from None
    return target


def _fetch(
    url: str, partial: Path, name: str, attempts: int, wait: float, timeout: float, progress: bool
) -> None:
    best, failures = 0, 0
    with tqdm(
        desc=f"downloading {name}",
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=not progress,
    ) as bar:
        while True:
            try:
                _transfer(url, partial, timeout, bar)
                return
            except _TryAgainError as error:
                size = partial.stat().st_size if partial.exists() else 0
                failures = 0 if size >= best + _PROGRESS else failures + 1
                best = max(best, size)
                if failures >= attempts:
                    raise
                if progress:
                    bar.write(f"{error}; trying again", file=sys.stderr)
                time.sleep(min(wait * 2 ** (failures - 1), _LONGEST_WAIT) if failures else 0.0)


def _transfer(url: str, partial: Path, timeout: float, bar: tqdm) -> None:
    """One request: continue the partial file, or begin it anew. Raises _TryAgainError."""
    known = _read_notes(partial)
    have = partial.stat().st_size if partial.exists() else 0
    # a part from another address is no beginning of this file
    if known is None or known.url != url:
        known, have = None, 0
    if have and known is not None and have == known.length:
        return  # the process before stopped between the last byte and the check
    headers = {"User-Agent": "diffplan", "Accept-Encoding": "identity"}
    if have and known is not None:
        headers["Range"] = f"bytes={have}-"
        # the server sends the whole file if it has changed since
        if known.condition:
            headers["If-Range"] = known.condition
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=timeout
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # longer than the file at the server, so not a part of it
            _discard(partial)
            raise _TryAgainError("the server holds less than was already fetched") from None
        message = f"the server answers {error.code} {error.reason}"
        if error.code >= 500 or error.code in (408, 429):
            raise _TryAgainError(message) from None
        raise _TransferError(message) from None
    except (ValueError, http.client.InvalidURL) as error:
        raise _TransferError(_reason(error)) from None
    except (http.client.HTTPException, OSError) as error:
        raise _TryAgainError(_reason(error)) from None
    with response:
        start, total = _extent(response.status, response.headers)
        here = _Version(url, response.headers["ETag"], response.headers["Last-Modified"], total)
        if response.status == 206 and (start != have or known is None or not known.matches(here)):
            _discard(partial)
            raise _TryAgainError("the file at the server has changed")
        # the whole file comes, whatever was asked for
        if response.status != 206:
            have = 0
            _discard(partial)
            _write_notes(partial, here)
        bar.total = total
        bar.n = have
        bar.refresh()
        with open(partial, "ab") as file:
            have += _copy(response, file.write, bar)
    if total is not None and have != total:
        if have > total:
            _discard(partial)
        raise _TryAgainError(f"the connection ended after {have:,} of {total:,} bytes")


def _copy(response: http.client.HTTPResponse, write: Callable[[bytes], int], bar: tqdm) -> int:
    copied = 0
    while True:
        try:
            piece = response.read(_PIECE)
        # what did arrive is kept for the next try
        except http.client.IncompleteRead as error:
            write(error.partial)
            raise _TryAgainError("the connection ended early") from None
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise _TryAgainError(_reason(error)) from None
        if not piece:
            return copied
        write(piece)
        copied += len(piece)
        bar.update(len(piece))


def _extent(status: int, headers: Message) -> tuple[int, int | None]:
    """First byte and whole length of the file that an answer speaks of."""
    if status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers["Content-Range"] or "")
        if match is None:
            return -1, None
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = headers["Content-Length"]
    return 0, int(length) if length and length.isdigit() else None


def _check(url: str, partial: Path, target: Path, check: Callable[[Path], None]) -> None:
    try:
        check(partial)
    except DiffplanError as error:
        with open(partial, "rb") as file:
            begin = file.read(512).lstrip().lower()
        # some servers answer 200 with a page that says no
        page = begin.startswith((b"<!doctype html", b"<html"))
        _discard(partial)
        reason = "a web page came instead of the file" if page else _without(str(error), partial)
        raise _failure(url, target, reason) from None


def _failure(url: str, target: Path, reason: str) -> DiffplanError:
    return DiffplanError(
        f"cannot download {url}: {reason.rstrip('.')}; get the file in some other way and put it "
        f"at {target.absolute()}"
    )


def _without(message: str, partial: Path) -> str:
    return message.replace(f"{partial} ", "it ").replace(f"{partial}: ", "")


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.URLError) and not isinstance(error.reason, str):
        error = error.reason
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _notes(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _read_notes(partial: Path) -> _Version | None:
    try:
        return _Version(**json.loads(_notes(partial).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write_notes(partial: Path, version: _Version) -> None:
    # renamed: half a note would hide a good part
    building = _notes(partial).with_name(f"{_notes(partial).name}.new")
    building.write_text(json.dumps(asdict(version)))
    os.replace(building, _notes(partial))


def _discard(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _notes(partial).unlink(missing_ok=True)


@contextlib.contextmanager
def _one_at_a_time(target: Path) -> Iterator[None]:
    """Hold the lock of a file; the system frees it when a process ends in whatever way."""
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process to download {target.name}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
