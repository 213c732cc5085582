"""The table of queries.json, as docs/ has it: the command itself prints one for a terminal."""

from __future__ import annotations

from typing import Any


def queries_table(data: dict[str, Any]) -> str:
    """The tables of `diffplan queries`: the answers, and how well the task was told."""

    def figure(found: dict[str, Any] | None) -> str:
        if found is None or found["mean"] is None:
            return "–"
        return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    lines = [
        line(["question", "better", "this model", "separate network", "simple guess", "n"]),
        # two columns of words, which `markdown` does not know
        "| --- | --- | --: | --: | --: | --: |",
    ]
    for row in data["queries"]:
        simple = figure(row["simple"]) + (f" ({row['simple_name']})" if row["simple"] else "")
        told = figure(row["model"]) + (f" ({row['note']})" if row["note"] else "")
        name = f"{row['question']}: {row['unit']}"
        # a question that the model has no answer to has its simple guess alone
        n = str((row["model"] or row["simple"])["n"])
        lines.append(line([name, row["better"], told, figure(row["separate"]), simple, n]))
    parts = [f"{data['config']}, {data['updates']} updates on {data['dataset']}.", "\n".join(lines)]
    if (task := data["task"]) is not None:
        rows = [line(["task told at noise σ", *(f"{sigma:.2f}" for sigma in task["sigma"])])]
        rows.append("| --- |" + " --: |" * len(task["sigma"]))
        for key, name in (("accuracy", "from the plan"), ("label_inside", "label in the process")):
            if key in task:
                rows.append(line([name, *(f"{100 * each['mean']:.1f} %" for each in task[key])]))
        parts += ["\n".join(rows), f"Chance is {100 * task['chance']:.0f} %, n = {task['n']}."]
    versions = data["machine"]["versions"]
    parts += [
        f"Command: `{data['command']}`. Machine: {data['machine']['cpu']}, PyTorch "
        f"{versions['torch']}.",
    ]
    return "\n\n".join(parts)
