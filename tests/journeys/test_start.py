"""A newcomer who reads docs/start.md arrives."""

import json
from pathlib import Path

import pytest

from tests.fixtures.servers import free_port
from tests.journeys import walk
from tests.journeys.platform import Platform

pytestmark = [pytest.mark.slow_process]


@pytest.mark.skipif(not Path(walk.CHROMIUM).exists(), reason="There is no Chromium.")
def test_the_walk_of_a_newcomer_ends_with_a_call(tmp_path):
    start = walk.Start(free_port(), free_port())
    allowed = f"127.0.0.1:{start.upstream}"

    with (
        walk.own_server(start, tmp_path),
        Platform(tmp_path / "data", port=start.platform, GATEHOUSE_EGRESS_ALLOW=allowed) as platform,
    ):
        with walk.at_a_browser() as page:
            walk.make_known_and_approve(page, platform.url, platform.admin_account(), start.upstream)
        answer = walk.call_by_hand(start, platform.demo_key())

    assert json.loads(answer)["result"]["content"][0]["text"] == "Kept note 1."
