"""Tables: the same figures in five forms, rounded for readers, whole for machines."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from tcm_lab.errors import LabError
from tcm_lab.reporting import Column, Row, Table, render, render_all
from tcm_lab.stats import Interval

COLUMNS = (
    Column(key="model", header="model"),
    Column(
        key="parameters",
        header="all",
        group="parameters",
        unit="M",
        format=".2f",
        scale=1e-6,
        best="low",
    ),
    Column(key="kmacs_per_px", header="whole", group="kMAC/px", format=".1f", best="low"),
    Column(key="psnr_db", header="PSNR", unit="dB", format=".2f", best="high"),
    Column(key="bd_rate_percent", header="BD-rate", unit="%", format="+.1f"),
)


def a_table() -> Table:
    return Table(
        title="A & B <C>",
        columns=COLUMNS,
        rows=(
            Row(
                values={
                    "model": "g_a|x_y_*",
                    "parameters": 1_234_567,
                    "kmacs_per_px": 559.618,
                    "psnr_db": 30.125,
                    "bd_rate_percent": Interval(value=-3.14159, low=-4.0, high=-2.25),
                },
                marks=("pareto", "baseline"),
            ),
            Row(
                values={
                    "model": "<b>&nbsp;50%_$",
                    "parameters": 2_000_000,
                    "kmacs_per_px": 1846.4361,
                    "psnr_db": 31.5,
                }
            ),
            Row(values={"model": "theirs", "kmacs_per_px": 1.0}, source="Somebody, table 1"),
        ),
        footer=("Conditions: 2 cores.",),
    )


def test_what_is_rounded_to_zero_has_no_sign() -> None:
    column = Column(key="change_percent", header="change", format="+.1f")
    assert [column.text(value) for value in (-0.04, 0.04, -0.06, -10.0)] == [
        "+0.0",
        "+0.0",
        "-0.1",
        "-10.0",
    ]
    plain = Column(key="bpp", header="rate", format=".2f")
    assert plain.text(-0.001) == "0.00"
    assert plain.text(float("-inf")) == "-inf"


def test_csv_read_back_by_pandas_holds_the_values_and_the_interval() -> None:
    frame = pd.read_csv(io.StringIO(render(a_table(), "csv")))
    assert list(frame.columns) == [
        "model",
        "parameters",
        "kmacs_per_px",
        "psnr_db",
        "bd_rate_percent",
        "bd_rate_percent_low",
        "bd_rate_percent_high",
        "marks",
        "source",
    ]
    assert frame["parameters"][0] == 1_234_567
    assert frame["kmacs_per_px"].tolist() == [559.618, 1846.436, 1.0]
    assert frame["bd_rate_percent"][0] == pytest.approx(-3.14159)
    assert frame["bd_rate_percent_low"][0] == -4.0
    assert frame["marks"][0] == "pareto;baseline"
    assert frame["source"][2] == "Somebody, table 1"
    assert frame["model"][1] == "<b>&nbsp;50%_$"


def test_json_read_back_holds_the_values_and_null_for_unknown_ones() -> None:
    tree = json.loads(render(a_table(), "json"))
    first, second, third = tree["rows"]
    assert first["parameters"] == 1_234_567
    assert first["bd_rate_percent"] == {"value": -3.14159, "low": -4.0, "high": -2.25}
    assert first["marks"] == ["pareto", "baseline"]
    assert second["bd_rate_percent"] is None
    assert third["source"] == "Somebody, table 1"


def test_json_has_no_not_a_number() -> None:
    rows = (Row(values={"model": "m", "psnr_db": float("nan")}),)
    tree = json.loads(
        render(Table(title="", columns=COLUMNS, rows=rows), "json"), parse_constant=pytest.fail
    )
    assert tree["rows"][0]["psnr_db"] is None


def test_markdown_rounds_scales_marks_the_best_and_escapes() -> None:
    lines = render(a_table(), "markdown").splitlines()
    header, rule, first, second, heading, theirs = lines[2:8]
    assert header.split("|")[2].strip() == "parameters all (M)"
    assert rule.startswith("| ---")
    assert rule.rstrip(" |").endswith(":")
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", first.strip("|"))]
    assert cells == [
        r"`g_a\|x_y_*` ★†",
        "**1.23**",
        "**559.6**",
        "30.12",
        "-3.1 [-4.0, -2.2]",
    ]
    assert "**31.50**" in second
    assert heading.count("|") == header.count("|")
    assert "theirs [1]" in theirs
    assert len({len(line) for line in (header, rule, second, heading, theirs)}) == 1
    assert lines[-1] == "[1] Somebody, table 1."


@pytest.mark.parametrize(
    "text",
    [
        "tcm-nano g_*.split=0.25",
        "g_*.split=0.25, h_*.split=0.5",
        "a*b*c",
        "x_y_",
        "_a_",
        "2 < 3",
        "<b>bold</b>",
        "a|b",
        "`code`",
        "back\\slash",
        "[x](y)",
        "&amp;",
        "~~x~~",
        "-4.47 [-10.73, +1.73]",
        "g_*.block={type: linear_attention, options: {heads: 2}}, h_*.split=0.5",
        "an open {brace, g_*.split",
    ],
)
def test_a_markdown_cell_shows_its_text_and_no_escape_that_a_terminal_would_print(
    text: str,
) -> None:
    row = Row(values={"model": text, "parameters": 1.0})
    shown = render(Table(title="", columns=COLUMNS[:2], rows=[row]), "markdown")
    parsed = MarkdownIt().enable(["table", "strikethrough"]).parse(shown)
    cells = [token for token in parsed if token.type == "inline"]
    assert "".join(child.content for child in cells[2].children or ()) == text
    if not {"|", "`", "\\"} & set(text):
        assert "\\" not in shown


@pytest.mark.parametrize("text", ["g_*|h_* alone", "a|b", "`a|b`", "a\\|b", "|y_*| and |z|"])
def test_a_title_and_a_note_with_bars_are_shown_as_they_are(text: str) -> None:
    rows = [Row(values={"model": "m", "parameters": 1.0})]
    table = Table(title=text, columns=COLUMNS[:2], rows=rows, footer=(text, "2 cores."))
    parsed = MarkdownIt().enable("table").parse(render(table, "markdown"))
    texts = [token for token in parsed if token.type == "inline"]
    title, note = ("".join(c.content for c in t.children or ()) for t in (texts[0], texts[-1]))
    assert title == text
    assert note.startswith(text)


def test_a_mapping_in_a_name_is_shown_as_one_word_of_code() -> None:
    name = "tcm-nano g_*.block={type: linear_attention, options: {heads: 2}}, split 0.5"
    row = Row(values={"model": name, "parameters": 1.0})
    shown = render(Table(title="", columns=COLUMNS[:2], rows=[row]), "markdown")
    code = "`g_*.block={type: linear_attention, options: {heads: 2}},`"
    assert f"tcm-nano {code} split 0.5" in shown


def test_a_published_figure_is_never_the_best_one() -> None:
    assert a_table().best["kmacs_per_px"] == 559.618


def test_figures_equal_to_the_printed_digit_are_best_together_unless_all_are() -> None:
    columns = COLUMNS[:3]

    def best_rows(*figures: float) -> list[bool]:
        rows = tuple(Row(values={"model": "m", "kmacs_per_px": figure}) for figure in figures)
        table = Table(title="", columns=columns, rows=rows)
        return [cells[2].is_best for _, cells in table.cells(rows)]

    assert best_rows(10.01, 10.04, 12.0) == [True, True, False]
    assert best_rows(10.01, 10.04) == [False, False]


def test_latex_has_as_many_cells_in_every_line_and_closes_what_it_opens() -> None:
    text = render(a_table(), "latex")
    body = text.split(r"\midrule")[1].splitlines()[1:]
    rows = [line for line in body if line.endswith(r"\\")]
    for line in rows:
        assert line.replace(r"\&", "").count("&") == len(COLUMNS) - 1
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1
    # Two grouped columns under their groups, the rest without.
    groups = next(line for line in text.splitlines() if "multicolumn{1}{c}{parameters}" in line)
    assert groups.count("&") == len(COLUMNS) - 1
    assert r"A \& B $<$C$>$" in text
    assert r"50\%\_\$" in text
    assert r"$-$3.1 [$-$4.0, $-$2.2]" in text
    assert r"$\star$ $\dagger$" in text
    assert "†" not in text


class _Page(HTMLParser):
    """Collects tags, attributes and the text of cells."""

    VOID = frozenset({"meta", "link", "br", "path", "use", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
        self.addresses += [v or "" for k, v in attrs if k in ("href", "src", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.cells[-1] += data


def test_an_html_page_is_closed_escaped_and_points_nowhere_else() -> None:
    page = _Page()
    text = render(a_table(), "html")
    page.feed(text)
    assert page.open == []
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert "<b>&nbsp;50%_$" in page.cells
    assert "−3.1 [−4.0, −2.2]" in page.cells  # noqa: RUF001  # a minus sign is what is shown
    assert "theirs [1]" in page.cells
    assert 'data-value="1846.436"' in text


@pytest.mark.parametrize("form", ["markdown", "latex", "csv", "json", "html"])
def test_a_table_is_the_same_bytes_each_time(form: str) -> None:
    assert render(a_table(), form) == render(a_table(), form)  # type: ignore[arg-type]


def test_an_unknown_format_is_refused_with_the_near_one() -> None:
    with pytest.raises(LabError, match=r"no format is called 'markdwn'\. Did you mean markdown"):
        render(a_table(), "markdwn")  # type: ignore[arg-type]


def test_several_tables_do_not_fit_into_one_csv_but_into_a_json_list() -> None:
    with pytest.raises(LabError, match="csv holds one table, and these are 2"):
        render_all([a_table(), a_table()], "csv")
    assert len(json.loads(render_all([a_table(), a_table()], "json"))) == 2


def test_a_value_without_a_column_and_a_measured_row_below_a_published_one_are_refused() -> None:
    with pytest.raises(ValueError, match="no such column"):
        Table(title="", columns=COLUMNS[:1], rows=(Row(values={"modle": "m"}),))
    rows = a_table().rows
    with pytest.raises(ValueError, match="published ones must follow"):
        Table(title="", columns=COLUMNS, rows=(rows[2], rows[0]))


BRACKETS = Table(
    title="τ, σ, μ and λ² × 2",  # noqa: RUF001
    columns=(Column(key="a", header="[a]"), Column(key="b", header="*", format=".1f", best="low")),
    rows=(
        Row(values={"a": "plain", "b": 1.0}),
        Row(values={"a": "[2em] wide", "b": 2.0}, marks=("pareto", "partial")),
        Row(values={"a": "*starred_{ρ} ~ \\ 5 % < 6 | … — –", "b": None}),  # noqa: RUF001
    ),
    footer=("[1] a note", "* another"),
)


def test_a_line_break_takes_nothing_that_follows_it_and_greek_letters_are_maths() -> None:
    text = render(BRACKETS, "latex")
    for line in text.replace(r"\\ ", "\\\\\n").splitlines():
        assert not line.startswith(("[", "*")), line
    assert r"$\tau$, $\sigma$, $\mu$ and $\lambda$$^2$ $\times$ 2" in text
    assert text.isascii()


CELLS = {
    "&%$#_{}~^\\": r"\&\%\$\#\_\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}",
    "[0]": "{[}0]",
    "*": "{*}",
    "a--b---c": "a-{}-b-{}-{}-c",
    "?`!`": "?{}`!{}`",
    "``x''": "`{}`x'{}'",
    "“x” ‘y’": "``x'' `y'",  # noqa: RUF001
    "Ballé, Müller, Şen, Őry": r"""Ball\'{e}, M\"{u}ller, \c{S}en, \H{O}ry""",
    "Größe Łódź": r"""Gr\"{o}{\ss}e {\L}\'{o}d\'{z}""",
    "中": r"\texttt{U+4E2D}",
    "💡": r"\texttt{U+1F4A1}",
    "Ж": r"\texttt{U+0416}",
    "a\tb\nc\u2028d\xa0e": "a b c d~e",
    "\x1b[0m": r"\texttt{U+001B}[0m",
    "10⁻³": r"10\texttt{U+207B}$^3$",
    "90°": r"90$^\circ$",
    "ﬁ": r"\texttt{U+FB01}",
}


