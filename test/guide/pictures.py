#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws what TestPictures has recorded of terminals: pictures.py RECORDS PICTURES (make docs-pictures).

pyte is the terminal, rich draws its screen. What differs from run to run is replaced, so that the pictures do not change
with each run.
"""

import itertools
import pathlib
import re
import sys

import pyte
from pyte.screens import Char
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

COLUMNS, LINES = 120, 100
MARGIN = 8

# Where a picture ends of what is longer.
ENDS = {"demo": "5. ", "status": "CHANGED ON"}

# No window, and a font that the reader has.
FORMAT = """\
<svg xmlns="http://www.w3.org/2000/svg" width="WIDTH" height="HEIGHT" viewBox="0 0 WIDTH HEIGHT">
<style>
.{unique_id}-matrix {{ font: {char_height}px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
 white-space: pre; }}
{styles}
</style>
<defs>{lines}</defs>
<rect width="100%" height="100%" rx="6" fill="BACKGROUND"/>
<g class="{unique_id}-matrix" transform="translate(MARGIN, MARGIN)" xml:space="preserve">
{backgrounds}
{matrix}
</g>
</svg>
"""

# Background, foreground, and the eight colours of terminals, with which GitHub's pages are readable.
THEMES = {
    "light": TerminalTheme((246, 248, 250), (31, 35, 40), [
        (36, 41, 47), (207, 34, 46), (17, 99, 41), (125, 78, 0),
        (9, 105, 218), (130, 80, 223), (27, 124, 131), (110, 119, 129)]),
    "dark": TerminalTheme((13, 17, 23), (230, 237, 243), [
        (72, 79, 88), (255, 123, 114), (63, 185, 80), (210, 153, 34),
        (88, 166, 255), (188, 140, 255), (57, 197, 207), (177, 186, 196)]),
}

# What no two runs have alike. Columns stay in line.
VOLATILE = [
    (re.compile(r"(?<![:\w])\d\d:\d\d:\d\d(?![:\w])"), "12:00:00"),
    (re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "2026-01-01T12:00:00Z"),
    (re.compile(r"\bsince \d\d:\d\d\b"), "since 12:00"),
    (re.compile(r"\bpid \d+"), "pid 1234"),
]


def screen_of(record):
    """Returns the screen of a terminal that was sent the record, without empty lines at its end."""
    screen = pyte.Screen(COLUMNS, LINES)  # of all records: a program on a smaller terminal leaves the rest empty
    pyte.ByteStream(screen).feed(leave_screen(record))
    rows = [[screen.buffer[y][x] for x in range(COLUMNS)] for y in range(LINES)]
    while rows and all(c.data == " " and not c.reverse for c in rows[-1]):
        rows.pop()
    return rows


def cut(rows, end):
    """Returns the rows before the one that begins so, and "..." where the rest would be."""
    for i, row in enumerate(rows):
        if end and "".join(c.data for c in row).startswith(end):
            return rows[:i] + [[Char(c) for c in "..."]]
    return rows


def leave_screen(record):
    """Cuts off the end, at which a program gives the screen back."""
    return record.split(b"\x1b[?1049l")[0]


def style_of(c):
    fg, bg = (None if colour == "default" else colour for colour in (c.fg, c.bg))
    names = [name for name in ("bold", "italics", "underscore", "reverse") if getattr(c, name)]
    names = [{"italics": "italic", "underscore": "underline"}.get(n, n) for n in names]
    if fg:
        names.append(colour_name(fg))
    if bg:
        names.append("on " + colour_name(bg))
    return " ".join(names)


def colour_name(colour):
    if re.fullmatch("[0-9a-f]{6}", colour):
        return "#" + colour
    return {"brown": "yellow"}.get(colour, colour).replace("bright", "bright_")


def text_of(row):
    plain = "".join(c.data for c in row)
    for pattern, fixed in VOLATILE:
        plain = pattern.sub(fixed, plain)
    text, x = Text(plain), 0
    for style, cells in itertools.groupby(row, style_of):
        begin, x = x, x + len(list(cells))
        text.stylize(style, begin, x)
    text.rstrip()
    return text


def draw(name, rows, theme):
    width = max((len(text_of(row)) for row in rows), default=1)
    console = Console(record=True, width=width, file=open("/dev/null", "w"), force_terminal=True, color_system="truecolor",
                      legacy_windows=False)
    for row in rows:
        console.print(text_of(row), no_wrap=True, overflow="crop")
    # Of a character, as rich has it. All pictures are as wide as the terminal, so that pages show letters of one size.
    size = {"WIDTH": COLUMNS * 12.2 + 2 * MARGIN, "HEIGHT": len(rows) * 24.4 + 2 * MARGIN, "MARGIN": MARGIN}
    frame = FORMAT.replace("BACKGROUND", THEMES[theme].background_color.hex)
    for key, value in size.items():
        frame = frame.replace(key, f"{value:.0f}")
    return console.export_svg(theme=THEMES[theme], code_format=frame, unique_id=name)


def main(records, pictures):
    for record in sorted(pathlib.Path(records).glob("*.terminal")):
        rows = cut(screen_of(record.read_bytes()), ENDS.get(record.stem))
        for theme in THEMES:
            picture = pathlib.Path(pictures) / f"{record.stem}-{theme}.svg"
            picture.write_text(draw(record.stem, rows, theme))
            print(picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
