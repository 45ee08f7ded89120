"""Build the documentation site from the repository's pages, notebooks and docstrings with Sphinx.

``nox -s docs`` runs it. Pages keep their paths, so links that work in the repository also work on
the site. A broken link or any other warning aborts the build.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from reference import MODULES, PACKAGES, reference_pages
from sphinx.application import Sphinx

from tcm_lab import __version__
from tcm_lab.study import space_schema
from tcm_lab.study.schema import SCHEMA_FILE

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|<img src=\"([^\"]+)\"")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)

SETTINGS = {
    "project": "tcm_lab",
    "version": __version__,
    "release": __version__,
    "html_title": f"tcm_lab {__version__}",
    "html_theme": "furo",
    "html_copy_source": False,
    "html_show_sourcelink": False,
    "html_show_copyright": False,
    "extensions": ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"],
    "nb_execution_mode": "off",
    "myst_enable_extensions": ["html_image"],
    "myst_heading_anchors": 3,
    "default_role": "py:obj",
    "add_module_names": False,
    "autodoc_typehints_format": "short",
    "autodoc_inherit_docstrings": False,
    "autodoc_member_order": "bysource",
    "napoleon_use_ivar": True,
    "toc_object_entries_show_parents": "hide",
}


def chapters() -> dict[str, list[str]]:
    """Return the pages of the site by chapter, as paths from the root without suffix."""
    return {
        "Notebooks": tracked("notebooks/*.ipynb"),
        "Studies": tracked("studies/**/README.md"),
        "Trained codecs": tracked("tcm_lab/weights/*/README.md"),
        "Reference": [f"reference/{name}" for name in ("commands", "configuration", "python")],
        "Packages": [f"reference/{name}" for name in (*PACKAGES, *MODULES)],
        "The project": ["CONTRIBUTING", "CHANGELOG", "tests/portable/README"],
    }


def tracked(pattern: str) -> list[str]:
    """Return the files that match a pattern, without suffix."""
    files = sorted(ROOT.glob(pattern))
    return [file.relative_to(ROOT).with_suffix("").as_posix() for file in files]


def write_sources(folder: Path) -> None:
    """Write every page, and every file that a page links to, to its path below ``folder``."""
    for name, text in reference_pages().items():
        write(folder / "reference" / f"{name}.md", text)
    write(folder / "reference" / SCHEMA_FILE, space_schema())
    todo = [page for pages in chapters().values() for page in pages]
    todo = ["README.md", *(source(page) for page in todo if not page.startswith("reference/"))]
    done: set[str] = set()
    while todo:
        path = todo.pop()
        if path in done:
            continue
        done.add(path)
        if path.endswith((".md", ".ipynb")):
            text = (ROOT / path).read_text(encoding="utf-8")
            todo += linked(path, text)
            if path.endswith(".md"):
                write(folder / renamed(path), page_of(path, text))
                continue
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, folder / path)


def source(page: str) -> str:
    """Return the file of a page."""
    return f"{page}.md" if (ROOT / f"{page}.md").exists() else f"{page}.ipynb"


def linked(path: str, text: str) -> Iterator[str]:
    """Yield the project files that a page links to.

    Raises:
        FileNotFoundError: a linked file does not exist.
    """
    if path.endswith(".ipynb"):
        text = text.replace('\\"', '"')
    for link in LINK.finditer(CODE.sub("", text)):
        target = link[1] or link[2]
        if re.match(r"https?:|data:|attachment:|mailto:", target):
            continue
        file = os.path.normpath(PurePosixPath(path).parent / target)
        if not (ROOT / file).is_file():
            raise FileNotFoundError(f"{path} links to {target}, which is not a file")
        yield PurePosixPath(file).as_posix()


def renamed(path: str) -> str:
    """Return the path of a page on the site; the README becomes the index."""
    return "index.md" if path == "README.md" else path


def page_of(path: str, text: str) -> str:
    """Return the site's version of a repository page."""

    def to_start(link: re.Match[str]) -> str:
        file = os.path.normpath(PurePosixPath(path).parent / link[1])
        return link[0].replace("README.md", "index.md") if file == "README.md" else link[0]

    text = re.sub(r"\]\(([^)#\s]+)", to_start, text)
    if path == "README.md":
        return text + contents()
    if not re.search(r"^# ", text, re.MULTILINE):  # a table
        return f"---\norphan: true\n---\n\n# {path.removesuffix('.md')}\n\n{text}"
    return text


def contents() -> str:
    """Return the tables of contents for the sidebar, one per chapter."""
    blocks = []
    for title, pages in chapters().items():
        listed = "\n".join(pages)
        blocks.append(f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{listed}\n```\n")
    return "".join(blocks)


def write(path: Path, text: str) -> None:
    """Write a page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def build(out: Path, work: Path) -> None:
    """Build the site in ``out``, with intermediate files in ``work``.

    Raises:
        SystemExit: Sphinx issued a warning.
    """
    write_sources(work / "sources")
    application = Sphinx(
        srcdir=work / "sources",
        confdir=None,
        outdir=work / "site",
        doctreedir=work / "doctrees",
        buildername="html",
        confoverrides=SETTINGS,
        warningiserror=True,
        status=None,
    )
    application.build()
    if application.statuscode:
        raise SystemExit("Sphinx warned; see above.")
    shutil.rmtree(out, ignore_errors=True)  # removes pages that no longer exist
    shutil.copytree(work / "site", out)


if __name__ == "__main__":
    made = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        build(made, Path(folder))
    print(f"{sys.argv[1]}/index.html")
