"""Tools for agents about what they may use."""

from typing import Annotated

from pydantic import Field

from apps.core.actor import Actor
from apps.core.toolbox import Toolbox
from apps.gateway import services
from apps.gateway.schemas import FetchOut, SearchOut

toolbox = Toolbox("gateway")


@toolbox.tool(permission="tool.read", title="Search")
def search(
    actor: Actor,
    *,
    query: Annotated[str, Field(max_length=500, description="Words; every one must occur. Empty: everything.")],
    limit: Annotated[int, Field(ge=1, le=50, description="How many hits a page has.")] = 20,
    cursor: Annotated[str | None, Field(max_length=20, description="From the page before.")] = None,
) -> SearchOut:
    """Find tools, prompts and resources that you may use here, by words in their names, titles and descriptions.

    Use it when the lists are long. It changes nothing. Give a result's id to `fetch` to read its definition in full.
    """
    return services.search_offers(actor, query=query, limit=limit, cursor=cursor)


@toolbox.tool(permission="tool.read", title="Fetch")
def fetch(
    actor: Actor,
    *,
    id: Annotated[str, Field(max_length=2048, description="The id of a search result.")],
) -> FetchOut:
    """Read the definition of one thing that `search` found: for a tool its description, input and output schema.

    What a resource holds is read with resources/read, and a prompt is got with prompts/get.

    It changes nothing.
    """
    return services.fetch_offer(actor, id=id)
