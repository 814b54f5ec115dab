"""Fixtures that several test folders share."""

import logging
import os
from pathlib import Path

import absl.logging
import pytest

from agentark import embedded

# rouge_score's absl keeps a handler on the stderr it was imported under, here pytest's own; vLLM's import ends every
# handler, and absl's closes a stream that is not today's sys.stderr, which would close pytest's capture with it.
absl.logging.PythonHandler.close = logging.Handler.close


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
