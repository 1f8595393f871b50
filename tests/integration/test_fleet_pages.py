"""The fleet's pages ashore: what they show, where they lead, what they renew, and that they change nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import unescape
from urllib.parse import urljoin

import pytest
from flask import Flask
from flask.testing import FlaskClient

from arus.follower.link import save_refused
from arus.protocol.times import now_ms
from blueprints.access import people
from blueprints.fleet.addresses import element_of, shown_id
from blueprints.ui.kinds import KINDS
from extensions import limiter
from tests.support.fleet_ashore import HOSTILE, FleetAshore

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)]

FROM_PAGE = {"Origin": "http://localhost"}
PAGE = {"Accept": "text/html"}


@pytest.fixture
def ashore(make_app: Callable[..., Flask], migrated_database_url: str) -> Flask:
    return make_app(migrated_database_url, LOCAL_MODE="false")


@pytest.fixture
def client(ashore: Flask) -> FlaskClient:
    return ashore.test_client()


@pytest.fixture
def fleet(ashore: Flask) -> Iterator[FleetAshore]:
    with FleetAshore(ashore) as fleet:
        yield fleet


def listed(page: str) -> list[str]:
    """The names of the vessels of a list, in order."""
    return [unescape(name) for name in re.findall(r'<th role="rowheader".*?<bdi>(.*?)</bdi>', page)]


def polled(page: str) -> dict[str, list[str]]:
    """What a page sends with a poll."""
    sent: dict[str, list[str]] = {}
    for field in re.findall(r"<input[^>]*data-polled[^>]*>", page):
        name = re.search(r'name="([^"]*)"', field)
        value = re.search(r'value="([^"]*)"', field)
        assert name is not None
        assert value is not None
        sent.setdefault(name[1], []).append(unescape(value[1]))
    return sent


def poll(client: FlaskClient, page: str) -> str:
    """The answer to a page's poll."""
    address = re.search(r'<form id="poll" hx-post="([^"]*)"', page)
    assert address is not None
    answer = client.post(unescape(address[1]), data=polled(page), headers=FROM_PAGE)
    assert answer.status_code in {200, 204}
    return answer.text


def test_the_start_page_is_the_fleet_and_pages_miss_nobody(
    client: FlaskClient, fleet: FleetAshore
) -> None:
    every = fleet.in_every_state(60, every_audit=False)
    first = client.get("/").text
    assert "<h1>Fleet</h1>" in first
    assert "Fleet desk" in first
    following = re.search(r'href="([^"]*)" rel="next"', first)
    assert following is not None
    second = client.get(unescape(following[1])).text
    assert 'rel="next"' not in second
    assert listed(first) + listed(second) == sorted(every)
    assert listed(client.get("/fleet?sort=behind").text)[0] == every[57]
    longest = listed(client.get("/fleet?sort=heard").text)
    assert longest[0] == every[4]  # of those that have said nothing since they joined


#: Selections, and the numbers of the vessels that they show of ten in every state.
SELECTED = {
    "presence=offline": [2, 9],
    "audit=differs": [1],
    "audit=none": [4],
    "has=behind": [3],
    "has=refused": [5],
    "has=held": [6],
    "has=schema": [8],
    "q=9300111": [3],
    "presence=offline&has=behind": [],
}


def test_a_selection_shows_those_and_no_others(client: FlaskClient, fleet: FleetAshore) -> None:
    every = fleet.in_every_state(10)
    for query, at in SELECTED.items():
        page = client.get(f"/fleet?{query}").text
        assert listed(page) == [every[number] for number in at], query
        assert ("No matches." in page) is (not at), query


@pytest.mark.parametrize("query", ["presence=x", "sort=x", "cursor=x", "q=%00", "audit=equal,none"])
def test_a_wrong_selection_is_refused_with_a_page(client: FlaskClient, query: str) -> None:
    answer = client.get(f"/fleet?{query}", headers=PAGE)
    assert (answer.status_code, answer.mimetype) == (422, "text/html")


