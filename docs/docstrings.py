"""For the site: lines `name: meaning` of a docstring become a list, examples with >>> become code."""

import re
from typing import Any

from griffe import Extension, Object

_ITEM = re.compile(r"^([a-z_0-9]+(?:, [a-z_0-9]+)*): (.*)")


def as_markdown(text: str) -> str:
    lines: list[str] = []
    state = ""
    for line in text.splitlines():
        item = _ITEM.match(line)
        if line.startswith(">>>") and state != "code":
            lines += ["", "```python"]
            state = "code"
        elif state == "code" and not line.strip():
            lines.append("```")
            state = ""
        elif item and state != "code":
            lines += [] if state == "list" else [""]
            names = ", ".join(f"`{name}`" for name in item[1].split(", "))
            line, state = f"- {names}: {item[2]}", "list"
        elif state == "list" and line.startswith("Raises"):
            lines.append("")
            state = ""
        lines.append(f"  {line}" if state == "list" and not item and line.strip() else line)
    return "\n".join([*lines, "```"] if state == "code" else lines)


class Docstrings(Extension):
    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
