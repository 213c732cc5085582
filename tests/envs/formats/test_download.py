"""Downloads against a server on this machine that behaves badly in every way we know."""

import http.server
import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffplan.envs.formats import download as module
from diffplan.envs.formats.download import download
from diffplan.errors import DiffplanError

CONTENT = np.random.default_rng(0).bytes(3 << 20)
OTHER = np.random.default_rng(1).bytes(3 << 20)


class Server(http.server.ThreadingHTTPServer):
    """Answers with `content`; `behave(handler, number)` may take over a request."""

    def __init__(self) -> None:
        self.content, self.etag, self.ranges = CONTENT, '"one"', True
        self.stop_after: list[int | None] = []  # bytes of the body, one entry per request
        self.status: list[int] = []
        self.length: int | None = None  # an announced length that is not true
        self.validators = True
        self.pause = 0.0
        self.seen: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/set/file.hdf5"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        server, headers = self.server, dict(self.headers.items())
        server.seen.append(headers)
        time.sleep(server.pause)
        if server.status:
            status = server.status.pop(0)
            if status != 200:
                self.send_error(status)
                return
        body, first = server.content, 0
        wanted = headers.get("Range") if server.ranges else None
        if wanted and headers.get("If-Range", server.etag) != server.etag:
            wanted = None
        if wanted:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if first >= len(body):
                self.send_error(416)
                return
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(server.length or len(body) - first))
        if server.validators:
            self.send_header("ETag", server.etag)
        self.end_headers()
        stop = server.stop_after.pop(0) if server.stop_after else None
        self.wfile.write(body[first:] if stop is None else body[first : first + stop])
        self.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def is_content(path: Path) -> None:
    if path.read_bytes() not in (CONTENT, OTHER):
        raise DiffplanError(f"{path} is not the file")


@pytest.fixture
def fetch(server: Server, tmp_path: Path) -> Callable[..., bytes]:
    """Downloads quickly and returns the bytes."""

    def run(attempts: int = 5) -> bytes:
        target = tmp_path / "deep" / "file.hdf5"
        options: dict[str, Any] = {"attempts": attempts, "wait": 0.01, "timeout": 5}
        download(server.url, target, is_content, progress=False, **options)
        left = sorted(path.name for path in target.parent.iterdir())
        assert left == [".file.hdf5.lock", "file.hdf5"]
        return target.read_bytes()

    return run


def test_a_whole_file_is_fetched_once(server: Server, fetch: Callable[..., bytes]) -> None:
    assert fetch() == CONTENT
    assert fetch() == CONTENT
    assert len(server.seen) == 1


def test_dropped_connections_are_continued(server: Server, fetch: Callable[..., bytes]) -> None:
    server.stop_after = [1_000_000, 0, 500_000]
    assert fetch() == CONTENT
    assert [seen.get("Range") for seen in server.seen] == [
        None,
        "bytes=1000000-",
        "bytes=1000000-",
        "bytes=1500000-",
    ]
    assert {seen.get("If-Range") for seen in server.seen[1:]} == {'"one"'}


def test_the_next_call_continues_the_last(
    server: Server, fetch: Callable[..., bytes], tmp_path: Path
) -> None:
    server.stop_after = [2_000_000, 0, 0]
    with pytest.raises(DiffplanError, match="ended after 2,000,000 of 3,145,728 bytes"):
        fetch(attempts=2)
    assert (tmp_path / "deep" / "file.hdf5.partial").stat().st_size == 2_000_000
    assert not (tmp_path / "deep" / "file.hdf5").exists()
    assert fetch() == CONTENT
    assert server.seen[-1]["Range"] == "bytes=2000000-"


@pytest.mark.parametrize("validators", [True, False])
def test_servers_without_ranges_start_again(
    server: Server, fetch: Callable[..., bytes], validators: bool
) -> None:
    server.ranges, server.validators = False, validators
    server.stop_after = [1_000_000, 2_000_000]
    assert fetch() == CONTENT


def test_a_file_that_changes_meanwhile_is_not_mixed(
    server: Server, fetch: Callable[..., bytes]
) -> None:
    server.stop_after = [1_000_000, 0]

    def change() -> None:
        while len(server.seen) < 2:
            time.sleep(0.001)
        server.content, server.etag = OTHER, '"two"'

    thread = threading.Thread(target=change)
    thread.start()
    server.pause = 0.05
    assert fetch() == OTHER
    thread.join()


