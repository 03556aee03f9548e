"""Validate a bundle on this machine: the steps, in their order, and the verdict.

Everything fails closed: the report says "error" until the last step has said something better.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.attack_checks import LOWER_BOUND, AttackVerdict
from ..core.bit_widths import FLOAT
from ..core.engine_protocol import Certified, Engine
from ..core.errors import InputError, QadtrError, UsageError
from ..core.files import sha256_of_bytes
from ..core.host import host_facts, peak_memory_bytes
from ..core.latency import measure_latency
from ..core.model_contents import code_tensors, require_contents
from ..core.model_engine import require_threads, run_all
from ..core.onnx_operators import OnnxFile
from ..core.patch_set import write_patch_set
from ..core.scratch import Scratch
from ..core.share import share_in_words
from ..core.tflite_file import TfLiteFile
from .bundle_reading import Bundle
from .certifying import CertifySettings, certification_figures, certify_on
from .console import Console
from .evidence import CLASSES
from .figures import changed_in_words, clean_figures, patch_figures, weaker_than_noise
from .gate import Check, exit_code_of, share_at_least, share_at_most
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
from .measuring import Measurement, checks_of, measure
from .onnxruntime_engine import (
    INPUT_NAME,
    OUTPUT_NAME,
    OnnxRuntimeEngine,
    codes_from_onnxruntime,
    onnxruntime_version,
)
from .profile_check import RanKinds, check_against_certificate, integer_check, ran_kinds
from .report import conclude, empty_report, step
from .search import SearchResult, SearchSettings, search_on, transfer_failed
from .suite import Suite, check_preprocessing, read_golden, read_suite
from .thresholds import Threshold, default_min_clean, effective_thresholds

ONNXRUNTIME = "onnxruntime"
PROFILED_IMAGES = 8
MIN_CERTIFIED = "min_certified"
EngineOpener = Callable[..., Engine]
"""Called with the model's path and ``threads=``."""


@dataclass(frozen=True, kw_only=True)
class ValidationSettings:
    """How to validate.

    Attributes:
        threads: of the engine.
        quick: stop as soon as the thresholds are decided.
        thresholds: those of the command line, by name; None or missing leaves the manifest's.
        public_key: PEM of the key that must have signed the bundle; None asks for none.
        manifest_sha256: that the bundle's manifest must have; None takes any.
        engine: which of the bundle's models to run, and in what.
        engine_file: built from that model before, for an engine that has such files; None: none.
        batch_size: images a call.
        latency_repeats: timed calls of one image.
        search: how to search for patches against this engine; None does not.
        search_out: NAME.npz for the patches found; None writes none.
        certify: how to certify images against every patch of a size; None does not.
        require_integer: a gate: every layer ran in integers here.
    """

    threads: int = 1
    quick: bool = False
    thresholds: Mapping[str, float | None] = field(default_factory=dict)
    public_key: Path | None = None
    manifest_sha256: str | None = None
    engine: str = ONNXRUNTIME
    engine_file: Path | None = None
    batch_size: int = 64
    latency_repeats: int = 200
    search: SearchSettings | None = None
    search_out: Path | None = None
    certify: CertifySettings | None = None
    require_integer: bool = False


def validate(
    path: Path,
    settings: ValidationSettings,
    console: Console,
    *,
    engines: Mapping[str, EngineOpener] | None = None,
) -> dict[str, Any]:
    """Return the report of a validation; its ``exit_code`` is the command's.

    Args:
        path: the bundle.
        settings: how.
        console: told what is going on.
        engines: by name; ONNX Runtime's CPU alone where None.

    Errors do not leave this function: they are in the report.
    """
    report = empty_report(Path(path).name or str(path))
    known = {ONNXRUNTIME: OnnxRuntimeEngine} if engines is None else engines
    try:
        require_threads(settings.threads)
        if settings.engine not in known:
            raise UsageError(
                f"there is no engine {settings.engine!r} here; available: {', '.join(known)}"
            )
        _validate(path, settings, console, known[settings.engine], report)
    except QadtrError as error:
        conclude(report, error.exit_code, error.line)
    except Exception as error:  # noqa: BLE001 - whatever it is, the gate stays shut
        conclude(report, 2, f"unexpected {type(error).__name__}: {error}")
    return report


