"""Tables as LaTeX, with booktabs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from tcm_lab.reporting.table import MARKS, PUBLISHED, Cell, Row, Table

_GREEK = "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ"
_GREEK_NAMES = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau
    upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega
"""
_MATHS = {
    **{letter: rf"\{name}" for letter, name in zip(_GREEK, _GREEK_NAMES.split(), strict=True)},
    "\N{MINUS SIGN}": "-",
    "\N{MULTIPLICATION SIGN}": r"\times",
    "<": "<",
    ">": ">",
    "|": "|",
    "≤": r"\leq",
    "≥": r"\geq",
    "≈": r"\approx",
    "±": r"\pm",
    "·": r"\cdot",
    "¹": "^1",
    "²": "^2",
    "³": "^3",
    "°": r"^\circ",
    "∞": r"\infty",
    "→": r"\rightarrow",
    "★": r"\star",
    "†": r"\dagger",
    "‡": r"\ddagger",
}
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\N{NO-BREAK SPACE}": "~",
    "\N{LEFT DOUBLE QUOTATION MARK}": "``",
    "\N{RIGHT DOUBLE QUOTATION MARK}": "''",
    "\N{LEFT SINGLE QUOTATION MARK}": "`",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "…": r"\ldots{}",
    "\N{MICRO SIGN}": r"$\mu$",
    **{character: f"${name}$" for character, name in _MATHS.items()},
    "ß": r"{\ss}",
    "æ": r"{\ae}",
    "Æ": r"{\AE}",
    "ø": r"{\o}",
    "Ø": r"{\O}",
    "œ": r"{\oe}",
    "Œ": r"{\OE}",
    "ł": r"{\l}",
    "Ł": r"{\L}",
}
_ACCENTS = {
    "GRAVE ACCENT": "`", "ACUTE ACCENT": "'", "CIRCUMFLEX ACCENT": "^", "TILDE": "~", "MACRON": "=",
    "BREVE": "u", "DOT ABOVE": ".", "DIAERESIS": '"', "RING ABOVE": "r", "CARON": "v",
    "DOUBLE ACUTE ACCENT": "H", "CEDILLA": "c", "DOT BELOW": "d",
}  # fmt: skip
#: Between characters that TeX would join.
_JOINED = re.compile(r"(?<=-)(?=-)|(?<=`)(?=`)|(?<=')(?=')|(?<=[?!])(?=`)|(?<=,)(?=,)")


def latex(tables: Sequence[Table]) -> str:
    r"""Return one ``table`` environment per table; they need ``\usepackage{booktabs}``."""
    return "\n".join(map(_one, tables))


def escape(text: str) -> str:
    r"""Escape ``text`` so that LaTeX prints it verbatim, also right after a ``\\``."""
    parts = _JOINED.split(unicodedata.normalize("NFC", text))
    escaped = "{}".join("".join(map(_character, part)) for part in parts)
    # ``\\`` would take a following ``*`` or ``[`` as an argument.
    return f"{{{escaped[0]}}}{escaped[1:]}" if escaped.startswith(("*", "[")) else escaped


def _character(character: str) -> str:
    """Return one character for any engine; by its code point if plain TeX lacks it."""
    if character in _SPECIAL:
        return _SPECIAL[character]
    if character.isspace():
        return " "
    if character.isascii() and character.isprintable():
        return character
    letter, *marks = list(unicodedata.normalize("NFD", character))
    accents = [_ACCENTS.get(unicodedata.name(m, "").removeprefix("COMBINING ")) for m in marks]
    if not (marks and all(accents) and letter.isascii()):
        return rf"\texttt{{U+{ord(character):04X}}}"
    for accent in accents:
        letter = rf"\{accent}{{{letter}}}"
    return letter


def _one(table: Table) -> str:
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        *([rf"\caption{{{escape(table.title)}}}"] if table.title else []),
        rf"\begin{{tabular}}{{{''.join('l' if c.is_text else 'r' for c in table.columns)}}}",
        r"\toprule",
        *_group_header(table),
        _line(escape(column.label) for column in table.columns),
        r"\midrule",
        *(_row(table, row, cells) for row, cells in table.cells(table.measured)),
    ]
    if table.published:
        if table.measured:
            lines.append(r"\midrule")
        heading = rf"\emph{{{escape(PUBLISHED)}}}"
        lines.append(rf"\multicolumn{{{len(table.columns)}}}{{l}}{{{heading}}} \\")
        lines += [_row(table, row, cells) for row, cells in table.cells(table.published)]
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        notes = r" \\ ".join(map(escape, table.notes))
        lines += [r"\par\smallskip", rf"{{\footnotesize {notes}}}"]
    lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"


def _group_header(table: Table) -> list[str]:
    """Return the row of groups and the rules under them; empty without groups."""
    cells, rules, last = [], [], 0
    for group, width in table.groups:
        last += width
        cells += [rf"\multicolumn{{{width}}}{{c}}{{{escape(group)}}}"] if group else [""] * width
        rules += [rf"\cmidrule(lr){{{last - width + 1}-{last}}}"] if group else []
    return [_line(cells), " ".join(rules)] if rules else []


def _row(table: Table, row: Row, cells: Sequence[Cell]) -> str:
    texts = []
    for cell in cells:
        minus = cell.text if cell.column.is_text else cell.text.replace("-", "\N{MINUS SIGN}")
        text = escape(minus)
        texts.append(rf"\textbf{{{text}}}" if cell.is_best else text)
    signs = "".join(" " + escape(MARKS[mark][0]) for mark in row.marks)
    texts[0] += table.citation(row) + signs
    return _line(texts)


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"
