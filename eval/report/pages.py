"""The site: filled templates beside static files and the two libraries."""

import importlib.util
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import msgspec

from agentark.files import writing
from agentark.types import UserError

HERE = Path(__file__).parent
LIBRARIES = {
    "plotly.min.js": ("plotly", "package_data/plotly.min.js"),
    "katex.min.js": ("sphinxcontrib", "katex.min.js"),
}
"""File of the site -> (package, path in it). Only this file of the second package is used: it is KaTeX."""
PAGES = {
    "index.html": "Overview",
    "debate.html": "Debate",
    "prm.html": "PRM",
    "rl.html": "RL and fine-tuning",
    "samples.html": "Samples",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'none'; base-uri 'none'; form-action 'none'"
)
"""Nothing from outside, no inline script, no eval, no requests. Inline styles are allowed because plotly and KaTeX set
them; model text never becomes markup, so it cannot bring any."""


def environment() -> jinja2.Environment:
    """Templates that escape everything and treat an unknown name as an error."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {function.__name__: function for function in (embed, share, signed, count, slug, short)}
    return templates


def embed(value: Any) -> str:
    """JSON that can stand in a script element of another type: no `<`, so no end tag. The template marks it safe."""
    return msgspec.json.encode(value).decode().replace("<", "\\u003c")


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def count(value: float | None) -> str:
    """A number as a person reads it: 12,345, 12.3, 0.042."""
    if value is None:
        return "–"
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.3f}"


def slug(text: str) -> str:
    """An id for an element."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def short(digest: str | None) -> str:
    return digest[:12] if digest else "–"


def library(name: str) -> Path:
    """Path of a site file in its installed package.

    Raises:
        UserError: the package is not installed.
    """
    package, inside = LIBRARIES[name]
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / inside
        if path.is_file():
            return path
    pinned = {"plotly": "plotly", "sphinxcontrib": "sphinxcontrib-katex"}[package]
    raise UserError(f"the report needs {name} of the package {pinned}; install the requirements (make .venv)")


def write(output: Path, pages: Mapping[str, Mapping[str, Any]], common: Mapping[str, Any]) -> None:
    """Fill the templates into `output` and copy the files they load.

    Args:
        pages: file -> variables of its template.
        common: variables of all templates.
    """
    templates = environment()
    assets = output / "assets"
    assets.mkdir(parents=True, exist_ok=True)
    files = {name: library(name) for name in LIBRARIES}
    files |= {path.name: path for path in sorted((HERE / "static").iterdir())}
    for name, path in files.items():
        with writing(assets / name):
            shutil.copyfile(path, assets / name)
    for name, values in pages.items():
        text = templates.get_template(f"{name}.j2").render(page=name, pages=PAGES, policy=POLICY, **common, **values)
        with writing(output / name):
            (output / name).write_text(text, encoding="utf-8")
