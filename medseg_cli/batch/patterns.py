"""Patterns of paths: what `--include`, `--exclude` and `.bidsignore` say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether any pattern means the path, or a folder that it lies in.

    A pattern without "/" is held against every name of the path, one with "/" against the path from its beginning. `*`
    and `?` stay within a name, `**` does not; `[a-z]` is one letter; capitals count.

    Args:
        path: relative, with "/".
        patterns: as users write them.
    """
    parts = path.split("/")
    above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    for pattern in patterns:
        text = pattern.strip().removeprefix("./").rstrip("/")
        wanted = parts if "/" not in text else above
        if any(_compiled(text.removeprefix("/")).fullmatch(each) for each in wanted):
            return True
    return False


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    # "**/" twice means what it means once, and costs its square.
    pattern = re.sub(r"(\*\*/)+", "**/", pattern)
    found, at = [], 0
    while at < len(pattern):
        rest = pattern[at:]
        if rest.startswith("**/"):
            found.append("(?:.*/)?")
            at += 3
        elif rest.startswith("**"):
            found.append(".*")
            at += 2
        elif rest[0] == "*":
            found.append("[^/]*")
            at += 1
        elif rest[0] == "?":
            found.append("[^/]")
            at += 1
        elif group := re.match(r"\[(!?)(\]?[^\]/]*)\]", rest):
            letters = group[2].replace("\\", r"\\").replace("[", r"\[").replace("]", r"\]").replace("^", r"\^")
            found.append(f"[{'^/' if group[1] else ''}{letters}]")
            at += group.end()
        else:
            found.append(re.escape(rest[0]))
            at += 1
    try:
        return re.compile("".join(found), re.DOTALL)
    except re.error:  # "[z-a]": no range, so it means a name that is written so
        return re.compile(re.escape(pattern))
