"""One platform on a data folder: whoever dies is waited for, whoever lives is not pushed aside."""

import fcntl
import threading
import time
from pathlib import Path

import pytest
from django.core.management.base import CommandError

from config.management.commands import up


def holder(folder: Path) -> threading.Thread:
    """Somebody who holds the folder and lets go of it in a moment, like a process that is dying."""
    lock = (folder / "up.lock").open("a+")
    fcntl.flock(lock, fcntl.LOCK_EX)

    def die() -> None:
        time.sleep(0.3)
        lock.close()

    dying = threading.Thread(target=die)
    dying.start()
    return dying


def test_a_folder_whose_holder_is_dying_is_waited_for(tmp_path, db):
    dying = holder(tmp_path)

    with up.only_one(tmp_path):
        assert not dying.is_alive()


def test_a_folder_that_is_held_is_refused_by_the_name_of_its_holder(tmp_path, db, monkeypatch):
    monkeypatch.setattr(up, "HOLD_SECONDS", 0.2)
    with up.only_one(tmp_path), pytest.raises(CommandError, match=r"runs on .* already, as process [0-9]+"):
        up.only_one(tmp_path).__enter__()
