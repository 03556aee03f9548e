"""`qadtr.bundle` and `qadtr.validate`: one file for the device, and the verdict on it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.bundle_contents import Thresholds
from deploy.core.errors import UsageError
from deploy.core.patch_set import PatchSet
from deploy.device.bundle_reading import Bundle
from deploy.device.console import Console
from deploy.device.validation import ValidationSettings
from deploy.device.validation import validate as validate_bundle
from deploy.validate import engine_openers
from eval.stages.bundle import BundleSettings, bundle_run
from qadtr.functions.inputs import Patches, Run, all_patches, opened
from qadtr.origin import provenance
from training.data import Images
from training.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """A bundle that was written.

    Attributes:
        path: the file, or folder.
        manifest_sha256: identifies exactly this bundle.
        thresholds: the gate's, by name, shares of 0…1.
        size_bytes: size of each file in it, by path.
    """

    path: Path
    manifest_sha256: str
    thresholds: Mapping[str, float | None]
    size_bytes: Mapping[str, int]


def bundle(
    run: Run,
    out: Path | str,
    *,
    bits: int | None = None,
    patches: Patches | None = None,
    images: Images | None = None,
    max_asr: float = 0.3,
    max_drift: float = 0.02,
    min_clean: float | None = None,
    count: int | None = None,
    engines: Sequence[str] = (),
    gated: Sequence[str] | None = None,
    signing_key: Path | None = None,
) -> Bundled:
    """Pack an exported model, patches, images and thresholds for the device.

    Args:
        run: the run with the exported model.
        out: the file to write.
        bits: bit-width of the model; None: the only exported one.
        patches: patch sets, files or folders; None: those in the run's ``patches`` folder.
        images: the images that the patches are for; None takes the run's own.
        max_asr: the success rate of each gated patch must be under it, 0…1.
        max_drift: largest difference to the fake-quantized network's rate, 0…1.
        min_clean: the clean accuracy must be over it; None: 5 points under the lower 95% bound of
            the network's clean accuracy here.
        count: number of the patches' images to include, drawn evenly; None takes all.
        engines: further engines whose exported files are included.
        gated: names of the patch sets that the gate is decided on; None: all.
        signing_key: PEM file of an Ed25519 private key.

    Raises:
        InputError: a model that is not exported, patches for other images, an unwritable place.
        UsageError: 32 bits, or a threshold outside 0…1.
        NothingToEvaluate: there is no patch.

    Example:
        >>> bundled = qadtr.bundle("runs/own", "own.qadtr", bits=4, patches=patches,
        ...     images=[training_set, test_set], max_asr=1.0, max_drift=0.5)
        >>> bundled.path.name, len(bundled.manifest_sha256)
        ('own.qadtr', 64)
    """
    folder = opened(run, images)
    given = all_patches(folder.patches if patches is None else patches)
    settings = BundleSettings(
        bits=bits,
        thresholds=Thresholds(max_asr=max_asr, max_drift=max_drift, min_clean=min_clean),
        engines=tuple(engines),
        gated=None if gated is None else tuple(gated),
        images=count,
        signing_key=signing_key,
    )
    return bundled(folder, given, images, Path(out), settings)


def bundled(
    run: RunFolder,
    patches: Sequence[Path | PatchSet],
    images: Images | None,
    out: Path,
    settings: BundleSettings,
) -> Bundled:
    """:func:`bundle` with all settings; `qadtr bundle` calls this too."""
    for name, value in asdict(settings.thresholds).items():
        if value is not None and not 0.0 <= value <= 1.0:
            raise UsageError(f"--{name.replace('_', '-')} expects a share of 0 to 1, got {value}")
    digest = bundle_run(run, patches, images, out, settings, provenance(seed=run.seed))
    with Bundle(out) as written:
        return Bundled(
            path=out,
            manifest_sha256=digest,
            thresholds=dict(written.manifest.thresholds),
            size_bytes={n: facts.size_bytes for n, facts in written.manifest.files.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of a validation.

    Attributes:
        outcome: "pass", "fail", "undecided" or "error".
        exit_code: that of the command: 0 pass, 1 a gate failed, 2 broken, 3 undecided, 4 usage.
        reason: the reason in a few words.
        report: the whole report, as in ``report.json``.
    """

    outcome: str
    exit_code: int
    reason: str
    report: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """Whether the model may ship."""
        return self.exit_code == 0


def validate(
    bundle: Path | str,
    *,
    engine: str = "onnxruntime",
    threads: int = 1,
    quick: bool = False,
    max_asr: float | None = None,
    max_drift: float | None = None,
    min_clean: float | None = None,
    public_key: Path | None = None,
    manifest_sha256: str | None = None,
) -> Verdict:
    """Check a bundle on this machine, as ``python validate.pyz BUNDLE`` does on the device.

    Args:
        bundle: the file, or folder.
        engine: engine to run; it determines which of the bundle's models is run.
        threads: threads of the engine.
        quick: stop as soon as the thresholds are decided.
        max_asr: threshold, 0…1; None takes the manifest's, also for the next two.
        max_drift: 0…1.
        min_clean: 0…1.
        public_key: PEM file of the public key; the bundle must be signed by its private key.
        manifest_sha256: accept only the bundle whose manifest has this SHA-256.

    Returns:
        The verdict. It states everything that is wrong with the bundle; nothing is raised.

    Example:
        >>> verdict = qadtr.validate("own.qadtr")
        >>> verdict.outcome, verdict.exit_code
        ('pass', 0)
    """
    thresholds = {"max_asr": max_asr, "max_drift": max_drift, "min_clean": min_clean}
    settings = ValidationSettings(
        engine=engine,
        threads=threads,
        quick=quick,
        thresholds=thresholds,
        public_key=public_key,
        manifest_sha256=manifest_sha256,
    )
    silent = Console(io.StringIO(), io.StringIO())
    report = validate_bundle(Path(bundle), settings, silent, engines=engine_openers())
    return Verdict(
        outcome=report["outcome"],
        exit_code=report["exit_code"],
        reason=report["reason"],
        report=report,
    )
