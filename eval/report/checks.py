"""Certificates and parity of the model files, as the report shows them.

Records of kind `certificate` and `parity` hold what `export.certificate.Certificate.to_json` and
`export.parity.Parity.to_json` give; they are matched to the results by the SHA-256 of the model
file. They are read as plain JSON here, so that a report needs no ONNX.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deploy.core.errors import InputError
from eval.evaluation_record import ModelFacts
from eval.report.html import Html, join, tag
from eval.report.rows import FLOAT_BITS, bits_words, model_name
from eval.report.scrolled_table import scrolled_table

CERTIFICATE_KIND = "certificate"
PARITY_KIND = "parity"

_CERTIFICATE_FIELDS = (
    "model",
    "model_sha256",
    "engine",
    "ok",
    "counts",
    "layers",
    "requantizations",
    "float_requantizations",
    "failures",
)
_PARITY_FIELDS = (
    "model",
    "model_sha256",
    "engine",
    "ok",
    "images",
    "classes",
    "layers",
    "logits_different",
    "predicted_classes",
    "agreement",
    "failures",
)
_OF_CERTIFICATE_LAYER = ("layer", "operator", "input_types", "output_types", "provider")
_OF_PARITY_LAYER = ("name", "operator", "values", "different", "distinct_codes")


@dataclass(frozen=True, kw_only=True)
class Checks:
    """Certificates and parity reports by the SHA-256 of the model file; the newest of each."""

    certificates: Mapping[str, Mapping[str, Any]]
    parities: Mapping[str, Mapping[str, Any]]

    def certified(self, model: ModelFacts) -> bool | None:
        """Whether the engine ran the file in integers; None where nobody looked."""
        certificate = self.certificates.get(model["file_sha256"] or "")
        return None if certificate is None else bool(certificate["ok"])

    def parity_ok(self, model: ModelFacts) -> bool | None:
        """Whether the engine gave the reference's codes and logits; None where nobody looked."""
        parity = self.parities.get(model["file_sha256"] or "")
        return None if parity is None else bool(parity["ok"])

    def lines(self, model: ModelFacts) -> Html:
        """The two verdicts on a model, one line each, for the main table."""
        if model["bit_width"] == FLOAT_BITS:
            return tag("small", "float: nothing to certify")
        digest = model["file_sha256"] or ""
        certificate, parity = self.certificates.get(digest), self.parities.get(digest)
        return join(
            tag("small", "no certificate among the records")
            if certificate is None
            else join(_verdict(certificate, "integer", "NOT INTEGER"), _counted(certificate)),
            tag("small", "parity not checked")
            if parity is None
            else join(_verdict(parity, "parity", "NO PARITY"), _compared(parity)),
        )

    def section(self, models: Iterable[ModelFacts]) -> Html:
        """Each file's certificate and parity with their layers; nothing where there are none.

        Args:
            models: those that were evaluated: they tell which network a file is.
        """
        names = {
            model["file_sha256"]: f"{model_name(model['network'], model['defense'])}, "
            f"{bits_words(model['bit_width'])}"
            for model in models
        }
        digests = dict.fromkeys([*self.certificates, *self.parities])
        return join([self._of_file(digest, names.get(digest)) for digest in digests])

    def _of_file(self, digest: str, name: str | None) -> Html:
        certificate, parity = self.certificates.get(digest), self.parities.get(digest)
        known = certificate or parity
        assert known is not None
        parts = [
            tag("h3", known["model"] if name is None else f"{name}: {known['model']}"),
            tag("p", f"{known['engine']}, SHA-256 ", tag("code", digest), class_="soft small"),
        ]
        if certificate is not None:
            parts.append(
                tag("p", _verdict(certificate, "integer", "NOT INTEGER"), " ", _counts(certificate))
            )
            parts.append(_failures(f"{f['layer']}: {f['reason']}" for f in certificate["failures"]))
            parts.append(
                _layers("Operators that ran", _OF_CERTIFICATE_LAYER, certificate["layers"])
            )
        if parity is not None:
            parts.append(tag("p", _verdict(parity, "parity", "NO PARITY"), " ", _parity(parity)))
            parts.append(_failures(map(str, parity["failures"])))
            parts.append(_layers("Codes compared", _OF_PARITY_LAYER, parity["layers"]))
        return join(parts)


