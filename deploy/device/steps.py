"""The steps of a validation on an open engine: each runs it, and writes to report and console.

A step that fails raises, and the report names it (:func:`deploy.device.report.step`).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.double_masking import Certification
from ..core.engine_protocol import Certified, Engine
from ..core.errors import InputError, NothingToEvaluate
from ..core.files import sha256_of_bytes
from ..core.host import host_facts, peak_memory_bytes
from ..core.latency import measure_latency
from ..core.model_contents import code_tensors
from ..core.onnx_operators import OnnxFile
from ..core.patch_set import write_patch_set
from ..core.share import share_in_words
from ..core.tflite_file import TfLiteFile
from .bundle_reading import Bundle
from .certifying import CertifySettings, certification_figures, certify_on
from .console import Console
from .figures import changed_in_words, clean_figures, patch_figures
from .gate import Check
from .golden import (
    check_codes,
    check_independence,
    check_logits,
    check_suite_independence,
    logits_bytes,
    require_exact,
)
from .machine_proof import check_proved_logits, proof_line
from .manifest import ModelFacts
from .measuring import Measurement, measure
from .onnxruntime_engine import (
    INPUT_NAME,
    OUTPUT_NAME,
    codes_from_onnxruntime,
    onnxruntime_version,
)
from .profile_check import UNTOLD, RanKinds, check_against_certificate, integer_check, profiled_run
from .report import step
from .search import SearchResult, SearchSettings, search_on, transfer_failed
from .suite import Suite, read_golden
from .thresholds import Threshold

ONNXRUNTIME = "onnxruntime"
PROFILED_IMAGES = 8


@dataclass(frozen=True, kw_only=True)
class UnderTest:
    """The subject of a validation, with its report and console.

    Attributes:
        bundle: whose hashes were checked.
        model: the manifest's facts of the model that runs here.
        file: that model, unpacked.
        contents: of that file.
        engine: open on it.
        runs_in: the engine's name, as in the command.
        threads: of the engine.
        suite: images, labels and patches.
        report: gets the results.
        console: gets the messages.
    """

    bundle: Bundle
    model: ModelFacts
    file: Path
    contents: OnnxFile | TfLiteFile
    engine: Engine
    runs_in: str
    threads: int
    suite: Suite
    report: dict[str, Any]
    console: Console

    def drawn(self) -> np.random.Generator:
        """A generator that the bundle's maker cannot choose: it follows from the bundle's hash."""
        return np.random.default_rng(list(bytes.fromhex(self.bundle.manifest_sha256)))


def describe_engine(engine: Engine, runs_in: str, report: dict[str, Any], console: Console) -> None:
    """Report which engine runs, and on which machine."""
    host = host_facts()
    named = runs_in.startswith(ONNXRUNTIME)
    version = onnxruntime_version() if named else getattr(engine, "version", None)
    note = getattr(engine, "note", None)
    report["host"] = host.as_record() | {
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    report["engine"] = {"name": engine.name, "version": version, "threads": engine.threads}
    report["engine"] |= {} if note is None else {"note": note}
    console.say(
        f"host       {host.machine}, {host.cpu_model or 'processor not stated'}, {host.cores} cores"
    )
    console.say(f"engine     {engine.name} {version or ''}, {engine.threads} thread(s)")
    if note is not None:
        console.say(f"engine     {note}")


def check_golden(under: UnderTest) -> None:
    """Compare the engine with the lab's codes and logits of the golden images.

    Raises:
        InputError: one differs by more than the manifest allows.
    """
    bundle, model, engine = under.bundle, under.model, under.engine
    with step(under.report, "golden codes"):
        inputs, logits, codes = read_golden(bundle, model)
        compared = 0
        exact = under.runs_in == ONNXRUNTIME and not model.adopted
        if exact and isinstance(under.contents, OnnxFile):
            require_exact(model, codes, code_tensors(under.contents, INPUT_NAME, OUTPUT_NAME))
            found = codes_from_onnxruntime(under.file, inputs, list(codes), threads=under.threads)
            check_codes(found, codes)
            compared = len(codes)
        result = check_logits(engine, inputs, logits, model, tensors=compared)
        check_independence(engine, inputs, logits, model, under.drawn())
        golden_file = bundle.manifest.files[bundle.manifest.golden["file"]]
        under.report["golden"] = result.as_record() | {"file_sha256": golden_file.sha256}
    of_lab = bundle.manifest.golden.get("engine")
    held = f"{compared} tensors of codes equal" if of_lab is None else f"held to the lab's {of_lab}"
    allowed = "" if of_lab is None else f" (allowed {model.max_logit_difference:g})"
    under.console.say(
        f"golden     {result.n} images: {held}, largest difference of logits "
        f"{result.largest_difference:g}{allowed}, {result.flips} flips"
    )
    equal = result.logits_sha256 == sha256_of_bytes(logits_bytes(logits))
    under.console.say(f"proof      {proof_line(model, host_facts(), equal_here=equal)}")


def check_independence_of_the_suite(under: UnderTest) -> None:
    """Require that no image of the suite affects another's logits."""
    with step(under.report, "independence of the batch"):
        count = under.bundle.manifest.golden["n"]
        check_suite_independence(
            under.engine, under.suite.images, under.model, count, under.drawn()
        )


