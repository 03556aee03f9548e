"""Certificates and parity of the model files, as the report shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deploy.core.bit_widths import FLOAT, bits_words
from deploy.core.html import Html, join, tag
from deploy.core.table import Table
from eval.measure.evaluation_record import ModelFacts
from eval.measure.proofs import OF_CERTIFICATE_LAYER, OF_PARITY_LAYER, Proofs
from eval.report.document import verdict
from eval.report.names import names_of_models


def proof_lines(proofs: Proofs, model: ModelFacts) -> Html:
    """The two verdicts on a model, one line each, for the main table."""
    if model["bit_width"] == FLOAT:
        return tag("small", "float: nothing to certify")
    digest = model["file_sha256"] or ""
    certificate, parity = proofs.certificates.get(digest), proofs.parities.get(digest)
    return join(
        tag("small", "no certificate among the records")
        if certificate is None
        else join(_verdict(certificate, "integer", "NOT INTEGER"), _counted(certificate)),
        tag("small", "parity not checked")
        if parity is None
        else join(_verdict(parity, "parity", "NO PARITY"), _compared(parity)),
    )


def proof_section(proofs: Proofs, models: Iterable[ModelFacts]) -> Html:
    """Each file's certificate and parity with their layers; nothing where there are none.

    Args:
        models: those that were evaluated: they tell which network a file is.
    """
    models = list(models)
    called = names_of_models(models)
    names = {
        model["file_sha256"]: f"{called.of(model)}, {bits_words(model['bit_width'])}"
        for model in models
    }
    digests = dict.fromkeys([*proofs.certificates, *proofs.parities])
    return join([_of_file(proofs, digest, names.get(digest)) for digest in digests])


def _of_file(proofs: Proofs, digest: str, name: str | None) -> Html:
    certificate, parity = proofs.certificates.get(digest), proofs.parities.get(digest)
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
        parts.append(_layers("Operators that ran", OF_CERTIFICATE_LAYER, certificate["layers"]))
    if parity is not None:
        parts.append(tag("p", _verdict(parity, "parity", "NO PARITY"), " ", _parity(parity)))
        parts.append(_failures(map(str, parity["failures"])))
        parts.append(_layers("Codes compared", OF_PARITY_LAYER, parity["layers"]))
    return join(parts)


def _verdict(found: Mapping[str, Any], good: str, bad: str) -> Html:
    return verdict(good, "good") if found["ok"] else verdict(bad, "bad")


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
    return tag("small", f"same top-1 as fake-quantized {100 * agreement:.2f}%")


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
        text += (
            f"; the same class as the fake-quantized network on {100 * parity['agreement']:.2f}%"
        )
    return text + "."


def _failures(texts: Iterable[str]) -> Html:
    items = [tag("li", text) for text in texts]
    return tag("ul", items) if items else Html("")


def _layers(title: str, fields: tuple[str, ...], layers: list[Mapping[str, Any]]) -> Html:
    table = Table(
        columns=[field.replace("_", " ") for field in fields],
        rows=[[_cell(layer[field]) for field in fields] for layer in layers],
    ).html(about=title, kind="small")
    return tag("details", tag("summary", f"{title}: {len(layers)}"), table)


def _cell(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
