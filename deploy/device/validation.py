"""Validate a bundle on this machine: the steps, in their order, and the verdict.

Everything fails closed: the report states "error" until the last step has set another outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.attack_checks import LOWER_BOUND
from ..core.bit_widths import FLOAT
from ..core.engine_protocol import Engine
from ..core.errors import InputError, QadtrError, UsageError
from ..core.model_contents import require_contents
from ..core.model_engine import require_threads
from .bundle_reading import Bundle
from .certifying import CertifySettings
from .console import Console
from .manifest import ModelFacts
from .onnxruntime_engine import OnnxRuntimeEngine
from .report import conclude, empty_report, step
from .search import SearchSettings
from .steps import (
    ONNXRUNTIME,
    UnderTest,
    certify_here,
    check_certificate,
    check_golden,
    check_independence_of_the_suite,
    describe_engine,
    measure_here,
    search_here,
    time_here,
)
from .suite import Suite, check_preprocessing, read_suite
from .thresholds import Threshold, default_min_clean, effective_thresholds
from .verdict import verdict_on

EngineOpener = Callable[..., Engine]
"""Called with the model's path and ``threads=``."""


@dataclass(frozen=True, kw_only=True)
class ValidationSettings:
    """Settings of a validation.

    Attributes:
        threads: of the engine.
        quick: stop as soon as the thresholds are decided.
        thresholds: those of the command line, by name; None or missing leaves the manifest's.
        public_key: PEM of the key that must have signed the bundle; None requires no signature.
        manifest_sha256: that the bundle's manifest must have; None takes any.
        engine: engine to run; it determines which of the bundle's models is run.
        engine_file: built from that model before, for an engine that has such files; None: none.
        batch_size: images per call.
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
        settings: of the validation.
        console: gets the messages.
        engines: by name; only ONNX Runtime's CPU where None.

    Errors do not leave this function: they are in the report.
    """
    report = empty_report(Path(path).name or str(path))
    known = {ONNXRUNTIME: OnnxRuntimeEngine} if engines is None else engines
    try:
        require_threads(settings.threads)
        if settings.engine not in known:
            raise UsageError(f"unknown engine {settings.engine!r}; available: {', '.join(known)}")
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
            model = _model(bundle, settings.engine)
            file = bundle.file(model.file)
            built = {} if settings.engine_file is None else {"engine_file": settings.engine_file}
            engine = open_engine(file, threads=settings.threads, **built)
        with engine:
            describe_engine(engine, settings.engine, report, console)
            expected = bundle.manifest.files[model.file].sha256
            if getattr(engine, "model_sha256", None) not in (None, expected):
                raise InputError(f"{model.file} was changed after its hash was checked")
            report["engine"] |= {"model": settings.engine, "model_sha256": expected}
            with step(report, "preprocessing"):
                suite = _suite_for(engine, bundle)
                _require_sizes(settings, suite)
            thresholds = _told(thresholds, suite, bundle, report, console)
            under = UnderTest(
                bundle=bundle,
                model=model,
                file=file,
                contents=contents[settings.engine],
                engine=engine,
                runs_in=settings.engine,
                threads=settings.threads,
                suite=suite,
                report=report,
                console=console,
            )
            _run(under, thresholds, settings)


