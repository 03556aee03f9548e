"""The result of comparing engine, integer reference and fake quantization, and its budget."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from deploy.core.errors import QadtrError
from deploy.core.table import Table
from export.budget import Budget

FORMAT_VERSION = 2
"""Version 1 had no comparison with fake quantization layer by layer."""


class ParityError(QadtrError):
    """The engine does not compute what the file says, or its results prove nothing."""


@dataclass(frozen=True, kw_only=True)
class LayerParity:
    """One tensor of codes, engine against reference, over all images.

    Attributes:
        name: the node that outputs it, and its ``operator``; ``tensor`` is its output.
        values: codes compared; ``different`` of them differ, by ``largest_difference`` at most.
        distinct_codes: different codes that the engine gave.
        flips: codes of the reference that differ from the fake-quantized network's; None if it was
            not run, or has no such tensor (codes before a Clip, or rearranged).
        largest_flip: in codes; None likewise.
    """

    name: str
    operator: str
    tensor: str
    values: int
    different: int
    largest_difference: int
    distinct_codes: int
    flips: int | None = None
    largest_flip: int | None = None

    @property
    def flip_share(self) -> float:
        """Share of the codes that flip; 0 if they were not compared."""
        return (self.flips or 0) / self.values


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The result of :func:`check_parity`.

    Attributes:
        model: the engine's file name; ``model_sha256`` is of its bytes.
        reference_sha256: of the file that the reference read (usually the same).
        engine: such as ``onnxruntime-cpu``.
        layers: every tensor between nodes, in the file's order.
        logits_different: logits that are not equal, out of ``images · classes``.
        largest_logit_difference: absolute.
        predictions_different: images with another class in the engine than in the reference.
        predicted_classes: distinct classes that the engine predicted.
        first_departure: the first layer, in the file's order, with a code that differs; the
            operator of the logits if all codes agree and logits do not; else None.
        flips: indices of the images that the fake-quantized network classifies differently; None
            where its predictions were not given.
        agreement: share of images with the same class as the fake-quantized network; None
            likewise.
        failures: why parity fails, one sentence each; empty if it holds.
        first_flip: the first layer, in the file's order, where the reference has another code than
            the fake-quantized network; None if none has, or it was not run.
        fake_logits_different: logits of the reference that are not the fake-quantized network's,
            byte for byte; None if it was not run.
        largest_fake_logit_difference: absolute; None likewise.
        budget: what was enforced of the reference against fake quantization; None: nothing.
    """

    model: str
    model_sha256: str
    reference_sha256: str
    engine: str
    images: int
    classes: int
    layers: tuple[LayerParity, ...]
    logits_different: int
    largest_logit_difference: float
    predictions_different: int
    predicted_classes: int
    first_departure: str | None
    flips: tuple[int, ...] | None
    agreement: float | None
    failures: tuple[str, ...]
    first_flip: str | None = None
    fake_logits_different: int | None = None
    largest_fake_logit_difference: float | None = None
    budget: Budget | None = None

    record_kind: ClassVar[str] = "parity"

    @property
    def ok(self) -> bool:
        """Whether every code and logit is equal and enough codes and classes are used."""
        return not self.failures

    def required(self) -> Parity:
        """Return this, or raise ParityError with all failures."""
        if not self.ok:
            raise ParityError(f"{self.model}: " + "; ".join(self.failures))
        return self

    def manifest_budget(self) -> dict[str, float]:
        """The budget that a manifest states for an engine of this file: no difference."""
        return {"max_logit_difference": 0.0, "max_flip_share": 0.0}

    def summary(self) -> str:
        """Return the verdict as text, and one line per failure."""
        values = sum(layer.values for layer in self.layers)
        different = sum(layer.different for layer in self.layers)
        verdict = "parity" if self.ok else "NO PARITY"
        if not self.ok and self.first_departure is None:
            verdict = "EQUAL, BUT NOT ACCEPTED"
        text = (
            f"{verdict}: {different:,} of {values:,} codes in "
            f"{len(self.layers)} layers and {self.logits_different:,} of "
            f"{self.images * self.classes:,} logits differ between {self.engine} and the integer "
            f"reference on {self.images:,} images"
        )
        if self.first_departure is not None:
            text += f"; first departure: {self.first_departure}"
        if self.agreement is not None:
            text += f"; same class as fake quantization on {self.agreement:.2%}"
        if self.fake_logits_different is not None:
            text += (
                "; every code and the bytes of every logit equal those of fake quantization"
                if self.first_flip is None and not self.fake_logits_different
                else f"; first flip against fake quantization: {self.first_flip or 'the logits'}"
            )
        return "\n".join([text, *(f"  {failure}" for failure in self.failures)])

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with a format version."""
        plain = {"format_version": FORMAT_VERSION, "ok": self.ok, **asdict(self)}
        if self.budget is not None:
            plain["budget"] = {
                "code_flips": self.budget.code_flips,
                "largest_code_flip": self.budget.largest_code_flip,
                "prediction_flips": self.budget.flips,
                "logits_equal": self.budget.logits == 0.0,
            }
        return plain

    def table(self) -> str:
        """Return a line per layer: codes, engine against reference, reference against fake."""
        rows = []
        for layer in self.layers:
            flips = ["", ""]
            if layer.flips is not None:
                flips = [f"{layer.flips:,} ({layer.flip_share:.4%})", str(layer.largest_flip)]
            departs = "<- departs" if layer.tensor == self.first_departure else ""
            first = "<- flips" if layer.tensor == self.first_flip else ""
            rows.append(
                [
                    *(layer.tensor, layer.operator, f"{layer.values:,}", f"{layer.different:,}"),
                    *(*flips, f"{departs}  {first}"),
                ]
            )
        columns = ("layer", "operator", "codes", "engine≠reference", "reference≠fake", "largest")
        return Table(columns=(*columns, ""), rows=rows, align="llrrrrl").text()
