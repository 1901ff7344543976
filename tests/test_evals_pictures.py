"""Pictures of predictions: what is where, in which colour."""

import numpy as np
import torch

from benchmark.data.boxes import Objects
from benchmark.data.masks import UNLABELLED
from benchmark.evals.average_precision import Detections
from benchmark.evals.pictures import GAP, of_boxes, of_masks, shown

SQUARE = torch.full((3, 3, 8, 8), 200, dtype=torch.uint8)


def test_the_same_images_are_shown_for_every_encoder() -> None:
    """Oracle: five different ids that depend on the data alone; all where there are fewer."""
    assert len(set(shown(50, "toy"))) == 5
    assert shown(50, "toy") == shown(50, "toy") != shown(50, "other")
    assert shown(3, "toy") == [0, 1, 2]


def test_masks_are_painted_beside_their_image() -> None:
    """Oracle: pixels by hand: the image, the truth and the prediction, by VOC's colours of classes 1 and 2."""
    mask = torch.tensor([[0, 1, UNLABELLED], [0, 1, 1]], dtype=torch.uint8)
    picture = np.asarray(of_masks(SQUARE, [0, 2], [mask, mask], [torch.ones(2, 3, dtype=torch.int64)] * 2))
    assert picture.shape == (2 * 2 + GAP, 3 * 3 + 2 * GAP, 3)
    assert (picture[:2, :3] == 200).all()
    left = 3 + GAP
    assert picture[0, left : left + 3].tolist() == [[128, 0, 0], [0, 128, 0], [0, 0, 0]]
    assert (picture[:2, -3:] == (0, 128, 0)).all()
    assert (picture[2 : 2 + GAP] == 255).all()


def test_boxes_are_drawn_where_they_are() -> None:
    """Oracle: columns and rows of an outline by hand, in an image of 320 x 160 px that is shown at half its size; of
    two detections beside one object the surer one is drawn."""
    box = torch.tensor([[60.0, 20.0, 200.0, 116.0]])
    truth = Objects(box, torch.tensor([0]), torch.tensor([False]), (160, 320))
    found = Detections(torch.cat([box, box + 40]), torch.tensor([0, 0]), torch.tensor([0.8, 0.9]))
    picture = np.asarray(of_boxes(SQUARE, [0], [truth], [found]))
    assert picture.shape == (80, 2 * 160 + GAP, 3)
    for start, ends in ((0, (10, 58, 30, 100)), (160 + GAP, (30, 78, 50, 120))):
        is_drawn = (picture[:, start : start + 160] != 200).any(2)
        rows, columns = is_drawn.any(1).nonzero()[0], is_drawn.any(0).nonzero()[0]
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == ends