def _run(
    under: UnderTest, thresholds: Mapping[str, Threshold], settings: ValidationSettings
) -> None:
    """Run all steps on the engine, and conclude with the verdict."""
    check_golden(under)
    check_independence_of_the_suite(under)
    integer = check_certificate(under, gated=settings.require_integer)
    measured = measure_here(under, thresholds, quick=settings.quick, batch_size=settings.batch_size)
    searched = certified = None
    if settings.search is not None:
        searched = search_here(under, measured, settings.search, out=settings.search_out)
    if settings.certify is not None:
        certified = certify_here(under, settings.certify)
    time_here(under, repeats=settings.latency_repeats)
    with step(under.report, "verdict"):
        verdict = verdict_on(
            measured,
            under.suite,
            thresholds,
            patches=under.report["patches"],
            attack_checks=under.bundle.manifest.attack_checks,
            in_float=under.report.get("in_float"),
            searched=searched,
            max_asr_of_search=None if settings.search is None else settings.search.max_asr,
            certified=certified,
            min_certified=None if settings.certify is None else settings.certify.min_certified,
            integer=integer,
        )
    under.report["checks"] = [check.as_record() for check in verdict.checks]
    for check in verdict.checks:
        outcome = check.outcome.value
        under.console.say(f"gate       {check.name}: {outcome}: {check.reason}", outcome=outcome)
    conclude(under.report, verdict.exit_code, verdict.reason)


def _require_sizes(settings: ValidationSettings, suite: Suite) -> None:
    """Refuse patches and targets that these images and classes cannot have, before any work.

    Raises:
        UsageError: one does not fit; the message names the option.
    """
    height, width = suite.images.shape[2:]
    sizes = {
        "--certified": None if settings.certify is None else settings.certify.patch_px,
        "--search-size": None if settings.search is None else settings.search.size_px,
    }
    for option, size in sizes.items():
        if size is not None and size > min(height, width):
            raise UsageError(
                f"{option} {size}: a patch of this size does not fit images of {height}×{width} px"
            )
    target = None if settings.search is None else settings.search.target
    if target is not None and target >= len(suite.classes):
        raise UsageError(
            f"--search-target expects a class of 0…{len(suite.classes) - 1}, got {target}"
        )


def _suite_for(engine: Engine, bundle: Bundle) -> Suite:
    """The bundle's images and patches, checked to fit the engine.

    Raises:
        InputError: the preprocessing differs here, or images or classes do not fit the model.
    """
    check_preprocessing(bundle)
    if engine.input_shape != bundle.manifest.input_shape:
        raise InputError(
            f"the model takes images of {engine.input_shape}, the manifest states "
            f"{bundle.manifest.input_shape}"
        )
    if engine.classes != len(bundle.manifest.classes):
        raise InputError(
            f"the model has {engine.classes} classes, the manifest states "
            f"{len(bundle.manifest.classes)}"
        )
    return read_suite(bundle)


def _told(
    thresholds: Mapping[str, Threshold],
    suite: Suite,
    bundle: Bundle,
    report: dict[str, Any],
    console: Console,
) -> dict[str, Threshold]:
    """Return and report the thresholds, with the lab's least clean accuracy as the default."""
    found = dict(thresholds)
    if found["min_clean"].value is None:
        least = default_min_clean(suite.lab_clean, suite.labels)
        found["min_clean"] = Threshold(value=least, origin="lab")
    report["thresholds"] = {name: one.as_record() for name, one in found.items()}
    for name, one in found.items():
        own = bundle.manifest.thresholds[name]
        over = "" if one.origin == "manifest" else f"; the manifest's is {_shown(own)}"
        console.say(f"threshold  {name} {_shown(one.value)} (from the {one.origin}{over})")
    return found


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
        codes = f"a third-party file, listed as {codes}"
    console.say(
        f"bundle     {manifest.name}: {codes}, "
        f"{len(manifest.patches)} patches, {manifest.images['n']} images; "
        f"{bundle.authentication}; manifest {bundle.manifest_sha256[:16]}"
    )
    console.say(f"attacks    the lab's checks of its attacks on this model: {verdict.words}")
    if verdict.tripped:
        console.say(f"attacks    {LOWER_BOUND}")


def _model(bundle: Bundle, engine: str) -> ModelFacts:
    models = bundle.manifest.models
    if engine not in models:
        raise InputError(
            f"the bundle has no model for {engine}; it has models for {', '.join(models)}"
        )
    return models[engine]


def _shown(threshold: float | None) -> str:
    return "none" if threshold is None else f"{threshold:g}"
