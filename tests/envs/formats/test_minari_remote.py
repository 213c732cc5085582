"""Minari's remote: asked when it is there, and quickly given up when it is not."""

import http.server
import json
import logging
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import minari
import pytest

from diffplan.envs.datasets import list_datasets, load_dataset
from diffplan.envs.formats import minari_remote
from diffplan.envs.formats.minari_remote import (
    fetch_minari,
    is_minari_id,
    obstacle,
    remote_datasets,
)
from diffplan.errors import DiffplanError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("D4RL/door/human-v2", True),
        ("mujoco/hopper/medium-v0", True),
        ("mine-v0", True),  # Minari takes ids without a namespace
        ("mine", False),  # but none without a version
        ("D4RL/door/human", False),
        ("../up-v0", False),
        ("data.npz", False),
        ("", False),
    ],
)
def test_ids_are_those_that_minari_takes(name: str, expected: bool) -> None:
    assert is_minari_id(name) == expected


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as Minari asks for its list: one namespace, files of JSON."""

    datasets: ClassVar[dict[str, dict[str, Any]]] = {
        f"toys/{name}": {
            "dataset_id": f"toys/{name}",
            "total_steps": 1_234,
            "total_episodes": 5,
            "dataset_size": 6.78,
            "minari_version": version,
        }
        for name, version in (
            ("box-v0", minari.__version__),
            ("box-v1", minari.__version__),
            ("old-v0", "0.0.1"),
        )
    }

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        content: Any = {"datasets": list(self.datasets)}
        if path == "/api/datasets":
            content = [{"id": "farama-minari/toys", "private": False, "tags": []}]
        elif path.endswith("metadata.json") and "/data/" in path:
            content = self.datasets[f"toys/{path.split('/')[-3]}"]
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{hash(text) & 0xFFFFFFFF:08x}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if body:
            self.wfile.write(text)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a hub on this machine, which new processes ask."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("HF_ENDPOINT", address)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield address
        server.shutdown()
        thread.join()


def test_the_remote_s_datasets_are_listed(
    hub: str, minari_root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The latest versions that this Minari reads, with their sizes."""
    pytest.importorskip("huggingface_hub")
    found, reason = remote_datasets()
    assert (list(found), reason) == (["toys/box-v1"], "")
    (entry,) = list_datasets("toys", found)
    assert (entry.domain, entry.where) == ("Minari", "remote")
    assert entry.note == "1,234 steps, 5 episodes, 6.8 MB"
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("asking Minari's remote")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("raise ImportError('huggingface_hub is not installed. Install it')", "needs pip install"),
        ("print('chatter'); raise OSError('rate limited.')", "OSError: rate limited"),
        ("print('no list')", "no list came"),
        ("import time; time.sleep(60)", "no list within 1 s"),
    ],
)
def test_a_remote_that_gives_no_list_is_left_out(
    hub: str, monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    monkeypatch.setattr(minari_remote, "_LIST", program)
    if "sleep" in program:
        monkeypatch.setattr(minari_remote, "_LIST_S", 1.0)
    found, why = remote_datasets()
    assert found == {} and reason in why


@pytest.mark.parametrize(
    ("remote", "endpoint", "reason"),
    [
        ("hf://x", "http://127.0.0.1:{closed}", "Connection refused"),
        ("hf://x", "http://no-such-host.invalid", "no answer from http://no-such-host.invalid"),
        ("hf://x", "http://127.0.0.1:{silent}", "timed out"),
        ("ftp://x", "", "MINARI_REMOTE is 'ftp://x', expected hf://NAME or gcp://NAME"),
        ("farama", "", "MINARI_REMOTE is 'farama', expected"),
    ],
)
def test_without_a_network_the_reason_comes_at_once(
    monkeypatch: pytest.MonkeyPatch,
    minari_root: Path,
    capfd: pytest.CaptureFixture[str],
    remote: str,
    endpoint: str,
    reason: str,
) -> None:
    with socket.socket() as closed, socket.socket() as silent:
        closed.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        ports = {"closed": closed.getsockname()[1], "silent": silent.getsockname()[1]}
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setenv("MINARI_REMOTE", remote)
        monkeypatch.setenv("HF_ENDPOINT", endpoint.format(**ports))
        monkeypatch.setattr(minari_remote, "_ANSWER_S", 0.5)
        start = time.monotonic()
        assert reason in obstacle()
        found, why = remote_datasets()
        assert found == {} and reason in why
        with pytest.raises(DiffplanError, match="cannot download Minari dataset mine/set-v0: "):
            load_dataset("mine/set-v0")
        assert time.monotonic() - start < 10
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_the_hub_s_offline_mode_is_kept() -> None:
    """It is on in tests."""
    assert obstacle() == "HF_HUB_OFFLINE is set"


def test_any_answer_means_a_network(hub: str) -> None:
    assert obstacle() == ""


def test_nothing_is_said_before_the_error(
    monkeypatch: pytest.MonkeyPatch, minari_root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def download(dataset_id: str, force_download: bool) -> None:
        print(f"Downloading {dataset_id} from Farama servers...")
        warnings.warn("take another version", stacklevel=1)
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise OSError("the connection broke\nRequest ID 7")

    monkeypatch.setattr(minari_remote, "obstacle", lambda: "")
    monkeypatch.setattr(minari, "download_dataset", download)
    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.addHandler(handler)
    try:
        with pytest.raises(DiffplanError, match="mine/set-v0: the connection broke; with a netw"):
            fetch_minari("mine/set-v0")
    finally:
        logger.removeHandler(handler)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert logger.level == level


def test_a_name_without_a_namespace_is_asked_for_too(
    monkeypatch: pytest.MonkeyPatch, minari_root: Path
) -> None:
    asked = []

    def download(dataset_id: str, force_download: bool) -> None:
        asked.append(dataset_id)
        raise ValueError("Couldn't find any version")

    monkeypatch.setattr(minari_remote, "obstacle", lambda: "")
    monkeypatch.setattr(minari, "download_dataset", download)
    with pytest.raises(DiffplanError, match="unknown dataset 'hopper-medum-v2'") as caught:
        load_dataset("hopper-medum-v2")
    assert asked == ["hopper-medum-v2"]
    assert "did you mean hopper-medium-v2" in str(caught.value)
    assert "Couldn't find any version" in str(caught.value)
    assert "\n" not in str(caught.value)
