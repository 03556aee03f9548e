"""The sentences of the first page of the results; every figure in them is of a record."""

from __future__ import annotations

from benchmarks.results_compared import (
    ATTACKED_PX,
    NETWORK,
    PATCHES_PX,
    PLAIN_QAT,
    QADTR,
    RIVAL,
    SMALL,
    SQUARES,
    Results,
    Trained,
    figures_of,
    title,
    was_masked,
)
from deploy.core.attack_checks import MARK, NOT_CHECKED
from deploy.core.bit_widths import bits_words
from deploy.core.share import Share
from eval.report.network_figures import NetworkFigures, shared_patches
from eval.report.words import percent, rate, size


def sentences(results: Results) -> list[str]:
    """Ten, each from figures of records."""
    plain, ours = results.networks[PLAIN_QAT], results.networks[QADTR]
    return [
        _clean(plain, ours),
        transferred_sentence(results),
        _noise(ours, results),
        adaptive_sentence(results),
        _small(results),
        _checks(results),
        certified_sentence(results),
        _rival(results),
        _sizes(ours),
        _speed(results),
    ]


def _clean(plain: Trained, ours: Trained) -> str:
    lost = [
        100 * (figures.clean["value"] - other.clean["value"])
        for bits, figures in plain.figures.items()
        if (other := ours.figures.get(bits)) and figures.clean and other.clean
    ]
    return f"QADT-R has at most {max(lost):.1f} points less clean accuracy than plain QAT."


def transferred_sentence(results: Results) -> str:
    """What patches brought from another network achieve."""
    plain, ours = results.networks[PLAIN_QAT], results.networks[QADTR]
    return (
        "Patches made on a network that neither has seen win on "
        f"{plain.span('transferred', results.patches)} of plain QAT's images and on "
        f"{ours.span('transferred', results.patches)} of QADT-R's."
    )


def _noise(ours: Trained, results: Results) -> str:
    most = max(ours.floors(results.patches).values(), key=lambda share: share["value"])
    return f"Random pixels in the place of those patches win on up to {rate(most)} of QADT-R's."


def adaptive_sentence(results: Results) -> str:
    """What an attacker achieves who has the networks of the table."""
    attacked = [one for one in results.networks.values() if one.worst_of("adaptive")]
    if not attacked:
        return f"No {title(NETWORK)} has been attacked by one who has the network yet."
    first, *others = attacked
    return (
        "An attacker who has the network and knows its defense wins on "
        f"{first.span('adaptive')} of the images with {first.label} (trained for "
        f"{results.lineage(first).epochs} epochs)"
        + "".join(
            f"; on {one.span('adaptive')} with {one.label} ({results.lineage(one).epochs})"
            for one in others
        )
        + "."
    )


def _small(results: Results) -> str:
    plain, ours = results.small[PLAIN_QAT], results.small[QADTR]
    without = "" if ours.inner_steps else " without inner steps"
    return (
        f"On {title(SMALL)}, after {results.lineage(ours)}{without}, that attacker wins on "
        f"{_over_seeds(ours, 'the images')}, and on {_over_seeds(plain, 'those of plain QAT')}."
    )


def _over_seeds(one: Trained, images: str) -> str:
    """The adaptive attack on the worst of its seeds, and on the best."""
    worst = one.span("adaptive")
    best = one.better[-1].span("adaptive") if one.better else worst
    told = f" (the worst of {1 + len(one.better)} seeds; the best: {best})" if best != worst else ""
    return f"{worst} of {images}{told}"


def _checks(results: Results) -> str:
    checked = [figures for figures in results.rows if figures.checks.words != NOT_CHECKED]
    tripped = sum(bool(figures.checks.tripped) for figures in checked)
    where = f"on {len(checked)} of the {len(results.rows)} networks at a bit-width"
    where += f", and a check tripped on {tripped}" if checked else ""
    return (
        f"The attacks of the table were checked {where}; {MARK} marks a rate as a lower bound of "
        "what an attacker can do."
    )


def certified_sentence(results: Results) -> str:
    """The best certificates of the table's network with grey squares at any bit-width, and what
    they leave to any attack; where there is none, of all trainings of the table's architecture."""
    best: dict[int, NetworkFigures] = {}
    trained = [one for one in results.every if one.model["network"] == NETWORK]
    squares_alone = results.networks.get(SQUARES)
    if squares_alone is not None and any(one.certified for one in squares_alone.figures.values()):
        trained = list(squares_alone.figures.values())
    for one in trained:
        for px, of in one.certified.items():
            if px not in best or of["certified"]["value"] > _certified(best[px], px)["value"]:
                best[px] = one
    said = " and ".join(
        f"{percent(_certified(best[px], px)['value'])} of the images against {px}×{px} px "
        f"({bits_words(best[px].bit_width)})"
        for px in PATCHES_PX
        if px in best
    )
    squares = any(was_masked(one.model) for one in best.values())
    how = " whose training showed grey squares" if squares else ""
    return (
        f"With masked inference a {title(NETWORK)}{how} is right, whatever one square patch "
        f"shows, on {said}{_left(results)}."
    )


def _left(results: Results) -> str:
    """What masked inference of the table's network leaves to any attack."""
    figures = results.networks[SQUARES].figures if SQUARES in results.networks else {}
    bounds = {bits: one.bound(ATTACKED_PX) for bits, one in figures.items()}
    said = [
        f"{percent(bound['value'])} at {bits_words(bits)}"
        for bits, bound in bounds.items()
        if bound
    ]
    if not said:
        return ""
    size = f"{ATTACKED_PX}×{ATTACKED_PX}"
    return f", so that no attack with one {size} patch wins on more than {', '.join(said)}"


def _certified(figures: NetworkFigures, patch_px: int) -> Share:
    return figures.certified[patch_px]["certified"]


def _rival(results: Results) -> str:
    there = results.networks if RIVAL in results.networks else results.small
    if RIVAL not in there:
        return "No rival has been attacked by one who has the network yet."
    rival, ours = there[RIVAL], there[QADTR]
    shared = shared_patches(figures_of([rival, ours]))
    where = f"on {title(NETWORK if there is results.networks else SMALL)}"
    if there is not results.networks:
        where = f"no rival was trained on {title(NETWORK)} yet; {where}"
    brought, ours_brought = (one.most("transferred", shared) for one in (rival, ours))
    known, ours_known = (one.most("adaptive") for one in (rival, ours))
    return (
        f"{where[0].upper()}{where[1:]} transferred patches win on up to {brought} of the images "
        f"of {rival.label} ({results.lineage(rival).epochs} epochs, {rival.inner_steps} inner "
        f"steps) and on {ours_brought} of those of {ours.label} ({results.lineage(ours).epochs}, "
        f"{ours.inner_steps}), "
        f"an attacker who has the network on up to {known} and {ours_known}."
    )


def _sizes(ours: Trained) -> str:
    sized = {b: f.size_bytes for b, f in ours.figures.items() if f.size_bytes is not None}
    said = ", ".join(f"{size(n)} at {bits_words(bits)}" for bits, n in sized.items())
    return f"The model file has {said}."


def _speed(results: Results) -> str:
    found = results.timed.values()
    ms = sorted(1000 / row["images_per_s"] for row in found)
    over = sorted(row["over"]["float"]["median"] for row in found)
    cpu = results.speed["provenance"]["host"]["cpu_model"]
    return (
        f"An image takes {ms[0]:.2f} to {ms[-1]:.2f} ms on one thread of an {cpu}, {over[0]:.1f} "
        f"to {over[-1]:.1f} times faster than in float: fewer bits make files smaller, not quicker."
    )