@pytest.mark.parametrize(("text", "expected"), CELLS.items())
def test_a_cell_is_set_as_it_is_by_any_engine(text: str, expected: str) -> None:
    table = Table(title="", columns=COLUMNS[:1], rows=(Row(values={"model": text}),))
    (line,) = [line for line in render(table, "latex").splitlines() if line.endswith(r" \\")][1:]
    assert line == rf"{expected} \\"
    assert line.isascii()


ODD = Table(
    title="cells",
    columns=COLUMNS[:1],
    rows=tuple(Row(values={"model": text}) for text in CELLS),
    footer=tuple(CELLS),
)


def test_a_baseline_is_not_best_beside_what_may_be_its_equal() -> None:
    def marked(*others: Interval) -> list[bool]:
        column = Column(key="cost", header="cost", format="+.2f", best="low")
        rows = tuple(Row(values={"cost": value}) for value in (0.0, *others))
        table = Table(title="", columns=(column,), rows=rows)
        return [cells[0].is_best for _, cells in table.cells(table.rows)]

    worse, unsure = Interval(value=2, low=1, high=3), Interval(value=1, low=-1, high=3)
    assert marked(worse) == [True, False]
    assert marked(worse, unsure) == [False, False, False]


def pdflatex(body: str, folder: Path) -> subprocess.CompletedProcess[str]:
    head = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    (folder / "page.tex").write_text(f"{head}\n{body}\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def _latex(tmp_path_factory: pytest.TempPathFactory) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex on the PATH")
    if pdflatex("empty\n", tmp_path_factory.mktemp("latex")).returncode:
        pytest.skip("pdflatex sets no page: booktabs, or a format, is not installed")


@pytest.mark.usefixtures("_latex")
@pytest.mark.parametrize("table", [BRACKETS, a_table(), ODD], ids=["brackets", "all kinds", "odd"])
def test_latex_sets_the_table_as_it_is(table: Table, tmp_path: Path) -> None:
    made = pdflatex(render(table, "latex"), tmp_path)
    assert made.returncode == 0, made.stdout[-2000:]


@pytest.mark.parametrize("order", [(2.0, 1.0, float("nan")), (float("nan"), 1.0, 2.0)])
def test_a_value_that_is_no_number_hides_no_best_one(order: tuple[float, ...]) -> None:
    column = Column(key="a", header="a", format=".1f", best="low")
    table = Table(title="t", columns=(column,), rows=[Row(values={"a": each}) for each in order])
    assert table.best == {"a": 1.0}
