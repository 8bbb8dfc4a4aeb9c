"""The pages over the running front: what people see in a real browser, and what nobody may see."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from http.cookies import SimpleCookie
from itertools import pairwise

import httpx2
import pytest

from api.sessions import COOKIE, SIGN_IN
from fraud.events import decision_id
from serving.records import Decision
from tests.browser import Browser, browsers
from tests.pages_world import OTHER, PagesWorld, pages_world

CSP = "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
NOBODYS = decision_id("default", "never")
Open = Callable[[], AbstractContextManager[Browser]]
FOCUSABLE = "a[href], button, input, summary, [tabindex='0']"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PagesWorld]:
    with pages_world(tmp_path_factory.mktemp("pages")) as made:
        yield made


@pytest.fixture(scope="module")
def chromium() -> Iterator[Open]:
    with browsers() as opening:
        yield opening


@pytest.fixture(scope="module")
def browser(world: PagesWorld, chromium: Open) -> Iterator[Browser]:
    """Signed in as an analyst of the operator, through the form."""
    with chromium() as opened:
        opened.page.goto(world.stack.url + SIGN_IN)
        opened.page.fill("#token", world.token())
        opened.page.click("button.main")
        assert opened.page.url == f"{world.stack.url}/desk"
        # to a page that does not load itself again: what a later test cuts off would count as failed there
        opened.page.goto(f"{world.stack.url}/desk?live=false")
        opened.said.clear()
        yield opened


def telling(world: PagesWorld) -> Decision:
    """A denied payment with rules, contributions, windows beyond the catalogue, and a card with a history on the map."""
    cards = [one.transaction.card_id for one in world.decisions if one.transaction.lat is not None]
    full = [one for one in world.decisions if one.outcome == "DENY" and one.contributions and one.rules and one.extra_features]
    return max(full, key=lambda one: cards.count(one.transaction.card_id))


def pages(world: PagesWorld) -> dict[str, tuple[str, str]]:
    """Name: path and the beginning of its first heading."""
    one = telling(world)
    return {
        "overview": ("/desk?live=false", "Live overview"),
        "rules": ("/desk/rules", "Rule performance"),
        "decisions": ("/desk/decisions", "Decisions"),
        "decision": (f"/desk/decisions/{one.decision_id}", "DENY"),
        "backtests": ("/desk/backtests", "Backtests"),
        "backtest": (f"/desk/backtests/{world.report}", "Backtest of a rule set"),
        "not-found": (f"/desk/decisions/{NOBODYS}", "Not found"),
        "sign-in": (SIGN_IN, "Sign in"),
    }


NAMES = ("overview", "rules", "decisions", "decision", "backtests", "backtest", "not-found", "sign-in")


def ask(world: PagesWorld, path: str, token: str | None, method: str = "GET", **more: object) -> httpx2.Response:
    headers = {} if token is None else {"Cookie": f"{COOKIE}={token}"}
    return httpx2.request(method, world.stack.url + path, headers=headers | dict(more.pop("headers", {})), timeout=30, **more)  # type: ignore[arg-type, call-overload]


# --- in the browser ---


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_whole_and_quiet(world: PagesWorld, browser: Browser, name: str) -> None:
    """One heading of the first rank, none left out below it, every picture there and described, nothing stopped and nothing said."""
    path, heading = pages(world)[name]
    browser.said.clear()
    browser.failed.clear()
    answer = browser.page.goto(world.stack.url + path)
    assert answer is not None
    browser.screenshot(name)
    assert answer.status == (404 if name == "not-found" else 200)
    assert [text.strip()[: len(heading)] for text in browser.page.locator("h1").all_inner_texts()] == [heading]
    ranks = [int(found[1]) for found in browser.page.eval_on_selector_all("h1, h2, h3", "all => all.map(one => one.tagName)")]
    assert all(after <= before + 1 for before, after in pairwise(ranks))
    pictures = browser.page.eval_on_selector_all("img", "all => all.map(one => [one.alt.length, one.naturalWidth])")
    assert all(described > 20 and width > 100 for described, width in pictures)
    assert len(pictures) == {"overview": 3, "rules": 1, "decision": 2}.get(name, 0)
    assert browser.violations() == []
    assert browser.failed == []
    expected = ["error: Failed to load resource: the server responded with a status of 404 (Not Found)"] if name == "not-found" else []
    assert browser.said == expected


def test_what_the_policy_stops_would_be_seen(world: PagesWorld, browser: Browser) -> None:
    """The negative control."""
    browser.page.goto(f"{world.stack.url}/desk/rules")
    browser.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img alt=x src=/x.png><p style=\"color:red\">')")
    browser.page.wait_for_timeout(200)
    assert {one.split()[0] for one in browser.violations()} == {"img-src", "style-src-attr"}
    assert any("Content Security Policy" in text for text in browser.said)


@pytest.mark.parametrize("name", ["overview", "decision", "backtests", "sign-in"])
def test_the_keyboard_reaches_everything_in_order_and_shows_where_it_is(world: PagesWorld, browser: Browser, name: str) -> None:
    page = browser.page
    page.goto(world.stack.url + pages(world)[name][0])
    page.eval_on_selector_all(FOCUSABLE, "all => all.filter(one => one.checkVisibility()).forEach((one, i) => one.dataset.at = i)")
    page.focus("[data-at='0']")
    reached = [page.evaluate(_WHERE)]
    for _ in range(1, page.locator("[data-at]").count()):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(_WHERE))
    assert reached == [[str(i), "solid"] for i in range(len(reached))]
    assert len(reached) > (1 if name == "sign-in" else 6)


def test_no_word_is_too_faint_to_read(world: PagesWorld, browser: Browser) -> None:
    """Contrast of 4.5 to 1 for text against the ground it stands on (WCAG 1.4.3)."""
    for name in NAMES:
        browser.page.goto(world.stack.url + pages(world)[name][0])
        faint = browser.page.evaluate(_CONTRAST)
        assert faint == [], name


def test_a_laptop_shows_every_page_without_scrolling_sideways(world: PagesWorld, browser: Browser) -> None:
    for name in NAMES:
        browser.page.goto(world.stack.url + pages(world)[name][0])
        assert browser.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        cut = browser.page.eval_on_selector_all(".scroll", _CUT)
        assert cut == [], name


def test_the_overview_refreshes_itself_until_it_is_held(world: PagesWorld, browser: Browser) -> None:
    browser.page.goto(f"{world.stack.url}/desk")
    assert browser.page.locator("meta[http-equiv=refresh]").get_attribute("content") == "10"
    browser.page.click("text=Hold still")
    assert browser.page.locator("meta[http-equiv=refresh]").count() == 0


def test_a_decision_shows_what_it_was_made_of(world: PagesWorld, browser: Browser) -> None:
    one = telling(world)
    browser.page.goto(f"{world.stack.url}/desk/decisions")
    browser.page.fill("#id", one.decision_id)
    browser.page.click("button.main")
    assert browser.page.url.endswith(one.decision_id)
    text = browser.page.inner_text("main")
    assert all(rule.message in text and rule.rule_id in text for rule in one.rules)
    assert all(extra.name in text for extra in one.extra_features)
    for part in (one.transaction_id, one.transaction.card_id, one.model_sha256, one.rule_set_hash, f"{one.score:.3f}"):
        assert str(part) in text
    same_card = [other.decision_id for other in world.decisions if other.transaction.card_id == one.transaction.card_id]
    linked = browser.page.eval_on_selector_all("main td a", "all => all.map(one => one.getAttribute('href').split('/').pop())")
    assert sorted([*linked, one.decision_id]) == sorted(same_card)


def test_the_overview_counts_what_was_decided(world: PagesWorld, browser: Browser) -> None:
    browser.page.goto(f"{world.stack.url}/desk?live=false")
    values = browser.page.locator(".tile .value").all_inner_texts()
    assert values[0] == f"{len(world.decisions):,}"
    assert values[4] == "3"  # the ledger's records that ClickHouse does not have
    known = [one for one in world.decisions if world.labels.get(one.transaction_id) and one.transaction.scenario == "card_testing"]
    stopped = sum(one.outcome != "ALLOW" for one in known)
    alt = str(browser.page.get_by_alt_text(re.compile("Recall by scenario")).get_attribute("alt"))
    assert f"card_testing {stopped / len(known):.0%}" in alt


def test_a_wrong_token_is_told_so_and_a_programs_too(world: PagesWorld, chromium: Open) -> None:
    with chromium() as browser:
        browser.page.goto(f"{world.stack.url}/desk/rules")
        assert browser.page.url == world.stack.url + SIGN_IN  # whoever is not signed in is led there
        for token, told in (("nonsense", "not valid"), (world.token("service"), "a program's")):
            browser.page.fill("#token", token)
            browser.page.click("button.main")
            assert told in browser.page.inner_text("[role=alert]")
        browser.screenshot("sign-in-refused")
        browser.page.fill("#token", world.token("lead"))
        browser.page.click("button.main")
        assert browser.page.url == f"{world.stack.url}/desk"
        assert browser.page.evaluate("document.cookie") == ""  # no script reads it
        browser.page.click("text=Sign out")
        browser.page.goto(f"{world.stack.url}/desk")
        assert browser.page.url == world.stack.url + SIGN_IN


def test_an_empty_tenant_sees_words_and_no_empty_charts(world: PagesWorld, chromium: Open) -> None:
    with chromium() as browser:
        browser.page.goto(world.stack.url + SIGN_IN)
        browser.page.fill("#token", world.token(tenant="newcomer"))
        browser.page.click("button.main")
        assert browser.page.locator(".empty").count() == 5
        assert browser.page.locator("img").count() == 0
        browser.screenshot("overview-empty")
        browser.page.goto(f"{world.stack.url}/desk/rules")
        assert "No rule has fired yet" in browser.page.inner_text("main")


def test_while_clickhouse_is_away_every_page_says_so(world: PagesWorld, browser: Browser) -> None:
    world.engine.kill()
    try:
        for name in ("overview", "rules", "decisions", "decision"):
            answer = browser.page.goto(world.stack.url + pages(world)[name][0])
            assert answer is not None
            assert answer.status == 503
            assert browser.page.inner_text("h1") == "Analytics is away"
        browser.screenshot("analytics-away")
        assert world.stack.ask("/health").status == 200
    finally:
        world.engine.start()
    answer = browser.page.goto(world.stack.url + pages(world)["rules"][0])
    assert answer is not None
    assert answer.status == 200


# --- what nobody may see, without a browser ---


def test_pages_show_nothing_of_another_tenant(world: PagesWorld) -> None:
    """Every page as its people see it, and every address of the other tenant's objects."""
    mine, theirs = world.token("admin"), world.token("admin", OTHER)
    assert len(world.secrets) > 100
    for path, _ in pages(world).values():
        text = ask(world, path, mine).text
        assert [secret for secret in world.secrets if secret in text] == []
    one = telling(world)
    for path, _ in pages(world).values():
        text = ask(world, path, theirs).text
        found = (one.decision_id, one.transaction_id, one.transaction.card_id, world.report.partition("-")[2])
        assert [secret for secret in found if secret in text] == []
    decided = next(secret for secret in world.secrets if secret.startswith("dec-"))
    assert ask(world, f"/desk/decisions/{decided}", mine).status_code == 404
    assert ask(world, f"/desk/decisions/{decided}", theirs).status_code == 200  # the control: it is there
    assert decided in ask(world, f"/desk/decisions/{decided}", theirs).text
    assert ask(world, f"/desk/decisions/{one.decision_id}", theirs).status_code == 404
    for path in ("/desk/backtests", f"/desk/backtests/{world.report}"):
        assert ask(world, path, theirs).status_code == 403


