"""Compare two results image by image: which images changed their verdict, and whether by chance.

Two runs over the same images are paired, so the test is McNemar's, on the images that count for the
attack success rate in both; where many patches are compared, Holm's step-down correction keeps the
chance of any false alarm at the level.

References:
    McNemar 1947, exact form; Holm 1979 (:mod:`statistics` beside this file).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError, NothingToEvaluate
from ..core.share import Share, share_of
from ..core.statistics import holm, paired
from .outcome_reading import Flags, Outcome

_NAMED = 1000
"""Images, at most, that a list in a record names."""


def compare(
    old: Sequence[Outcome], new: Sequence[Outcome], *, level: float = 0.05
) -> dict[str, Any]:
    """Return the comparison of two results as JSON values.

    Patches are paired by content, or by name where the contents differ or are not stated; models by
    name, or by bit-width where there is one of it on each side; images by their index in the same
    split. Where each side has only one model, neither the names nor the bit-widths need to agree:
    the two models are then compared.

    Args:
        old: from :func:`read_outcomes`.
        new: likewise.
        level: of the tests together, over 0 and under 1.

    Returns:
        ``patches`` (each with ``asr``, its paired test over images that count in both, lists of
        changed images, and ``verdict``), ``clean`` (likewise, by model), the entries that are in
        only one result, ``worse``: names of the significantly worse ones, and ``not_measured``:
        entries that the old result measured and the new one did not, or not with the same patch on
        the same images.

    Raises:
        InputError: the results are of different images, or a level out of range.
        NothingToEvaluate: they have no patch, or no image that counts, in common; the message
            states how they differ.
    """
    if not 0.0 < level < 1.0:
        raise InputError(f"expected a level between 0 and 1, got {level}")
    old, new = _named_alike(old, new)
    pairs = _paired_up(old, new)
    if not pairs:
        raise NothingToEvaluate(f"the two results have no patch in common: {_why(old, new)}")
    rows = [_patch_row(before, after) for before, after in pairs]
    models = dict.fromkeys((before.model, after.model) for before, after in pairs)
    clean = [
        _clean_row([pair for pair in pairs if (pair[0].model, pair[1].model) == both])
        for both in models
    ]
    tested = [row for row in (*rows, *clean) if row["paired"] is not None]
    if all(row["paired"] is None for row in rows):
        raise NothingToEvaluate("no image counts for the attack success rate in both results")
    for row, p in zip(tested, holm([row["paired"]["p"] for row in tested]), strict=True):
        row["paired"]["p_holm"] = p
    for row, higher_is_worse in [*((row, True) for row in rows), *((row, False) for row in clean)]:
        row["verdict"] = _verdict(row["paired"], level, higher_is_worse=higher_is_worse)
    return {
        "format": "qadtr-comparison",
        "format_version": 2,
        "level": level,
        "patches": rows,
        "clean": clean,
        "only_in_old": _titles_without(old, [before for before, _ in pairs]),
        "only_in_new": _titles_without(new, [after for _, after in pairs]),
        "not_measured": _not_measured(old, pairs),
        "worse": [
            *(f"ASR of {_title(row['model'], row['patch'])}" for row in rows if _is_worse(row)),
            *(f"clean accuracy {row['model']}".strip() for row in clean if _is_worse(row)),
        ],
    }


_Key = Callable[[Outcome], tuple[object, ...]]
_MODELS: tuple[_Key, ...] = (
    lambda one: (one.model,),
    lambda one: (one.bit_width, one.engine),
    lambda one: (one.bit_width,),
)
_PATCHES: tuple[_Key, ...] = (lambda one: (one.content,), lambda one: (one.patch,))
"""What two outcomes are paired by, the surest first, and only where it is stated: by what their
models share, and then by what their patches share."""


def _paired_up(old: Sequence[Outcome], new: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    """Each old outcome with the one new outcome that it is compared with, in the old order."""
    found: dict[int, int] = {}
    for of_model, of_patch in itertools.product(_MODELS, _PATCHES):
        sides: list[dict[tuple[object, ...], list[int]]] = [{}, {}]
        for side, outcomes in zip(sides, (old, new), strict=True):
            taken = found.keys() if side is sides[0] else found.values()
            alone = _alone(outcomes, of_model)
            for i, one in enumerate(outcomes):
                key = (*of_model(one), *of_patch(one))
                if i not in taken and None not in key and of_model(one) in alone:
                    side.setdefault(key, []).append(i)
        for known, before in sides[0].items():
            after = sides[1].get(known, [])
            if len(before) == len(after) == 1:
                found[before[0]] = after[0]
    return [(old[i], new[found[i]]) for i in sorted(found)]


def _alone(outcomes: Sequence[Outcome], of_model: _Key) -> set[tuple[object, ...]]:
    """The keys that only one model has, whether or not its outcomes are already paired."""
    models: dict[tuple[object, ...], set[str]] = {}
    for one in outcomes:
        models.setdefault(of_model(one), set()).add(one.model)
    return {key for key, names in models.items() if len(names) == 1}


def _why(old: Sequence[Outcome], new: Sequence[Outcome]) -> str:
    """The difference between two results that have no pair of outcomes."""

    def values(side: Sequence[Outcome], name: str) -> list[Any]:
        return list(dict.fromkeys(getattr(one, name) for one in side))

    same = {
        name: set(values(old, name)) & set(values(new, name)) - {None}
        for name in ("content", "patch", "bit_width")
    }
    if not same["content"] and not same["patch"]:
        sides = (", ".join(sorted(values(side, "patch"))) for side in (old, new))
        return "the old result has the patches {}, the new result {}".format(*sides)
    if not same["bit_width"]:
        sides = (
            ", ".join(
                "unknown" if bits is None else str(bits) for bits in values(side, "bit_width")
            )
            for side in (old, new)
        )
        return "the old result is for bit-width {}, the new result for {}".format(*sides)
    sides = (", ".join(sorted(values(side, "model"))) for side in (old, new))
    return (
        "several models have the same bit-width, so the pairs are ambiguous (old: {}; new: {}); "
        "give the folder of one run, or the file of one record"
    ).format(*sides)


def _not_measured(old: Sequence[Outcome], pairs: Sequence[tuple[Outcome, Outcome]]) -> list[str]:
    """Patches that the new result leaves out, weakens, or tries on fewer images: that does not make
    it better."""
    found = [
        f"{title} is not in the new result"
        for title in _titles_without(old, [before for before, _ in pairs])
    ]
    for before, after in pairs:
        title = _title(before.model, before.patch)
        if not _same_patch(before, after) and before.patch_sha256 is not None:
            found.append(f"{title} is another patch in the new result, or its patch is not stated")
        if before.images_sha256 is not None and before.images_sha256 != after.images_sha256:
            found.append(
                f"{title} was tried on other images or labels, or on some that are not stated"
            )
        left = len(np.setdiff1d(before.indices, after.indices))
        # A quick run of the same patch and images stopped where it had decided.
        if left and not (after.quick and before.images_sha256 is not None):
            found.append(f"{title} was not tried on {left} of the old {len(before.indices)} images")
    return found


def _titles_without(outcomes: Sequence[Outcome], taken: Sequence[Outcome]) -> list[str]:
    ids = {id(one) for one in taken}
    return sorted(_title(one.model, one.patch) for one in outcomes if id(one) not in ids)


def _same_patch(old: Outcome, new: Outcome) -> bool | None:
    if old.patch_file_sha256 is not None and new.patch_file_sha256 is not None:
        return old.patch_file_sha256 == new.patch_file_sha256
    if old.patch_sha256 is not None and new.patch_sha256 is not None:
        return old.patch_sha256 == new.patch_sha256
    return None


def _named_alike(
    old: Sequence[Outcome], new: Sequence[Outcome]
) -> tuple[list[Outcome], list[Outcome]]:
    if len({one.model for one in old}) == 1 and len({one.model for one in new}) == 1:
        return (
            [replace(one, model="") for one in old],
            [replace(one, model="") for one in new],
        )
    return list(old), list(new)


def _patch_row(old: Outcome, new: Outcome) -> dict[str, Any]:
    indices, at_old, at_new = _common(old, new)
    both = old.eligible[at_old] & new.eligible[at_new]
    won_old, won_new = old.success[at_old] & both, new.success[at_new] & both
    return {
        "model": old.model,
        "model_new": new.model,
        "patch": old.patch,
        "patch_new": new.patch,
        "bit_width_old": old.bit_width,
        "bit_width_new": new.bit_width,
        "same_patch": _same_patch(old, new),
        "images_in_common": len(indices),
        "asr_old": _share(old.success[old.eligible]),
        "asr_new": _share(new.success[new.eligible]),
        "attack_checks_old": old.attacks.as_record(),
        "attack_checks_new": new.attacks.as_record(),
        "paired": None if not both.any() else paired(won_old[both], won_new[both]).as_record(),
        **_list("newly_won", indices[won_new & ~won_old]),
        **_list("no_longer_won", indices[won_old & ~won_new]),
        **_list("count_no_longer", indices[old.eligible[at_old] & ~new.eligible[at_new]]),
        **_list("count_now", indices[new.eligible[at_new] & ~old.eligible[at_old]]),
    }


def _clean_row(pairs: Sequence[tuple[Outcome, Outcome]]) -> dict[str, Any]:
    seen: dict[int, tuple[bool, bool]] = {}
    for old, new in pairs:
        indices, at_old, at_new = _common(old, new)
        right_old, right_new = old.clean_correct[at_old], new.clean_correct[at_new]
        seen.update(
            zip(
                indices.tolist(),
                zip(right_old.tolist(), right_new.tolist(), strict=True),
                strict=True,
            )
        )
    indices = np.array(sorted(seen), dtype=np.int64)
    right = np.array([seen[index] for index in sorted(seen)], dtype=np.bool_).reshape(-1, 2)
    first, second = right[:, 0], right[:, 1]
    return {
        "model": pairs[0][0].model,
        "model_new": pairs[0][1].model,
        "accuracy_old": _share(first),
        "accuracy_new": _share(second),
        "paired": paired(first, second).as_record() if len(indices) else None,
        **_list("newly_wrong", indices[first & ~second]),
        **_list("newly_right", indices[second & ~first]),
    }


def _common(
    old: Outcome, new: Outcome
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    if old.images[1:] != new.images[1:]:
        raise InputError(
            f"{old.patch}: the old result is on {old.images[0]}, {old.images[1]} "
            f"({old.images[2][:12]}…), the new one on {new.images[0]}, {new.images[1]} "
            f"({new.images[2][:12]}…); only results on the same images can be compared"
        )
    return np.intersect1d(old.indices, new.indices, assume_unique=True, return_indices=True)


def _verdict(tested: Mapping[str, Any] | None, level: float, *, higher_is_worse: bool) -> str:
    if tested is None:
        return "nothing to compare"
    if tested["p_holm"] >= level:
        return "not significant"
    return "worse" if (tested["difference"] > 0) == higher_is_worse else "better"


def _is_worse(row: Mapping[str, Any]) -> bool:
    return bool(row["verdict"] == "worse")


def _share(flags: Flags) -> Share | None:
    return share_of(flags) if len(flags) else None


def _list(name: str, indices: NDArray[np.int64]) -> dict[str, Any]:
    return {f"{name}_n": len(indices), name: np.sort(indices)[:_NAMED].tolist()}


def _title(model: str, patch: str) -> str:
    return f"{patch} on {model}" if model else patch