def check_certificate(under: UnderTest, *, gated: bool) -> Check | None:
    """Compare the nodes that run with the lab's certificate; returns the gate that requires
    integers, if ``gated``."""
    model, engine = under.model, under.engine
    profiled = under.runs_in == ONNXRUNTIME
    if not profiled and not isinstance(engine, Certified):
        told = "this engine does not report what its layers compute in"
        under.console.say(f"profile    not taken: {told}")
        return integer_check(None, told) if gated else None
    with step(under.report, "certificate"):
        if profiled and model.certificate is None:
            raise InputError("the manifest has no certificate for onnxruntime")
        if isinstance(engine, Certified):
            ran = RanKinds(
                integer=dict(engine.kinds_that_ran()),
                in_float={},
                float_nodes=(),
                rest_untold=not engine.tells_every_layer(),
            )
        else:
            images = under.suite.images[:PROFILED_IMAGES]
            ran = profiled_run(under.file, images, threads=under.threads)
            if not model.adopted:
                ran.require_integers()
        if model.adopted:
            under.report["in_float"] = dict(ran.in_float)
        elif model.certificate is not None:
            check_against_certificate(ran.integer, model.certificate)
        under.report["certificate"] = dict(ran.integer)
    shown = ", ".join(f"{count} {kind}" for kind, count in ran.integer.items() if count)
    if ran.all_integer:
        under.console.say(f"profile    all in integers: {shown}")
    elif ran.rest_untold:
        under.console.say(f"profile    in integers: {shown}; {UNTOLD}")
    else:
        under.console.say(f"profile    not an integer model: {ran.words}")
    return integer_check(ran, ran.words) if gated else None


def measure_here(
    under: UnderTest, thresholds: Mapping[str, Threshold], *, quick: bool, batch_size: int
) -> Measurement:
    """Measure clean accuracy and the success of each patch; ``quick`` stops when the gates are
    decided."""
    bundle, suite, report = under.bundle, under.suite, under.report
    total = len(suite.images)
    with step(report, "clean accuracy and attack success"):
        measured = measure(
            under.engine,
            suite,
            thresholds,
            floor_seed=bundle.manifest.random_floor_seed,
            quick=quick,
            batch_size=batch_size,
            progress=lambda done, count: under.console.progress("images", done, count),
        )
        report.update(images_used=measured.images_used, images_total=total)
        report["clean"] = clean_figures(measured, suite)
        report["patches"] = [
            patch_figures(measured, suite, number)
            | {"file_sha256": bundle.manifest.files[patch.facts.file].sha256}
            for number, patch in enumerate(suite.patches)
        ]
        check_proved_logits(under.model, measured.clean_logits_sha256)
    clean, mark = report["clean"], bundle.manifest.attack_checks.mark
    distinct = int(suite.distinct.sum())
    under.console.say(
        f"images     {measured.images_used} of {total} used, {distinct} of {total} distinct"
    )
    under.console.say(
        f"clean      {share_in_words(clean['here'])} (lab "
        f"{share_in_words(clean['lab'])}), {clean['flips']} flips"
    )
    for patch in report["patches"]:
        under.console.say(
            f"patch      {patch['name']}: ASR{mark} {share_in_words(patch['asr'])} "
            f"(lab {share_in_words(patch['lab_asr'])}, common set "
            f"{share_in_words(patch['asr_common'])}, noise "
            f"{share_in_words(patch['random_floor'])}), {patch['flips_n']} flips, "
            f"{changed_in_words(patch['changed_px'])}"
            f"{'' if patch['gated'] else ', not gated'}"
        )
    return measured


