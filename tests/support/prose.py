"""The sentences of a Markdown page, and how long they are."""

from __future__ import annotations

import re

CODE_BLOCK = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
NO_PROSE = re.compile(r"^(#|\||<!--|    )")  # headings, tables, comments, indented code
LIST_MARK = re.compile(r"^\s*(?:[-*]|\d+\.)\s+")
# A full stop and a capital, a digit or markup: "e.g. this" does not end a sentence. A colon at a paragraph's end does.
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9`*\[(])")


def sentences(page: str) -> list[str]:
    """Return the sentences of a page's paragraphs and list items; code, tables and headings are left out."""
    found = []
    for paragraph in paragraphs(CODE_BLOCK.sub("\n", page)):
        text = re.sub(r"`[^`]*`", "`code`", paragraph)  # one word, however long
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
        found += SENTENCE_END.split(text)
    return found


def paragraphs(page: str) -> list[str]:
    """Return paragraphs and list items, each on one line."""
    found: list[str] = []
    is_open = False
    for line in page.splitlines():
        if not line.strip() or (NO_PROSE.match(line) and not is_open):
            is_open = False
        elif LIST_MARK.match(line) or not is_open:
            found.append(LIST_MARK.sub("", line).strip())
            is_open = True
        else:
            found[-1] += " " + line.strip()
    return found


def words(sentence: str) -> int:
    """Return how many words a sentence has; a dash or a drawing's arrow is none."""
    return sum(any(character.isalnum() for character in word) for word in sentence.split())
