"""The address of each vessel leads to that vessel, whatever its id is."""

from __future__ import annotations

from urllib.parse import unquote, urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import NotFound
from werkzeug.routing import Map, Rule

from blueprints.fleet.addresses import VesselConverter, element_of, shown_id
from tests.support.fleet_ashore import HOSTILE

MAP = Map(
    [Rule("/fleet/<vessel:vessel_id>", endpoint="vessel")], converters={"vessel": VesselConverter}
).bind("localhost")
#: As messages may have them: any text but NUL.
IDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=64)


def found(path: str) -> str:
    """The id that a server finds behind a path, which it decodes."""
    _endpoint, values = MAP.match(unquote(path))
    return str(values["vessel_id"])


@given(IDS)
def test_an_address_leads_back_to_its_id(vessel_id: str) -> None:
    address = MAP.build("vessel", {"vessel_id": vessel_id})
    assert found(address) == vessel_id
    # A browser and a proxy leave it as it is.
    followed = urlsplit(urljoin("http://localhost/fleet", address))
    assert (followed.path, followed.query, followed.fragment) == (address, "", "")
    assert address.count("/") == 2
    assert address.isascii()


@pytest.mark.parametrize("vessel_id", HOSTILE)
def test_a_hostile_id_has_an_address_and_a_name(vessel_id: str) -> None:
    assert found(MAP.build("vessel", {"vessel_id": vessel_id})) == vessel_id
    assert shown_id(vessel_id).strip()
    assert shown_id(vessel_id).isprintable()


def test_an_ordinary_id_is_in_its_address_as_it_is() -> None:
    assert MAP.build("vessel", {"vessel_id": "imo-9321483"}) == "/fleet/imo-9321483"


def test_a_program_that_encodes_the_id_itself_finds_it() -> None:
    assert found("/fleet/a%2Fb") == "a/b"


@pytest.mark.parametrize("path", ["/fleet/~%%%", "/fleet/~gICA", "/fleet/~a", "/fleet/~\u6e2f"])
def test_what_is_no_id_is_not_found(path: str) -> None:
    with pytest.raises(NotFound):
        found(path)


def test_each_vessel_has_an_element_of_its_own() -> None:
    elements = {element_of(vessel_id) for vessel_id in HOSTILE}
    assert len(elements) == len(HOSTILE)
    assert all(element.replace("-", "").isalnum() for element in elements)
