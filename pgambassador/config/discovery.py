"""How the servers of a cluster are found, as frozen structs told apart by `by`."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from pgambassador.config.values import Duration, DurationOrZero


class Common(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="by"):
    """What all have in common: `maker` is where the source is made; it is imported when it is configured."""

    maker: ClassVar[str]


class HostsDiscovery(Common, frozen=True, tag="hosts"):
    """The hosts of the URL, each of which is one server."""

    maker: ClassVar[str] = "pgambassador.net.discovery.hosts:Hosts"


class DnsDiscovery(Common, frozen=True, tag="dns"):
    """Every address of each host of the URL, or of the hosts of an SRV record."""

    maker: ClassVar[str] = "pgambassador.net.discovery.dns:Dns"
    srv: Annotated[
        str | None,
        Meta(description="Name of an SRV record that is asked instead of the URL's hosts."),
    ] = None
    interval: Annotated[Duration, Meta(description="How often names are asked.")] = 5.0
    linger: Annotated[
        DurationOrZero, Meta(description="An address that is not named any more is used for so long.")
    ] = 30.0


class AuroraDiscovery(Common, frozen=True, tag="aurora"):
    """The instances of an Aurora cluster, as its writer names them."""

    maker: ClassVar[str] = "pgambassador.net.discovery.aurora:Aurora"
    instances: Annotated[
        str | None,
        Meta(
            description="Hosts of the instances, ? for the name: ?.xyz.eu-west-1.rds.amazonaws.com. Left out:"
            " as the URL's host, if that is Amazon's.",
        ),
    ] = None
    interval: Annotated[Duration, Meta(description="How often the instances are looked at.")] = 5.0


class PatroniDiscovery(Common, frozen=True, tag="patroni"):
    """The members of a Patroni cluster, by its REST interface."""

    maker: ClassVar[str] = "pgambassador.net.discovery.patroni:Patroni"
    urls: Annotated[
        tuple[str, ...],
        Meta(
            min_length=1,
            description="http(s)://HOST:8008 of one member or several; the first to answer counts.",
        ),
    ]
    ca: Annotated[
        str | None, Meta(description="A PEM file: the CAs for https. Left out: those of the system.")
    ] = None
    interval: Annotated[Duration, Meta(description="How often it is asked.")] = 5.0
    timeout: Annotated[Duration, Meta(description="One question is given up after this.")] = 2.0


Discovery = HostsDiscovery | DnsDiscovery | AuroraDiscovery | PatroniDiscovery
