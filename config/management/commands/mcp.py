"""`manage.py mcp stdio`: the MCP server for desktop tools and editors that start it themselves."""

import asyncio
import os
import signal
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apps.core.errors import ServiceError

STOP_SECONDS = 10.0


class Command(BaseCommand):
    """Serves one client over standard input and output, with the rights of the key in GATEHOUSE_KEY."""

    help = (
        "Serve one MCP client over standard input and output, with the rights of the key in GATEHOUSE_KEY."
        " Standard output carries the protocol and nothing else; it ends when its input is closed."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the transport."""
        parser.add_argument("transport", choices=["stdio"])

    def handle(self, *_: Any, **__: Any) -> None:
        """Serve until the client is gone."""
        from apps.auth import services as auth
        from apps.secrets import services as secrets
        from config.mcp_stdio import HERE

        faults = secrets.find_sealing_faults()
        if faults:
            raise CommandError("\n".join(faults))
        credential = settings.ENV.key
        if not credential:
            raise CommandError("Set GATEHOUSE_KEY to an API key; make one in the control room under Keys.")
        try:
            auth.actor_from_bearer(credential, surface="mcp", audience=settings.MCP_AUDIENCE, address=HERE)
        except ServiceError as error:
            raise CommandError(f"GATEHOUSE_KEY does not open anything: {error.message}") from error
        asyncio.run(_serve(credential))


async def _serve(credential: str) -> None:
    from apps.usage import services as usage
    from config.mcp_stdio import serve_stdio

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: asyncio.ensure_future(_leave()))
    usage.start_writer()
    try:
        await serve_stdio(credential)
    finally:
        await _close()


async def _close() -> None:
    """Leave no child, no connection and no unwritten event behind."""
    from apps.core import egress
    from apps.core.threads import in_thread
    from apps.gateway import services as gateway
    from apps.usage import services as usage

    await gateway.close_upstreams()
    await egress.close_shared_session()
    await in_thread(usage.stop_writer)


async def _leave() -> None:
    """End on a signal: a thread that waits for input cannot be woken, so the process ends around it."""
    try:
        await asyncio.wait_for(_close(), STOP_SECONDS)
    finally:
        os._exit(os.EX_OK)
