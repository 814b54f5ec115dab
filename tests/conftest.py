"""Fixtures that several test folders share."""

import logging
import os
import re
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

import absl.logging
import pytest

from agentark import embedded

# rouge_score's absl keeps a handler on the stderr it was imported under, here pytest's own; vLLM's import ends every
# handler, and absl's closes a stream that is not today's sys.stderr, which would close pytest's capture with it.
absl.logging.PythonHandler.close = logging.Handler.close


NEEDED = {
    "[Cc]hromium|Playwright": "without Chromium (apt-get install chromium)",
    "bwrap|nothing isolates": "without bubblewrap (apt-get install bubblewrap)",
    "namespaces": "without Linux namespaces (sysctl user.max_user_namespaces=10000)",
    "no dataset files|not part of the repository|^no .* in |no cases": "without files that are not part of the "
    "repository (set AGENTARK_TEST_DATA)",
}
"""Reason of a skipped test -> what it says below the run."""


LEFT_OUT: list[pytest.Item] = []
"""Slow tests that were not asked for."""


def what_was_skipped(reasons: Iterable[str], slow: int) -> str:
    """`skipped: 22 without Chromium (apt-get install chromium); 8 slow (make test-slow)`; empty where nothing was.

    Args:
        reasons: of the skipped tests, one each.
        slow: tests that were left out as slow.
    """
    groups = Counter(
        next((text for pattern, text in NEEDED.items() if re.search(pattern, reason)), f"({reason})")
        for reason in reasons
    )
    if slow:
        groups["slow (make test-slow)"] = slow
    return "skipped: " + "; ".join(f"{count} {text}" for text, count in groups.most_common()) if groups else ""


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    LEFT_OUT.extend(item for item in items if item.get_closest_marker("slow"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Say below everything else which tests were skipped, and how to get them."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        skipped = [report.longrepr[2].removeprefix("Skipped: ") for report in reporter.stats.get("skipped", [])]
        if line := what_was_skipped(skipped, len(LEFT_OUT)):
            reporter.write_line(line)


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """SmolLM2-135M-Instruct, converted at most once per cache (`AGENTARK_CACHE`)."""
    return embedded.prepare()


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained llama of 3.2M parameters with SmolLM2's tokenizer."""
    return embedded.small_random_model(tmp_path_factory.mktemp("models") / "small-llama")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with real dataset files; tests that need it are skipped where there is none."""
    folder = Path(os.environ.get("AGENTARK_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no dataset files: {folder} is not a folder (set AGENTARK_TEST_DATA)")
    return folder
