"""Whether whoever has a request under way may still make it, which is asked again and again while it takes long."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from django.db import InterfaceError, OperationalError

from apps.auth import services as auth
from apps.core.actor import Actor
from apps.core.errors import NotAuthenticated, NotFound, NotPermitted
from apps.gateway import services as gateway
from config.mcp_messages import Message

logger = logging.getLogger(__name__)
Admit = Callable[[], Awaitable[Actor]]
Check = Callable[[], Awaitable[None]]
Result = TypeVar("Result")

CHECK_SECONDS = 1.0
"""How often it is asked: with what is kept for a second in memory, a lost right holds well within five."""


def still_allowed(admit: Admit, message: Message, bundle: str) -> Check:
    """What raises NotAuthenticated, NotPermitted or NotFound where a request that was let in would not be let in now.

    A token whose time is over has not been taken away: what was begun with it goes on. So does everything while the
    database does not answer.
    """

    async def check() -> None:
        try:
            actor = await admit()
            if message.method == "tools/call":
                await gateway.check_may_call(actor, name=str(message.params.get("name")), bundle=bundle)
        except auth.TokenExpired:
            pass
        except (NotAuthenticated, NotPermitted, NotFound):
            raise
        except (OperationalError, InterfaceError):
            pass
        except Exception:
            logger.exception("It could not be seen whether a request may go on.")

    return check


async def while_allowed(work: Coroutine[Any, Any, Result], check: Check) -> Result:
    """The result of some work; it is cancelled where the check raises, which is raised then."""
    working = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({working}, timeout=CHECK_SECONDS))[0]:
            await check()
        return working.result()
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
