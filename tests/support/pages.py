"""The README and the pages of docs/, and the anchors and links in them."""

from __future__ import annotations

import re

from workplace import REPOSITORY

DOCS = sorted(path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "docs").glob("*.md"))
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", *DOCS]


def page(name: str) -> str:
    """Return the text of a page; `name` is relative to the repository."""
    return (REPOSITORY / name).read_text(encoding="utf-8")


README = page("README.md")
DATABASE = page("docs/database.md")
QUERIES: list[str] = re.findall(r"```sql\n([^`]+)```", DATABASE)


def first_cells(part: str) -> list[str]:
    """Return the names in the first column of the tables in a part of a page."""
    rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return [name for cell in rows for name in re.findall(r"`(\w+)`", cell)]


def section(text: str, heading: str) -> str:
    """Return what stands under a heading of the second level."""
    assert f"## {heading}\n" in text, heading
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(text: str) -> list[str]:
    """Return the targets of a page's links, but those to other sites."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