def _validate(
    path: Path,
    settings: ValidationSettings,
    console: Console,
    open_engine: EngineOpener,
    report: dict[str, Any],
) -> None:
    report["quick"] = settings.quick
    with step(report, "signature and hashes"):
        bundle = Bundle(
            path, public_key=settings.public_key, pinned_sha256=settings.manifest_sha256
        )
    with bundle:
        _describe(bundle, report, console)
        thresholds = effective_thresholds(bundle.manifest.thresholds, settings.thresholds)
        with step(report, "model files"):
            contents = {
                engine: require_contents(
                    bundle.file(one.file).read_bytes(), engine, one.file, target=one.target
                )
                for engine, one in bundle.manifest.models.items()
            }
        with step(report, "host and engine"):
            model = _model(bundle, settings)
            file = bundle.file(model.file)
            built = {} if settings.engine_file is None else {"engine_file": settings.engine_file}
            engine = open_engine(file, threads=settings.threads, **built)
        with engine:
            _describe_engine(engine, settings, report, console)
            expected = bundle.manifest.files[model.file].sha256
            if getattr(engine, "model_sha256", None) not in (None, expected):
                raise InputError(f"{model.file} was changed after its hash had been checked")
            report["engine"] |= {"model": settings.engine, "model_sha256": expected}
            with step(report, "preprocessing"):
                check_preprocessing(bundle)
                if engine.input_shape != bundle.manifest.input_shape:
                    raise InputError(
                        f"the model takes images of {engine.input_shape}, the manifest says "
                        f"{bundle.manifest.input_shape}"
                    )
                if engine.classes != len(bundle.manifest.classes):
                    raise InputError(
                        f"the model has {engine.classes} classes, the manifest "
                        f"{len(bundle.manifest.classes)}"
                    )
                suite = read_suite(bundle)
            if thresholds["min_clean"].value is None:
                least = default_min_clean(suite.lab_clean, suite.labels)
                thresholds["min_clean"] = Threshold(value=least, origin="lab")
            report["thresholds"] = {name: one.as_record() for name, one in thresholds.items()}
            for name, one in thresholds.items():
                own = bundle.manifest.thresholds[name]
                over = "" if one.origin == "manifest" else f"; the manifest's is {_shown(own)}"
                console.say(f"threshold  {name} {_shown(one.value)} (from the {one.origin}{over})")
            _check_golden(
                bundle, model, contents[settings.engine], file, engine, settings, report, console
            )
            with step(report, "independence of the batch"):
                count = bundle.manifest.golden["n"]
                check_suite_independence(engine, suite.images, model, count, _drawn(bundle))
            integer = _check_certificate(model, file, engine, suite, settings, report, console)
            _measure(bundle, suite, engine, thresholds, settings, report, console, integer)


def _describe(bundle: Bundle, report: dict[str, Any], console: Console) -> None:
    manifest = bundle.manifest
    report["images"] = {
        **{key: manifest.images[key] for key in ("name", "split", "digest")},
        "file_sha256": manifest.files[manifest.images["file"]].sha256,
    }
    report["bundle"] |= {
        "name": manifest.name,
        "bit_width": manifest.bit_width,
        "manifest_sha256": bundle.manifest_sha256,
        "authentication": bundle.authentication,
    }
    verdict = manifest.attack_checks
    report["attack_checks"] = manifest.raw.get("attack_checks")
    codes = "float" if manifest.bit_width == FLOAT else f"{manifest.bit_width}-bit codes"
    if any(model.adopted for model in manifest.models.values()):
        codes = f"somebody else's file, called {codes}"
    console.say(
        f"bundle     {manifest.name}: {codes}, "
        f"{len(manifest.patches)} patches, {manifest.images['n']} images; "
        f"{bundle.authentication}; manifest {bundle.manifest_sha256[:16]}"
    )
    console.say(f"attacks    the lab's checks of its attacks on this model: {verdict.words}")
    if verdict.tripped:
        console.say(f"attacks    {LOWER_BOUND}")


