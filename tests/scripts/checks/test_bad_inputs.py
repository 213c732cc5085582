"""Bad inputs of every kind, in small; `make torture` does all of them."""

import json
from pathlib import Path

import pytest

module = pytest.importorskip("diffplan.scripts.checks.bad_inputs", reason="of a checkout")


def test_every_bad_input_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "counts.json"
    try:
        # checkpoints need a training first
        kinds = tuple(kind for kind in module.KINDS if kind != "checkpoints")
        module.BadInputs(every=19, only=kinds, json=file).run()
    except SystemExit:
        pytest.fail(capsys.readouterr().out)
    total = json.loads(file.read_text())["all"]
    assert total.pop("cases") > 25
    assert not any(total.values())


def test_faults_are_seen(tmp_path: Path) -> None:
    def fails() -> int:
        (tmp_path / "left").write_text("")
        (tmp_path / module.CANARY).write_text("")
        raise ZeroDivisionError

    found = dict(module._tried(module.Case("", fails), tmp_path))
    assert found.keys() == {"traceback", "code run", "left behind"}
    assert dict(module._tried(module.Case("", lambda: 0), tmp_path)).keys() == {"silent"}
    assert dict(module._tried(module.Case("", lambda: 2), tmp_path)).keys() == {"several lines"}
