"""The pages of docs/results/, one a topic, from the records in results/."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from benchmarks.export_rows import (
    BUILD_KIND,
    KIND,
    LITERT_KIND,
    TARGET_KIND,
    Payload,
    builds_table,
    files_table,
    litert_table,
    targets_table,
)
from benchmarks.records import cells_of, described
from benchmarks.results_networks import networks_table
from deploy.core.errors import InputError
from deploy.core.records import published_records, require_clean
from deploy.core.strict_json import read_json
from deploy.core.table import Table
from eval.measure.adaptive.adaptive_record import KIND as ADAPTIVE_KIND
from eval.measure.certification_record import KIND as CERTIFICATION_KIND
from eval.measure.certification_record import certifications_from_records
from eval.measure.checks.checks_record import KIND as CHECKS_KIND
from eval.measure.defenses import TABLE
from eval.measure.evaluation_record import KIND as EVALUATION_KIND
from eval.measure.proofs import CERTIFICATE_KIND, PARITY_KIND
from eval.report.adaptive import adaptive_table
from eval.report.analysis_table import HEADER as ANALYSES
from eval.report.analysis_table import analysed, analysis_rows
from eval.report.attack_checks import doubtful_checks
from eval.report.certification import certification_table
from eval.report.defenses import defenses_markdown
from eval.report.names import names_from_records
from eval.report.results import text_table
from eval.report.rows import tables_from_records
from eval.report.seeds import seeds_table, several_seeds
from eval.stages.defenses import ROWS
from eval.stages.zoo import RECORDS

BENCHMARKS = "benchmarks"
ABOUT = "about.md"
"""In a group's folder: what was done, where the records alone do not say it. Its links are those of
a page in docs/."""

OWN_PAGES = ("fuzzing", "public-networks")
"""Folders of results/ that benchmarks.fuzzing_page and .public_networks make pages of."""

SECTIONS: Mapping[str, tuple[str, Callable[[Sequence[Payload]], Table]]] = {
    "export/files.md": (KIND, files_table),
    "export/litert.md": (LITERT_KIND, litert_table),
    "export/targets.md": (TARGET_KIND, targets_table),
    "engines/about.md": (BUILD_KIND, builds_table),
}
"""Heading and text of results/, the kind of the records beside it, and their table."""

_LINK = re.compile(r"\]\((?![a-z]+:|#|/)")


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One page.

    Attributes:
        name: of docs/results/NAME.md.
        title: its heading.
        about: what a reader finds there, in one line.
        groups: patterns of folders of results/ that hold the records of runs.
        sections: keys of :data:`SECTIONS`.
        benchmarks: patterns of the records in results/benchmarks.
    """

    name: str
    title: str
    about: str
    groups: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()


TOPICS = (
    Topic(
        name="resnet20",
        title="ResNet-20",
        about="each training: transferred patches, an attacker who has the network, certificates",
        groups=("cifar10-resnet20*",),
    ),
    Topic(
        name="resnet8",
        title="ResNet-8",
        about="patches of other networks and its own, the adaptive attack, its checks, analyses",
        groups=("cifar10-resnet8*", "undefended-cifar10-resnet8"),
    ),
    Topic(
        name="certificates",
        title="Certificates",
        about="what no patch can change, with and without grey squares in the training",
        groups=("certified-*",),
    ),
    Topic(
        name="defenses",
        title="The defenses beside each other",
        about="every defense with one budget, and PBAT beside QADT-R at about the same work",
        groups=("defenses-*", "beside-*", "ablation-*"),
    ),
    Topic(
        name="other-networks",
        title="Networks and patches of others",
        about="a pretrained ResNet-32, a ResNet-18 on Imagenette, and supplied patches at 224 px",
        groups=("pretrained-*", "imagenette-*"),
    ),
    Topic(
        name="exports",
        title="Exported files and engines",
        about="what each file computes in each engine, how large it is, which engines were built",
        sections=tuple(SECTIONS),
        benchmarks=("foreign-files", "sizes", "requantization", "validator", "microcontroller"),
    ),
    Topic(
        name="speed",
        title="Speed",
        about="images per second beside the float file and the peers' int8, on three processors",
        benchmarks=("speed-*", "clamp"),
    ),
    Topic(
        name="training",
        title="Training",
        about="what training choices do to clean accuracy, and what a step and the images cost",
        benchmarks=("clean-accuracy-*", "training-step*", "image-cache", "beside"),
    ),
)


