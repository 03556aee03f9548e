"""What an interrupted pixel attack left is read back, or one error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.core.errors import InputError
from deploy.core.npz import write_npz
from eval.stages.pixel import attacked_so_far

IMAGES = np.zeros((4, 3, 6, 6), np.uint8)


def test_the_first_images_come_back_and_none_where_no_file_is(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    assert attacked_so_far(path, IMAGES).shape == (0, 3, 6, 6)
    done = np.full((3, 3, 6, 6), 7, np.uint8)
    write_npz(path, {"images": done})
    np.testing.assert_array_equal(attacked_so_far(path, IMAGES), done)


@pytest.mark.parametrize(
    "arrays",
    [
        {"pictures": IMAGES},
        {"images": IMAGES.astype(np.int8)},
        {"images": np.uint8(3)},
        {"images": np.zeros((2, 3, 6), np.uint8)},
        {"images": np.zeros((2, 1, 6, 6), np.uint8)},
        {"images": np.zeros((5, 3, 6, 6), np.uint8)},
    ],
)
def test_what_is_of_other_images_is_refused(arrays: dict[str, Any], tmp_path: Path) -> None:
    write_npz(tmp_path / "state.npz", arrays)
    with pytest.raises(InputError, match=r"state\.npz is not a resume file of a pixel attack on"):
        attacked_so_far(tmp_path / "state.npz", IMAGES)
