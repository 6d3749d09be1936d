"""A headless browser for tests of pages."""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

# As root in a container there is no sandbox; without the others the browser tries to reach its maker's hosts.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1300,1000",
)


def is_there() -> bool:
    """Whether Chromium and its driver are installed."""
    return all(shutil.which(program) for program in ("chromium", "chromedriver"))


@cache
def _browser() -> Any:
    """One for all tests of a run."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    atexit.register(browser.quit)
    browser.set_network_conditions(offline=True, latency=0, throughput=0)
    return browser


@contextmanager
def opened(page: Path) -> Iterator[Any]:
    """A page in the browser, offline; it must write nothing to the console and ask for nothing outside of its file."""
    browser = _browser()
    browser.get(page.resolve().as_uri())
    yield browser
    assert browser.get_log("browser") == []
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
