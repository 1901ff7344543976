"""Digests: what changes them and what does not."""

import torch

from benchmark.storage.digest import digest, flatten


def test_digest_ignores_the_order_of_names_only() -> None:
    """Oracle: the definition: names sorted; names, types, shapes and every bit count, zeros' signs included."""
    base = {"a": torch.zeros(2, 3), "b": torch.ones(2, dtype=torch.int64)}
    assert digest(base) == digest(dict(reversed(base.items())))
    tiny = torch.zeros(2, 3)
    tiny.view(torch.int32)[1, 2] = 1
    changed = [
        base | {"a": tiny},
        base | {"a": -torch.zeros(2, 3)},
        base | {"a": torch.zeros(3, 2)},
        base | {"a": torch.zeros(2, 3, dtype=torch.int32)},
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"]},
    ]
    assert len({digest(base), *map(digest, changed)}) == len(changed) + 1


def test_digest_ignores_memory_layout() -> None:
    """Oracle: equal values in another order of memory are the same tensor."""
    image = torch.arange(48.0).reshape(2, 3, 2, 4)
    assert digest({"a": image}) == digest({"a": image.to(memory_format=torch.channels_last)})


def test_flatten_names_all_numbers() -> None:
    """Oracle: the nested state by hand; text is no part of it, a flag is a number."""
    tensors = flatten({"x": {"y": [torch.ones(1), 2], "name": "text"}, "on": True, "rate": 0.1})
    values = {name: tensor.tolist() for name, tensor in tensors.items()}
    assert values == {".x.y.0": [1.0], ".x.y.1": 2.0, ".on": 1.0, ".rate": 0.1}
