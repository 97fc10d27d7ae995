"""Checks that what pages and sources refer to is there.

- A relative link in a page names a file that exists, and a heading of it where it has a `#`.
- `spec/NAME.md` names a page; a section named right behind it, as in "`spec/wire.md` section 9"
  or "[wire.md](wire.md) sections 1 to 3", is a numbered heading of that page.
- A page's numbered headings count up without a gap.

Prints each broken reference with its place; the exit status is 1 when there is one.
"""

import pathlib
import re
import subprocess
import sys

HEADING = re.compile(r"^#+ (.+)$", re.M)
NUMBER = re.compile(r"^(\d+(?:\.\d+)*)\.? ")
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
PAGE = r"(?:`?spec/(?P<page>[\w-]+\.md)`?|\[[\w-]+\.md\]\((?P<link>[^)#\s]+)\))"
SECTIONS = r"(?:,? sections? (?P<sections>\d+(?:\.\d+)*(?:(?:, | and | to )\d+(?:\.\d+)*)*))?"
CITATION = re.compile(PAGE + SECTIONS)
CODE = re.compile(r"^(```|~~~).*?^\1", re.M | re.S)
# What continues a sentence on the next line of a comment or a page.
LINE_BREAK = re.compile(r"\n[ \t]*(?://[/!]?|#)?[ \t]*")


def tracked(*patterns):
    """Files in the tree by pattern, those not yet added included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [path for path in map(pathlib.Path, names.splitlines()) if path.exists()]


def headings(page):
    """The text of a page's headings, in order."""
    return HEADING.findall(CODE.sub("", page.read_text()))


def numbers(page):
    """The numbers of a page's numbered headings, in order."""
    found = (NUMBER.match(heading) for heading in headings(page))
    return [match.group(1) for match in found if match]


def anchor(heading):
    """The anchor that a heading is given where pages are shown."""
    kept = re.sub(r"[^\w\- ]", "", heading.lower())
    return kept.replace(" ", "-")


def broken_links(page):
    """Links of a page that lead nowhere."""
    for target in LINK.findall(CODE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists():
            yield f"link to {target}: there is no such file"
        elif fragment and fragment not in map(anchor, headings(file)):
            yield f"link to {target}: there is no such heading"


def broken_citations(source):
    """Pages and sections of the spec that a source or page names and that are not there."""
    for citation in CITATION.finditer(LINE_BREAK.sub(" ", source.read_text())):
        if citation["page"]:
            page = pathlib.Path("spec", citation["page"])
        else:
            page = source.parent / citation["link"]
        if not page.exists():
            yield f"{page}: there is no such page"
            continue
        for number in re.findall(r"\d+(?:\.\d+)*", citation["sections"] or ""):
            if number not in numbers(page):
                yield f"{page} section {number}: there is no such section"


def broken_order(page):
    """Numbered headings that don't follow the one before them."""
    last = []
    for number in numbers(page):
        parts = [int(part) for part in number.split(".")]
        above, step = parts[:-1], parts[-1]
        first = step == 1 and above == last[: len(above)]
        next_one = above == last[: len(above)] and len(last) >= len(parts) \
            and step == last[len(above)] + 1
        if not first and not next_one:
            yield f"section {number} follows {'.'.join(map(str, last)) or 'nothing'}"
        last = parts


def main():
    """Checks everything; the exit status."""
    pages = tracked("*.md")
    sources = tracked("*.rs", "spec/*.py", "*.toml")
    count = 0
    for source in pages + sources:
        found = list(broken_citations(source))
        if source in pages:
            found += broken_links(source)
        if source in pages and source.parts[0] == "spec":
            found += broken_order(source)
        for what in found:
            print(f"{source}: {what}")
            count += 1
    print(f"{len(pages)} pages and {len(sources)} sources, {count} broken references")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
