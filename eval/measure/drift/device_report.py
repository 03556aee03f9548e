"""What a device's report says of a bundle's patches, as one more stage of the chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError
from deploy.device.bundle_reading import Bundle
from deploy.device.comparison import Outcome, read_outcomes
from deploy.device.report import read_report
from eval.measure.drift.attribution import StageOutcome

DEVICE = "device"
"""The stage behind ``engine``, where a device's report is given."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceReport:
    """A device's report of the bundle."""

    outcomes: Mapping[str, Outcome]
    facts: dict[str, Any]

    @classmethod
    def read(cls, path: Path | None, bundle: Bundle) -> DeviceReport | None:
        """The report at ``path``, of this very bundle; None for None.

        Raises:
            InputError: it is damaged, no report, or of another bundle.
        """
        if path is None:
            return None
        raw, found = read_report(path), read_outcomes(path)
        if raw["bundle"]["manifest_sha256"] != bundle.manifest_sha256:
            raise InputError(
                f"{path} is the report of another bundle "
                f"({str(raw['bundle']['manifest_sha256'])[:16]}) than {bundle.path.name} "
                f"({bundle.manifest_sha256[:16]}); validate this one on the device"
            )
        return cls(
            outcomes={one.patch: one for one in found},
            facts={"host": raw["host"], "engine": raw["engine"], "date": raw["date"]},
        )

    def of(self, name: str) -> Outcome:
        """The outcome of the patch of this name; InputError where the report has none."""
        if name not in self.outcomes:
            raise InputError(f"the device's report has no patch {name!r}")
        return self.outcomes[name]

    def stage(self, told: Outcome) -> StageOutcome:
        """An outcome as the chain's last stage."""
        engine = self.facts["engine"] or {}
        return StageOutcome(
            name=DEVICE,
            how=f"the exported file in {engine.get('name', 'its engine')}, on the device",
            clean=None,
            patched=None,
            clean_correct=told.clean_correct,
            patched_correct=told.patched_correct,
            eligible=told.eligible,
            success=told.success,
        )


def entries_of(indices: NDArray[np.int64], told: Outcome) -> NDArray[np.int64]:
    """Where the device's images are among those of the patch set."""
    order = np.argsort(indices, kind="stable")
    place = np.searchsorted(indices, told.indices, sorter=order)
    entries = order[np.minimum(place, len(indices) - 1)]
    if (indices[entries] != told.indices).any():
        raise InputError(f"the device's report is of images that {told.patch} is not for")
    return np.asarray(entries, np.int64)
