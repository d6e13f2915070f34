"""Makes bundles and what is in them."""

from typing import Any

import factory
from factory.django import DjangoModelFactory

from apps.gateway.models import Bundle, BundleItem, ItemKind


class BundleFactory(DjangoModelFactory[Bundle]):
    """A bundle with nothing in it."""

    class Meta:
        model = Bundle

    organization = factory.SubFactory("tests.factories.auth.OrganizationFactory")
    name = factory.Sequence(lambda number: f"Bundle {number}")
    slug = factory.Sequence(lambda number: f"bundle-{number}")


class BundleItemFactory(DjangoModelFactory[BundleItem]):
    """One capability in a bundle; of what else is given, only what its kind has."""

    class Meta:
        model = BundleItem

    organization = factory.SubFactory("tests.factories.auth.OrganizationFactory")
    bundle = factory.SubFactory(BundleFactory, organization=factory.SelfAttribute("..organization"))
    kind = ItemKind.CAPABILITY
    capability = factory.SubFactory(
        "tests.factories.registry.CapabilityFactory",
        server=factory.SubFactory(
            "tests.factories.registry.ServerFactory", organization=factory.SelfAttribute("...organization")
        ),
    )

    @classmethod
    def _create(cls, model_class: type[BundleItem], *args: Any, **fields: Any) -> BundleItem:
        others = {ItemKind.CAPABILITY: "server", ItemKind.SERVER: "capability"}
        return super()._create(model_class, *args, **{**fields, others[fields["kind"]]: None})
