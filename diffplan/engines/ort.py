"""ONNX Runtime, imported in one place: it is told to talk to nobody before it is loaded."""

from __future__ import annotations

import os
from types import ModuleType


def onnxruntime() -> ModuleType:
    """The module. Raises ImportError where it is not installed.

    From 1.32 on the library writes a device id under the home folder when it is imported, and looks
    up a telemetry host seconds later; only this variable, set before, stops both. A user's own
    choice stands.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as module

    return module
