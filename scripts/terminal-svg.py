#!/usr/bin/env python3
"""Runs commands and draws what a terminal would show: terminal-svg.py OUT.svg 'COMMAND' ['COMMAND' ...]

Used for docs/session.svg:
  scripts/terminal-svg.py docs/session.svg 'halogen run demo "What is error E0382?" --temp 0' 'halogen devices'
"""
import html
import os
import pty
import re
import sys
import textwrap

COLUMNS = 124
ESCAPES = {"1": "b", "2": "d"}


def run(command):
    """The command's output on a terminal of COLUMNS columns."""
    chunks = []

    def read(fd):
        data = os.read(fd, 65536)
        chunks.append(data)
        return data

    os.environ.update(COLUMNS=str(COLUMNS), TERM="xterm-256color")
    pty.spawn(["/bin/sh", "-c", f"stty cols {COLUMNS}; {command}"], read)
    return b"".join(chunks).decode("utf-8", "replace")


def lines(text):
    """Finished lines as (style, text) runs: carriage returns overwrite, cursor codes are dropped."""
    for line in text.replace("\r\n", "\n").split("\n"):
        # What is erased was there for a moment only.
        line = line.split("\x1b[2K")[-1].split("\r")[-1]
        line = re.sub(r"\x1b\[[0-9;?]*[A-LN-Za-ln-z]", "", line)
        runs, style = [], ""
        for part in re.split(r"(\x1b\[[0-9;]*m)", line):
            code = re.fullmatch(r"\x1b\[([0-9;]*)m", part)
            if code:
                style = next((ESCAPES[c] for c in code[1].split(";") if c in ESCAPES), "")
            elif part:
                runs.append((style, part))
        yield runs


def wrapped(runs):
    length = sum(len(text) for _, text in runs)
    if length <= COLUMNS:
        return [runs]
    style = runs[0][0]
    return [[(style, part)] for part in textwrap.wrap("".join(t for _, t in runs), COLUMNS, drop_whitespace=False)]


def main():
    out, commands = sys.argv[1], sys.argv[2:]
    rows = []
    for command in commands:
        rows.append([("p", "$ "), ("b", command)])
        shown = [row for line in lines(run(command)) for row in wrapped(line)]
        while shown and not shown[-1]:
            shown.pop()
        rows += shown + [[]]
    rows.pop()
    width, height = COLUMNS * 8.43 + 40, len(rows) * 19 + 64
    body = []
    for i, runs in enumerate(rows):
        spans = "".join(f'<tspan class="{s}">{html.escape(t)}</tspan>' for s, t in runs)
        body.append(f'<text x="20" y="{58 + i * 19}" xml:space="preserve">{spans}</text>')
    dots = "".join(f'<circle cx="{22 + 18 * i}" cy="20" r="6" fill="{c}"/>' for i, c in enumerate(["#ff5f57", "#febc2e", "#28c840"]))
    with open(out, "w") as f:
        f.write(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}">\n'
            "<style>text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#d6deeb}"
            ".b{font-weight:bold;fill:#fff}.d{fill:#8a95a8}.p{fill:#7fdbca}</style>\n"
            f'<rect width="100%" height="100%" rx="8" fill="#10151f"/>{dots}\n' + "\n".join(body) + "\n</svg>\n"
        )


main()