def checks_from_records(records: Iterable[Mapping[str, Any]]) -> Checks:
    """The certificates and parity reports among `records` (oldest first).

    Raises:
        InputError: a record lacks a field.
    """
    certificates: dict[str, Mapping[str, Any]] = {}
    parities: dict[str, Mapping[str, Any]] = {}
    for record in records:
        payload = record["payload"]
        if record["kind"] == CERTIFICATE_KIND:
            _check(payload, _CERTIFICATE_FIELDS, _OF_CERTIFICATE_LAYER, CERTIFICATE_KIND)
            certificates[payload["model_sha256"]] = payload
        elif record["kind"] == PARITY_KIND:
            _check(payload, _PARITY_FIELDS, _OF_PARITY_LAYER, PARITY_KIND)
            parities[payload["model_sha256"]] = payload
    return Checks(certificates=certificates, parities=parities)


def _check(
    payload: Mapping[str, Any], fields: tuple[str, ...], of_layer: tuple[str, ...], kind: str
) -> None:
    missing = [name for name in fields if name not in payload]
    if not missing:
        missing = [n for n in of_layer if any(n not in layer for layer in payload["layers"])]
    if missing:
        raise InputError(
            f"A record of kind {kind!r} lacks {', '.join(missing)}: it was written by another "
            "version; export again, or report with the version that wrote it."
        )


def _verdict(found: Mapping[str, Any], good: str, bad: str) -> Html:
    return tag(
        "span", good if found["ok"] else bad, class_=f"tag {'good' if found['ok'] else 'bad'}"
    )


def _counted(certificate: Mapping[str, Any]) -> Html:
    floats = sum(count["float"] for count in certificate["counts"].values())
    everything = sum(sum(count.values()) for count in certificate["counts"].values())
    pairs = len(certificate["float_requantizations"])
    return tag(
        "small",
        f"{everything - floats} of {everything} layers in integers, {pairs} DQ→Q "
        f"{'pair' if pairs == 1 else 'pairs'}",
    )


def _counts(certificate: Mapping[str, Any]) -> str:
    kinds = [
        f"{kind}: {count['integer']} integer, {count['float']} float"
        for kind, count in certificate["counts"].items()
    ]
    kinds.append(f"requantization in integers: {len(certificate['requantizations'])}")
    pairs = certificate["float_requantizations"]
    named = f" ({', '.join(map(str, pairs))})" if pairs else ""
    kinds.append(f"by DequantizeLinear → QuantizeLinear: {len(pairs)}{named}")
    return "; ".join(kinds) + "."


def _compared(parity: Mapping[str, Any]) -> Html:
    agreement = parity["agreement"]
    if agreement is None:
        return tag("small", f"{parity['images']:,} images")
    return tag("small", f"top-1 as fake-quantized {100 * agreement:.2f}%")


def _parity(parity: Mapping[str, Any]) -> str:
    layers = parity["layers"]
    text = (
        f"{sum(layer['different'] for layer in layers):,} of "
        f"{sum(layer['values'] for layer in layers):,} codes in {len(layers)} layers and "
        f"{parity['logits_different']:,} of {parity['images'] * parity['classes']:,} logits differ "
        f"from the integer reference on {parity['images']:,} images; "
        f"{parity['predicted_classes']} classes predicted"
    )
    if parity["agreement"] is not None:
        text += f"; the fake-quantized network's class on {100 * parity['agreement']:.2f}%"
    return text + "."


def _failures(texts: Iterable[str]) -> Html:
    items = [tag("li", text) for text in texts]
    return tag("ul", items) if items else Html("")


def _layers(title: str, fields: tuple[str, ...], layers: list[Mapping[str, Any]]) -> Html:
    head = tag("tr", [tag("th", field.replace("_", " "), scope="col") for field in fields])
    rows = [tag("tr", [tag("td", _cell(layer[field])) for field in fields]) for layer in layers]
    table = scrolled_table(head, rows, about=title, kind="small")
    return tag("details", tag("summary", f"{title}: {len(layers)}"), table)


def _cell(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
