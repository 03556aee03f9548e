"""Sparse-RS: search for a patch by queries to the model, with no gradient and no other network.

Random search. A change of the patch or of its place is kept where the loss does not rise. Patches
are made of the colours at the corners of the RGB cube. The change is a square of one colour whose
area falls with the queries, as in Square Attack; every few queries the place moves instead, by a
step that shortens too. The model answers with logits, or only with classes. The margin of the
logits guides the search. Classes guide it only where one patch is for many images (the number of
images that resist is the loss); for one image it is then a random walk until a patch wins.

References:
    Croce, Andriushchenko, Singh, Flammarion and Hein, "Sparse-RS: a versatile framework for
    query-efficient sparse black-box adversarial attacks", AAAI 2022: the scheme (algorithm 1),
    image- and location-specific patches, universal patches (section "Sparse-RS for adversarial
    patches and frames").
    Andriushchenko, Croce, Flammarion and Hein, "Square Attack", ECCV 2020: the piecewise constant
    schedule, given for 10,000 queries and stretched to other numbers.

A choice that the paper leaves open, or fixes for 224 px, is a setting here, documented there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, UsageError
from .images import check_images
from .pasting import check_patch, paste

Query = Callable[[NDArray[np.uint8]], NDArray[Any]]
"""Images, uint8 N×3×H×W, to logits (floating, N×C) or to classes (integers, N)."""

Progress = Callable[[int, int], None]
"""Told how many of all queries are done."""

Location = Literal["random", "fixed"]

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_SCHEDULE_QUERIES = 10_000
_STARTING_SQUARES_PER_PIXEL = 2
_WHITE = 255


@dataclass(frozen=True, kw_only=True)
class SparseRsSettings:
    """Settings of the search.

    Attributes:
        size_px: side of the patch's box.
        queries: per image (for a universal patch: patches tried), the first included.
        target: the class to cause; None where any wrong class will do.
        location: "random" draws the places and moves them; "fixed" keeps those that are given.
        initial_area: share of the patch that a square covers at first, 0…1; the schedule halves it
            repeatedly. The default is the paper's value for untargeted patches.
        location_period: the place moves once in this number of queries; None takes 4, and 10 with a
            target, where the place matters less than the contents.
        batch_size: images that are searched for together.

    Raises:
        UsageError: a value out of its range.
    """

    size_px: int = 8
    queries: int = 1000
    target: int | None = None
    location: Location = "random"
    initial_area: float = 0.4
    location_period: int | None = None
    batch_size: int = 256

    def __post_init__(self) -> None:
        for name, least in (("size_px", 1), ("queries", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.location not in ("random", "fixed"):
            raise UsageError(f"location {self.location!r} is unknown; known: random, fixed")
        if not 0.0 < self.initial_area <= 1.0:
            raise UsageError(f"initial_area must be over 0 and at most 1, got {self.initial_area}")
        if self.location_period is not None and self.location_period < 2:
            raise UsageError(f"location_period must be at least 2, got {self.location_period}")
        if self.target is not None and self.target < 0:
            raise UsageError(f"target must be a class, 0 or more, got {self.target}")


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseRsFound:
    """The result of a search, with the best patch of each image.

    Attributes:
        patch: uint8 P×3×h×w; P = N, or 1 where it is universal; 0 outside of the mask.
        positions: int32 N×2, (top, left).
        won: bool N: the model's class was wrong (or the target) with exactly these bytes.
        queries: int64 N: queries spent on each image, up to its first success where there was one.
        loss: float64 N, of the best: the margin, the cross-entropy of the target, or 0 and 1 where
            the model returns only classes.
    """

    patch: NDArray[np.uint8]
    positions: NDArray[np.int32]
    won: NDArray[np.bool_]
    queries: NDArray[np.int64]
    loss: NDArray[np.float64]


def search_per_image(
    query: Query,
    images: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    settings: SparseRsSettings,
    rng: np.random.Generator,
    *,
    positions: NDArray[np.integer[Any]] | None = None,
    mask: NDArray[np.bool_] | None = None,
    progress: Progress = lambda done, total: None,
) -> SparseRsFound:
    """Search for one patch per image; an image whose patch has won gets no further queries.

    Args:
        query: the model.
        images: uint8 N×3×H×W; give those that the model classifies correctly (and whose label is
            not the target): others count as won at the first query, or are wasted.
        labels: integers N, the true classes.
        settings: of the search.
        rng: the only randomness.
        positions: integers N×2; needed where the location is fixed, the start where it is random.
        mask: bool size_px×size_px; all of the box where None.
        progress: called after each query with the number of finished image-queries of N·queries.

    Raises:
        InputError: images, labels, positions or answers that do not fit.
        UsageError: a fixed location without positions.
    """
    mask, starts = _checked(images, labels, settings, positions, mask)
    total = len(images) * settings.queries
    parts = []
    for first in range(0, len(images), settings.batch_size):
        some = slice(first, first + settings.batch_size)
        done_before = first * settings.queries
        parts.append(
            _search_block(
                query,
                images[some],
                labels[some],
                settings,
                rng,
                None if starts is None else starts[some],
                mask,
                lambda done, before=done_before: progress(before + done, total),  # type: ignore[misc]
            )
        )
    names = SparseRsFound.__annotations__
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return SparseRsFound(**joined)


def search_universal(
    query: Query,
    images: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    settings: SparseRsSettings,
    rng: np.random.Generator,
    *,
    positions: NDArray[np.integer[Any]] | None = None,
    mask: NDArray[np.bool_] | None = None,
    progress: Progress = lambda done, total: None,
) -> SparseRsFound:
    """Search for one patch for all images, each at its own fixed place.

    Each of the ``settings.queries`` queries covers all images. The search follows the mean loss, in
    which an image that is won counts 0; the patch that won the most images is returned.

    Arguments and errors as :func:`search_per_image`; a random location draws the places once, and
    ``progress`` counts ``settings.queries``.
    """
    mask, starts = _checked(images, labels, settings, positions, mask)
    places = (
        _draw_places(len(images), images.shape[2:], settings, rng) if starts is None else starts
    )
    patch = _starting_patches((1, images.shape[1]), settings.size_px, rng)
    best, accepted = (-1, 0.0), math.inf
    for asked in range(settings.queries):
        candidate = patch if asked == 0 else _with_square(patch, asked, settings, rng)
        loss, won = _judge(query, paste(images, candidate, mask, places), labels, settings.target)
        mean = float(np.where(won, 0.0, np.maximum(loss, 0.0)).mean())
        if mean <= accepted:
            patch, accepted = candidate, mean
        wins = int(won.sum())
        if (wins, -mean) > best:
            best = wins, -mean
            queries = np.full(len(images), asked + 1, np.int64)
            found = SparseRsFound(
                patch=candidate * mask,
                positions=places.astype(np.int32),
                won=won,
                queries=queries,
                loss=loss,
            )
        progress(asked + 1, settings.queries)
        if wins == len(images):
            break
    return found


def area_share(asked: int, settings: SparseRsSettings) -> float:
    """Return the share of the patch, 0…1, that the square covers after ``asked`` queries."""
    at = asked * _SCHEDULE_QUERIES / settings.queries
    return settings.initial_area * 0.5 ** sum(at > step for step in _HALVINGS)


def _search_block(
    query: Query,
    images: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    settings: SparseRsSettings,
    rng: np.random.Generator,
    starts: NDArray[np.integer[Any]] | None,
    mask: NDArray[np.bool_],
    progress: Callable[[int], None],
) -> SparseRsFound:
    count = len(images)
    size = images.shape[2:]
    places = _draw_places(count, size, settings, rng) if starts is None else starts.copy()
    patch = _starting_patches((count, images.shape[1]), settings.size_px, rng)
    period = settings.location_period or (4 if settings.target is None else 10)
    loss, won = _judge(query, paste(images, patch, mask, places), labels, settings.target)
    queries = np.ones(count, dtype=np.int64)
    progress(count)
    for asked in range(1, settings.queries):
        # Drawn for all, won or not: an image's draws do not depend on the others' success.
        new_patch, new_places = patch, places
        if settings.location == "random" and asked % period == 0:
            new_places = _moved(places, asked, size, settings, rng)
        else:
            new_patch = _with_square(patch, asked, settings, rng)
        at = np.flatnonzero(~won)
        if at.size == 0:
            break
        pasted = paste(images[at], new_patch[at], mask, new_places[at])
        new_loss, new_won = _judge(query, pasted, labels[at], settings.target)
        queries[at] += 1
        better = new_won | (new_loss <= loss[at])
        kept = at[better]
        patch[kept], places[kept] = new_patch[kept], new_places[kept]
        loss[kept], won[kept] = new_loss[better], new_won[better]
        progress((asked + 1) * count)
    progress(settings.queries * count)
    return SparseRsFound(
        patch=patch * mask, positions=places.astype(np.int32), won=won, queries=queries, loss=loss
    )


def _starting_patches(
    colours: tuple[int, int], side: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Squares of random sizes and ``colours`` (count, channels) painted over each other,
    count×channels×side×side."""
    patches = _colours(colours, rng)[:, :, None, None].repeat(side, axis=2).repeat(side, axis=3)
    for _ in range(_STARTING_SQUARES_PER_PIXEL * side):
        _paint(patches, int(rng.integers(1, side + 1)), _colours(colours, rng), rng)
    return patches


