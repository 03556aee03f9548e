"""The words of every table and page: numbers, and the names of networks, defenses and attacks."""

from __future__ import annotations

from typing import Any

from eval.measure.analyses.means import Mean
from eval.measure.evaluation_record import LatencyFacts

MISSING = "–"
"""What stands where a value was not measured; never 0."""

PLAIN = ("qat", "plain")
"""Names of plain quantization-aware training, the baseline of every comparison."""

_DEFENSES = {
    "qat": "plain QAT",
    "plain": "plain QAT",
    "qadtr": "QADT-R",
    "pbat": "PBAT",
    "dwq": "DWQ",
    "triqdef": "TriQDef",
}


def percent(value: float) -> str:
    """A fraction 0…1 as per cent with one decimal: "46.2%"."""
    return f"{100 * value:.1f}%"


def interval(share: Any) -> str:
    """The 95% interval of a share, or a mean of shares, in per cent: "43.1–49.3"."""
    return f"{100 * share['low']:.1f}–{100 * share['high']:.1f}"


def rate(share: Any, mark: str = "") -> str:
    """A share or a mean of shares with a mark and its interval: "31.2%† (28.0–34.5)"."""
    return MISSING if share is None else f"{percent(share['value'])}{mark} ({interval(share)})"


def mean(value: Mean | None) -> str:
    """A mean with its interval: "0.31 (0.28–0.34)"."""
    if value is None:
        return MISSING
    middle, low, high = (round(value[key], 2) + 0.0 for key in ("value", "low", "high"))
    # A proper minus sign, as elsewhere; no minus before a 0.
    return f"{middle:.2f} ({low:.2f}–{high:.2f})".replace("-", "−")


def points(value: float) -> str:
    """A difference in percentage points with its sign: "−1.2", "+0.0"."""
    # A proper minus sign lines up with the plus.
    return f"{value:+.1f}".replace("-", "−")


def size(size_bytes: int | None) -> str:
    """A file size in kB (1,000 bytes): "29.1 kB"."""
    return MISSING if size_bytes is None else f"{size_bytes / 1000:,.1f} kB"


def size_ratio(ratio: float | None) -> str:
    """How many times smaller than the float file: "1/10.4", or nothing."""
    return "" if ratio is None else f"1/{ratio:.1f}"


def latency(facts: LatencyFacts | None) -> str:
    """Median milliseconds a batch: "0.52 ms"."""
    return MISSING if facts is None else f"{facts['p50_ms']:.2f} ms"


def images_words(images: Any, count: int | None = None) -> str:
    """Data set and split, and how many images: "cifar10, test split, 500 images"."""
    words = f"{images['name']}, {images['split']} split"
    return words if count is None else f"{words}, {count} images"


def model_name(network: str, defense: str | None) -> str:
    """Network and defense, such as "resnet8 plain QAT"."""
    return network if defense is None else f"{network} {defense_name(defense)}"


def defense_name(defense: str) -> str:
    """The name of a defense by its key in a config, such as "plain QAT"."""
    return _DEFENSES.get(defense, defense)


def name_of(model: Any) -> str:
    """The same from a record's facts of a model."""
    return model_name(model["network"], model["defense"])


def model_order(model: Any) -> tuple[object, ...]:
    """What sorts networks: by name, plain ones first; then by run folder, seeds as numbers."""
    defense = model["defense"]
    run = model.get("run") or {"name": "", "seed": 0}
    folder = (run["name"].rstrip("0123456789"), run["seed"], run["name"])
    return (
        model["network"],
        defense not in PLAIN,
        defense,
        (*folder, model["checkpoint_sha256"] or ""),
    )
