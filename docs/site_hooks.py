"""What mkdocs.yml calls: pages of the site that lie above docs/, where GitHub looks for them.

CONTRIBUTING.md becomes contributing.md and so on; links to and from them are rewritten.
"""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages; their links lead to docs/ or to each other."""
    from mkdocs.structure.files import File

    for name in OUTSIDE:
        text = (ROOT / name).read_text("utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name.lower(), content=_lowered(text, "")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turns links such as ../CHANGELOG.md into the site's own."""
    return _lowered(markdown, r"\.\./")


def _lowered(text: str, above: str) -> str:
    names = "|".join(re.escape(name) for name in OUTSIDE)
    return re.sub(rf"\]\({above}({names})", lambda match: f"]({match[1].lower()}", text)
