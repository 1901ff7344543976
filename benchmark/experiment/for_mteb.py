"""The module that hands an exported encoder to mteb, whose image tasks are MIEB's; it needs no code from here."""

from collections.abc import Sequence

from benchmark.report.record import Record

TASKS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "imagenet1k": "Imagenet1k", "stl10": "STL10"}  # of mteb
MTEB = '''\
"""The encoder of this folder for image tasks of mteb: `pip install mteb timm`.

    python mteb_encoder.py CIFAR10 STL10     # tasks of mteb, by name
    python mteb_encoder.py /my/photos        # a folder with train/<class>/ and test/<class>/

From Python: `from mteb_encoder import META`, then `mteb.evaluate(META, tasks)`.
"""

import sys
from pathlib import Path

import mteb
import torch
from datasets import load_dataset
from mteb.abstasks import AbsTaskClassification
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta
from PIL import Image, ImageOps
from torchvision.transforms.functional import normalize, to_tensor

FOLDER = Path(__file__).resolve().parent


def load():
    {loading}
    return model


def prepare(image):
    """Resize the shorter side, cut out the centre and normalise."""
    image = ImageOps.fit(image.convert("RGB"), ({size}, {size}), Image.Resampling.BICUBIC)
    return normalize(to_tensor(image), {mean}, {std})


class Encoder(AbsEncoder):
    def __init__(self, model_name, revision, device=None, **kwargs):
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load().to(self.device)

    @torch.no_grad()
    def encode(self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **kwargs):
        if "image" not in task_metadata.modalities or len(task_metadata.modalities) > 1:
            raise ValueError("This encoder takes images alone: choose a task without text.")
        batches = (torch.stack([prepare(image) for image in batch["image"]]) for batch in inputs)
        return torch.cat([self.model(batch.to(self.device)).cpu() for batch in batches])


META = ModelMeta(
    loader=Encoder,
    name="ssl-benchmark/{name}",
    revision="1",
    release_date="{date}",
    languages=None,
    modalities=["image"],
    n_parameters={parameters},
    memory_usage_mb={parameters} * 4 / 2**20,
    max_tokens=None,
    embed_dim={width},
    license=None,  # README.md names it
    open_weights=True,
    public_training_code=None,
    public_training_data=None,
    framework=["PyTorch"],
    similarity_fn_name="cosine",
    use_instructions=False,
    training_datasets={trained},
)


def of_folder(folder):
    """Return a task on the images of a folder, with mteb's probe of 16 images a class, drawn 5 times."""

    class Photos(AbsTaskClassification):
        input_column_name, samples_per_label, n_experiments = "image", 16, 5
        metadata = TaskMetadata(
            name=folder.resolve().name,
            description="Images of a folder.",
            dataset={{"path": str(folder), "revision": "1"}},
            type="ImageClassification",
            modalities=["image"],
            eval_langs=["eng-Latn"],
            main_score="accuracy",
        )

        def load_data(self, **kwargs):
            self.dataset = load_dataset("imagefolder", data_dir=str(folder))
            self.data_loaded = True

    return Photos()


if __name__ == "__main__":
    tasks = [of_folder(Path(name)) if Path(name).is_dir() else mteb.get_task(name) for name in sys.argv[1:]]
    for result in mteb.evaluate(META, tasks, cache=None).task_results:
        print(f"{{result.task_name}}: {{result.get_score():.4f}}")
'''


def module(record: Record, name: str, inputs: dict[str, list[float]], loading: Sequence[str]) -> str:
    """Return the text of the module.

    The `loading` lines build `model` from the folder FOLDER; `inputs` are the mean and deviation of its inputs. The
    data of its pretraining is named where mteb has a task on it, which is then not one on unseen data.
    """
    task = TASKS.get(record["dataset"]["name"])
    values = {
        "loading": "\n    ".join(loading).replace("\n    \n", "\n\n"),
        "name": name,
        "size": record["dataset"]["size"],
        **inputs,
        "date": record["created_utc"][:10],
        "parameters": record["encoder"]["parameters"],
        "width": record["encoder"]["width"],
        "trained": {task} if task else None,
    }
    return MTEB.format(**values)
