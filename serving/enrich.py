"""What an address says, once, at the door: country, region, system number and position; then only a keyed hash of it is left.

The raw address must not reach anything durable of ours.  Its hash is HMAC-SHA256 under a secret key (32 hexadecimal digits):
without the key, four billion addresses could be hashed and looked up in minutes.

Countries come from the data inside the geoip2fast wheel.  Region and position need a city database and the system number an ASN
database in MaxMind's format, by path; without them these fields stay as the producer sent them, or missing.  The wheel's own ASN
data has the names of the systems and not their numbers, so it cannot fill ``ip_asn``.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, Protocol

from fraud.errors import InvalidEvent
from fraud.events import Transaction

__all__ = ["AddressDatabase", "Enricher", "IpLocation", "open_database"]

_HASH_DIGITS = 32
_MIN_KEY_BYTES = 16
_MAX_ADDRESS_CHARS = 45  # of an IPv6 address with an IPv4 tail; more is no address
_CACHED_ADDRESSES = 65_536  # about 30 MB
_COUNTRY_FILE = "geoip2fast-ipv6.dat.gz"

Address = IPv4Address | IPv6Address


class AddressDatabase(Protocol):
    """A database in MaxMind's format, as ``maxminddb.open_database`` returns it."""

    def get(self, address: Any) -> Any:
        """The record of an address, nested dictionaries, or None."""


@dataclass(frozen=True, slots=True)
class IpLocation:
    """What is known of one address; ``None`` where nothing is.  Latitude and longitude in degrees, both or neither."""

    hash: str
    country: str | None = None
    region: str | None = None
    asn: int | None = None
    lat: float | None = None
    lon: float | None = None


def open_database(path: Path) -> AddressDatabase:
    """Open a MaxMind-format file; it stays mapped for the life of the process.

    Raises:
        RuntimeError: the package maxminddb is not installed.
        OSError: the file cannot be read.
    """
    if find_spec("maxminddb") is None:
        raise RuntimeError(f"reading {path} needs the package maxminddb")
    database: AddressDatabase = import_module("maxminddb").open_database(str(path))
    return database


class Enricher:
    """Replaces the raw address of transactions by its hash and location; one for each process, as the country data takes 50 MB.

    Args:
        ip_hash_key: the secret, 16 bytes or more; another key is another population of addresses in every window.
        city_db: a city database in MaxMind's format, or None.
        asn_db: an ASN database in MaxMind's format, or None.
        cached_addresses: bound of the cache of locations.
    """

    def __init__(
        self,
        ip_hash_key: bytes,
        city_db: Path | AddressDatabase | None = None,
        asn_db: Path | AddressDatabase | None = None,
        *,
        cached_addresses: int = _CACHED_ADDRESSES,
    ) -> None:
        if len(ip_hash_key) < _MIN_KEY_BYTES:
            raise ValueError(f"the key for address hashes needs {_MIN_KEY_BYTES} bytes or more")
        self._key = ip_hash_key
        self._city = open_database(city_db) if isinstance(city_db, Path) else city_db
        self._asn = open_database(asn_db) if isinstance(asn_db, Path) else asn_db
        self._country_of = _country_lookup()
        self._locate = lru_cache(maxsize=cached_addresses)(self._locate_now)

    def enrich(self, tx: Transaction) -> None:
        """Fill the ip fields from the raw address and drop it; what is not found stays as the producer sent it.

        A transaction without a raw address is left as it is: its producer may have enriched it already.

        Raises:
            InvalidEvent: ``bad_ip``.
        """
        text = tx.ip_address
        if not text:
            tx.ip_address = None
            return
        location = self._locate(text)
        tx.ip_address = None
        tx.ip_hash = location.hash
        if location.country is not None:
            tx.ip_country = location.country
        if location.region is not None:
            tx.ip_region = location.region
        if location.asn is not None:
            tx.ip_asn = location.asn
        if location.lat is not None:
            tx.ip_lat, tx.ip_lon = location.lat, location.lon

    def redact(self, tx: Transaction) -> None:
        """Drop the raw address of a transaction that was refused, keeping its hash where it is an address at all."""
        text, tx.ip_address = tx.ip_address, None
        if text:
            try:
                tx.ip_hash = self.hash_address(_parse(text))
            except InvalidEvent:
                tx.ip_hash = None

    def hash_address(self, address: Address) -> str:
        """Keyed hash of an address; every way of writing it gives the same."""
        return hmac.digest(self._key, address.packed, "sha256").hex()[:_HASH_DIGITS]

    def _locate_now(self, text: str) -> IpLocation:
        address = _parse(text)
        hashed = self.hash_address(address)
        if not address.is_global:
            return IpLocation(hashed)
        city, asn = _record(self._city, address), _record(self._asn, address)
        lat, lon = _position(city)
        return IpLocation(
            hash=hashed,
            country=_country(city) or self._country_of(str(address)),
            region=_region(city),
            asn=_system(asn),
            lat=lat,
            lon=lon,
        )


def _parse(text: str) -> Address:
    """Address of a text; an IPv4 address in IPv6 clothes is the IPv4 address, a zone id is dropped."""
    try:
        # cut, so that a long text costs nothing: what is cut off makes no address of it
        address = ip_address(text[: _MAX_ADDRESS_CHARS + 1].partition("%")[0])
    except ValueError:
        raise InvalidEvent("bad_ip", "ip_address is neither an IPv4 nor an IPv6 address") from None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


@cache
def _country_lookup() -> Callable[[str], str | None]:
    # Imported here: the module is 100 KB of source and half a second on a cold disk, and only an Enricher needs it.
    import geoip2fast  # noqa: PLC0415

    data = Path(geoip2fast.__file__).with_name(_COUNTRY_FILE)
    database = geoip2fast.GeoIP2Fast(geoip2fast_data_file=str(data))

    def country_of(address: str) -> str | None:
        found = database.lookup(address)
        return _alpha2(None if found.is_private else found.country_code)

    return country_of


def _alpha2(code: Any) -> str | None:
    """A country code, or None for the databases' own signs for "private" and "not found"."""
    return code if isinstance(code, str) and len(code) == 2 and code.isascii() and code.isalpha() and code.isupper() else None


def _record(database: AddressDatabase | None, address: Address) -> dict[str, Any]:
    try:
        return _dict(database.get(address)) if database else {}
    except ValueError:  # an IPv6 address and a file of IPv4 alone
        return {}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _country(city: dict[str, Any]) -> str | None:
    return _alpha2(_dict(city.get("country")).get("iso_code") or city.get("country_code"))


def _region(city: dict[str, Any]) -> str | None:
    """Subdivision of a GeoLite2 record, or of a flat one (ip-location-db)."""
    subdivisions = city.get("subdivisions")
    first = _dict(subdivisions[0]) if isinstance(subdivisions, list) and subdivisions else {}
    found = first.get("iso_code") or _dict(first.get("names")).get("en") or city.get("state1")
    return found if isinstance(found, str) and found else None


def _position(city: dict[str, Any]) -> tuple[float | None, float | None]:
    place = _dict(city.get("location")) or city
    lat, lon = place.get("latitude"), place.get("longitude")
    if not isinstance(lat, int | float) or not isinstance(lon, int | float) or lat == 0.0 == lon:
        return None, None
    return float(lat), float(lon)


def _system(asn: dict[str, Any]) -> int | None:
    found = asn.get("autonomous_system_number")
    return found if isinstance(found, int) else None