def test_what_a_merchant_calls_itself_is_text(world: PagesWorld) -> None:
    decided = next(secret for secret in world.secrets if secret.startswith("dec-"))
    text = ask(world, f"/desk/decisions/{decided}", world.token(tenant=OTHER)).text
    assert "<script" not in text
    assert "at &lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in text


def test_no_tenant_but_the_tokens_counts_on_a_page(world: PagesWorld) -> None:
    theirs = world.token("analyst", OTHER)
    for extra in ("?tenant=default", "?tenant_id=default", "?param_tenant=default"):
        text = ask(world, f"/desk/decisions{extra}", theirs).text
        assert telling(world).decision_id not in text
        assert "their-card" in text


@pytest.mark.parametrize("path", ["/desk", "/desk/rules", "/desk/decisions", f"/desk/decisions/{NOBODYS}", "/desk/backtests"])
def test_pages_are_for_people_with_a_role(world: PagesWorld, path: str) -> None:
    assert ask(world, path, None).headers["location"] == SIGN_IN
    assert ask(world, path, "nonsense").status_code == 303
    refused = ask(world, path, world.token("service"))
    assert (refused.status_code, refused.headers["content-type"]) == (403, "text/html; charset=utf-8")
    for role in ("analyst", "lead", "admin"):
        assert ask(world, path, world.token(role)).status_code in (200, 404)


