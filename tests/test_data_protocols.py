"""Protocols of data that not everybody has, on small sets of the layouts in which these data are published."""

import hashlib
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.config.load import build, load
from benchmark.data.dataset import Dataset
from benchmark.data.images import Images
from benchmark.data.streaming import is_cropped_stored
from benchmark.errors import ConfigError, MissingError
from benchmark.experiment.setup import Experiment

PROTOCOLS = Path(__file__).parents[1] / "gin" / "protocol"
CLASSES = PROTOCOLS / "imagenet100.txt"

pytestmark = pytest.mark.usefixtures("no_other_data")


def save(path: Path, value: int, size: tuple[int, int] = (40, 30)) -> None:
    """Write a grey picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value,) * 3).save(path, quality=95)


def dataset(protocol: str, encoder: str, *settings: str) -> Dataset:
    """The data of a protocol as a run would load it."""
    files = ("gin/simclr.gin", f"gin/protocol/{protocol}.gin", f"gin/protocol/{encoder}.gin")
    experiment: Experiment = build(load(files, settings))
    return experiment.data()()


def test_imagenet1k(tmp_path: Path) -> None:
    """Oracle: folders of classes by their WordNet numbers, of several sizes; 224 px, and crops from the originals."""
    for split, each in (("train", 2), ("val", 1)):
        for number, name in enumerate(("n01440764", "n01443537", "n15075141")):
            for i in range(each):
                save(tmp_path / split / name / f"{name}_{i}.JPEG", 80 * number, (300 + i, 280))
    data = dataset("imagenet1k", "resnet50", f"Images.source=folder:{tmp_path}", "Images.test=val")
    assert data.classes == ("n01440764", "n01443537", "n15075141")
    assert data.train.images.shape == (6, 3, 224, 224)
    assert data.test.labels is not None
    assert data.test.labels.tolist() == [0, 1, 2]
    assert data.test.images[:].float().mean((1, 2, 3)).round().tolist() == [0, 80, 160]
    assert is_cropped_stored(data.pretrain)


def test_imagenet100_is_linked_from_imagenet1k(tmp_path: Path) -> None:
    """Oracle: the hash in the head of the protocol, and its commands, which link 100 of 101 classes."""
    head = (PROTOCOLS / "imagenet100.gin").read_text().split("include")[0]
    (stated,) = re.findall(r"SHA-256 (\w+)", head)
    assert hashlib.sha256(CLASSES.read_bytes()).hexdigest().startswith(stated)
    names = CLASSES.read_text().split()
    assert len(set(names)) == 100
    for split in ("train", "val"):
        for name in [*names, "n00000000"]:
            save(tmp_path / "imagenet1k" / split / name / "0.JPEG", 9)
    (lines,) = re.findall(r"#   (for s in .*?done)\n# and", head, re.DOTALL)
    script = lines.replace("\n#", "\n").replace("/data/", f"{shlex.quote(str(tmp_path))}/")
    script = script.replace("gin/protocol", shlex.quote(str(PROTOCOLS)))
    subprocess.run(["bash", "-ec", script], cwd=tmp_path, check=True)
    source = f"Images.source=folder:{tmp_path / 'imagenet100'}"
    data = dataset("imagenet100", "resnet50", source, "Images.test=val")
    assert data.classes == tuple(sorted(names))
    assert len(data.train.images) == len(data.test.images) == 100


def tiny(root: Path) -> Path:
    """Tiny-ImageNet as it is published: boxes beside images, and one file for the classes of the validation images."""
    for number, name in enumerate(("n01443537", "n01629819")):
        for i in range(3):
            save(root / "train" / name / "images" / f"{name}_{i}.JPEG", 50 + 100 * number, (64, 64))
        (root / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t63\t63\n")
    lines = []
    for i in range(4):
        save(root / "val" / "images" / f"val_{i}.JPEG", 50 + 100 * (i % 2), (64, 64))
        lines.append(f"val_{i}.JPEG\t{('n01443537', 'n01629819')[i % 2]}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    save(root / "test" / "images" / "test_0.JPEG", 0, (64, 64))
    (root / "wnids.txt").write_text("n01443537\nn01629819\n")
    return root


def test_tiny_imagenet(tmp_path: Path) -> None:
    """Oracle: the class of each validation image by the annotation file, beside its brightness, which the class has."""
    data = dataset("tiny_imagenet", "vit_tiny", f"Images.source=folder:{tiny(tmp_path)}", "Images.test=val")
    assert data.classes == ("n01443537", "n01629819")
    assert data.train.labels is not None
    assert data.test.labels is not None
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.labels.tolist() == [0, 1, 0, 1]
    assert data.test.images[:].float().mean((1, 2, 3)).round().tolist() == [50, 150, 50, 150]


def test_annotations_that_lack_an_image_are_refused(tmp_path: Path) -> None:
    """Oracle: the messages, with the image without a line and the line without a class."""
    root = tiny(tmp_path)
    save(root / "val" / "images" / "val_4.JPEG", 0)
    with pytest.raises(ConfigError, match=r"val_4.JPEG has no line in the annotation file of .*/val"):
        Images(name="x", source=f"folder:{root}", size=8, test="val")()
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG n01443537\n")
    with pytest.raises(ConfigError, match=r"has the line 'val_0\.JPEG n01443537': expected the name of a file, a tab"):
        Images(name="x", source=f"folder:{root}", size=8, test="val")()


def stl10(root: Path) -> dict[str, np.ndarray]:
    """STL-10 as it is published: each channel column by column, labels from 1. Returns the images by split."""
    generator, images = np.random.default_rng(0), {}
    for split, n in (("train", 6), ("test", 4), ("unlabeled", 9)):
        images[split] = generator.integers(0, 256, (n, 3, 96, 96), dtype=np.uint8)
        images[split].swapaxes(2, 3).tofile(root / f"{split}_X.bin")
        if split != "unlabeled":
            (np.arange(n) % 3 + 1).astype(np.uint8).tofile(root / f"{split}_y.bin")
    (root / "class_names.txt").write_text("airplane\nbird\ncar\n")
    return images


def test_stl10(tmp_path: Path) -> None:
    """Oracle: the arrays that were written, as torchvision reads them; pretraining has the unlabelled images."""
    images = stl10(tmp_path)
    data = dataset("stl10", "vit_tiny", f"Images.source=stl10:{tmp_path}")
    assert data.classes == ("airplane", "bird", "car")
    assert data.train.labels is not None
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    for split, pixels in (("train", data.train.images), ("test", data.test.images), ("unlabeled", data.pretrain)):
        assert torch.equal(torch.as_tensor(pixels[:]), torch.from_numpy(images[split]))
    (tmp_path / "train_y.bin").write_bytes(b"\x01")
    with pytest.raises(MissingError, match=r"has 6 images and .*train_y.bin 1 labels"):
        dataset("stl10", "vit_tiny", f"Images.source=stl10:{tmp_path}")
