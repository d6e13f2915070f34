"""A Redis that is there and does not answer as it should: whoever asks us waits for seconds at most, and is served."""

import time
from typing import Any

import pytest

from config.settings import _cache
from tests.fixtures.faults import FaultProxy, Mode, own_redis
from tests.gateway.agent import BOTH, agent_of, offer
from tests.gateway.conftest import Evil, evil
from tests.live import Live
from tests.people import Person

__all__ = ["evil"]
pytestmark = pytest.mark.django_db(transaction=True)
SOON_SECONDS = 15
"""A few times the patience with Redis, on a machine that has much else to do; less than any limit of a caller."""


@pytest.mark.parametrize("mode", ["late", "swallow", "drip", "half", "refuse"])
def test_a_redis_that_misbehaves_costs_no_request_more_than_moments(
    live: Live, alice: Person, evil: Evil, settings: Any, mode: Mode
) -> None:
    offer(alice, "up", evil.url)
    agents = [agent_of(live, alice, revision) for revision in BOTH]
    with own_redis() as redis:
        if not redis:
            pytest.skip("There is no Redis here.")
        with FaultProxy(int(redis.rpartition(":")[2].partition("/")[0])) as proxy:
            settings.CACHES = {"default": _cache(f"redis://127.0.0.1:{proxy.port}/0")}
            use(live, alice, agents)
            accepted = proxy.accepted

            proxy.set(mode)
            use(live, alice, agents)

            proxy.set("pass")
            proxy.cut()
            use(live, alice, agents)
            assert accepted, "nobody has asked Redis anything"


def use(live: Live, person: Person, agents: list[Any]) -> None:
    """Sign in, read and call, each within moments."""
    for step in (
        lambda: live.rest(person).get("/api/v1/mcp/servers").status == 200,
        lambda: live.anonymous().get("/ready").status == 200,
        *(lambda agent=agent: agent.text("up__echo", text="hi") == "hi" for agent in agents),
        *(lambda agent=agent: "up__echo" in agent.names() for agent in agents),
    ):
        began = time.monotonic()
        assert step()
        assert time.monotonic() - began < SOON_SECONDS
