"""The stage "checks": the battery on one run's network at each bit-width, as records."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import model_validator

from deploy.core.errors import InputError
from deploy.core.files import sha256_of_bytes
from deploy.core.records import write_record
from deploy.core.strict_json import json_bytes
from eval.measure.checks.attacked_network import BatterySettings
from eval.measure.checks.battery import run_battery
from eval.measure.checks.catalogue import CATALOGUE
from eval.measure.checks.checks_record import KIND, CheckedModel, ChecksRecord
from eval.measure.evaluation_record import images_facts
from eval.measure.fakes import planted
from training.data import Images, ImageSet
from training.data.subset import chosen_indices
from training.prediction import SwitchableNetwork
from training.progress import Progress
from training.record_types import payloads_by_key
from training.run_folder import RunFolder
from training.validated import BitWidths, validated


@validated()
class ChecksRunSettings:
    """What is checked.

    Attributes:
        bit_widths: None takes all that the network has.
        split: "test" for final figures, "holdout" to choose settings.
        planted: name of a fake of ``eval.measure.fakes.FAKES`` to put around the network, to see
            whether the checks find it.
        only: names of the checks to run; None runs all. The others are *not run*: a later or
            earlier record that ran them counts for them.

    Raises:
        InputError: ``only`` names no check, or one that is not in the catalogue.
    """

    bit_widths: BitWidths | None = None
    split: str = "test"
    planted: str | None = None
    only: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _only_known_checks(self) -> ChecksRunSettings:
        unknown = sorted(set(self.only or ()) - set(CATALOGUE))
        if unknown or self.only == ():
            raise ValueError(
                f"unknown check {', '.join(unknown) or '(none given)'}; known: "
                f"{', '.join(CATALOGUE)}"
            )
        return self


def run_checks(
    run: RunFolder,
    data: Images | None,
    battery: BatterySettings,
    settings: ChecksRunSettings,
    provenance: Mapping[str, Any],
    *,
    source: RunFolder | None = None,
    undefended: RunFolder | None = None,
) -> list[ChecksRecord]:
    """Check the run's network; one record for each bit-width, in its ``records`` folder.

    A bit-width whose record exists is not checked again, nor is a check that an interrupted call
    had done.

    Args:
        source: the run whose network makes the transferred patches, in float.
        undefended: the run whose network the attack must break.

    Raises:
        InputError: a bit-width that the network lacks, more images than there are, a patch larger
            than the image, runs of other classes, an unknown fake.
        NothingToEvaluate: the network has no image right at some bit-width.
    """
    images = run.images(data, settings.split)
    _check_size(battery, images)
    indices = chosen_indices(len(images), battery.images)
    chosen, labels = images.images[indices], images.labels[indices]
    widths = run.chosen_bit_widths(settings.bit_widths)
    network: SwitchableNetwork = run.load_network().requires_grad_(False)
    if settings.planted is not None:
        network = planted(settings.planted, network)
    others = {"source": source, "undefended": undefended}
    loaded = {name: _other(run, other) for name, other in others.items()}
    known = payloads_by_key(run.records, KIND, ChecksRecord)
    records = []
    for bits in widths:
        attack = battery.as_record() | {
            name: None if other is None else other.checkpoint_sha256
            for name, other in others.items()
        }
        model = CheckedModel(
            network=run.network_name,
            defense=run.defense,
            bit_width=bits,
            checkpoint_sha256=run.checkpoint_sha256,
            planted=settings.planted,
        )
        asked = [name for name in CATALOGUE if settings.only is None or name in settings.only]
        about = [model, attack, images.digest, images.split, asked]
        key = sha256_of_bytes(json_bytes(about))
        if key not in known:
            title = f"checks, {run.path.name} at {bits} bits"
            unfinished = run.patches / f".checks-{key[:8]}.unfinished.npz"
            with Progress(title, len(CATALOGUE)) as bar:
                results = run_battery(
                    network,
                    bits,
                    chosen,
                    labels,
                    battery,
                    source=loaded["source"],
                    undefended=loaded["undefended"],
                    only=asked,
                    done=partial(bar.advance, 1),
                    resume_from=unfinished,
                    identity=key,
                )
            known[key] = ChecksRecord(
                key=key,
                model=model,
                images=images_facts(images),
                checked_images=len(indices),
                attack=attack,
                checks=results,
            )
            write_record(run.records, KIND, known[key], provenance)
            unfinished.unlink(missing_ok=True)
        records.append(known[key])
    return records


def _check_size(battery: BatterySettings, images: ImageSet) -> None:
    side = min(images.images.shape[2:])
    if battery.size_px > side:
        raise InputError(
            f"a patch of {battery.size_px} px does not fit images of {side} px; give a smaller "
            "size_px"
        )


def _other(run: RunFolder, other: RunFolder | None) -> SwitchableNetwork | None:
    if other is None:
        return None
    if other.classes != run.classes:
        raise InputError(
            f"{other.path} has other classes than {run.path}: their patches and answers cannot "
            "be compared; give a run for the same data"
        )
    network: SwitchableNetwork = other.load_network().requires_grad_(False)
    return network
