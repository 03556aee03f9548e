"""The stage "zoo": trained networks with their records in a folder, listed and taken out.

A network is in the zoo where a run folder, FOLDER/RUN or FOLDER/GROUP/RUN, has a checkpoint and
records anywhere in FOLDER name that checkpoint with a figure on test images. So a network is added
by putting its run folder there, with its ``records``; nothing else lists it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.attack_checks import LOWER_BOUND
from deploy.core.errors import InputError, UsageError
from deploy.core.files import write_atomic
from deploy.core.records import oldest_first, published_records, write_record
from deploy.core.table import Table
from eval.report.network_figures import (
    NetworkFigures,
    certified_heading,
    checkpoint_of,
    figures_from_records,
)
from eval.report.words import MISSING, size
from training.checkpoint import CHECKPOINT
from training.run_folder import RunFolder

FORMAT, FORMAT_VERSION = "qadtr-zoo", 1

RECORDS = "records"
"""Of a run folder, or of one that has nothing else."""

_NOTES = (
    "clean: accuracy without a patch, in the engine; all with 95% intervals.",
    (
        "transferred: share of the images right without a patch that the worst patch made on "
        "another network turns wrong; which patches were tried differs (--json lists them)."
    ),
    "adaptive: the same share for an attacker who knows the network and its defense.",
    (
        "certified: share that masked inference classifies correctly, whatever one square "
        "patch of that side shows."
    ),
    LOWER_BOUND,
)


@dataclass(frozen=True, kw_only=True)
class ZooNetwork:
    """One network of the zoo.

    Attributes:
        name: of its run folder, from the zoo's own.
        run: the folder.
        figures: at each bit-width.
        records: those that name its checkpoint.
    """

    name: str
    run: RunFolder
    figures: tuple[NetworkFigures, ...]
    records: tuple[Mapping[str, Any], ...]

    @property
    def title(self) -> str:
        """Name, kind, data and size of the checkpoint, in words."""
        one = self.figures[0]
        weights = size(self.run.checkpoint.stat().st_size)
        return f"{self.name}: {one.kind}, {one.images['name']}, checkpoint {weights}"


def zoo_networks(folder: Path) -> list[ZooNetwork]:
    """The networks of the zoo in ``folder``, by name.

    Raises:
        InputError: no such folder, no network in it, a damaged checkpoint or record, or a record
            of a dirty tree.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; a zoo is a folder of run folders")
    runs = {
        path.name if path.parent == folder else f"{path.parent.name}/{path.name}": path
        for path in _places(folder)
        if (path / CHECKPOINT).is_file()
    }
    records = records_below(folder)
    figures = figures_from_records(records)
    found = []
    for name, path in sorted(runs.items()):
        run = RunFolder.open(path)
        own = [one for one in figures if one.model["checkpoint_sha256"] == run.checkpoint_sha256]
        if own:
            naming = tuple(r for r in records if checkpoint_of(r) == run.checkpoint_sha256)
            found.append(ZooNetwork(name=name, run=run, figures=tuple(own), records=naming))
    if not found:
        raise InputError(
            f"{folder} holds no network for a zoo; expected a run folder in it, or in one of its "
            f"folders, with a {CHECKPOINT} and, in records/, a figure on test images"
        )
    return found


def records_below(folder: Path) -> list[dict[str, Any]]:
    """The records of all runs in a folder, or in groups there, oldest first.

    Raises:
        InputError: a record is damaged, or of a dirty tree.
    """
    places = (folder, *_places(folder))
    return oldest_first(r for place in places for r in published_records(place / RECORDS))


def chosen(networks: Sequence[ZooNetwork], name: str) -> ZooNetwork:
    """The network of that name.

    Raises:
        InputError: there is none.
    """
    names = [one.name for one in networks]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.3)
        meant = f"did you mean {close[0]}? " if close else ""
        raise InputError(f"the zoo has no network {name}; {meant}it has {', '.join(names)}")
    return networks[names.index(name)]


def take_out(network: ZooNetwork, out: Path) -> RunFolder:
    """Copy checkpoint, sidecar and all records of a network into a new run folder.

    Raises:
        UsageError: there is something at ``out``.
        InputError: the place is not writable.
    """
    if out.exists():
        raise UsageError(f"{out} is there already; name a new folder for the network")
    # The checkpoint last: what has one is a whole run.
    for source in (network.run.checkpoint.with_suffix(".json"), network.run.checkpoint):
        write_atomic(out / source.name, source.read_bytes())
    run = RunFolder.open(out)
    for record in network.records:
        write_record(run.records, record["kind"], record["payload"], record["provenance"])
    return run


def zoo_table(networks: Sequence[ZooNetwork]) -> Table:
    """A row for each network and bit-width."""
    sides = sorted({px for one in networks for figures in one.figures for px in figures.certified})
    columns = ("bits", "clean", "transferred", "adaptive", *map(certified_heading, sides), "size")
    return Table(
        columns=["network", *columns],
        rows=[
            [network.title, *(figures.cells().get(column, MISSING) for column in columns)]
            for network in networks
            for figures in network.figures
        ],
        align="lr",
        grouped=True,
        notes=_NOTES,
    )


def zoo_json(networks: Sequence[ZooNetwork]) -> dict[str, Any]:
    """The same as JSON values: rates 0…1 with k, n and interval, null where it was not measured."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "networks": [
            {
                "name": one.name,
                "network": one.run.network_name,
                "defense": one.run.defense,
                "seed": one.run.seed,
                "checkpoint_sha256": one.run.checkpoint_sha256,
                "checkpoint_bytes": one.run.checkpoint.stat().st_size,
                "figures": [figures.as_json() for figures in one.figures],
            }
            for one in networks
        ],
    }


def _places(folder: Path) -> Iterator[Path]:
    """The folders in which a run may be: FOLDER/RUN and FOLDER/GROUP/RUN."""
    for pattern in ("*", "*/*"):
        yield from sorted(path for path in folder.glob(pattern) if path.is_dir())
