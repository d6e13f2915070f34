"""Programs that are measured or that measure, each in an environment of its own: never in that of the project.

They are installed once into `.environments` beside this file, which may be deleted at any time.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parent.parent
KEPT = Path(__file__).parent / ".environments"
UV = PROJECT / ".venv" / "bin" / "uv"


def environment(package: str, *, oldest_python: str = "3.11") -> Path:
    """The folder of executables of an environment with this package, `name==version`; made if it is not there.

    Raises RuntimeError when no Python is new enough or the package cannot be installed.
    """
    folder = KEPT / package.replace("==", "-")
    done = folder / "done"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        install(folder, package, python_of(oldest_python))
        done.touch()
    return folder / "bin"


def install(folder: Path, package: str, python: str) -> None:
    """Make the environment and install the package into it."""
    print(f"installing {package} ...", flush=True)
    into = ["--python", folder / "bin" / "python"]
    make = [
        [UV, "venv", "--quiet", "--no-python-downloads", "--python", python, folder],
        [UV, "pip", "install", "--quiet", "--system-certs", *into, package],
    ]
    for command in make:
        made = subprocess.run([str(each) for each in command], check=False, capture_output=True, text=True)
        if made.returncode:
            raise RuntimeError(f"{package} could not be installed: {made.stderr.strip()[-1000:]}")


def python_of(oldest: str) -> str:
    """The path of a Python that is new enough: on the PATH, or among those that pyenv keeps."""
    for path in candidates():
        asked = subprocess.run(
            [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        if asked.returncode == 0 and version(asked.stdout) >= version(oldest):
            return path
    raise RuntimeError(f"Python {oldest} or newer is needed and was not found.")


def candidates() -> Iterator[str]:
    """Where a Python may be; the oldest first, which packages support longest."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in (11, 12, 13):
        found = shutil.which(f"python3.{minor}")
        yield from [found] if found else []
        yield from map(str, sorted(pyenv.glob(f"3.{minor}.*/bin/python")))


def version(text: str) -> tuple[int, ...]:
    """3.12 as numbers that can be compared."""
    return tuple(map(int, text.strip().split(".")))