def test_each_hostile_id_is_text_and_its_link_leads_to_its_own_page(
    client: FlaskClient, fleet: FleetAshore
) -> None:
    fleet.join(*HOSTILE)
    page = client.get("/fleet").text
    assert "<script>alert" not in page
    assert 'onmouseover="x' not in page.replace("&#34;", "'")
    links = re.findall(r'row-title"><a href="([^"]*)"><bdi>(.*?)</bdi>', page)
    assert {unescape(name) for _link, name in links} == {shown_id(one) for one in HOSTILE}
    for link, name in links:
        shown = client.get(urljoin("http://localhost/fleet", unescape(link)))
        assert shown.status_code == 200, link
        assert f"<h1><bdi>{name}</bdi></h1>" in shown.text


def test_a_vessels_page_says_what_is_wrong_with_its_copy(
    client: FlaskClient, fleet: FleetAshore
) -> None:
    every = fleet.in_every_state(10)

    def page(number: int) -> str:
        return re.sub(r"\s+", " ", client.get(f"/fleet/{every[number]}").text)

    assert "differs</span>" in page(1)
    assert "found to differ at number 1: equipment" in page(1)
    assert "went offline" in page(2)
    assert "6 changes <span" in page(3)
    assert "None yet. The copy is compared" in page(4)
    assert "name: not a text" in page(5)
    assert "UNIQUE constraint failed" in page(6)
    assert "not stored here:</b>" not in page(8)
    assert "not stored here: shoeSize." in page(8)
    assert "caught up with equipment: 1 item<" in page(7)


def test_a_vessels_tables_are_its_own_rows_marked_as_a_copy_and_read_only(
    client: FlaskClient, fleet: FleetAshore
) -> None:
    fleet.join("a", rows=30)
    fleet.join("b", rows=2)
    seen: list[str] = []
    address = "/fleet/a?table=equipment"
    while address:
        page = client.get(address).text
        assert '<span class="tag">copy</span>' in page
        # no form but the poll and the search
        assert re.findall(r"<form[^>]*>", page) == re.findall(
            r'<form id="poll"[^>]*>|<form method="get" action="/search"[^>]*>', page
        )
        seen += re.findall(r'href="/equipment/([0-9a-f-]{36})"', page)
        following = re.search(r'href="([^"]*)" rel="next"', page)
        address = unescape(following[1]) if following else ""
    assert sorted(seen) == sorted(row_id for _topic, row_id in fleet.ship("a").rows)
    for kind in KINDS.values():
        assert client.get(f"/fleet/b?table={kind.slug}").status_code == 200
    assert client.get("/fleet/b?table=users").status_code == 404
    assert client.get("/fleet/b?table=crew&after=%00").status_code == 422


def test_where_rows_are_copies_no_page_offers_to_change_one(
    client: FlaskClient, fleet: FleetAshore
) -> None:
    before = client.get("/equipment").text
    assert 'href="/equipment/new"' in before
    assert "copies of the rows" not in before
    fleet.join("a")
    fleet.change("a", "work_orders")
    fleet.change("a", "alerts")
    for topic, row_id in fleet.ship("a").rows:
        slug = topic.replace("_", "-")
        page = client.get(f"/{slug}").text
        assert "copies of the rows of all vessels" in page
        assert f"{slug}/new" not in page
        assert '<a href="/fleet/a"><bdi>a</bdi></a>' in page
        row = client.get(f"/{slug}/{row_id}").text
        assert '<a href="/fleet/a"><bdi>a</bdi></a>' in row
        assert "/edit" not in row
        assert "/delete" not in row
        assert 'method="post"' not in row
        assert "/new" not in row


def test_a_poll_brings_what_has_changed_and_nothing_else(
    client: FlaskClient, fleet: FleetAshore
) -> None:
    fleet.join("a", "b")
    page = client.get("/").text
    assert poll(client, page) == ""
    fleet.change("a", "crew", lost=True)
    fleet.status("a")
    news = poll(client, page)
    assert f'hx-target="#{element_of("a")}"' in news
    assert f'hx-target="#{element_of("b")}"' not in news
    assert 'hx-target="#figures"' in news
    assert 'hx-target="#news"' not in news
    fleet.join("c")
    news = poll(client, page)
    assert "The list has changed: show it" in news
    assert element_of("c") not in news
    with fleet.following():
        fleet.connected()
        assert "following</a>" in poll(client, page)