def test_the_cookie_opens_pages_to_look_at_and_nothing_else(world: PagesWorld) -> None:
    token = world.token("admin")
    assert ask(world, "/v1/rules", token).status_code == 401
    assert ask(world, "/v1/rules/drafts", token, "POST", json={"rules": []}).status_code == 401
    assert ask(world, "/desk/rules", token, "POST").status_code == 303
    both = {"Authorization": f"Bearer {token}"}
    assert ask(world, "/desk/rules", token, headers=both).status_code == 303  # two credentials are none
    assert ask(world, "/desk/rules", None, headers=both).status_code == 200


def test_signing_in_sets_a_cookie_that_stays_where_it_belongs(world: PagesWorld) -> None:
    answer = ask(world, SIGN_IN, None, "POST", data={"token": world.token()})
    assert (answer.status_code, answer.headers["location"]) == (303, "/desk")
    cookie = SimpleCookie(answer.headers["set-cookie"])[COOKIE]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["domain"]) == (True, "strict", "/desk", "")
    foreign = ask(world, SIGN_IN, None, "POST", data={"token": world.token()}, headers={"Sec-Fetch-Site": "cross-site"})
    assert foreign.status_code == 403
    assert "set-cookie" not in foreign.headers


def test_every_page_carries_the_strict_policy_and_is_kept_nowhere(world: PagesWorld) -> None:
    for path, _ in pages(world).values():
        headers = ask(world, path, world.token()).headers
        assert headers["content-security-policy"] == CSP
        assert headers["cache-control"] == "no-store"
        assert (headers["x-frame-options"], headers["x-content-type-options"]) == ("DENY", "nosniff")


@pytest.mark.parametrize("name", ["../jwks", "1795292464195-abcdefabcdef", "%2e%2e%2fapi%2fkeys", "x" * 64])
def test_a_report_is_found_by_its_name_alone(world: PagesWorld, name: str) -> None:
    assert ask(world, f"/desk/backtests/{name}", world.token()).status_code == 404


_WHERE = "[document.activeElement.dataset.at, getComputedStyle(document.activeElement).outlineStyle]"
_CUT = "all => all.filter(one => one.checkVisibility() && one.scrollWidth > one.clientWidth).map(one => one.ariaLabel)"
_CONTRAST = """
() => {
  const light = c => { const v = c / 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const ground = one => {
    for (; one; one = one.parentElement) {
      const c = parse(getComputedStyle(one).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const one of document.querySelectorAll("body *")) {
    if (![...one.childNodes].some(child => child.nodeType === 3 && child.data.trim())) continue;
    const [a, b] = [luminance(parse(getComputedStyle(one).color)), luminance(ground(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push([one.outerHTML.slice(0, 80), ratio]);
  }
  return faint;
}
"""