def search_here(
    under: UnderTest, measured: Measurement, settings: SearchSettings, *, out: Path | None
) -> SearchResult | None:
    """Search for patches against this engine; those found are written to ``out``. None where no
    image counts; the gates decide what that means."""
    with step(under.report, "search"):
        try:
            found = search_on(
                under.engine,
                under.suite,
                measured,
                settings,
                progress=lambda done, count: under.console.progress("search", done, count),
            )
        except NothingToEvaluate as error:
            under.console.say(f"search     {error.line}")
            return None
        under.report["search"] = found.as_record()
        if out is not None:
            write_patch_set(out, found.patch_set)
    record = under.report["search"]
    best, mark = record["best_brought"], under.bundle.manifest.attack_checks.mark
    brought = (
        "" if best is None else f", the best patch of the bundle {share_in_words(best['asr'])}"
    )
    under.console.say(
        f"search     {record['size_px']} px, {record['queries']} queries per image, by "
        f"{record['answers']}: ASR{mark} {share_in_words(record['asr'])} (noise "
        f"{share_in_words(record['random_floor'])}{brought})"
    )
    if transfer_failed(found):
        under.console.say(
            "search     succeeds clearly more often than any patch of the bundle: those fail "
            "because they do not transfer, not because the model is robust"
        )
    return found


def certify_here(under: UnderTest, settings: CertifySettings) -> Certification:
    """Run masked inference, certify the images on which no patch of the size can win against it,
    and try the bundle's patches."""
    with step(under.report, "certification"):
        certified = certify_on(
            under.engine,
            under.suite,
            settings,
            progress=lambda done, count: under.console.progress("certify", done, count),
        )
        under.report["certification"] = certification_figures(certified)
    found = certified.certification
    under.console.say(
        f"certified  {share_in_words(found.certified)} images against every patch of "
        f"{settings.patch_px} px, by masked inference ({len(found.masks)} masks, "
        f"{found.mean_passes:.0f} passes per image; without a patch "
        f"{share_in_words(found.masked)} right, {share_in_words(found.clean)} unmasked)"
    )
    if found.asr_at_most is not None:
        under.console.say(
            "certified  so no attack with such a patch succeeds on more than "
            f"{share_in_words(found.asr_at_most)} of the images that masked inference classifies "
            "correctly"
        )
    if certified.worst is not None:
        name, asr = certified.worst
        under.console.say(
            f"certified  of the bundle's patches {name} succeeds most often on the images that "
            f"it was made for: {share_in_words(asr)}"
        )
    return found


def time_here(under: UnderTest, *, repeats: int) -> None:
    """Measure the latency of one image, and the memory of the whole validation."""
    with step(under.report, "latency"):
        times = measure_latency(
            under.engine,
            under.suite.images,
            batch_size=under.engine.batch_size or 1,
            repeats=repeats,
            warmup=max(1, repeats // 10),
        )
        under.report["latency"] = times.as_record()
        under.report["peak_memory_bytes"] = peak_memory_bytes()
    under.console.say(
        f"latency    p50 {times.p50_ms:.3g} ms, p95 {times.p95_ms:.3g}, p99 {times.p99_ms:.3g}; "
        f"{times.images_per_s:.0f} images/s at batch {times.batch_size}; "
        f"peak memory {(under.report['peak_memory_bytes'] or 0) / 1e6:.0f} MB"
    )
