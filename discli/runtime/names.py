"""Long names in narrow places: beside a row of images, in a legend, at a mark."""

import re


def fold(name: str, width: int, most: int) -> str:
    """``name`` on up to ``most`` lines of ``width`` letters, broken behind commas and spaces where there are any.

    What does not fit is left out where the last line ends, in favour of three dots.
    """
    lines = [""]
    for part in re.findall(r"[^, ]*[, ]*", name):
        if len(lines[-1]) + len(part.rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += part
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    if len(lines) > most:
        lines[most - 1 :] = [lines[most - 1][: width - 1].rstrip() + "\u2026"]
    return "\n".join(line.strip() for line in lines)
