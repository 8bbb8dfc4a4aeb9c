"""A headless Chromium that watches what it shows: what the console says, what the policy stopped, and where pictures go.

It is Debian's package, driven by Playwright.  Without it the tests that need it are skipped, by name, on a developer's machine, and fail
where CI runs: ``.ci/run`` installs it there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Page, Playwright, sync_playwright

from infra.settings import REPO_ROOT

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--force-color-profile=srgb"),
)
_LAPTOP = {"width": 1366, "height": 768}
_COLLECT_VIOLATIONS = """
window.violations = [];
addEventListener("securitypolicyviolation", event => violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


@dataclass
class Browser:
    """One page of a browser; ``said`` is what its console said, ``failed`` what it could not load."""

    page: Page
    said: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def violations(self) -> list[str]:
        """What the content security policy stopped on this page."""
        found: list[str] = self.page.evaluate("window.violations")
        return found

    def screenshot(self, name: str) -> Path:
        """The whole page, in the folder of artefacts."""
        folder = Path(os.environ.get("FRAUDGUARD_ARTEFACTS") or REPO_ROOT / "artefacts")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"page-{name}.png"
        self.page.screenshot(path=path, full_page=True)
        return path


@contextmanager
def browsers() -> Iterator[Callable[[], AbstractContextManager[Browser]]]:
    """A way to open browsers, each with a profile of its own."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        why = "there is no Chromium on PATH: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    with sync_playwright() as driver:
        yield partial(_browser, driver, program)


@contextmanager
def _browser(driver: Playwright, program: str) -> Iterator[Browser]:
    with tempfile.TemporaryDirectory() as profile:
        context = driver.chromium.launch_persistent_context(
            profile, executable_path=program, headless=True, args=list(_FLAGS), viewport=_LAPTOP, timezone_id="UTC"
        )
        context.add_init_script(_COLLECT_VIOLATIONS)
        browser = Browser(context.pages[0])
        browser.page.on("console", lambda message: browser.said.append(f"{message.type}: {message.text}"))
        browser.page.on("pageerror", lambda error: browser.said.append(f"error: {error}"))
        browser.page.on("requestfailed", lambda request: browser.failed.append(request.url))
        yield browser
        context.close()
