"""A real browser, and a server for it to visit."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from flask import Flask
from playwright.sync_api import Browser, sync_playwright
from werkzeug.serving import make_server

from . import servers

#: Names a Chromium; without it the first one on the path is taken, else Playwright's own.
VARIABLE = "PLANWATCH_TEST_CHROMIUM"

_COMMANDS = ("chromium", "chromium-browser", "google-chrome")

#: Its sandbox refuses root, as whom containers run tests; it asks nobody else for anything.
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

#: WCAG's contrast of each visible text with what is behind it; returns those that are below 4.5.
LOW_CONTRAST = """
root => {
  const parse = color => color.match(/[\\d.]+/g).map(Number);
  const over = (top, below) => {
    const alpha = top[3] ?? 1;
    return [0, 1, 2].map(i => top[i] * alpha + below[i] * (1 - alpha));
  };
  const luminance = color => {
    const [r, g, b] = color.map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = element => element
    ? over(parse(getComputedStyle(element).backgroundColor), background(element.parentElement))
    : [255, 255, 255];
  const low = [];
  let seen = 0;
  for (const element of root.querySelectorAll("*")) {
    const text = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join("");
    const hidden = element.matches(".flDebugClose") || !element.checkVisibility();
    if (!text.trim() || hidden) continue;
    seen += 1;
    const below = background(element);
    const [a, b] = [over(parse(getComputedStyle(element).color), below), below].map(luminance);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${text.trim()}`);
  }
  return [seen, low];
}
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium; without one, skip the test, or fail where all is required."""
    command = os.environ.get(VARIABLE) or next(filter(None, map(shutil.which, _COMMANDS)), None)
    with ExitStack() as stack:
        try:
            playwright = stack.enter_context(sync_playwright())
            browser = playwright.chromium.launch(executable_path=command, args=list(_ARGUMENTS))
        except Exception as error:  # noqa: BLE001 - Playwright's own program may not start either
            servers.missing(f"no Chromium to start: {str(error).splitlines()[0]}")
        stack.callback(browser.close)
        yield browser


@contextmanager
def serve(app: Flask) -> Iterator[str]:
    """Serve an app from a thread of its own, and return the URL to visit."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="tests.serve")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
