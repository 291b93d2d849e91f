"""What `init` and `doctor` print."""

from __future__ import annotations

from collections.abc import Sequence

from raydelt.setup.begin import Begun
from raydelt.setup.findings import Finding
from raydelt.setup.write import plain, quoted


def begun(found: Begun, file: str) -> str:
    """What was found, what was chosen, and the commands that come next."""
    facts = found.found
    about = "" if facts["rows_exact"] else "about "
    lines = [f"{facts['format']}: {about}{facts['rows']:,} rows in {_files(facts['files'])}"]
    example = {"numbers": "columns of numbers", "list": "a list of numbers", "image": "an image", "text": "a text"}
    line = f"an example is {example[facts['example']]}"
    if facts["label"] and facts["task"] not in ("language", "vectors"):
        line += f"; its label is {_label(facts['label'])}, {facts['classes']} classes"
    lines.append(line)
    lines += [f"{name} split: {facts[name]}" for name in ("test", "validation") if facts[name]]
    verb = "order" if facts["task"] == "vectors" else "run"
    own = quoted(file)
    lines += [f"wrote {file}; next:", f"  raydelt doctor {own}", f"  raydelt estimate {own}"]
    if verb == "order":
        lines[-1] += " --until order"
    return "\n".join([*lines, f"  raydelt {verb} {own}"])


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _label(name: str) -> str:
    return "the folder that it lies in" if name == "folder" else f"{name!r}"


def findings(found: Sequence[Finding]) -> str:
    """One line a check: its state, what it is about, what was found, and what helps."""
    width = max(len(finding.check) for finding in found)
    texts = (plain(f"{finding.found} - {finding.cure}" if finding.cure else finding.found) for finding in found)
    lines = [f"{finding.state:4}  {finding.check:{width}}  {text}" for finding, text in zip(found, texts, strict=True)]
    counts = {state: sum(finding.state == state for finding in found) for state in ("ok", "warn", "fail")}
    return "\n".join([*lines, ", ".join(f"{count} {state}" for state, count in counts.items())])
