"""The oldest and the newest versions of what we build on: resolved, installed and tried in environments of their own.

    python -m tests.versions                 both, with the tests that touch most of the packages
    python -m tests.versions lowest --quick  resolves, installs and starts only

`lowest` takes the lower bounds of pyproject.toml for what we name ourselves, `latest` the newest versions that its
upper bounds allow; the lock files say what is in between. A lower bound that does not work any more has to be raised.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parent.parent
UV = Path(sys.executable).parent / "uv"
RESOLUTIONS = {"lowest": "lowest-direct", "latest": "highest"}
TESTS = (
    "tests/core", "tests/usage", "tests/audit", "tests/secrets/test_secrets.py", "tests/auth/test_tokens.py",
    "tests/auth/test_signing.py", "tests/jobs/test_jobs.py", "tests/registry/test_http_client.py",
    "tests/registry/test_stdio_client.py", "tests/gateway/test_door.py", "tests/gateway/test_road.py",
    "tests/house/test_openapi.py", "tests/house/test_reference.py", "tests/staff/test_pages.py",
)  # fmt: skip
"""Each package that we name is used by one of these."""
SETTINGS = ("GATEHOUSE_", "DATABASE_URL", "REDIS_URL", "BROKER_URL", "VECTOR_URL", "TEST_")


@dataclass(frozen=True)
class Trial:
    """One resolution in a folder that is thrown away."""

    name: str
    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        return self.folder / "venv" / "bin" / "python"

    def steps(self, *, quick: bool) -> Iterator[tuple[str, Sequence[str | Path]]]:
        """What is done, in order."""
        locked = self.folder / "requirements.txt"
        yield "resolve", [
            UV, "pip", "compile", "--quiet", "--system-certs", "--resolution", RESOLUTIONS[self.name],
            "--extra", "dev", "--python", sys.executable, "--output-file", locked, "pyproject.toml",
        ]  # fmt: skip
        yield "environment", [UV, "venv", "--quiet", "--python", sys.executable, self.folder / "venv"]
        yield "install", [UV, "pip", "sync", "--quiet", "--system-certs", "--python", self.python, locked]
        yield "check", [self.python, "manage.py", "check"]
        yield "migrations", [self.python, "manage.py", "migrate", "--verbosity", "0"]
        if not quick:
            yield (
                "tests",
                [
                    self.python,
                    "-m",
                    "pytest",
                    "-q",
                    "-p",
                    "no:xdist",
                    "-m",
                    "not measured and not postgres_only",
                    *TESTS,
                ],
            )

    def run(self, *, quick: bool) -> str | None:
        """Do all of it; the output of the step that failed, if one did."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
        env = {**kept, "GATEHOUSE_DATA": str(self.folder / "data")}
        for step, command in self.steps(quick=quick):
            started = time.monotonic()
            done = subprocess.run(
                list(map(str, command)), cwd=PROJECT, env=env, check=False, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            print(
                f"{self.name}: {step} {'FAILED' if done.returncode else 'ok'} ({time.monotonic() - started:.0f} s)",
                flush=True,
            )
            if done.returncode:
                return done.stdout
            if step == "tests":
                print(done.stdout.strip().splitlines()[-1], flush=True)
        return None


def main() -> int:
    """Try what was asked for; the status is 0 only if everything works."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="|".join(RESOLUTIONS), help="nothing means both")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(RESOLUTIONS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    problems: list[str] = []
    for name in asked.names or RESOLUTIONS:
        with tempfile.TemporaryDirectory(prefix=f"gatehouse-{name}-") as folder:
            problems += filter(None, [Trial(name, Path(folder)).run(quick=asked.quick)])
    print(*problems, sep="\n\n", end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