def _model(bundle: Bundle, settings: ValidationSettings) -> ModelFacts:
    models = bundle.manifest.models
    if settings.engine not in models:
        raise InputError(
            f"the bundle has no model for {settings.engine}; it has some for {', '.join(models)}"
        )
    return models[settings.engine]


def _describe_engine(
    engine: Engine, settings: ValidationSettings, report: dict[str, Any], console: Console
) -> None:
    host = host_facts()
    named = settings.engine.startswith(ONNXRUNTIME)
    version = onnxruntime_version() if named else getattr(engine, "version", None)
    note = getattr(engine, "note", None)
    report["host"] = host.as_record() | {
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    report["engine"] = {"name": engine.name, "version": version, "threads": engine.threads}
    report["engine"] |= {} if note is None else {"note": note}
    console.say(
        f"host       {host.machine}, {host.cpu_model or 'processor not told'}, {host.cores} cores"
    )
    console.say(f"engine     {engine.name} {version or ''}, {engine.threads} thread(s)")
    if note is not None:
        console.say(f"engine     {note}")


def _check_golden(
    bundle: Bundle,
    model: ModelFacts,
    contents: OnnxFile | TfLiteFile,
    file: Path,
    engine: Engine,
    settings: ValidationSettings,
    report: dict[str, Any],
    console: Console,
) -> None:
    with step(report, "golden codes"):
        inputs, logits, codes = read_golden(bundle, model)
        compared = 0
        exact = settings.engine == ONNXRUNTIME and not model.adopted
        if exact and isinstance(contents, OnnxFile):
            require_exact(model, codes, code_tensors(contents, INPUT_NAME, OUTPUT_NAME))
            found = codes_from_onnxruntime(file, inputs, list(codes), threads=settings.threads)
            check_codes(found, codes)
            compared = len(codes)
        result = check_logits(engine, inputs, logits, model, tensors=compared)
        rng = _drawn(bundle)
        check_independence(engine, inputs, logits, model, rng)
        golden_file = bundle.manifest.files[bundle.manifest.golden["file"]]
        report["golden"] = result.as_record() | {"file_sha256": golden_file.sha256}
    of_lab = bundle.manifest.golden.get("engine")
    held = f"{compared} tensors of codes equal" if of_lab is None else f"held to the lab's {of_lab}"
    allowed = "" if of_lab is None else f" (allowed {model.max_logit_difference:g})"
    console.say(
        f"golden     {result.n} images: {held}, largest difference of logits "
        f"{result.largest_difference:g}{allowed}, {result.flips} flips"
    )
    equal = result.logits_sha256 == sha256_of_bytes(logits_bytes(logits))
    console.say(f"proof      {proof_line(model, host_facts(), equal_here=equal)}")


def _drawn(bundle: Bundle) -> np.random.Generator:
    """What the maker of a bundle cannot choose: it follows from the bundle's hash."""
    return np.random.default_rng(list(bytes.fromhex(bundle.manifest_sha256)))


def _check_certificate(
    model: ModelFacts,
    file: Path,
    engine: Engine,
    suite: Suite,
    settings: ValidationSettings,
    report: dict[str, Any],
    console: Console,
) -> Check | None:
    """Take the profile, and return the gate that asks for integers, where one does."""
    profiled = settings.engine == ONNXRUNTIME
    if not profiled and not isinstance(engine, Certified):
        told = "this engine does not tell what its layers compute in"
        console.say(f"profile    not taken: {told}")
        return integer_check(None, told) if settings.require_integer else None
    with step(report, "certificate"):
        if profiled and model.certificate is None:
            raise InputError("the manifest has no certificate for onnxruntime")
        if isinstance(engine, Certified):
            ran = RanKinds(integer=dict(engine.kinds_that_ran()), in_float={}, float_nodes=())
        else:
            images = suite.images[:PROFILED_IMAGES]
            ran = profiled_run(file, images, threads=settings.threads)
            if not model.adopted:
                ran.require_integers()
        if model.adopted:
            report["in_float"] = dict(ran.in_float)
        elif model.certificate is not None:
            check_against_certificate(ran.integer, model.certificate)
        report["certificate"] = dict(ran.integer)
    shown = ", ".join(f"{count} {kind}" for kind, count in ran.integer.items() if count)
    if ran.all_integer:
        console.say(f"profile    all in integers: {shown}")
    else:
        console.say(f"profile    not an integer model: {ran.words}")
    return integer_check(ran, ran.words) if settings.require_integer else None


def profiled_run(file: Path, images: Any, *, threads: int = 1) -> RanKinds:
    """Run one batch with ONNX Runtime's profiler and return what ran, in integers and in float.

    Args:
        file: the model.
        images: uint8 N×3×H×W.
        threads: of the engine.
    """
    with Scratch() as folder:
        profile = folder / "profile.json"
        with OnnxRuntimeEngine(file, threads=threads, profile_to=profile) as engine:
            run_all(engine, images)
        return ran_kinds(profile)


def _measure(
    bundle: Bundle,
    suite: Suite,
    engine: Engine,
    thresholds: Mapping[str, Threshold],
    settings: ValidationSettings,
    report: dict[str, Any],
    console: Console,
    integer: Check | None,
) -> None:
    total = len(suite.images)
    verdict = bundle.manifest.attack_checks
    with step(report, "clean accuracy and attack success"):
        measured = measure(
            engine,
            suite,
            thresholds,
            floor_seed=bundle.manifest.random_floor_seed,
            quick=settings.quick,
            batch_size=settings.batch_size,
            progress=lambda done, count: console.progress("images", done, count),
        )
        report.update(images_used=measured.images_used, images_total=total)
        report["clean"] = clean_figures(measured, suite)
        report["patches"] = [
            patch_figures(measured, suite, number)
            | {"file_sha256": bundle.manifest.files[patch.facts.file].sha256}
            for number, patch in enumerate(suite.patches)
        ]
        check_proved_logits(_model(bundle, settings), measured.clean_logits_sha256)
    clean = report["clean"]
    distinct = int(suite.distinct.sum())
    console.say(
        f"images     {measured.images_used} of {total} used, {distinct} of {total} distinct"
    )
    console.say(
        f"clean      {share_in_words(clean['here'])} (lab "
        f"{share_in_words(clean['lab'])}), {clean['flips']} flips"
    )
    for patch in report["patches"]:
        console.say(
            f"patch      {patch['name']}: ASR{verdict.mark} {share_in_words(patch['asr'])} "
            f"(lab {share_in_words(patch['lab_asr'])}, common set "
            f"{share_in_words(patch['asr_common'])}, noise "
            f"{share_in_words(patch['random_floor'])}), {patch['flips_n']} flips, "
            f"{changed_in_words(patch['changed_px'])}"
            f"{'' if patch['gated'] else ', not gated'}"
        )
    search = None
    if settings.search is not None:
        search = _search(engine, suite, measured, settings, report, console, verdict)
    if settings.certify is not None:
        _certify(engine, suite, settings.certify, report, console)
    with step(report, "latency"):
        times = measure_latency(
            engine,
            suite.images,
            batch_size=engine.batch_size or 1,
            repeats=settings.latency_repeats,
            warmup=max(1, settings.latency_repeats // 10),
        )
        report["latency"] = times.as_record()
        report["peak_memory_bytes"] = peak_memory_bytes()
    console.say(
        f"latency    p50 {times.p50_ms:.3g} ms, p95 {times.p95_ms:.3g}, p99 {times.p99_ms:.3g}; "
        f"{times.images_per_s:.0f} images/s at batch {times.batch_size}; "
        f"peak memory {(report['peak_memory_bytes'] or 0) / 1e6:.0f} MB"
    )
    with step(report, "verdict"):
        checks = checks_of(measured, suite, thresholds)
        limit = None if settings.search is None else settings.search.max_asr
        if checks and search is not None and limit is not None:
            won = search.success.share
            checks.append(share_at_most("max_asr of the search", limit, won["k"], won["n"]))
        least = None if settings.certify is None else settings.certify.min_certified
        if checks and least is not None:
            held = report["certification"]["certified"]
            checks.append(share_at_least(MIN_CERTIFIED, least, held["k"], held["n"]))
        if checks and integer is not None:
            checks.append(integer)
        weaker = weaker_than_noise(report["patches"])
        checks = [
            replace(
                check,
                reason=verdict.noted(check.name, check.reason) + weaker.get(check.name, ""),
            )
            for check in checks
        ]
        code = exit_code_of(checks)
    report["checks"] = [check.as_record() for check in checks]
    for check in checks:
        outcome = check.outcome.value
        said = f"gate       {check.name}: {outcome}: {check.reason}"
        console.say(said, outcome=outcome)
    deciding = [check for check in checks if check.outcome.value != "pass"]
    classes = next(check.reason for check in checks if check.name == CLASSES)
    passed = f"all {len(checks)} gates passed; {classes}"
    if report.get("in_float") is not None:
        nodes = sum(report["in_float"].values())
        passed += f"; somebody else's file, of whose layers {nodes} ran in float"
    conclude(
        report,
        code,
        "; ".join(f"{check.name}: {check.reason}" for check in deciding)
        or verdict.noted("all", passed + "".join(weaker.values())),
    )


def _search(
    engine: Engine,
    suite: Suite,
    measured: Measurement,
    settings: ValidationSettings,
    report: dict[str, Any],
    console: Console,
    verdict: AttackVerdict,
) -> SearchResult:
    assert settings.search is not None
    with step(report, "search"):
        found = search_on(
            engine,
            suite,
            measured,
            settings.search,
            progress=lambda done, count: console.progress("search", done, count),
        )
        report["search"] = found.as_record()
        if settings.search_out is not None:
            write_patch_set(settings.search_out, found.patch_set)
    record = report["search"]
    best = record["best_brought"]
    brought = "" if best is None else f", the best brought {share_in_words(best['asr'])}"
    console.say(
        f"search     {record['size_px']} px, {record['queries']} queries an image, by "
        f"{record['answers']}: ASR{verdict.mark} {share_in_words(record['asr'])} (noise "
        f"{share_in_words(record['random_floor'])}{brought})"
    )
    if transfer_failed(found):
        console.say(
            "search     wins clearly more often than any patch of the bundle: those fail for want "
            "of transfer, not by the model's robustness"
        )
    return found


def _certify(
    engine: Engine,
    suite: Suite,
    settings: CertifySettings,
    report: dict[str, Any],
    console: Console,
) -> None:
    with step(report, "certification"):
        found = certify_on(
            engine,
            suite,
            settings,
            progress=lambda done, count: console.progress("certify", done, count),
        )
        report["certification"] = certification_figures(found)
    console.say(
        f"certified  {share_in_words(found.certified)} images against every patch of "
        f"{settings.patch_px} px, by masked inference ({len(found.masks)} masks, "
        f"{found.mean_passes:.0f} passes an image; without a patch "
        f"{share_in_words(found.masked)} right, {share_in_words(found.clean)} unmasked)"
    )


def _shown(threshold: float | None) -> str:
    return "none" if threshold is None else f"{threshold:g}"
