"""An encoder as a folder that timm loads without this project: weights, configuration and a model card."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmark.errors import BenchmarkError, ConfigError
from benchmark.experiment.for_mteb import module
from benchmark.experiment.session import Session
from benchmark.experiment.trained import TrainedEncoder, configure
from benchmark.nets import pretrained
from benchmark.nets.encoders import Encoder, TimmSpec
from benchmark.report.identity import without_paths
from benchmark.report.leaderboard import SMOKE
from benchmark.report.markdown import row
from benchmark.report.record import Record
from benchmark.storage import tensors
from benchmark.storage.files import make_folder, write_text

CARD = """\
---
library_name: {library}
license: {license}
tags: [self-supervised, image-feature-extraction]
---
# {method[name]} on {dataset[name]}

{encoder[name]}, {encoder[parameters]:,} parameters, {dataset[size]} px, {encoder[width]} features, \
pretrained without labels by {method[name]} on
{dataset[name]} (fingerprint {dataset[fingerprint]:.16}), seed {seed}. Inputs are RGB in [0, 1], \
normalised with mean {mean} and deviation
{std}.

```python
{loading}
```

{elsewhere}

Budget: {budget[amount]:g} {budget[kind]}, {budget[steps]:,} steps of {budget[batch_size]} images, \
{flops:.3f} TFLOPs in all.

```
{row}
```
{smoke}
Record {id}, code {commit}, {processor}.

## How the paper and this run differ

{deviations}

## Configuration

```
{text}```
"""

HUB = """\
After `hf upload OWNER/NAME FOLDER` it loads from anywhere by `timm.create_model("hf-hub:OWNER/NAME", pretrained=True)`.
`mteb_encoder.py` evaluates it on image tasks of mteb."""
ALONE = """\
timm has no such network by name: there is no config.json, and the lines above alone load it, not `local-dir:` or
`hf-hub:`. `mteb_encoder.py` evaluates it on image tasks of mteb."""


def export(
    run: Path,
    folder: Path,
    license: str,  # noqa: A002  the field's name in a model card
    *,
    allow_imports: bool = False,
) -> Path:
    """Write the encoder of a finished run as a timm folder, and return the folder.

    The folder is then loaded without this project, and must give the same outputs to the last bit. Where timm has no
    such network, the model card has the lines that build it, and there is no config.json. `mteb_encoder.py` there hands
    the encoder to mteb.
    Raises ConfigError for a run that is not finished or a folder that is not empty, BenchmarkError if outputs differ.
    """
    trained = TrainedEncoder.of_run(run)
    record = trained.run
    assert record is not None
    assert trained.weights is not None
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty. Give --to a folder that does not exist yet.")
    session = Session.open(configure(trained, (), (), allow_imports=allow_imports), run.parent)
    encoder = session.encoder()
    pretrained.load(encoder, str(trained.weights), trained.layout)
    spec = encoder.spec
    make_folder(folder)
    tensors.write(folder / "model.safetensors", encoder.net.state_dict())
    if not spec.changes:
        write_text(folder / "config.json", json.dumps(_config(record, spec, license), indent=2) + "\n")
    write_text(folder / "README.md", _card(record, spec, folder, license))
    text = module(record, _tag(record), _inputs(record), _loading(spec, "FOLDER"))
    write_text(folder / "mteb_encoder.py", text)
    _compare(encoder, spec, folder)
    return folder


def _config(record: Record, spec: TimmSpec, license: str) -> dict[str, Any]:  # noqa: A002
    data = record["dataset"]
    return {
        "architecture": spec.architecture,
        "num_classes": 0,
        "model_args": {name: value for name, value in spec.arguments.items() if name != "num_classes"},
        "pretrained_cfg": {
            "tag": _tag(record),
            "input_size": [3, data["size"], data["size"]],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            **_inputs(record),
            "num_classes": 0,
            "license": license,
        },
    }


def _tag(record: Record) -> str:
    return f"{record['method']['name']}_{record['dataset']['name']}_s{record['seed']}_{record['config']['key'][:8]}"


def _inputs(record: Record) -> dict[str, list[float]]:
    """Return the mean and deviation by which the images of a run were normalised."""
    stated = record["encoder"].get("inputs", record["dataset"])
    return {"mean": stated["mean"], "std": stated["std"]}


def _card(record: Record, spec: TimmSpec, folder: Path, license: str) -> str:  # noqa: A002
    data, code, environment = record["dataset"], record["code"], record["environment"]
    deviations = "\n".join(f"- {text}" for text in record["method"]["deviations"])
    values = {
        "license": license,
        **{name: tuple(values) for name, values in _inputs(record).items()},
        "library": "pytorch" if spec.changes else "timm",
        "loading": "\n".join(_loading(spec, f'"{folder.name}"')),
        "elsewhere": ALONE if spec.changes else HUB,
        "flops": record["cost"]["flops"] / 1e12,
        "row": row(record, []),
        "smoke": "\n" + SMOKE[data["name"]] + "\n" if data["name"] in SMOKE else "",
        "commit": (code["commit"] or code["version"])[:12],
        "processor": environment["gpu"] or environment["processor"],
        "deviations": deviations or "The source of the method states none.",
        "text": without_paths(record["config"]["text"]),
    }
    return CARD.format(**record | values)


def _loading(spec: TimmSpec, place: str) -> list[str]:
    """Return the lines of Python that load the folder, whose path is the value of the expression `place`."""
    if not spec.changes:
        return [
            "import timm",
            "",
            f"folder = {place}",
            'model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()',
        ]
    arguments = ", ".join(f"{name}={value!r}" for name, value in spec.arguments.items())
    return [
        "import timm",
        "import torch",
        "from safetensors.torch import load_file",
        "",
        f"folder = {place}",
        f'model = timm.create_model("{spec.architecture}", {arguments})',
        *spec.changes,
        'model.load_state_dict(load_file(f"{folder}/model.safetensors"))',
        "model.eval()",
    ]


def _compare(encoder: Encoder, spec: TimmSpec, folder: Path) -> None:
    """Raise BenchmarkError unless the lines of the model card load an encoder with the same outputs.

    They run in another process, which sees neither the working directory nor the user's paths.
    """
    images = torch.rand(4, 3, encoder.image_size, encoder.image_size, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        file = f"{scratch}/tensor"
        torch.save(images, file)
        lines = [
            *_loading(spec, repr(str(folder.resolve()))),
            "import torch",
            f"torch.set_num_threads({torch.get_num_threads()})",
            f"torch.save(model(torch.load({file!r})).detach(), {file!r})",
        ]
        done = subprocess.run([sys.executable, "-I", "-c", "\n".join(lines)], capture_output=True, text=True)
        if done.returncode or not torch.equal(torch.load(file), encoder.eval()(images).pooled):
            raise BenchmarkError(
                f"The exported encoder in {folder} does not give the outputs of the run's encoder; do not use it. "
                f"{done.stderr[-2000:]}"
            )
