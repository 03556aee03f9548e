"""Just enough of GitHub's and GitLab's runners to execute what a template says, in real bash."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
ACTION = ROOT / "action.yml"
GITLAB = ROOT / "templates" / "gate.yml"

GITHUB_EXPRESSION = re.compile(r"\$\{\{\s*([\w.-]+)\s*\}\}")
GITLAB_INPUT = re.compile(r"\$\[\[\s*inputs\.([\w-]+)\s*\]\]")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a job leaves behind."""

    code: int
    log: str
    outputs: dict[str, str]
    summary: str


def clean_environment(folder: Path) -> dict[str, str]:
    """What pip and Python need, and nothing that leads them back to this repository."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "HOME", "LANG", "SSL_CERT_FILE") or name.startswith(("PIP_", "UV_"))
    }
    return kept | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}


def bash(script: str, folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a script as GitHub's runner does (``shell: bash``)."""
    file = folder / ".step.sh"
    file.write_text(script)
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(file)],
        cwd=folder,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    file.unlink()
    return done.returncode, done.stdout


def run_action(folder: Path, **given: str) -> Finished:
    """Execute the ``run:`` steps of the Action in a folder, in order, until one fails.

    Inputs are named with underscores here. The steps that `use` another Action are not run.
    """
    action = yaml.safe_load(ACTION.read_text())
    inputs = {name: str(about.get("default", "")) for name, about in action["inputs"].items()}
    inputs |= _named(given, inputs)
    temporary = folder / "runner temp"
    temporary.mkdir(exist_ok=True)
    known = {f"inputs.{name}": value for name, value in inputs.items()}
    known |= {"github.action_path": str(ROOT), "runner.temp": str(temporary)}
    code, log, summary = 0, "", ""
    for step in action["runs"]["steps"]:
        if "run" not in step or code:
            continue
        assert step["shell"] == "bash"
        out, page = folder / ".output", folder / ".summary"
        out.write_text("")
        page.write_text("")
        environment = clean_environment(folder) | {
            "GITHUB_OUTPUT": str(out),
            "GITHUB_STEP_SUMMARY": str(page),
        }
        for name, value in step["env"].items():
            environment[name] = GITHUB_EXPRESSION.sub(lambda found: known[found[1]], value)
        code, said = bash(step["run"], folder, environment)
        log += said
        summary += page.read_text()
        for line in out.read_text().splitlines():
            name, _, value = line.partition("=")
            known[f"steps.{step['id']}.outputs.{name}"] = value
        out.unlink()
        page.unlink()
    outputs = {
        name: GITHUB_EXPRESSION.sub(lambda found: known.get(found[1], ""), about["value"])
        for name, about in action["outputs"].items()
    }
    return Finished(code=code, log=log, outputs=outputs, summary=summary)


class InputRefused(ValueError):
    """GitLab does not create the pipeline: an input does not match its ``regex``."""


def gitlab_job(**given: str) -> tuple[str, dict[str, Any]]:
    """Return name and definition of the template's job, its inputs put in as GitLab does."""
    spec, template = yaml.safe_load_all(GITLAB.read_text())
    inputs = {name: _text(about.get("default")) for name, about in spec["spec"]["inputs"].items()}
    inputs |= _named(given, inputs)
    for name, about in spec["spec"]["inputs"].items():
        form = about.get("regex", "").replace(r"\z", r"\Z")  # as Python spells the end of the text
        if not re.search(form, inputs[name]):
            raise InputRefused(f"{name}: {inputs[name]!r} does not match {about['regex']}")

    def filled(node: Any) -> Any:
        if isinstance(node, str):
            return GITLAB_INPUT.sub(lambda found: inputs[found[1]], node)
        if isinstance(node, list):
            return [filled(one) for one in node]
        if isinstance(node, dict):
            return {filled(name): filled(one) for name, one in node.items()}
        return node

    ((name, job),) = filled(template).items()
    return name, job


def run_gitlab(folder: Path, *, pushed: Mapping[str, str] | None = None, **given: Any) -> Finished:
    """Execute the ``script:`` of the template's job in a folder.

    ``pushed`` are variables of the pipeline, which override those of the job.
    """
    _, job = gitlab_job(**given)
    # The runner hands the lines to one `eval` at the end of a pipe.
    lines = "\n".join(job["script"])
    environment = clean_environment(folder) | job.get("variables", {}) | dict(pushed or {})
    script = f"set -eo pipefail\n: | eval {shlex.quote(lines)}\nexit 0\n"
    code, log = bash(script, folder, environment)
    return Finished(code=code, log=log, outputs={}, summary="")


def _named(given: Mapping[str, str], inputs: Mapping[str, str]) -> dict[str, str]:
    named = {name.replace("_", "-"): value for name, value in given.items()}
    assert set(named) <= set(inputs)
    return named


def _text(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default or "")
