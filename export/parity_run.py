"""The stage "parity": exported files of a run once more against the reference, on any images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.device.errors import InputError
from deploy.device.records import write_record
from export.export_run import budget_of
from export.fake_quantized import FakeQuantized
from export.origin import require_origin
from export.parity import Parity, check_parity
from training.quantizers import FLOAT
from training.run_folder import RunFolder


def parity_of_run(
    run: RunFolder,
    bit_widths: Sequence[int] | None,
    images: NDArray[np.uint8],
    least_agreement: float,
    code_flips: float,
    provenance: Mapping[str, Any],
) -> Iterator[Parity]:
    """Check the exported integer files of a run, writing a record of each, passed or failed.

    Args:
        run: with exported files.
        bit_widths: None takes all that are exported.
        images: uint8 N×3×H×W.
        least_agreement: share of the images that must have the fake-quantized network's class.
        code_flips: largest share of one layer's codes that may differ from that network's; an
            exact network may differ nowhere, whatever these two say.
        provenance: from ``deploy.device.records.provenance``.

    Yields:
        What was found, file by file.

    Raises:
        InputError: a file that is not exported, or damaged.
        NothingToEvaluate: there are no images.
    """
    integer = [bits for bits in run.bit_widths if bits != FLOAT]
    exported = [bits for bits in integer if run.model_file(bits).is_file()]
    wanted = exported if bit_widths is None else list(bit_widths)
    missing = [bits for bits in wanted if bits not in exported]
    if missing or not wanted:
        named = " ".join(map(str, missing or integer))
        raise InputError(
            f"{run.path} has no exported integer model at {named} bits (exported: "
            f"{', '.join(map(str, exported)) or 'none'}); make it with: "
            f"qadtr export {run.path} --bits {named}"
        )
    network = run.load_network()
    for bits in wanted:
        require_origin(run.model_file(bits), run.checkpoint_sha256)
        found = check_parity(
            run.model_file(bits),
            images,
            fake_quantized=FakeQuantized(network, bits),
            budget=budget_of(network, least_agreement, code_flips),
        )
        facts = {"checkpoint_sha256": run.checkpoint_sha256, "bit_width": bits}
        write_record(run.records, "parity", {**found.to_json(), **facts}, provenance)
        yield found
