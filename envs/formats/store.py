"""Writes the flat episode store piece by piece, for datasets that do not fit into memory."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from diffplan.data.episodes import FORMAT
from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.errors import DiffplanError


def less(rows: np.ndarray, offset: np.ndarray | None) -> np.ndarray:
    """Rows of any numbers as float32, less an offset that is subtracted in float64."""
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is refused with its place later
        exact = rows if offset is None else np.asarray(rows, np.float64) - offset
        return np.asarray(exact).astype(np.float32, copy=False)


class StoreWriter:
    """A folder that `Episodes.load` reads, filled row by row.

    `widths` are the columns of the arrays; their rows arrive in order, by `append`, and `finish`
    writes how many there were and the header. Only the pieces are in memory. Use it in a with
    statement.
    """

    def __init__(self, folder: Path, widths: dict[str, int]) -> None:
        self._folder, self._widths = folder, widths
        self._rows = dict.fromkeys(widths, 0)
        self._files: dict[str, BinaryIO] = {}
        self._open = ExitStack()

    def __enter__(self) -> StoreWriter:
        self._folder.mkdir(parents=True, exist_ok=True)
        for key in self._widths:
            self._files[key] = self._open.enter_context(open(self._folder / f"{key}.npy", "wb"))
            self._write_header(key)
        return self

    def _write_header(self, key: str) -> None:
        """NumPy's header; it leaves room for any number of rows, so a second one fits."""
        shape = (self._rows[key], self._widths[key])
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._files[key], header)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def has(self, key: str) -> bool:
        """Whether an array of this name is part of the store."""
        return key in self._widths

    def append(self, key: str, rows: np.ndarray) -> None:
        """Add rows [n, width] to a float32 array; raises DiffplanError for another shape."""
        if rows.ndim != 2 or rows.shape[1] != self._widths[key]:
            raise DiffplanError(
                f"rows of {key} have shape {rows.shape}, expected (*, {self._widths[key]})"
            )
        self._rows[key] += len(rows)
        # little-endian whatever the machine, as the header says
        self._files[key].write(np.ascontiguousarray(rows, "<f4").data)

    def finish(
        self, layout: ObservationLayout, info: DatasetInfo, whole: dict[str, np.ndarray]
    ) -> None:
        """Write the arrays that were at hand as a whole, then the header."""
        # only now is the number of rows known
        for key, file in self._files.items():
            file.seek(0)
            self._write_header(key)
        self._open.close()
        for key, array in whole.items():
            np.save(self._folder / f"{key}.npy", array)
        # last: without it `Episodes.load` takes the folder for unfinished
        header = {"format": FORMAT, "layout": asdict(layout), "info": asdict(info)}
        (self._folder / "episodes.json").write_text(json.dumps(header, indent=1))