def topic_page(topic: Topic, folder: Path) -> str:
    """A page as Markdown.

    Args:
        topic: which.
        folder: results/.

    Raises:
        InputError: a record is damaged, or of a dirty tree.
    """
    parts = [
        f"# {topic.title}",
        (
            f"{topic.about[0].upper()}{topic.about[1:]}. ASR is over the images that the model has "
            "right without the patch, intervals are Wilson's at 95%. Made by `python -m "
            "benchmarks.results_page` from the records in `results/`; "
            "[all results](../results.md)."
        ),
    ]
    for group in _matching(folder, topic.groups):
        parts += _of_runs(group)
    for about in topic.sections:
        kind, table = SECTIONS[about]
        if records := published_records((folder / about).parent, kind):
            said = _said((folder / about).read_text(encoding="utf-8").strip(), records)
            parts += [said, table(records).markdown(), _provenance(records)]
    for path in _matching(folder / BENCHMARKS, [f"{one}.json" for one in topic.benchmarks]):
        parts += _of_benchmark(path)
    return "\n\n".join(parts) + "\n"


def require_topics(folder: Path) -> None:
    """Refuse a folder of results, or a benchmark's record, that no topic shows.

    Raises:
        InputError: there is one.
    """
    shown = {
        *(path for topic in TOPICS for path in _matching(folder, topic.groups)),
        *(folder / about.partition("/")[0] for about in SECTIONS),
        *(folder / name for name in (BENCHMARKS, *OWN_PAGES)),
        *(
            path
            for topic in TOPICS
            for path in _matching(folder / BENCHMARKS, [f"{one}.json" for one in topic.benchmarks])
        ),
    }
    there = [*folder.iterdir(), *(folder / BENCHMARKS).glob("*.json")]
    left = sorted(str(path.relative_to(folder)) for path in there if path not in shown)
    if left:
        raise InputError(
            f"no topic shows {', '.join(left)} of {folder}: name it in "
            "benchmarks.results_topics.TOPICS, or remove it"
        )


def _matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]


def _named(run: Path) -> list[dict[str, Any]]:
    """The records of a published run, called as its folder is here; they were made in another."""
    records = published_records(run / RECORDS)
    models = [record["payload"].get("model") for record in records]
    for facts in (one["run"] for one in models if isinstance(one, dict) and one.get("run")):
        facts["name"] = run.name
    return records


def _of_runs(group: Path) -> list[str]:
    records = {
        run.name: _named(run)
        for run in (group, *sorted(group.iterdir()))
        if (run / RECORDS).is_dir()
    }
    everything = [record for of_run in records.values() for record in of_run]
    parts = [f"## {group.name}"]
    if (group / ABOUT).is_file():
        parts.append(_said((group / ABOUT).read_text(encoding="utf-8").strip(), ()))
    if (group / TABLE).is_file():
        return [*parts, *_of_defenses(group / TABLE)]
    kinds = {record["kind"] for record in everything}
    names = names_from_records(everything)
    if (networks := networks_table(everything, names)) is not None:
        parts.append(networks.markdown())
    if EVALUATION_KIND in kinds:
        parts.append(_block(text_table(everything)))
        for table in filter(several_seeds, tables_from_records(everything)):
            parts.append(_block(seeds_table(table).text()))
    if ADAPTIVE_KIND in kinds:
        parts.append("An attacker who has the network and knows its defense:")
        parts.append(_block(adaptive_table(everything)))
    if CHECKS_KIND in kinds and (doubtful := doubtful_checks(everything)):
        parts.append("What the [checks of the attacks](../checks.md) did not pass:")
        parts.append("\n".join(f"- {line}" for line in doubtful))
    if CERTIFICATION_KIND in kinds:
        found = certifications_from_records(everything)
        parts.append(certification_table(found, names).markdown())
    if analyses := analysis_rows(everything):
        parts.append(
            "[Analyses](../analyses.md) of the fake-quantized networks under a patch: "
            f"{'; '.join(analysed(everything))}. Means over images, 95% intervals."
        )
        parts.append(Table(columns=ANALYSES, rows=analyses).markdown())
    if proofs := _proofs(records):
        parts.append(proofs)
    return [*parts, _provenance(everything)]


