"""The verbs of secrets: keep, open, replace, forget; and of the keys that seal them: rotate, rekey, check, drop.

They ask for no permission of their own where a secret is concerned: it always belongs to something, and whoever changes
that thing has been asked for its permission. No door shows a secret; `open_secret` is for the code that is about to use
the value. The keys are the platform's.
"""

from apps.secrets.models import PLATFORM
from apps.secrets.services.keys import (
    check_sealing_keys,
    drop_older_keys,
    find_sealing_faults,
    rotate_sealing_key,
)
from apps.secrets.services.rekeying import Batch, count_by_key, rekey_secrets
from apps.secrets.services.values import LONGEST_BYTES, forget, hold, keep, open_secret, replace

__all__ = [
    "LONGEST_BYTES",
    "PLATFORM",
    "Batch",
    "check_sealing_keys",
    "count_by_key",
    "drop_older_keys",
    "find_sealing_faults",
    "forget",
    "hold",
    "keep",
    "open_secret",
    "rekey_secrets",
    "replace",
    "rotate_sealing_key",
]