def _colours(colours: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    corners: NDArray[np.uint8] = rng.integers(0, 2, colours, dtype=np.uint8) * _WHITE
    return corners


def _with_square(
    patches: NDArray[np.uint8], asked: int, settings: SparseRsSettings, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Copies with one square each in a new colour; a single pixel gets one channel inverted."""
    count, channels, side, _ = patches.shape
    changed = patches.copy()
    square = max(1, round(side * math.sqrt(area_share(asked, settings))))
    colours = _colours((count, channels), rng)
    if square > 1:
        _paint(changed, square, colours, rng)
        return changed
    # One colour in eight (grey: in two) is the pixel's own; inverting a channel always changes the
    # query.
    rows, columns = rng.integers(0, side, (2, count))
    inverted = rng.integers(0, channels, count)
    at = (np.arange(count), inverted, rows, columns)
    changed[at] = _WHITE - changed[at]
    return changed


def _paint(
    patches: NDArray[np.uint8], square: int, colours: NDArray[np.uint8], rng: np.random.Generator
) -> None:
    count, _, side, _ = patches.shape
    corners = rng.integers(0, side - square + 1, (2, count))
    reach = np.arange(square)
    rows = (corners[0][:, None] + reach)[:, :, None]
    columns = (corners[1][:, None] + reach)[:, None, :]
    patches[np.arange(count)[:, None, None], :, rows, columns] = colours[:, None, None, :]


def _draw_places(
    count: int, size: tuple[int, ...], settings: SparseRsSettings, rng: np.random.Generator
) -> NDArray[np.int64]:
    ends = np.subtract(size, settings.size_px) + 1
    return rng.integers(0, ends, (count, 2))


def _moved(
    places: NDArray[np.integer[Any]],
    asked: int,
    size: tuple[int, ...],
    settings: SparseRsSettings,
    rng: np.random.Generator,
) -> NDArray[np.integer[Any]]:
    """Places moved by a step within a reach that falls linearly to one pixel.

    It does not follow the squares' schedule, which halves so early that small images would hardly
    be searched.
    """
    last = np.subtract(size, settings.size_px)
    reach = np.maximum(1, np.rint(last * (1 - asked / settings.queries))).astype(np.int64)
    steps = rng.integers(-reach, reach + 1, places.shape)
    moved: NDArray[np.int64] = np.clip(places + steps, 0, last)
    return moved


def _judge(
    query: Query,
    images: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    target: int | None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the loss, float64 N, which the search lowers, and which images are won, bool N."""
    answers = query(images)
    if not isinstance(answers, np.ndarray) or len(answers) != len(images):
        raise InputError(f"expected an answer for each of {len(images)} images from the model")
    if answers.ndim == 1 and answers.dtype.kind in "iu":
        won = answers != labels if target is None else answers == target
        return (~won).astype(np.float64), won
    if answers.ndim != 2 or answers.dtype.kind != "f":
        raise InputError(
            "expected logits (floating, N×C) or classes (integers, N) from the model, got "
            f"{answers.dtype} {answers.shape}"
        )
    classes = answers.argmax(axis=1)  # between equal logits the lowest class, as the engine says
    logits = answers.astype(np.float64)
    if target is not None:
        if target >= logits.shape[1]:
            raise InputError(f"expected a target of 0 to {logits.shape[1] - 1}, got {target}")
        top = logits.max(axis=1)
        total = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top
        return total - logits[:, target], classes == target
    rows = np.arange(len(logits))
    own = logits[rows, labels]
    logits[rows, labels] = -np.inf
    return own - logits.max(axis=1), classes != labels


def _checked(
    images: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    settings: SparseRsSettings,
    positions: NDArray[np.integer[Any]] | None,
    mask: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.bool_], NDArray[np.int64] | None]:
    check_images(images)
    side = settings.size_px
    if side > min(images.shape[2:]):
        raise InputError(
            f"a patch of {side} px does not fit images of {images.shape[2]}×{images.shape[3]} px"
        )
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise InputError(
            f"expected one integer label for each of {len(images)} images, got {labels.dtype} "
            f"{labels.shape}"
        )
    if mask is None:
        mask = np.ones((side, side), dtype=np.bool_)
    if settings.location == "fixed" and positions is None:
        raise UsageError("a fixed location needs positions, one for each image")
    where = np.zeros((len(images), 2), np.int64) if positions is None else positions
    if len(where) != len(images):
        raise InputError(f"expected {len(images)} positions, one for each image, got {len(where)}")
    check_patch(np.zeros((1, images.shape[1], side, side), np.uint8), mask, where)
    return mask, None if positions is None else positions.astype(np.int64)
