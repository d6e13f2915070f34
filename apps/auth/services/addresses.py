"""From which network addresses a key may be used."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from apps.core.errors import InvalidInput, NotPermitted

Network = IPv4Network | IPv6Network
MOST_NETWORKS = 50


def checked_networks(texts: Iterable[str]) -> list[str]:
    """The networks as they are kept, each once; raises InvalidInput. A single address is a network of one."""
    given = list(texts)
    if len(given) > MOST_NETWORKS:
        raise InvalidInput.for_field("allowed_addresses", f"A key takes at most {MOST_NETWORKS} networks.")
    return list(dict.fromkeys(str(_network(text)) for text in given))


def _network(text: str) -> Network:
    try:
        if "%" in text:
            raise ValueError("an address with a zone means another thing on every machine")
        found = ip_network(text)
    except ValueError as error:
        raise InvalidInput.for_field(
            "allowed_addresses", f"{text[:45]} is no network. Write 203.0.113.7, 10.0.0.0/8 or 2001:db8::/32."
        ) from error
    if isinstance(found, IPv6Network) and found.network_address.ipv4_mapped:
        raise InvalidInput.for_field("allowed_addresses", f"Write {text[:45]} as an IPv4 network.")
    return found


def check_address(address: str, networks: Iterable[str]) -> None:
    """Raise NotPermitted unless the address is in one of the networks, or there is no network at all."""
    allowed = [ip_network(each) for each in networks]
    if not allowed:
        return
    try:
        caller = ip_address(address)
    except ValueError:
        caller = None
    if isinstance(caller, IPv6Address) and caller.ipv4_mapped:
        caller = caller.ipv4_mapped
    if caller is None or not any(caller in network for network in allowed):
        raise NotPermitted(
            f"This key may not be used from {caller or 'an unknown address'}."
            " Ask whoever keeps the key for one that may."
        )


def check_within(inner: Iterable[str], outer: Iterable[str]) -> None:
    """Raise NotPermitted unless a key of the inner networks is as narrow as one of the outer networks."""
    held = [ip_network(each) for each in outer]
    wanted = [ip_network(each) for each in inner]
    if held and not (wanted and all(any(_is_part(each, network) for network in held) for each in wanted)):
        raise NotPermitted("A key that is bound to some addresses makes no key that may be used from others.")


def _is_part(inner: Network, outer: Network) -> bool:
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network) and inner.subnet_of(outer)
