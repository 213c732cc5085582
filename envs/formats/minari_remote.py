"""Minari's remote: what it has, and how to get it; quick to say where there is no network."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import logging
import os
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from typing import Any

import minari
from minari.dataset.minari_dataset import DATASET_ID_RE
from minari.storage import get_dataset_path
from minari.storage.remotes import DEFAULT_REMOTE

from diffplan.envs.formats.minari import first_line, is_local
from diffplan.errors import DiffplanError

_ANSWER_S = 4.0  # for the server to answer anything at all
_LIST_S = 90.0  # for the list: a small file per dataset
_ADDRESSES = {"hf": "https://huggingface.co", "gcp": "https://storage.googleapis.com"}
_INSTALL = "pip install 'minari[{}]'"

# In a process of its own, because the hub's client tries again for long and cannot be stopped.
_LIST = """
import json, sys, minari
found = minari.list_remote_datasets(latest_version=True, compatible_minari_version=True)
keys = ("total_steps", "total_episodes", "dataset_size")
json.dump({name: {key: data.get(key) for key in keys} for name, data in found.items()}, sys.stdout)
"""


def is_minari_id(name: str) -> bool:
    """Whether a name has the form of a Minari id, such as D4RL/door/human-v2 or mine-v0.

    Minari wants a version; folders before the name are optional.
    """
    match = DATASET_ID_RE.fullmatch(name)
    return match is not None and match["version"] is not None


def obstacle() -> str:
    """Why Minari's remote (`MINARI_REMOTE`) cannot be asked, in few words; "" if it can.

    Takes a few seconds at most, where the hub's own client would go on for half a minute.
    """
    remote = os.environ.get("MINARI_REMOTE", DEFAULT_REMOTE)
    kind, separator, _ = remote.partition("://")
    if not separator or kind not in _ADDRESSES:
        return f"MINARI_REMOTE is '{remote}', expected hf://NAME or gcp://NAME"
    address = _ADDRESSES[kind]
    if kind == "hf":
        if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
            return "HF_HUB_OFFLINE is set"
        address = os.environ.get("HF_ENDPOINT") or address
    answers: list[str] = []
    # A thread, because looking up a name obeys no timeout.
    asking = threading.Thread(target=lambda: answers.append(_no_answer(address)), daemon=True)
    asking.start()
    # a little more than the thread's own timeout, which should speak first
    asking.join(_ANSWER_S + 0.5)
    reason = answers[0] if answers else "timed out"
    return f"no answer from {address} ({reason})" if reason else ""


def _no_answer(address: str) -> str:
    """Why a server gives no answer; any answer, an error too, means that there is a network."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_ANSWER_S)
    except urllib.error.HTTPError as error:
        error.close()
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # the hub's client has certificates
            reason = error.reason
            return str(getattr(reason, "strerror", None) or reason)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return first_line(error)
    return ""


def remote_datasets() -> tuple[dict[str, dict[str, Any]], str]:
    """The remote's datasets that this Minari can read, and why there are none, "" if there are.

    By id, the latest version of each, with "total_steps", "total_episodes" and "dataset_size"
    (MB); each None where the remote does not say. Ends within a minute or two in any case, and
    within seconds without a network.
    """
    if reason := obstacle():
        return {}, reason
    print("asking Minari's remote for its datasets ...", file=sys.stderr)
    # without warnings, or the last line of stderr would be one of them
    command = [sys.executable, "-W", "ignore", "-c", _LIST]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIST_S, check=False)
    except subprocess.TimeoutExpired:
        return {}, f"no list within {_LIST_S:.0f} s"
    except OSError as error:
        return {}, first_line(error)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no list came"]
        missing = "not installed" in lines[-1]
        return {}, f"it needs {_install()}" if missing else lines[-1].rstrip(".")
    try:
        return json.loads(done.stdout), ""
    except ValueError:
        return {}, "no list came"


def fetch_minari(dataset_id: str) -> None:
    """Download a Minari dataset from its remote (`MINARI_REMOTE`) unless it is on this machine.

    Raises DiffplanError, in one line, for an id that the remote does not have, without a network
    (within seconds), and without the package that talks to the remote.
    """
    if is_local(dataset_id):
        return
    metadata = get_dataset_path(dataset_id) / "data" / "metadata.json"
    by_hand = (
        f"with a network: minari download {dataset_id}, or put its folder at "
        f"{metadata.parent.parent}"
    )
    if reason := obstacle():
        raise DiffplanError(f"cannot download Minari dataset {dataset_id}: {reason}; {by_hand}")
    try:
        with _quiet():
            # Forced, because a download that was interrupted leaves a folder behind.
            minari.download_dataset(dataset_id, force_download=True)
        if not metadata.is_file():
            raise ValueError("the remote sent no metadata.json")
    # interruptions too
    except BaseException as error:
        metadata.unlink(missing_ok=True)  # what is incomplete must not pass for a dataset
        if isinstance(error, ImportError):
            raise DiffplanError(
                f"to download {dataset_id}, install what Minari needs for it: {_install()}"
            ) from None
        if isinstance(error, ValueError | KeyError):
            raise DiffplanError(
                f"Minari dataset {dataset_id} cannot be downloaded: {first_line(error)}; "
                f"see: diffplan datasets list minari"
            ) from None
        if isinstance(error, Exception):  # each remote and HTTP library raises its own
            raise DiffplanError(
                f"cannot download Minari dataset {dataset_id}: {first_line(error)}; {by_hand}"
            ) from None
        raise


def _install() -> str:
    gcp = os.environ.get("MINARI_REMOTE", DEFAULT_REMOTE).startswith("gcp")
    return _INSTALL.format("gcs" if gcp else "hf")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No advice on versions, no lines about retries: what matters is raised. Bars still show."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
