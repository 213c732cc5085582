"""Nothing that we start talks to anyone: no socket is opened, nothing is written elsewhere."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="the engine is an optional extra")

SOCKET = {"x86_64": 41, "aarch64": 198}.get(platform.machine())
# seccomp: the kernel ends a process that opens a socket of the internet, native code included
GUARD = f"""
import ctypes, faulthandler, signal, struct

faulthandler.register(signal.SIGSYS, all_threads=True, chain=True)  # says who it was

steps = [(0x20, 0, 0, 0), (0x15, 0, 3, {SOCKET}), (0x20, 0, 0, 16), (0x15, 2, 0, 2),
         (0x15, 1, 0, 10), (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00030000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

program = Program(len(steps), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0
"""

needs_seccomp = pytest.mark.skipif(
    sys.platform != "linux" or SOCKET is None, reason="seccomp is Linux's own"
)


def run(code: str, home: Path, **variables: str) -> int:
    kept = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    env = {**kept, "HOME": str(home), **variables}
    done = subprocess.run([sys.executable, "-c", GUARD + code], env=env, check=False, cwd=home)
    return done.returncode


@needs_seccomp
@pytest.mark.slow
def test_decisions_in_onnx_runtime_open_no_socket_and_write_nothing(tmp_path: Path) -> None:
    code = """
import time
from diffplan.scripts.benchmark.settings import default_config
from diffplan.scripts.benchmark.subject import find_subject

name = "trajectory-diffuser"
subject = find_subject(name, "hopper", default_config(name, "hopper"), 0)
agent = subject.agent("onnx", "cpu", subject.config.plan.horizon)
agent.predict(subject.observation(1))
time.sleep(12)  # the look-up comes seconds after the first session
"""
    # telemetry looks its host up every time; what the system does once in a while is not ours
    assert 0 in (run(code, tmp_path) for _ in range(2))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@needs_seccomp
def test_the_guard_notices_a_socket(tmp_path: Path) -> None:
    assert run("import socket; socket.socket(socket.AF_INET)", tmp_path) < 0
    assert run("import socket; socket.socket(socket.AF_UNIX)", tmp_path) == 0


def test_the_choice_of_a_user_stands(tmp_path: Path) -> None:
    code = """
import os
from diffplan.runtime import onnxruntime
onnxruntime()
raise SystemExit(os.environ["ORT_DISABLE_TELEMETRY"] != "0")
"""
    kept = {**os.environ, "HOME": str(tmp_path), "ORT_DISABLE_TELEMETRY": "0"}
    assert subprocess.run([sys.executable, "-c", code], env=kept, check=False).returncode == 0
