"""Secrets that somebody has committed: known forms anywhere, and values that stand beside a telling name in our code.

    python -m tests.static.spills

detect-secrets looks for them. What tests plant is told apart by its words; a line that is good says so with
`# pragma: allowlist secret`.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from detect_secrets.core.scan import scan_file
from detect_secrets.settings import transient_settings

PROJECT = Path(__file__).parent.parent.parent
FORMS = (
    "AWSKeyDetector", "ArtifactoryDetector", "AzureStorageKeyDetector", "BasicAuthDetector", "CloudantDetector",
    "DiscordBotTokenDetector", "GitHubTokenDetector", "GitLabTokenDetector", "IbmCloudIamDetector", "JwtTokenDetector",
    "MailchimpDetector", "NpmDetector", "OpenAIDetector", "PrivateKeyDetector", "PypiTokenDetector",
    "SendGridDetector", "SlackDetector", "SquareOAuthDetector", "StripeDetector", "TelegramBotTokenDetector",
    "TwilioKeyDetector",
)  # fmt: skip
NAMES = "KeywordDetector"
# What stands for a secret in examples and tests, and the first words of a key whose rest is made up.
STANDS_FOR_ONE = re.compile(
    r"hunter2|kanari|canary|password|PASSWORD|pass|pw|guest|\{"
    r"|BEGIN [A-Z ]*PRIVATE KEY$"
    r"|eyJhbGciOiJSUzI1NiJ9\.eyJzdWIiOiIx"
)
WHOLE_KEY = re.compile(r"BEGIN [A-Z ]*PRIVATE KEY-----[\s\\n\"']*(?:[A-Za-z0-9+/=]{32,}[\s\\n\"']*){4}")
LOCKED = ".lock"


def find_spills(path: Path, name: str) -> Iterator[str]:
    """Every secret of a file; `name` is what it is called in the project."""
    in_tests = name.startswith("tests/")
    plugins = [{"name": each} for each in (*FORMS, *(() if in_tests else (NAMES,)))]
    with transient_settings({"plugins_used": plugins}):
        for each in scan_file(str(path)):
            value = each.secret_value or ""
            # Beside a name like password, a text with spaces is a sentence about it.
            is_sentence = each.type == "Secret Keyword" and " " in value
            if not (is_sentence or STANDS_FOR_ONE.match(value)):
                yield f"{name}:{each.line_number}: {each.type}"
    if WHOLE_KEY.search(path.read_text(encoding="utf-8", errors="replace")):
        yield f"{name}: a whole private key"


def committed() -> list[str]:
    """What git knows, but lock files: they are full of hashes."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True)
    names = [name for name in listed.stdout.split("\0") if name and not name.endswith(LOCKED)]
    return [name for name in names if (PROJECT / name).is_file()]


def _of(name: str) -> list[str]:
    return list(find_spills(PROJECT / name, name))


def main() -> int:
    """Print every secret's place, never the secret; the status is 0 only if there is none."""
    with ProcessPoolExecutor(max_workers=2) as pool:
        found = [each for spills in pool.map(_of, committed(), chunksize=20) for each in spills]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
