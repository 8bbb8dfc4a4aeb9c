"""An address becomes a keyed hash and a place, and is gone."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import serving.enrich
from fraud.errors import InvalidEvent, Unavailable
from fraud.events import Transaction
from serving.codec import Codec
from serving.dead_letters import storable_transaction
from serving.enrich import Enricher, open_database
from tests.wire_samples import SCHEMA_IDS, codec, transaction

KEY = b"a key of tests, not a secret one"

# What MaxMind's GeoLite2-City and ip-location-db's dbip-city hold for an address, shortened.
GEOLITE = {
    "country": {"iso_code": "GB", "names": {"en": "United Kingdom"}},
    "location": {"latitude": 51.5142, "longitude": -0.0931, "time_zone": "Europe/London"},
    "subdivisions": [{"iso_code": "ENG", "names": {"en": "England"}}, {"iso_code": "WBK"}],
}
FLAT = {"city": "Cruzy", "country_code": "FR", "latitude": 43.3555, "longitude": 2.9405, "state1": "Occitanie", "state2": ""}
ASN = {"autonomous_system_number": 15169, "autonomous_system_organization": "GOOGLE"}


class FakeDatabase:
    """Answers as a maxminddb reader does; counts the questions."""

    def __init__(self, records: Mapping[str, Any], *, ipv4_only: bool = False) -> None:
        self.records = records
        self.ipv4_only = ipv4_only
        self.questions = 0

    def get(self, address: Any) -> Any:
        self.questions += 1
        if self.ipv4_only and address.version == 6:
            raise ValueError("You attempted to look up an IPv6 address in an IPv4-only database")
        return self.records.get(str(address))


@pytest.fixture(scope="module")
def enricher() -> Enricher:
    return Enricher(KEY)


def bare(address: str | None, **changes: Any) -> Transaction:
    """A transaction of which nothing about its address is known but the address."""
    nothing = dict.fromkeys(("ip_hash", "ip_country", "ip_region", "ip_asn", "ip_lat", "ip_lon"))
    return transaction(**{**nothing, "ip_address": address, **changes})


def enriched(by: Enricher, address: str | None, **changes: Any) -> Transaction:
    tx = bare(address, **changes)
    by.enrich(tx)
    return tx


def test_a_public_address_becomes_hash_and_country(enricher: Enricher) -> None:
    assert bare(None, ip_hash=hashed("8.8.8.8"), ip_country="US") == enriched(enricher, "8.8.8.8")
    assert enriched(enricher, "2001:4860:4860::8888").ip_country == "US"
    assert enriched(enricher, "90.1.2.3").ip_country == "FR"


def hashed(address: str) -> str:
    """The hash as documented, computed here from the four bytes of the address."""
    packed = bytes(int(part) for part in address.split("."))
    return hmac.new(KEY, packed, hashlib.sha256).hexdigest()[:32]


def test_the_hash_depends_on_the_key_and_is_no_plain_digest(enricher: Enricher) -> None:
    other = Enricher(KEY[::-1])
    one, two = enriched(enricher, "8.8.8.8").ip_hash, enriched(other, "8.8.8.8").ip_hash
    assert one is not None
    assert len(one) == 32
    assert one != two
    assert one not in {hashlib.sha256(b"8.8.8.8").hexdigest()[:32], hashlib.sha256(bytes([8] * 4)).hexdigest()[:32]}


def test_every_way_of_writing_an_address_gives_one_hash(enricher: Enricher) -> None:
    ways = ["2001:db8::1", "2001:DB8:0:0:0:0:0:1", "2001:0db8::0001", "2001:db8::1%eth0"]
    assert len({enriched(enricher, way).ip_hash for way in ways}) == 1
    assert enriched(enricher, "::ffff:8.8.8.8").ip_hash == hashed("8.8.8.8")
    assert enriched(enricher, "::ffff:8.8.8.8").ip_country == "US"


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "192.168.1.1", "127.0.0.1", "100.64.0.1", "203.0.113.5", "0.0.0.0", "255.255.255.255", "::1", "fe80::1", "2001:db8::1"],
)
def test_an_address_of_no_place_has_a_hash_and_no_country(enricher: Enricher, address: str) -> None:
    tx = enriched(enricher, address)
    assert tx.ip_hash is not None
    assert bare(None, ip_hash=tx.ip_hash) == tx


@pytest.mark.parametrize(
    "address",
    [
        " ",
        "x",
        "8.8.8",
        "8.8.8.8.8",
        "256.1.1.1",
        "08.8.8.8",
        "8.8.8.8 ",
        "8.8.8.8:443",
        "[::1]",
        "1:2:3",
        "::g",
        "%eth0",
        "٨.8.8.8",
        "a" * 10**6,
        "1." * 10**6,
    ],
)
def test_what_is_no_address_is_refused(enricher: Enricher, address: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        enriched(enricher, address)
    assert caught.value.code == "bad_ip"
    assert address.strip() not in caught.value.detail or len(address.strip()) < 2


def test_any_text_is_an_address_or_refused(enricher: Enricher) -> None:
    @given(st.text(max_size=60) | st.text("0123456789abcdef:.%", max_size=45) | st.ip_addresses().map(str))
    def holds(text: str) -> None:
        tx = bare(text)
        try:
            enricher.enrich(tx)
        except InvalidEvent as refused:
            assert refused.code == "bad_ip"
        else:
            assert tx.ip_address is None

    holds()


def test_a_transaction_without_an_address_keeps_what_its_producer_sent(enricher: Enricher) -> None:
    for nothing in (None, ""):
        tx = transaction(ip_address=nothing)
        enricher.enrich(tx)
        assert transaction(ip_address=None) == tx


def test_what_we_find_replaces_what_the_producer_sent_and_the_rest_stays(enricher: Enricher) -> None:
    tx = transaction(ip_address="8.8.8.8", ip_country="DE", ip_region="BE", ip_hash="forged")
    enricher.enrich(tx)
    assert (tx.ip_country, tx.ip_region, tx.ip_hash) == ("US", "BE", hashed("8.8.8.8"))


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (GEOLITE, ("GB", "ENG", 51.5142, -0.0931)),
        (FLAT, ("FR", "Occitanie", 43.3555, 2.9405)),
        ({}, ("US", None, None, None)),
        (None, ("US", None, None, None)),
        ("garbage", ("US", None, None, None)),
        ({"country": {"iso_code": "--"}, "location": {"latitude": 0.0, "longitude": 0.0}, "subdivisions": []}, ("US", None, None, None)),
        ({**FLAT, "state1": "", "latitude": None}, ("FR", None, None, None)),
        ({**GEOLITE, "subdivisions": [{"names": {"en": "England"}}]}, ("GB", "England", 51.5142, -0.0931)),
    ],
)
def test_a_city_database_gives_region_and_position(record: Any, expected: tuple[Any, ...]) -> None:
    tx = enriched(Enricher(KEY, FakeDatabase({"8.8.8.8": record})), "8.8.8.8")
    assert (tx.ip_country, tx.ip_region, tx.ip_lat, tx.ip_lon) == expected


def test_an_asn_database_gives_the_number_of_the_system() -> None:
    by = Enricher(KEY, None, FakeDatabase({"8.8.8.8": ASN}, ipv4_only=True))
    assert enriched(by, "8.8.8.8").ip_asn == 15169
    assert enriched(by, "9.9.9.9").ip_asn is None
    assert enriched(by, "2001:4860:4860::8888").ip_asn is None


def test_an_address_is_looked_up_once_while_it_is_cached() -> None:
    database = FakeDatabase({"8.8.8.8": FLAT})
    by = Enricher(KEY, database, cached_addresses=2)
    for _ in range(5):
        assert enriched(by, "8.8.8.8").ip_region == "Occitanie"
    assert database.questions == 1
    for number in range(1, 4):
        enriched(by, f"8.8.4.{number}")
    enriched(by, "8.8.8.8")
    assert database.questions == 5


def test_a_private_address_is_never_asked_of_a_database() -> None:
    database = FakeDatabase({"10.0.0.1": FLAT})
    assert enriched(Enricher(KEY, database), "10.0.0.1").ip_country is None
    assert database.questions == 0


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Enricher(b"short")


def test_a_database_file_without_the_reader_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(serving.enrich, "find_spec", lambda _: None)
    with pytest.raises(RuntimeError, match="maxminddb"):
        open_database(tmp_path / "city.mmdb")


# What of a refused transaction may be kept


def test_a_refused_transaction_is_kept_with_the_hash_of_its_address(enricher: Enricher) -> None:
    value = codec().encode_transaction(bare("8.8.8.8", amount_minor=-1))
    kept = storable_transaction(value, codec(), enricher)
    assert kept is not None
    assert b"8.8.8.8" not in kept
    assert codec().decode_transaction(kept) == bare(None, amount_minor=-1, ip_hash=hashed("8.8.8.8"))


def test_an_address_that_is_none_leaves_nothing(enricher: Enricher) -> None:
    kept = storable_transaction(codec().encode_transaction(bare("10.0.0.1:443", ip_hash="forged")), codec(), enricher)
    assert codec().decode_transaction(kept) == bare(None)


def test_bytes_that_do_not_decode_are_not_kept(enricher: Enricher) -> None:
    value = codec().encode_transaction(bare("8.8.8.8"))
    for bad in (None, b"", value[:-1], value + b"\0", b"\1" + value, os.urandom(1 << 20)):
        assert storable_transaction(bad, codec(), enricher) is None


def test_nothing_is_kept_while_the_registry_is_down(enricher: Enricher) -> None:
    def down(_: int) -> str:
        raise Unavailable("schema registry")

    assert storable_transaction(b"\0\0\0\0\x63rest", Codec(SCHEMA_IDS, down), enricher) is None
