"""What we ship besides our own code: packages locked with their hashes, as installed, under licences that we may use.

python -m tests.static.supply                      checks
python -m tests.static.supply --sbom sbom.json     writes the list of packages in CycloneDX's form as well
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from license_expression import ExpressionError, LicenseExpression, Licensing, get_spdx_licensing

PROJECT = Path(__file__).parent.parent.parent
RUNTIME, EVERYTHING = PROJECT / "requirements.lock", PROJECT / "requirements-dev.lock"
LOCKS = (RUNTIME, EVERYTHING, PROJECT / "requirements-uv.lock")
PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[a-z0-9,._-]+\])?==([^\s;\\]+)")

# They let us hand the package on beside our own code. The LGPL and the MPL do as long as it can be exchanged: it can.
ALLOWED = frozenset({
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "LGPL-3.0-only", "LGPL-3.0-or-later", "MIT", "MIT-0",
    "MPL-2.0", "PSF-2.0", "Python-2.0", "TCL", "Unlicense", "ZPL-2.1",
})  # fmt: skip
CLASSIFIERS = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
READ_BY_HAND = {
    "axe-playwright-python": "MIT",
    "python-crontab": "LGPL-3.0-or-later",
    "uritemplate": "Apache-2.0 OR BSD-3-Clause",
}
"""The licences of packages whose metadata names none, as their licence files have them."""


def normal(name: str) -> str:
    """A package's name in the one form that all its spellings share."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> Iterator[tuple[str, str, int]]:
    """Name, version and number of hashes of every package in a lock file."""
    for block in re.split(r"\n(?=\S)", text):
        if found := PINNED.match(block):
            yield normal(found[1]), found[2], len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block))


def lock_problems(name: str, text: str) -> Iterator[str]:
    """What a lock file lacks: pins, hashes, silence about where packages come from."""
    found = list(pins(text))
    if not found:
        yield f"{name} locks nothing."
    yield from (f"{name}: {package} has no hash." for package, _, hashes in found if not hashes)
    yield from (f"{name}: {line} is no exact version." for line in loose(text))
    if re.search(r"^\s*(--(extra-)?index-url|--find-links)|https?://", text, re.MULTILINE):
        yield f"{name} names an index: whoever installs has their own."


def loose(text: str) -> Iterator[str]:
    """Requirements that are no exact version."""
    for line in text.splitlines():
        if line[:1].isalnum() and not PINNED.match(line):
            yield line.split()[0]


def bill() -> dict[str, Any]:
    """The packages of this environment, in CycloneDX's form."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bill.json"
        subprocess.run(
            [Path(sys.executable).parent / "cyclonedx-py", "environment", "--no-validate", "--output-reproducible",
             "--pyproject", PROJECT / "pyproject.toml", "--of", "JSON", "--output-file", path, sys.executable],
            check=True, capture_output=True, cwd=PROJECT,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def component_problems(components: list[dict[str, Any]], locked: dict[str, str]) -> Iterator[str]:
    """Packages in a version that is not locked, or under a licence that is not allowed."""
    for each in components:
        name = normal(each["name"])
        if name in locked and locked[name] != each["version"]:
            yield f"{name} is installed in version {each['version']}, and locked in {locked[name]}."
        if name in locked and not is_allowed(licence := licence_of(each)):
            yield f"{name}: its licence {licence or 'that nobody names'} is not among those that are allowed."


def licence_of(component: dict[str, Any]) -> str:
    """The licence as an SPDX expression; one that is written as such goes before classifiers."""
    said = []
    for each in component.get("licenses", []):
        inner = each.get("license", {})
        said.append(each.get("expression") or inner.get("id") or inner.get("name") or "")
    spdx = [text for text in said if not text.startswith("License ::")]
    if not said:
        return READ_BY_HAND.get(normal(component["name"]), "")
    return " AND ".join(f"({text})" for text in spdx or [CLASSIFIERS.get(text, text) for text in said])


def is_allowed(expression: str) -> bool:
    """Whether one of the choices that an expression leaves is allowed in all its parts."""
    if not expression:
        return False
    try:
        return _holds(_licensing().parse(expression, validate=True))
    except ExpressionError:
        return False


@cache
def _licensing() -> Licensing:
    return get_spdx_licensing()


def _holds(node: LicenseExpression) -> bool:
    parts = getattr(node, "args", ())
    if not parts:
        return str(node) in ALLOWED
    held = [_holds(each) for each in parts]
    return any(held) if node.operator.strip() == "OR" else all(held)


def shipped(found: dict[str, Any], locked: dict[str, str]) -> dict[str, Any]:
    """The list of what the image has: the packages of the runtime, and what they need of each other."""
    kept = [each for each in found["components"] if normal(each["name"]) in locked]
    refs = {each["bom-ref"] for each in kept} | {found["metadata"]["component"]["bom-ref"]}
    needs = [
        {**each, "dependsOn": [ref for ref in each.get("dependsOn", []) if ref in refs]}
        for each in found.get("dependencies", [])
        if each["ref"] in refs
    ]
    return {**found, "components": kept, "dependencies": needs}


def main() -> int:
    """Check, and write what was asked for; the status is 0 only if there is no problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sbom", type=Path)
    asked = parser.parse_args()
    locked = {name: version for name, version, _ in pins(EVERYTHING.read_text())}
    runtime = {name: version for name, version, _ in pins(RUNTIME.read_text())}
    found = bill()
    problems = [problem for path in LOCKS for problem in lock_problems(path.name, path.read_text())]
    problems += [f"{name} is locked twice, in two versions." for name in runtime if runtime[name] != locked.get(name)]
    problems += component_problems(found["components"], locked)
    if asked.sbom:
        asked.sbom.write_text(json.dumps(shipped(found, runtime), indent=2) + "\n")
        print(f"{asked.sbom}: {len(shipped(found, runtime)['components'])} packages.")
    print(*problems, sep="\n", end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
