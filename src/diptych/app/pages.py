"""What the pages of runs and of comparisons share: templates, and pictures inside the page."""

from __future__ import annotations

import base64
import io
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image


def render(template: str, **values: Any) -> str:
    """A page from a template of `assets`; all values are escaped but those that are `safe`."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("diptych.app", "assets"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    style = (resources.files("diptych.app") / "assets" / "report.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(style=safe(style), **values)


def safe(markup: str) -> Any:
    """Markup of our own making, which the template does not escape again."""
    from markupsafe import Markup

    return Markup(markup)


def inlined(picture: Image.Image, width: int, quality: int = 86) -> dict[str, Any]:
    """A picture as a WEBP data URI, at most `width` pixels wide, with its size in pixels."""
    from PIL import Image

    small = picture.convert("RGB")
    small.thumbnail((width, 10 * width), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "WEBP", quality=quality, method=2)
    uri = "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode("ascii")
    return {"uri": uri, "width": small.width, "height": small.height}


def relative(folder: Path) -> str:
    """A folder as one types it from here, where it lies below."""
    here = Path.cwd()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)