def test_a_change_is_noticed_where_the_condition_is_ignored(
    server: Server, fetch: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stop_after = [1_000_000]
    with pytest.raises(DiffplanError, match="connection ended"):
        fetch(attempts=1)
    server.content, server.etag = OTHER, '"two"'
    monkeypatch.setattr(module._Version, "condition", None)
    assert fetch() == OTHER
    assert server.seen[1]["Range"] == "bytes=1000000-"


def test_a_file_that_shrinks_is_fetched_anew(
    server: Server, fetch: Callable[..., bytes], tmp_path: Path
) -> None:
    """416: what was fetched is longer than the file now at the server."""
    server.content, server.stop_after = CONTENT + OTHER, [len(CONTENT) + 5, 0]
    with pytest.raises(DiffplanError, match="connection ended"):
        fetch(attempts=1)
    server.content = CONTENT
    assert fetch() == CONTENT


def test_what_stopped_before_the_check_is_not_fetched_again(
    server: Server, fetch: Callable[..., bytes], tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    partial = tmp_path / "deep" / "file.hdf5.partial"
    partial.write_bytes(CONTENT)
    notes = {"url": server.url, "etag": '"one"', "modified": None, "length": len(CONTENT)}
    partial.with_name("file.hdf5.partial.json").write_text(json.dumps(notes))
    assert fetch() == CONTENT
    assert not server.seen


def test_a_partial_file_of_unknown_origin_is_not_continued(
    server: Server, fetch: Callable[..., bytes], tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file.hdf5.partial").write_bytes(b"what is this")
    assert fetch() == CONTENT
    assert "Range" not in server.seen[0]


def test_short_files_fail(server: Server, fetch: Callable[..., bytes], tmp_path: Path) -> None:
    """The server announces more than it ever sends."""
    server.ranges, server.length = False, len(CONTENT) + 1
    with pytest.raises(DiffplanError, match="ended after 3,145,728 of 3,145,729 bytes"):
        fetch(attempts=2)
    assert len(server.seen) <= 3
    assert not (tmp_path / "deep" / "file.hdf5").exists()


def test_wrong_files_are_refused_and_removed(
    server: Server, fetch: Callable[..., bytes], tmp_path: Path
) -> None:
    for content, reason in (
        (b"<!DOCTYPE html><p>Moved", "a web page came instead of the file"),
        (CONTENT[:1000], "it is not the file"),
    ):
        server.content = content
        with pytest.raises(DiffplanError, match=reason) as caught:
            fetch()
        assert [path.name for path in (tmp_path / "deep").iterdir()] == [".file.hdf5.lock"]
        assert server.url in str(caught.value)
        assert "\n" not in str(caught.value)
    assert len(server.seen) == 2


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, 3)])
def test_refusals_name_the_address_and_the_place(
    server: Server, fetch: Callable[..., bytes], tmp_path: Path, status: int, requests: int
) -> None:
    server.status = [status] * requests
    with pytest.raises(DiffplanError, match=f"the server answers {status}") as caught:
        fetch(attempts=3)
    assert len(server.seen) == requests
    assert f"cannot download {server.url}: " in str(caught.value)
    assert str(caught.value).endswith(f"put it at {tmp_path / 'deep' / 'file.hdf5'}")


def test_a_server_in_trouble_is_asked_again(server: Server, fetch: Callable[..., bytes]) -> None:
    server.status = [500, 429, 200]
    assert fetch() == CONTENT


def test_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as closed:
        url = closed.url
    with pytest.raises(DiffplanError, match="Connection refused; get the file in some other way"):
        download(url, tmp_path / "a", is_content, attempts=2, wait=0.01, progress=False)


def test_addresses_that_are_none_fail_at_once(tmp_path: Path) -> None:
    with pytest.raises(DiffplanError, match="cannot download nowhere/a: unknown url type"):
        download("nowhere/a", tmp_path / "a", is_content, wait=60, progress=False)


def test_folders_that_cannot_be_written_are_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiffplanError, match=r"cannot write .*file/a: "):
        download(server.url, tmp_path / "file" / "a", is_content, progress=False)


def _download_here(url: str, target: Path) -> None:
    download(url, target, is_content, progress=False)


def test_processes_take_turns(server: Server, tmp_path: Path) -> None:
    server.pause = 0.3
    context = multiprocessing.get_context("fork")
    target = tmp_path / "file.hdf5"
    workers = [context.Process(target=_download_here, args=(server.url, target)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert target.read_bytes() == CONTENT
    assert len(server.seen) == 1
