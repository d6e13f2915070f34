"""REST: bundles, what is in them, and how programs are connected to them."""

from typing import Any
from uuid import UUID

from ninja import Query, Router, Status

from apps.core.doors import ActorRequest
from apps.core.schemas import PageOut, PageQuery
from apps.gateway import services
from apps.gateway.schemas import (
    BundleFilters,
    BundleIn,
    BundleItemIn,
    BundleItemOut,
    BundleItemPatch,
    BundleItemsIn,
    BundleOut,
    BundlePatch,
    BundleShortOut,
    ConnectionQuery,
    EndpointConnectionOut,
)

router = Router(tags=["Bundles"])


@router.post("/bundles", response={201: BundleOut}, operation_id="create_bundle")
def create_bundle(request: ActorRequest, bundle: BundleIn) -> Any:
    """Make a bundle: a named selection of what agents may use, with an endpoint of its own."""
    given = {name: getattr(bundle, name) for name in BundleIn.model_fields}
    return Status(201, services.create_bundle(request.actor, **given))


@router.get("/bundles", response=PageOut[BundleShortOut], operation_id="list_bundles")
def list_bundles(request: ActorRequest, filters: Query[BundleFilters], page: Query[PageQuery]) -> Any:
    """The bundles of the organisation."""
    return services.list_bundles(request.actor, filters=filters, page=page)


@router.get("/bundles/{bundle_id}", response=BundleOut, operation_id="get_bundle")
def get_bundle(request: ActorRequest, bundle_id: UUID) -> Any:
    """One bundle with what is in it."""
    return services.get_bundle(request.actor, bundle_id=bundle_id)


@router.patch("/bundles/{bundle_id}", response=BundleOut, operation_id="update_bundle")
def update_bundle(request: ActorRequest, bundle_id: UUID, changes: BundlePatch) -> Any:
    """Change a bundle; `items` replaces all of them."""
    given = {name: getattr(changes, name) for name in changes.model_fields_set}
    return services.update_bundle(request.actor, bundle_id=bundle_id, **given)


@router.delete("/bundles/{bundle_id}", response={204: None}, operation_id="delete_bundle")
def delete_bundle(request: ActorRequest, bundle_id: UUID) -> Any:
    """Close the bundle's endpoint for good."""
    services.delete_bundle(request.actor, bundle_id=bundle_id)
    return Status(204, None)


@router.get("/bundles/{bundle_id}/connection", response=EndpointConnectionOut, operation_id="connect_bundle")
def connect_bundle(request: ActorRequest, bundle_id: UUID, to: Query[ConnectionQuery]) -> Any:
    """The configuration that connects a client's program to the bundle; put a key where the placeholder stands."""
    return services.connect_bundle(request.actor, bundle_id=bundle_id, client=to.client)


@router.put("/bundles/{bundle_id}/items", response=BundleOut, operation_id="set_bundle_items")
def set_items(request: ActorRequest, bundle_id: UUID, given: BundleItemsIn) -> Any:
    """Put these items, in this order, in the place of all that the bundle has."""
    return services.set_items(request.actor, bundle_id=bundle_id, items=given.items)


@router.post("/bundles/{bundle_id}/items", response={201: BundleItemOut}, operation_id="add_bundle_item")
def add_item(request: ActorRequest, bundle_id: UUID, item: BundleItemIn) -> Any:
    """Take one more thing into the bundle, at its end."""
    return Status(201, services.add_item(request.actor, bundle_id=bundle_id, item=item))


@router.patch("/bundles/{bundle_id}/items/{bundle_item_id}", response=BundleItemOut, operation_id="update_bundle_item")
def update_item(request: ActorRequest, bundle_id: UUID, bundle_item_id: UUID, changes: BundleItemPatch) -> Any:
    """Show an item by another name, or with another description."""
    given = changes.model_dump(exclude_unset=True)
    return services.update_item(request.actor, bundle_id=bundle_id, bundle_item_id=bundle_item_id, **given)


@router.delete("/bundles/{bundle_id}/items/{bundle_item_id}", response={204: None}, operation_id="remove_bundle_item")
def remove_item(request: ActorRequest, bundle_id: UUID, bundle_item_id: UUID) -> Any:
    """Take one thing out of the bundle."""
    services.remove_item(request.actor, bundle_id=bundle_id, bundle_item_id=bundle_item_id)
    return Status(204, None)
