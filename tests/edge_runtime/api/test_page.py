"""The page, end to end: a real browser, a real server, a real device; only the model is scripted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_runtime.api.app import PAGE
from edge_runtime.api.session import Session
from tests.edge_runtime.api.api_helpers import (
    ScriptedEngine,
    client_of,
    make_device,
    new_session,
    opened_session,
    serving,
    wait_until,
)
from tests.edge_runtime.api.page_help import Scheme, Visit, needs_browser, open_browser, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MARKUP = "<script>document.title = 'taken'</script> <b>not bold</b>"
PASSPHRASE = "correct horse battery"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def address(session: Session) -> Iterator[str]:
    with serving(session) as served:
        yield served


@pytest.fixture
def visit(browser: Browser, session: Session, address: str) -> Iterator[Visit]:
    with visiting(browser, address) as visit:
        visit.open(session.token)
        yield visit
        assert visit.problems == []


def remember(session: Session, *texts: str) -> None:
    client = client_of(session)
    for text in texts:
        assert client.post("/api/memories", json={"text": text}).status_code == 200


def test_the_page_is_small_and_has_nothing_inline_or_from_elsewhere() -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in PAGE.iterdir()}
    assert sum(len(text.encode()) for text in files.values()) < 100_000
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", files["index.html"])
    for name, text in files.items():
        assert set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[\w/.-]*", text)) <= {"http://www.w3.org/2000/svg"}, name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), name


@needs_browser
def test_an_answer_streams_with_its_sources_its_audit_and_feedback(
    visit: Visit, session: Session, engine: ScriptedEngine
) -> None:
    page = visit.page
    visit.say("remember that my dog is called Bruno")
    page.locator(".turns").get_by_text("Remembered: My dog is called Bruno").wait_for()
    assert [item["text"] for item in client_of(session).get("/api/memories").json()["memories"]] == [
        "My dog is called Bruno"
    ]
    assert engine.prompts == []  # an order is carried out, not answered

    engine.hold = True
    visit.say("What is my dog called?")
    page.get_by_text("Your dog", exact=True).wait_for()  # the first piece, while the rest is still to come
    assert page.get_by_role("button", name="Stop the answer").is_visible()
    engine.go.set()
    page.get_by_text("Your dog is called Bruno.", exact=True).first.wait_for()

    page.get_by_text("1 source", exact=True).click()
    source = page.locator(".sources li")
    assert source.locator(".yours").inner_text() == "My dog is called Bruno"
    assert source.get_by_role("link", name="Memory 1").get_attribute("href") == "#/about/memories/1"
    assert source.locator("time").get_attribute("datetime")

    page.get_by_role("button", name="What went into this").click()
    audit = page.get_by_role("dialog", name="What went into this answer")
    assert "My dog is called Bruno" in audit.inner_text()
    assert "Shown to the model (1)" in audit.inner_text()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.textContent") == "What went into this"

    page.get_by_role("button", name="Bad answer").click()
    page.get_by_label("What was wrong? (optional)").fill("too short")
    page.get_by_role("button", name="Keep this note").click()
    page.get_by_text("Your note is kept").wait_for()
    page.get_by_role("button", name="Write a better answer").click()
    page.get_by_label("The answer you would have liked").fill("Bruno, of course!")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("heading", name="Your version").wait_for()
    feedback = client_of(session).get("/api/feedback").json()
    assert [(one["up"], one["note"]) for one in feedback["ratings"]] == [(False, "too short")]
    assert [(one["chosen"], one["rejected"]) for one in feedback["preferences"]] == [
        ("Bruno, of course!", "Your dog is called Bruno.")
    ]

    # the same after a reload, from the history
    page.reload()
    page.get_by_role("heading", name="Your version").wait_for()
    assert page.get_by_role("button", name="Bad answer").get_attribute("aria-pressed") == "true"
    page.get_by_text("1 source", exact=True).click()
    assert page.locator(".sources .yours").inner_text() == "My dog is called Bruno"


@needs_browser
def test_stopping_keeps_what_was_said_and_conversations_can_be_deleted(
    visit: Visit, session: Session, engine: ScriptedEngine
) -> None:
    page = visit.page
    engine.hold = True
    visit.say("Tell me about\nmy dog")
    page.get_by_text("Your dog", exact=True).wait_for()
    page.get_by_role("button", name="Stop the answer").click()
    page.get_by_text("You stopped this answer.").wait_for()
    wait_until(lambda: engine.aborted)
    assert page.get_by_role("button", name="Send", exact=True).is_visible()

    page.get_by_role("button", name="Remember this").click()
    page.get_by_role("link", name="Remembered").wait_for()
    assert client_of(session).get("/api/status").json()["memories"] == 1

    history = page.get_by_role("navigation", name="Conversations")
    history.get_by_role("button", name=re.compile("Delete")).click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    history.get_by_text("None yet.").wait_for()
    assert client_of(session).get("/api/conversations").json()["conversations"] == []
    page.get_by_text("What is on your mind?").wait_for()


@needs_browser
def test_memories_are_searched_edited_and_forgotten_with_a_receipt(visit: Visit, session: Session) -> None:
    page = visit.page
    remember(session, "My dog is called Bruno", "I play the cello", MARKUP)
    visit.go("What I know about you", "What I know about you")
    page.get_by_role("link", name="Memories", exact=True).click()
    entries = page.locator(".memories li")
    page.get_by_text("3 memories", exact=True).first.wait_for()
    assert MARKUP in entries.locator(".yours").all_inner_texts()
    assert not page.locator(".memories b, .memories script").count()

    page.get_by_label("Search your memories").fill("cello")
    page.get_by_role("button", name="Search").click()
    page.get_by_text("1 memory found").wait_for()
    entries.get_by_role("button", name="Edit").click()
    page.get_by_label("What I should remember").fill("I play the viola")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("I play the viola").wait_for()
    page.get_by_label("Search your memories").fill("")
    page.get_by_text("3 memories", exact=True).first.wait_for()

    entries.filter(has_text="Bruno").get_by_role("button", name="Forget").click()
    dialog = page.get_by_role("dialog", name="Forget this memory?")
    assert "My dog is called Bruno" in dialog.inner_text()
    dialog.get_by_role("button", name="Keep it").click()
    assert len(client_of(session).get("/api/memories").json()["memories"]) == 3
    entries.filter(has_text="Bruno").get_by_role("button", name="Forget").click()
    dialog.get_by_role("button", name="Forget it").click()
    receipt = page.get_by_role("dialog", name="Forgotten")
    receipt.wait_for()
    assert "1 removed" in receipt.inner_text() and "Bruno" not in receipt.inner_text()
    page.keyboard.press("Escape")
    page.locator("h1:focus").wait_for()  # what had the focus is forgotten
    assert sorted(entries.locator(".yours").all_inner_texts()) == sorted(["I play the viola", MARKUP])

    page.get_by_role("button", name="Forget everything …").click()
    dialog = page.get_by_role("dialog", name="Forget everything?")
    confirm = dialog.get_by_role("button", name="Forget everything", exact=True)
    assert confirm.is_disabled()
    dialog.get_by_label("Type “forget everything” to go on").fill("forget everything")
    confirm.click()
    page.get_by_role("dialog", name="Everything is forgotten").wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("I remember nothing yet.").wait_for()
    assert client_of(session).get("/api/memories").json() == {"memories": []}
    assert page.title() != "taken"


@needs_browser
def test_the_profile_can_be_changed_line_by_line(visit: Visit, session: Session) -> None:
    page = visit.page
    visit.go("What I know about you", "What I know about you")

    def profile() -> dict[str, list[dict[str, object]]]:
        return dict(client_of(session).get("/api/profile").json())

    page.get_by_role("button", name="Write it yourself").click()
    page.get_by_label("You in a few sentences").fill("A cellist from Lyon.")
    page.get_by_role("button", name="Save").click()
    page.locator("#summary").get_by_text("written by you").wait_for()

    page.get_by_label("Fact", exact=True).fill("allergic to")
    page.get_by_label("Value").fill("walnuts")
    page.locator("#attributes").get_by_role("button", name="Add").click()
    page.get_by_text("certain: you said so").wait_for()
    page.get_by_role("button", name="Change Allergic to: walnuts").click()
    page.get_by_role("textbox", name="Allergic to").fill("cashews")
    page.get_by_role("button", name="Save").click()
    page.locator("#attributes").get_by_text("cashews").wait_for()
    assert [one["value"] for one in profile()["attributes"] if not one["until"]] == ["cashews"]
    page.get_by_role("button", name="Remove Allergic to: cashews").click()
    page.get_by_text("Removed. I will not conclude").wait_for()

    page.get_by_label("New rule").fill("Answer in short sentences.")
    page.locator("#rules").get_by_role("button", name="Add").click()
    switch = page.get_by_role("switch", name="Answer in short sentences.")
    assert switch.is_checked()
    with page.expect_response(re.compile("/api/profile/rules/")):
        switch.click()
    assert [one["active"] for one in profile()["rules"]] == [False]
    page.get_by_role("button", name="Change the rule").click()
    page.get_by_role("dialog").get_by_label("Rule").fill("Answer at length.")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("switch", name="Answer at length.").wait_for()
    page.get_by_role("button", name="Remove the rule").click()
    page.get_by_role("switch").wait_for(state="detached")
    assert profile()["rules"] == []

    asked = str(profile()["questions"][0]["text"])
    page.get_by_label(asked).fill("Alex")
    page.get_by_role("button", name="Answer", exact=True).click()
    page.get_by_text("Thank you. It is in your profile.").wait_for()
    assert asked not in [one["text"] for one in profile()["questions"]]
    page.locator("#attributes").get_by_text("Alex").wait_for()


@needs_browser
def test_nothing_has_left_until_the_owner_allows_it(visit: Visit, session: Session) -> None:
    page = visit.page
    visit.go("What has left this device", "What has left this device")
    assert page.get_by_text("Nothing has left this device.").is_visible()
    share = page.get_by_role("switch", name=re.compile("Take part in rounds"))
    assert not share.is_checked()
    share.click()
    page.get_by_text("This device may take part in rounds now.").wait_for()
    page.get_by_label("Privacy budget (epsilon)").fill("2.5")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Saved.").wait_for()
    settings = client_of(session).get("/api/ledger").json()["settings"]
    assert (settings["share"], settings["epsilon_budget"]) == (True, 2.5)
    visit.go("Adapters", "Adapters")
    assert page.get_by_text("This device has no adapter yet.").is_visible()


@needs_browser
def test_the_token_opens_the_page_and_stays_out_of_the_address_bar(
    browser: Browser, session: Session, address: str
) -> None:
    with visiting(browser, address) as visit:
        page = visit.page
        page.goto(address)
        page.get_by_role("heading", name="Open Penchant with its own link").wait_for()
        assert page.get_by_text("penchant serve").is_visible()
        visit.open(session.token)
        assert page.url == f"{address}/#/chat"
        assert visit.problems == []
        page.goto("about:blank")
        page.goto(f"{address}/#token=wrong")
        page.get_by_role("heading", name="This link is over").wait_for()


@needs_browser
def test_a_locked_device_shows_nothing_until_its_passphrase_is_given(browser: Browser, tmp_path: Path) -> None:
    home = make_device(tmp_path / "home", passphrase=PASSPHRASE)
    with opened_session(home, passphrase=PASSPHRASE) as session:
        remember(session, "My dog is called Bruno")
    session = new_session(home)
    try:
        with serving(session) as address, visiting(browser, address) as visit:
            page = visit.page
            page.goto(f"{address}/#token={session.token}")
            page.get_by_label("Passphrase").fill("wrong")
            page.keyboard.press("Enter")
            page.get_by_role("alert").filter(has_text=re.compile("passphrase", re.IGNORECASE)).wait_for()
            page.get_by_label("Passphrase").fill(PASSPHRASE)
            page.keyboard.press("Enter")
            visit.go("What I know about you", "What I know about you")
            page.get_by_role("link", name="Memories", exact=True).click()
            page.get_by_text("My dog is called Bruno").wait_for()
            page.get_by_role("button", name="Lock").click()
            page.get_by_role("heading", name="Locked").wait_for()
            assert session.locked
            assert "Bruno" not in page.content()
            assert len(visit.problems) == 1 and "403" in visit.problems[0]  # the wrong passphrase
    finally:
        session.close()


@needs_browser
def test_a_server_that_is_gone_or_busy_is_told_in_words(browser: Browser, session: Session) -> None:
    with serving(session) as address, visiting(browser, address) as visit:
        visit.open(session.token)
        page = visit.page
        busy = {"error": {"message": "Too many answers at once.", "type": "invalid_request_error", "code": "busy"}}
        page.route(
            "**/v1/chat/completions", lambda route: route.fulfill(status=429, json=busy, headers={"Retry-After": "7"})
        )
        visit.say("Hello?")
        page.get_by_role("alert").filter(has_text="Too many answers at once. Try again in 7 seconds.").wait_for()
        page.route("**/api/**", lambda route: route.abort())
        page.get_by_role("link", name="Adapters").click()
        page.get_by_text("Start it again with `penchant serve`").wait_for()


@needs_browser
def test_the_keyboard_is_enough(visit: Visit, engine: ScriptedEngine) -> None:
    page = visit.page
    skip = page.locator("a, button").first
    skip.focus()
    assert skip.inner_text() == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.tagName") == "H1"
    page.get_by_role("textbox", name="Your message").focus()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert engine.prompts == []
    page.keyboard.press("Enter")
    page.get_by_text("Your dog is called Bruno.", exact=True).first.wait_for()
    assert page.locator(".own .yours").inner_text() == "one\ntwo"
    announced = page.locator("[aria-live=polite]")
    announced.filter(has_text="Bruno").wait_for(state="attached")  # said once the whole answer is there
    assert announced.inner_text() == "Your dog is called Bruno."  # the whole answer, once
    link = page.get_by_role("link", name="Adapters")
    link.focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Adapters").wait_for()
    assert page.evaluate("document.activeElement.tagName") == "H1"
    assert page.title() == "Adapters · Penchant"


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_every_view_can_be_used_by_everybody(
    browser: Browser, session: Session, address: str, width: int, height: int, scheme: Scheme
) -> None:
    remember(session, "My dog is called Bruno", "x" * 200, MARKUP)
    client = client_of(session)
    client.put("/api/profile/attributes", json={"name": "lives_in", "value": "Lyon"})
    client.post("/api/profile/rules", json={"text": "Answer in short sentences."})
    with visiting(browser, address, width=width, height=height, scheme=scheme) as visit:
        page = visit.page
        visit.open(session.token)
        assert visit.barriers() == []
        visit.say("What is my dog called?")
        page.get_by_role("button", name="What went into this").click()
        page.get_by_role("dialog").wait_for()
        assert visit.barriers() == []
        page.keyboard.press("Escape")
        page.locator(".answer-sources summary").click()
        page.get_by_role("button", name="Write a better answer").click()
        assert visit.barriers() == []
        for view in ("about", "about/memories", "left", "adapters"):
            page.evaluate("view => { location.hash = `#/${view}` }", view)
            page.locator("main .page").wait_for()
            page.locator("main h1:focus").wait_for()
            assert visit.barriers() == [], view
            if width < 500:
                page.set_viewport_size({"width": 360, "height": 640})
                assert visit.too_wide() == [], view
                page.set_viewport_size({"width": width, "height": height})
        assert visit.problems == []


@needs_browser
def test_the_page_says_what_is_private_by_itself_and_what_on_request(visit: Visit, session: Session) -> None:
    page = visit.page
    visit.go("Adapters", "Adapters")
    kinds = page.get_by_role("listitem").filter(has_text="private")
    assert not kinds.first.is_visible()
    page.get_by_text("What is private here").click()
    assert "What can leave is always private" in kinds.nth(0).inner_text()
    assert "What stays is private if you ask" in kinds.nth(1).inner_text()
    for option in ("--epsilon 8", "--unit conversation"):
        assert page.locator("code").get_by_text(option).is_visible()
    assert visit.barriers() == []
    visit.go("What has left this device", "What has left this device")
    page.get_by_text("How a contribution is made").click()
    assert page.get_by_text("Nothing else leaves: memories and adapters stay.").is_visible()
    assert visit.barriers() == []
