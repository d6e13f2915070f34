"""The keys that seal secrets: a new one, the check at the start, and the end of the old ones."""

import time
from collections.abc import Mapping
from uuid import UUID

from django.conf import settings
from django.db import transaction

from apps.audit import services as audit
from apps.core.actor import Actor
from apps.core.errors import BackendError, Conflict
from apps.core.keyfiles import KeyFile, KeyFileMapping, new_sealing_key, parse_sealing_keys
from apps.core.loader import backend
from apps.core.sealing import newest_key, unseal
from apps.core.sealing import seal as seal_newest
from apps.secrets.backends.base import SecretStore
from apps.secrets.models import SEALED, KeyProbe, Secret

SETTLED_SECONDS = 60
"""How long what was begun under an older key may need until it is in the database."""
_PROBE = "The keys that opened this will open the secrets."
_PROBE_ID = UUID(int=0)
_PROBE_FIELD = "key probe"
_SAMPLES = 3


def rotate_sealing_key(actor: Actor) -> int:
    """Let a new key seal from now on and return its number; older keys open what they sealed. Raises Conflict."""
    actor.require_platform_admin()
    actor.require_confirmed()
    file = _file()

    def edit(text: str) -> str:
        return f"{text.strip()},{new_sealing_key(max(parse_sealing_keys(text)) + 1)}"

    with transaction.atomic():
        audit.hold_chain(actor.organization_id)  # a file that was changed is not changed back where this fails
        number = max(file.change(edit))
        audit.record(actor, "sealing_key.rotated", f"sealing_key:{number}")
    _note_probes()
    return number


def drop_older_keys(actor: Actor) -> list[int]:
    """Throw away every kept key but the newest and say which; raises Conflict while a secret needs one of them."""
    actor.require_platform_admin()
    actor.require_confirmed()
    file, newest = _file(), newest_key()

    def edit(text: str) -> str:
        if max(parse_sealing_keys(text)) != newest:
            raise Conflict("Another key has been made meanwhile. Seal the secrets anew under it first.")
        return next(part for part in text.split(",") if int(part.partition(":")[0]) == newest)

    with transaction.atomic():
        audit.hold_chain(actor.organization_id)  # whoever makes a key holds it as well
        waiting = Secret.objects.sealed_elsewise([newest]).count()
        if waiting:
            raise Conflict(f"{waiting} secrets are sealed under older keys. Run manage.py secrets_rekey first.")
        if time.time() - file.changed_at() < SETTLED_SECONDS:
            raise Conflict(f"The newest key has just been made. Try again {SETTLED_SECONDS} seconds after its making.")
        dropped = sorted(set(settings.SEALING_KEYS) - {newest})
        if dropped:
            audit.record(actor, "sealing_key.dropped", ",".join(f"sealing_key:{number}" for number in dropped))
            file.change(edit)
        KeyProbe.objects.exclude(number=newest).delete()
    return dropped


def check_sealing_keys() -> None:
    """Raise Conflict where the keys are not those of this database; otherwise note the keys that are new to it."""
    faults = find_sealing_faults()
    if faults:
        raise Conflict("\n".join(faults))
    _note_probes()


def find_sealing_faults() -> list[str]:
    """What is wrong with the sealing keys, each with its cure. Only reads."""
    keys: Mapping[int, bytes] = settings.SEALING_KEYS
    faults = [
        f"GATEHOUSE_SEALING_KEYS: key number {number} is not the one that sealed this database's secrets."
        f" Restore it {_whence()}."
        for number in sorted(keys)
        if not _is_ours(number)
    ]
    orphans = Secret.objects.sealed_elsewise(keys).count()
    if orphans:
        faults.append(
            f"GATEHOUSE_SEALING_KEYS: {orphans} secrets of this database were sealed by a key that is missing."
            f" Restore it {_whence()}."
        )
    return faults


def _whence() -> str:
    keys = settings.SEALING_KEYS
    kept = keys.file.path if isinstance(keys, KeyFileMapping) else None
    return f"in {kept} from a backup" if kept else "from where the keys are kept, and restart"


def _is_ours(number: int) -> bool:
    """Whether this key opens its probe, or without one any of a few secrets that bear its number, if there are any."""
    probe = KeyProbe.objects.filter(number=number).first()
    if probe:
        return _opens_probe(probe)
    samples = list(Secret.objects.sealed_under([number]).order_by("pk")[:_SAMPLES])
    return not samples or any(map(_opens, samples))


def _opens_probe(probe: KeyProbe) -> bool:
    try:
        return unseal(probe.value, organization_id=None, record_id=_PROBE_ID, field=_PROBE_FIELD) == _PROBE
    except BackendError:
        return False


def _opens(secret: Secret) -> bool:
    store: SecretStore = backend("secret_store", SEALED)
    try:
        store.get(secret.value, organization_id=secret.organization_id, secret_id=secret.id)
    except BackendError:
        return False
    return True


def _note_probes() -> None:
    """A probe of the newest key; none of keys that are gone and that nothing needs."""
    keys = list(settings.SEALING_KEYS)
    KeyProbe.objects.exclude(number__in=keys).delete()
    if not KeyProbe.objects.filter(number=newest_key()).exists():
        sealed = seal_newest(_PROBE, organization_id=None, record_id=_PROBE_ID, field=_PROBE_FIELD)
        KeyProbe.objects.bulk_create([KeyProbe(number=newest_key(), value=sealed)], ignore_conflicts=True)


def _file() -> KeyFile[dict[int, bytes]]:
    keys = settings.SEALING_KEYS
    if not isinstance(keys, KeyFileMapping):
        raise Conflict(
            "GATEHOUSE_SEALING_KEYS is given by the environment, so it is changed there: add a key with the next"
            " number, restart every process, run manage.py secrets_rekey, then take the old key out."
        )
    return keys.file