def test_a_poll_of_a_vessels_page_brings_its_changed_pieces(
    client: FlaskClient, fleet: FleetAshore
) -> None:
    fleet.join("a/b", "c")
    page = client.get(f"/fleet/{'a%2Fb'}").text
    assert poll(client, page) == ""
    fleet.refuse_a_row("a/b")
    targets = set(re.findall(r'hx-target="#([\w-]+)"', poll(client, page)))
    assert {"refused", "seen-refused", "facts", "topics"} <= targets
    assert "held" not in targets


def test_the_page_says_when_nobody_follows(client: FlaskClient, fleet: FleetAshore) -> None:
    fleet.join("a")
    assert "No process follows the vessels now" in client.get("/").text
    with fleet.following():
        fleet.connected("the broker is away")
        assert "There is no connection to the broker" in client.get("/").text
        assert "the broker is away" in client.get("/").text
        fleet.connected()
        page = client.get("/").text
        assert "No process follows" not in page
        assert "no connection" not in page


def test_the_page_says_who_is_not_followed(
    make_app: Callable[..., Flask], migrated_database_url: str
) -> None:
    app = make_app(migrated_database_url, LOCAL_MODE="false", FOLLOW_VESSELS="b")
    with FleetAshore(app) as fleet:
        fleet.join("a", "b")
        fleet.connected()
        save_refused(fleet.connection, "shore", {"c<d": now_ms(), "old": 0})
    page = app.test_client().get("/").text
    assert page.count("not followed</span>") == 1
    assert "under the prefix of another vessel: c&lt;d. Put" in page


def test_without_a_vessel_the_page_says_how_to_begin(client: FlaskClient) -> None:
    page = client.get("/").text
    assert "flask --app wsgi sync follow --name shore" in page
    assert "No vessel is known here yet." in page
    assert "Ennå er ikke noe fartøy kjent her." in client.get("/?lang=nb").text


def test_an_unknown_vessel_is_not_found(client: FlaskClient) -> None:
    for address in ("/fleet/nobody", "/fleet/~AA", "/fleet/a%00b"):
        answer = client.get(address, headers=PAGE)
        assert (answer.status_code, answer.mimetype) == (404, "text/html"), address
    assert client.post("/ui/fleet/nobody", headers=FROM_PAGE).status_code == 404
    assert client.post("/ui/fleet").status_code == 403  # sent by another site, as far as is known


def test_aboard_there_is_no_fleet(
    make_app: Callable[..., Flask], migrated_database_url: str
) -> None:
    aboard = make_app(migrated_database_url, LOCAL_MODE="true").test_client()
    assert "<h1>Dashboard</h1>" in aboard.get("/").text
    assert 'href="/fleet"' not in aboard.get("/").text
    for address in ("/fleet", "/fleet/a"):
        assert aboard.get(address).status_code == 404


def test_crew_read_the_fleet_and_nobody_else_does(
    make_app: Callable[..., Flask], migrated_database_url: str
) -> None:
    app = make_app(migrated_database_url, LOCAL_MODE="false", ACCESS="login")
    with app.app_context():
        people.add("crew", "crew", "a long password")
        limiter.reset()
    with FleetAshore(app) as fleet:
        fleet.join("a")
    browser = app.test_client()
    for address in ("/", "/fleet", "/fleet/a"):
        assert browser.get(address).status_code == 303
    assert browser.get("/api/mqtt/reliable-sync/fleet").status_code == 401
    form = {"name": "crew", "password": "a long password"}
    assert browser.post("/login", data=form, headers=FROM_PAGE).status_code == 303
    for address in ("/", "/fleet", "/fleet/a", "/api/mqtt/reliable-sync/fleet"):
        assert browser.get(address).status_code == 200
