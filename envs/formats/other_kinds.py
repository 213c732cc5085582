"""Files and folders of kinds that are not read: what they are, and the way to one that is."""

from __future__ import annotations

from pathlib import Path

from diffplan.errors import DiffplanError

_LAYOUT = (
    "write observations, actions, rewards, terminations and truncations to a .npz by numpy.savez "
    "(docs/own_data.md)"
)
_KINDS = {
    ".pkl": "a pickle, which could run code",
    ".pickle": "a pickle, which could run code",
    ".joblib": "a pickle, which could run code",
    ".pt": "a PyTorch file, a pickle, which could run code",
    ".pth": "a PyTorch file, a pickle, which could run code",
    ".npy": "a single NumPy array",
    ".parquet": "a Parquet table",
    ".arrow": "an Arrow table",
    ".feather": "an Arrow table",
    ".csv": "a table of text",
    ".tsv": "a table of text",
    ".json": "a JSON file",
    ".jsonl": "a JSON file",
    ".mat": "a MATLAB file",
    ".zarr": "a Zarr store",
    ".tfrecord": "a TFRecord file",
    ".safetensors": "a file of tensors",
    ".zip": "a ZIP archive",
    ".gz": "a compressed file",
    ".tar": "an archive",
}


def refuse_other_kind(path: Path, known: list[str]) -> None:
    """Raise DiffplanError for what exists and is no dataset of ours, with the way to convert it.

    known: suffixes of the files that are read.
    """
    if path.is_dir():
        raise DiffplanError(f"{path} is {_folder(path)}")
    if path.exists():
        kind = _KINDS.get(path.suffix.lower(), "a file of an unknown kind")
        raise DiffplanError(
            f"{path} is {kind}, expected one of {', '.join(known)}: load it with what wrote it "
            f"and {_LAYOUT}"
        )


def _folder(path: Path) -> str:
    if (path / "data" / "metadata.json").is_file():
        return (
            "the folder of a Minari dataset: set MINARI_DATASETS_PATH to the folder that holds it "
            f"and name the dataset by its id, e.g. {path.resolve().name}"
        )
    if (path / "metadata.json").is_file() and (path / "main_data.hdf5").is_file():
        return (
            "the inside of a Minari dataset: set MINARI_DATASETS_PATH to the folder of the "
            "datasets and name it by its id"
        )
    if (path / "meta" / "info.json").is_file():
        return f"a LeRobot dataset, which is not read: load it by lerobot and {_LAYOUT}"
    if (path / "dataset_info.json").is_file() or (path / "features.json").is_file():
        return f"a dataset of TensorFlow or Hugging Face: load it there and {_LAYOUT}"
    if any(path.glob("checkpoint-*")):
        return "a run folder of `diffplan train`, not a dataset; diffplan evaluate reads it"
    if path.suffix.lower() in _KINDS or (path / ".zgroup").is_file():
        return f"{_KINDS.get(path.suffix.lower(), 'a Zarr store')}: load it there and {_LAYOUT}"
    return "a folder without episodes.json, expected a dataset's file or one that was saved here"
