"""The result of a measurement: as Markdown to read, and as a line of JSON with the seconds of every round."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmark.experiment.environment import environment
from benchmark.report.code import code, versions
from benchmark.report.text import markdown
from benchmark.timing.rounds import Rounds, Spread


@dataclass
class Measurement:
    """Tables as Markdown, and by title the seconds behind them."""

    part: str
    rounds: int
    text: list[str] = field(default_factory=list)
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, title: str, note: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table; its first column is text."""
        table = markdown(heads, "l" + "r" * (len(heads) - 1), rows)
        self.text.append(f"### {title}\n\n{note}\n\n{table}")

    def keep(self, title: str, times: Rounds, work: Mapping[str, float], **facts: Any) -> None:
        """Keep the seconds behind a table, and the work of a turn of each candidate."""
        self.measured[title] = {"seconds": times.seconds, "work": dict(work), **facts}

    def markdown(self) -> str:
        """Return the page: machine and versions, then the tables."""
        machine, source = self._environment(), code(versions())
        commit = (source["commit"] or "unknown")[:12] + (" with changes" if source["dirty"] else "")
        head = (
            f"{_device(machine)}, {machine['threads']} threads, torch {machine['torch']}, commit {commit}. "
            f"{self.rounds} interleaved rounds: median (least to most); ratios and shares are taken within a round."
        )
        return "\n\n".join([head, *self.text]) + "\n"

    def save(self, folder: Path) -> None:
        """Write the page of this device into a folder, and append a line to the measurements there.

        A page shows the last measurement on its device; no line is ever rewritten.
        """
        folder.mkdir(parents=True, exist_ok=True)
        machine = self._environment()
        line = {
            "part": self.part,
            "created_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "rounds": self.rounds,
            "code": code(versions()),
            "environment": machine,
            "measured": self.measured,
        }
        with (folder / f"{self.part}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, sort_keys=True, allow_nan=False) + "\n")
        page = f"<!-- Written by `python -m benchmark.speed {self.part}`: do not edit. -->\n# Speed: {self.part}\n\n"
        (folder / page_name(self.part, machine)).write_text(page + self.markdown(), encoding="utf-8")

    @staticmethod
    def _environment() -> dict[str, Any]:
        """Return the environment without the precision, which differs between the entries of `measured`."""
        fields = environment(torch.device("cuda" if torch.cuda.is_available() else "cpu"), "")
        return {name: value for name, value in fields.items() if name != "precision"}


def page_name(part: str, machine: Mapping[str, Any]) -> str:
    """Return the name of the page of a part on a device, such as `training-amd-epyc-with-avx512-bf16.md`."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"\((r|tm)\)", "", _device(machine).lower()))
    return "-".join([part, *words]) + ".md"


def _device(machine: Mapping[str, Any]) -> str:
    """Return what a page is about: the GPU, else the processor with the newest of its instructions."""
    return str(machine["gpu"] or " with ".join([machine["processor"], *machine["processor_flags"][-1:]]))


def cell(values: Spread, form: str = ",.0f") -> str:
    """Return median (least to most) in a format."""
    middle, least, most = (format(value, form) for value in values)
    return f"{middle} ({least} to {most})"
