"use strict";
// Makes every column of every table sortable; without this script the page reads the same.
for (const table of document.querySelectorAll("table")) {
  const headers = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const order = new Map([...table.tBodies].map((body) => [body, [...body.rows]]));
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "none" }[header.ariaSort] ?? "ascending";
      for (const other of headers) other.removeAttribute("aria-sort");
      if (next !== "none") header.setAttribute("aria-sort", next);
      for (const [body, original] of order) {
        const fixed = original.filter((row) => row.classList.contains("heading"));
        const rows = original.filter((row) => !row.classList.contains("heading"));
        if (next !== "none") rows.sort((a, b) => compare(a.cells[column], b.cells[column], next === "ascending" ? 1 : -1));
        body.append(...fixed, ...rows);
      }
    });
  });
}
function compare(a, b, sign) {
  const [x, y] = [a.dataset.value, b.dataset.value];
  if (x !== undefined && y !== undefined) return sign * (Number(x) - Number(y));
  // What has no figure stands last either way.
  if (x !== undefined || y !== undefined) return x === undefined ? 1 : -1;
  return sign * a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
}