def _proofs(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Parity and certificate of all files in two sentences; a file that fails is named."""
    said = []
    if parity := _newest(records, PARITY_KIND):
        wrong = {name: count for name, p in parity.items() if (count := _different(p))}
        images = sorted({p["images"] for p in parity.values()})
        codes = sum(layer["values"] for p in parity.values() for layer in p["layers"])
        said.append(
            f"ONNX Runtime's codes and logits equal the integer reference's in "
            f"{len(parity) - len(wrong)} of {len(parity)} files (each on "
            f"{' to '.join(f'{n:,}' for n in dict.fromkeys([images[0], images[-1]]))} images; "
            f"{codes:,} codes)."
        )
        said += [f"{name}: {count:,} differ." for name, count in wrong.items()]
        asked = [p["agreement"] for p in parity.values() if p["agreement"] is not None]
        if asked:
            least = "every image" if min(asked) == 1.0 else f"{min(asked):.2%} of images or more"
            said.append(f"Their top-1 is that of the training network on {least}.")
    if certified := _newest(records, CERTIFICATE_KIND):
        bad = [name for name, p in certified.items() if not p["ok"]]
        said.append(
            f"{len(certified) - len(bad)} of {len(certified)} files ran every convolution, "
            "product, addition and pool in integers."
        )
        said += [f"{name} did NOT." for name in bad]
    return " ".join(said)


def _newest(
    records: Mapping[str, Sequence[Mapping[str, Any]]], kind: str
) -> dict[str, Mapping[str, Any]]:
    """The payload of one kind over the most images, then the newest, for each run and bit-width."""
    best: dict[str, Mapping[str, Any]] = {}
    for run, of_run in records.items():
        for record in of_run:
            payload = record["payload"]
            if record["kind"] == kind:
                name = f"{run} at {payload['bit_width']} bits"
                # Certificates count no images since format 2.
                over = payload.get("images", 0)
                if name not in best or over >= best[name].get("images", 0):
                    best[name] = payload
    return best


def _different(parity: Mapping[str, Any]) -> int:
    """Codes and logits that differ."""
    wrong = sum(int(layer["different"]) for layer in parity["layers"])
    return wrong + int(parity["logits_different"])


def _of_defenses(path: Path) -> list[str]:
    """The table of the defenses, from its own file: the records it was made of are not kept."""
    table = cast(Mapping[str, Any], read_json(path))
    require_clean(table["provenance"], path)
    epochs = ", ".join(f"{n:g}" for n in sorted({row["epochs"] for row in table["rows"]}))
    said = (
        f"{table['family']}; one budget for every row, {epochs} epochs, made by "
        "`qadtr defenses`. "
        "It says how the defenses stand to each other after that, not what each can reach. No rate "
        "is more than what these attacks achieved; where no check is named, none was run."
    )
    missing = [row for row in ROWS if row not in {there["row"] for there in table["rows"]}]
    if missing:
        said += f" Not in this table: {', '.join(missing)}."
    return [said, defenses_markdown(table), _provenance([table])]


def _of_benchmark(path: Path) -> list[str]:
    record: Any = read_json(path)
    if not isinstance(record, dict) or "benchmark" not in record:
        raise InputError(f"{path} is not a record of a benchmark")
    require_clean(record["provenance"], path)
    about = (path.parent / record["benchmark"]).with_suffix(".md").read_text(encoding="utf-8")
    parts = [f"## {path.stem}", _said(about.strip(), ())]
    if text := described(record):
        parts.append(f"{text[0].upper()}{text[1:]}.")
    header, *cells = cells_of(record)
    if header:
        parts.append(Table(columns=header, rows=cells).markdown())
    return [*parts, _provenance([record])]


def _said(text: str, records: Sequence[Mapping[str, Any]]) -> str:
    """A text of results/ on a page of docs/results/, with the builders that the records name."""
    built = (record["payload"].get("builder") for record in records)
    names = dict.fromkeys(f"{one['name']} {one['version']}" for one in built if one)
    return _LINK.sub("](../", text).replace("{builders}", ", ".join(names))


def _provenance(records: Sequence[Mapping[str, Any]]) -> str:
    """Commits, dates, processors and versions behind a part, in one line."""
    commits: dict[str, None] = {}
    machines: dict[str, None] = {}
    dates = set()
    for record in records:
        facts = record["provenance"]
        host, packages = facts.get("host") or {}, facts.get("packages") or {}
        commits[str(facts.get("commit") or "unknown")[:7]] = None
        dates.add(str(facts.get("date"))[:10])
        machines[host.get("cpu_model", "unknown processor")] = None
        for name in ("onnxruntime", "torch"):
            machines[f"{name} {packages.get(name, '?')}"] = None
    when = " to ".join(dict.fromkeys([min(dates), max(dates)]))
    word = "commit" if len(commits) == 1 else "commits"
    return f"*{word} {', '.join(commits)}; {when}; {', '.join(machines)}*"


def _block(text: str) -> str:
    return f"```text\n{text}\n```"
