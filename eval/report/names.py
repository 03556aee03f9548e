"""What networks are called in tables and charts, so that no two read the same.

A network alone of its kind is called by architecture and defense. Several of one kind (ablations,
seeds) are called by the folder of their run too; where two have the same folder, by seed and
settings as well. How their trainings differ is listed once, below a table. Records of older
versions do not name their run: they are called by the start of the checkpoint's hash.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deploy.core.errors import QadtrError
from eval.measure.evaluation_record import RunFacts
from eval.report.words import name_of
from training.config import flat_settings

_SHOWN = 3
"""Settings that a name holds, where that many tell it from every other."""

_OF_THE_RUN = ("name", "seed")
"""Keys of a config that say nothing of how the network was trained."""


@dataclass(frozen=True)
class Names:
    """The name of each network, by the SHA-256 of its checkpoint.

    Attributes:
        by_checkpoint: the names.
        trainings: by name, seed and settings in which networks of one kind differ; nothing of a
            network that is alone of its kind.
    """

    by_checkpoint: Mapping[str | None, str] = field(default_factory=dict)
    trainings: Mapping[str, str] = field(default_factory=dict)

    def of(self, model: Mapping[str, Any]) -> str:
        """From a record's facts of a model."""
        return self.by_checkpoint.get(model["checkpoint_sha256"], name_of(model))

    def lines(self) -> tuple[str, ...]:
        """How trainings of one kind differ, a line each: "resnet8 QADT-R: full: seed 1, ..."."""
        return tuple(f"{name}: {words}" for name, words in self.trainings.items())


def names_from_records(records: Iterable[Mapping[str, Any]]) -> Names:
    """The names of all networks among records of any kind; a newer record renames."""
    models = [record["payload"].get("model") for record in records]
    return names_of_models(one for one in models if isinstance(one, dict) and "network" in one)


def names_of_models(models: Iterable[Mapping[str, Any]]) -> Names:
    """The same from records' facts of models, oldest first."""
    groups: dict[str, dict[str | None, RunFacts | None]] = {}
    for model in models:
        group = groups.setdefault(name_of(model), {})
        checkpoint = model["checkpoint_sha256"]
        group[checkpoint] = model.get("run") or group.get(checkpoint)
    found: dict[str | None, str] = {}
    trainings: dict[str, str] = {}
    for name, group in groups.items():
        if len(group) == 1:
            found |= dict.fromkeys(group, name)
            continue
        known = {checkpoint: run for checkpoint, run in group.items() if run is not None}
        settings = [settings_of(run["config"]) for run in known.values()]
        named = dict.fromkeys(group, name)
        named |= _names_of_runs(name, known, differing_settings(settings))
        found |= _hashed(named, known)
        words = differing_settings(settings, shown=None)
        for (checkpoint, run), told in zip(known.items(), words, strict=True):
            trainings[found[checkpoint]] = ", ".join(filter(None, [f"seed {run['seed']}", told]))
    return Names(found, trainings)


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each training config, in words, the settings in which it differs from any other, those of
    the defense first."""
    return differing_settings(list(map(settings_of, configs)))


def differing_settings(
    flat: Sequence[Mapping[str, Any]], *, shown: int | None = _SHOWN
) -> list[str]:
    """The same for settings by dotted keys, of a training or of an attack.

    Args:
        flat: one mapping for each training or attack.
        shown: so many are in words and the others counted, unless more tell two apart; None puts
            all in words.
    """
    keys = sorted(
        dict.fromkeys(key for one in flat for key in one),
        key=lambda key: not key.startswith("defense."),
    )
    different = [key for key in keys if any(one.get(key) != flat[0].get(key) for one in flat)]
    last = [key.rpartition(".")[2] for key in different]
    short = {
        key: name if last.count(name) == 1 else key
        for key, name in zip(different, last, strict=True)
    }
    told = [{short[key]: _value(one[key]) for key in different if key in one} for one in flat]
    apart = len({_settings(one, len(different)) for one in told})
    fewest = len(different) if shown is None else shown
    enough = (
        count
        for count in range(fewest, len(different))
        if len({_settings(one, count) for one in told}) == apart
    )
    in_words = next(enough, len(different))
    return [_settings(one, in_words) for one in told]


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a training except its name and seed, by dotted keys."""
    told = {key: value for key, value in _complete(config).items() if key not in _OF_THE_RUN}
    return flat_settings(told)


def training_key(config: Mapping[str, Any]) -> str:
    """These settings as text: the same of two trainings that differ in name and seed alone."""
    return json.dumps(settings_of(config), sort_keys=True)


def apart_in_seed(models: Iterable[Mapping[str, Any]]) -> bool:
    """Whether networks of one :func:`training_key` differ in their seed alone.

    Two of one seed do not: they differ in what a config does not state, such as the weights that
    they started from, and nobody can tell which of them another seed belongs to.
    """
    seeds = {model["checkpoint_sha256"]: model["run"]["seed"] for model in models}
    return len(set(seeds.values())) == len(seeds)


def _complete(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the settings that are newer than the config; as it is where it is of a version that
    today's settings do not read."""
    from training.defenses import config_of_run  # brings torch, needed in a report for this alone

    try:
        return config_of_run(config, "a record's config").as_dict()
    except QadtrError:
        return config


def _names_of_runs(
    name: str, runs: Mapping[str | None, RunFacts], settings: Sequence[str]
) -> dict[str | None, str]:
    """Folder; where folders are the same, folder and seed; where these are, settings as well."""
    folders = [run["name"] for run in runs.values()]
    seeded = [(run["name"], run["seed"]) for run in runs.values()]
    found = {}
    for (checkpoint, run), words in zip(runs.items(), settings, strict=True):
        parts = [f"{name}: {run['name']}"]
        if folders.count(run["name"]) > 1:
            parts.append(f"seed {run['seed']}")
            if seeded.count((run["name"], run["seed"])) > 1 and words:
                parts.append(words)
        found[checkpoint] = ", ".join(parts)
    return found


def _hashed(
    names: Mapping[str | None, str], runs: Mapping[str | None, RunFacts]
) -> dict[str | None, str]:
    """With the start of the checkpoint's hash where no run is known, or names are still the same:
    two folders of one name and the same settings, of other data or another version."""
    texts = list(names.values())
    return {
        checkpoint: f"{text} #{(checkpoint or '?')[:6]}"
        if checkpoint not in runs or texts.count(text) > 1
        else text
        for checkpoint, text in names.items()
    }


def _settings(values: Mapping[str, str], shown: int) -> str:
    words = [f"{key}={value}" for key, value in values.items()]
    more = len(words) - shown
    rest = [f"{more} more setting{'s' if more > 1 else ''}"] if more > 0 else []
    return ", ".join([*words[:shown], *rest])


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{' '.join(map(_value, value))}]"
    return str(value)
