"""The stage "adopt": make a run folder from any ONNX classifier, float or quantized.

The file that an engine gets is the original one, with the preprocessing in its graph
(:mod:`export.adopted_graph`), proved to compute the same (:mod:`export.adopted_proof`). It need not
run in integers: the certificate states what ran in integers and what in float. Its golden logits
are those of the lab's engine, with a tolerance, because float32 sums differ between processors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from deploy.core.bit_widths import bits_words
from deploy.core.errors import InputError, UsageError
from deploy.core.files import sha256_of, write_atomic
from deploy.core.model_contents import ADOPTED, require_contents
from deploy.core.onnx_operators import asks_for_integers
from deploy.core.records import provenance as provenance_of
from deploy.core.records import write_record
from deploy.core.scratch import Scratch
from deploy.core.share import Share, share_in_words, share_of
from deploy.core.strict_json import write_json
from deploy.core.text import shape_in_words
from export.adopted_graph import adopted_model
from export.adopted_proof import ENGINE, AdoptedProof, prove_adopted
from export.budget import FLOAT_BUDGET, Departure, default_budget
from export.canonical.image import ImageForm
from export.certificate import Certificate, refuse_qonnx
from export.foreign_model import ForeignModel, read_foreign
from export.graph_builder import model_bytes
from export.origin import origin_text, write_sidecar
from export.source_run import SourceRun
from training.data import Images, ImageSet, kind_of, load_images, split_of
from training.data.subset import chosen_indices
from training.network_spec import FLOAT, NetworkSpec
from training.run_folder import (
    ADOPTED_FORMAT,
    ADOPTED_FORMAT_VERSION,
    ADOPTED_SIDECAR,
    RunFolder,
)
from training.validated import as_json

QUANTIZED_BITS = 8


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """An adopted file, and the results of its checks.

    Attributes:
        run: its folder, in the form that every other stage takes.
        bits: its bit-width in file names and tables: 32 in float, 8 if it is quantized.
        certificate: what ran in integers and what in float.
        optimized: the engine's optimized run, compared with the original file run node by node.
        accuracy: on the images of the run.
        max_logit_difference: the tolerance of the golden logits on another machine, absolute.
    """

    run: RunFolder
    bits: int
    certificate: Certificate
    optimized: Departure
    accuracy: Share
    max_logit_difference: float

    def summary(self) -> str:
        """The results as text."""
        classes = len(self.run.classes)
        tolerance = f"{self.max_logit_difference:.4g}"
        lines = [
            f"{self.run.path}: {self.run.network_name}, {bits_words(self.bits)}, {classes} classes",
            self.certificate.summary().splitlines()[0],
            *([] if self.certificate.ok else [f"in float: {self.certificate.in_float()}"]),
            self.optimized.summary(),
            f"golden logits of {self.optimized.computed}; tolerance on other machines {tolerance}",
            f"clean accuracy {share_in_words(self.accuracy)}",
        ]
        if self.accuracy["high"] <= 2.0 / classes:
            lines.append(
                "this is about chance level; check --mean, --std, --layout and the order "
                "of the classes"
            )
        return "\n".join(lines)


def adopt(
    model: Path | str,
    data: Images | str | None,
    out: Path | str,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    layout: str = "NCHW",
    size: tuple[int, int] | None = None,
    output: str | None = None,
    kind: str | None = None,
    split: str = "test",
    images: int = 64,
    bits: int | None = None,
    require_integer: bool = False,
    overwrite: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> Adopted:
    """Make a run folder from any ONNX classifier: bytes in, preprocessing inside, logits out.

    ``eval``, ``patch --attack sparse-rs``, ``bundle`` and the gate accept it as any other run.

    Args:
        model: the ONNX file, float or quantized, of one input N×C×H×W (or N×H×W×C) of float32,
            float16, double or uint8, and of one output of logits N×classes.
        data: folder of the images, or sets in memory; None for digits.
        out: the run folder; an earlier adoption of the same file with the same options is
            overwritten, and keeps its records.
        mean: of each channel or of all, 0…1: the file's input is (byte / 255 - mean) / std. None
            for a file that takes bytes.
        std: likewise, above 0.
        layout: of the file's input, "NCHW" or "NHWC".
        size: height and width in px, if the file leaves them open.
        output: name of the tensor of the logits; None: the file's only output.
        kind: of the data, one of ``training.data.KINDS``; None: inferred from the folder.
        split: of the images on which the file is run.
        images: their number, drawn evenly.
        bits: the bit-width recorded for the file; None: 8 if it is quantized, else 32.
        require_integer: refuse a file if one of its layers runs in float.
        overwrite: replace another adopted model in ``out``, with its records; patches are kept.
        provenance: from ``deploy.core.records.provenance``; None makes one.

    Raises:
        InputError: the file is not a classifier of images, the engine does not load it, its results
            change with its preprocessing inside or when the engine optimizes it, its logits depend
            on the other images of a batch, or the data have other classes or another size.
        UsageError: an option does not fit the file, or the folder holds another model or something
            else.
        CertificateError: ``require_integer``, and a layer runs in float.

    Example:
        >>> model, = qadtr.export("runs/own", training_set, bits=[32])  # or any ONNX classifier
        >>> found = qadtr.adopt(model.lowered.path, test_set, "runs/theirs")
        >>> found.bits, found.certificate.ok
        (32, False)
    """
    path, out = Path(model), Path(out)
    given = Path(data) if isinstance(data, str) else data
    _require_place(out)
    form = ImageForm.of(mean, std, size)
    foreign = read_foreign(path, form, layout=layout, output=output)
    refuse_qonnx(foreign.model, path)
    tried, settings = _images(foreign, given, kind, split)
    few = chosen_indices(len(tried), min(images, len(tried)))
    shown, labels = tried.images[few], tried.labels[few]
    own = SourceRun(path, model=foreign.model).run(foreign.input_of(shown))[""]
    digest = sha256_of(path)
    contents = model_bytes(adopted_model(foreign, own, description=origin_text(digest)))
    _require_classes(own, tried, path)
    require_contents(contents, ENGINE, str(path), target=ADOPTED)
    quantized = asks_for_integers(Counter(node.op_type for node in foreign.model.graph.node))
    width = (QUANTIZED_BITS if quantized else FLOAT) if bits is None else bits
    _, height, across = foreign.shape
    spec = NetworkSpec(
        name=path.stem,
        bit_widths=(width,),
        classes=len(tried.classes),
        input_size=height if height == across else (height, across),
    )
    folder = given if isinstance(given, Path) else None
    facts = provenance_of() if provenance is None else dict(provenance)
    run = RunFolder(
        path=out,
        sidecar=_sidecar(path, digest, spec, tried, folder, settings, form, layout, facts),
        data=given,
    )
    final = run.model_file(width)
    again = final.is_file() and final.read_bytes() == contents
    if not again and not overwrite:
        _require_no_other(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with Scratch(".candidate-", out.parent) as scratch:
        candidate = scratch / final.name
        write_atomic(candidate, contents)
        budget = default_budget("qcdq", width, exact=False).engine if quantized else FLOAT_BUDGET
        proof = prove_adopted(candidate, foreign, shown, own, budget)
        if require_integer:
            proof.certificate.required()
        final.parent.mkdir(parents=True, exist_ok=True)
        if not again:
            _clear(run)
        candidate.replace(final)
    _write_origin(run, digest, width, proof, facts)
    return Adopted(
        run=run,
        bits=width,
        certificate=proof.certificate,
        optimized=proof.optimized,
        accuracy=share_of(proof.logits.argmax(axis=1) == labels),
        max_logit_difference=proof.optimized.allowed_difference or 0.0,
    )


def _write_origin(
    run: RunFolder, digest: str, width: int, proof: AdoptedProof, facts: Mapping[str, Any]
) -> None:
    """Write what belongs beside the model file, and last what makes its folder a run."""
    final = run.model_file(width)
    of_file = {"checkpoint_sha256": digest, "bit_width": width}
    write_json(final.with_suffix(".certificate.json"), proof.certificate.to_json())
    write_sidecar(
        final,
        {
            **of_file,
            "target": ADOPTED,
            "sha256": sha256_of(final),
            "size_bytes": final.stat().st_size,
            "budget": {
                "max_logit_difference": proof.optimized.allowed_difference,
                "max_flip_share": proof.budget.flips,
            },
            "proof": proof.optimized.to_json(),
            "provenance": dict(facts),
        },
    )
    write_record(run.records, "certificate", {**proof.certificate.to_json(), **of_file}, facts)
    write_json(run.path / ADOPTED_SIDECAR, run.sidecar)


def _require_place(out: Path) -> None:
    """Refuse a folder of something other than an adoption; an interrupted adoption is accepted."""
    ours = (out / ADOPTED_SIDECAR).is_file() or any(out.glob(f"export/{ADOPTED}-*"))
    if out.exists() and not ours and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out} is not a run folder of an adopted model; give a new folder")


def _require_no_other(out: Path) -> None:
    """Refuse a folder with another model's records, which would be mistaken for the new one's."""
    if (out / ADOPTED_SIDECAR).is_file():
        raise UsageError(
            f"{out} holds another adopted model; give --overwrite to replace it and its records, "
            "or another folder with --out RUN"
        )


def _clear(run: RunFolder) -> None:
    """Remove an earlier adoption: first the file that makes it a run, then its measurements."""
    (run.path / ADOPTED_SIDECAR).unlink(missing_ok=True)
    for old in (*run.path.glob(f"export/{ADOPTED}-*"), *run.records.glob("*.json")):
        old.unlink()


def _require_classes(own: NDArray[Any], images: ImageSet, path: Path) -> None:
    if own.shape[1] != len(images.classes):
        raise InputError(
            f"{path} gives {own.shape[1]} logits, but {images.name} has {len(images.classes)} "
            f"classes ({', '.join(images.classes[:5])}…); give data with the classes of the file, "
            "in the same order"
        )


def _images(
    foreign: ForeignModel, given: Images | None, kind: str | None, split: str
) -> tuple[ImageSet, dict[str, Any]]:
    """The split on which the file is run, and how every later stage reads it."""
    _, height, width = foreign.shape
    size = None
    if given is None or isinstance(given, Path):
        kind = kind_of(given) if kind is None else kind
        size = height if height == width and kind in ("folder", "digits") else None
        found = load_images(kind, given, split, size=size)
    else:
        found, kind = split_of(given, split), "npz"
    if found.images.shape[1:] != foreign.shape:
        shown = shape_in_words(found.images.shape[1:])
        raise InputError(
            f"{foreign.path} takes images of {shape_in_words(foreign.shape)}, but those of "
            f"{found.name} are {shown}; give data of that size (images of a folder are resized "
            "to a square)"
        )
    return found, {"kind": kind, "size": size}


def _sidecar(
    path: Path,
    digest: str,
    spec: NetworkSpec,
    images: ImageSet,
    folder: Path | None,
    data: Mapping[str, Any],
    form: ImageForm,
    layout: str,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """``adopted.json``, in place of a checkpoint's sidecar."""
    return {
        "format": ADOPTED_FORMAT,
        "format_version": ADOPTED_FORMAT_VERSION,
        "source": path.name,
        "sha256": digest,
        "network": as_json(spec),
        "classes": list(images.classes),
        "config": {"defense": {"name": ADOPTED}, "seed": None, "data": dict(data)},
        "data": None if folder is None else str(folder.resolve()),
        "preprocessing": {"mean": form.mean, "std": form.std, "layout": layout},
        "provenance": dict(provenance),
    }
