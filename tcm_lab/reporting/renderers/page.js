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
  // Cells without a number come last in either order.
  if (x !== undefined || y !== undefined) return x === undefined ? 1 : -1;
  return sign * a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
}

// Replaces each plot by its chart, drawn with the page's own copy of Vega. Clicking a point or a row
// selects it in every chart and table; Escape or a second click deselects it.
const views = [], shows = [];
let chosen = "";
function select(name) {
  chosen = name === chosen ? "" : name;
  for (const row of document.querySelectorAll("tr[data-row]")) {
    row.classList.toggle("selected", chosen !== "" && row.dataset.row === chosen);
  }
  for (const view of views) view.signal("chosen", chosen).runAsync();
  for (const show of shows) show(chosen);
}
for (const row of document.querySelectorAll("tr[data-row]")) {
  row.addEventListener("click", () => { if (!String(getSelection())) select(row.dataset.row); });
}
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && chosen) select(chosen); });
const colours = () => {
  const style = getComputedStyle(document.documentElement);
  const [ink, soft, rule] = ["--ink", "--soft", "--rule"].map((name) => style.getPropertyValue(name).trim());
  return {
    background: "transparent",
    font: getComputedStyle(document.body).fontFamily,
    axis: { labelColor: ink, titleColor: ink, gridColor: rule, domainColor: soft, tickColor: soft, labelFontSize: 12, titleFontSize: 12 },
    legend: { labelColor: ink, labelFontSize: 12, symbolStrokeWidth: 1.5 },
    view: { stroke: rule },
  };
};
for (const figure of document.querySelectorAll("figure.chart")) {
  if (typeof vegaEmbed === "undefined") break;
  const spec = JSON.parse(figure.querySelector("script").textContent);
  const drawn = document.createElement("div");
  drawn.className = "drawn";
  figure.prepend(drawn);
  vegaEmbed(drawn, spec, { mode: "vega-lite", actions: false, renderer: "svg", config: colours() }).then(({ view }) => {
    figure.querySelector(":scope > svg").style.display = "none";
    const hint = document.createElement("p");
    hint.className = "hint";
    hint.textContent = "Hover over a mark for its values; click to find its row. Drag to move, Ctrl and wheel to zoom, double-click to reset.";
    drawn.after(hint);
    views.push(view);
    view.addEventListener("click", (_, item) => {
      const name = item?.datum?.name ?? item?.datum?.datum?.name;
      if (!name) return;
      select(name);
      document.querySelector("tr.selected")?.scrollIntoView({ block: "nearest", behavior: "smooth" });
    });
  }).catch(() => drawn.remove());
}

// Overlays two images of each comparison. The border follows a pointer or a finger; the range input
// below is for keyboards and screen readers.
for (const comparison of document.querySelectorAll(".comparison")) {
  const figures = [...comparison.querySelectorAll("figure")];
  const make = (tag, fields = {}) => Object.assign(document.createElement(tag), fields);
  const stage = make("div", { className: "stage" }), sides = make("div", { className: "sides" });
  const range = make("input", { type: "range", min: 0, max: 100, value: 50, step: 1 });
  const pairs = [0, 1].map((side) => {
    const image = make("img"), choice = make("select"), label = make("label", { textContent: side ? "right " : "left " });
    for (const figure of figures) choice.add(new Option(figure.querySelector("figcaption").textContent, figure.dataset.name));
    choice.selectedIndex = Math.min(side, figures.length - 1);
    choice.addEventListener("change", () => draw());
    label.append(choice);
    sides.append(label);
    return { image, choice };
  });
  const draw = () => {
    for (const { image, choice } of pairs) {
      const shown = figures[choice.selectedIndex].querySelector("img");
      for (const name of ["src", "alt", "width", "height"]) image[name] = shown[name];
    }
    stage.style.setProperty("--cut", `${range.value}%`);
    range.setAttribute("aria-valuetext", `${range.value} % ${pairs[0].choice.value}, the rest ${pairs[1].choice.value}`);
  };
  range.setAttribute("aria-label", "Border between the two images");
  range.addEventListener("input", draw);
  const follow = (event) => {
    const box = stage.getBoundingClientRect();
    range.value = 100 * (event.clientX - box.left) / box.width;
    draw();
  };
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    range.focus({ preventScroll: true });
    follow(event);
    event.preventDefault();
  });
  stage.addEventListener("pointermove", (event) => { if (stage.hasPointerCapture(event.pointerId)) follow(event); });
  shows.push((name) => {
    const index = figures.findIndex((figure) => figure.dataset.name === name);
    if (index > 0) { pairs[1].choice.selectedIndex = index; draw(); }
  });
  stage.append(pairs[0].image, pairs[1].image, range);
  comparison.querySelector(".images").before(stage, sides);
  comparison.querySelector(".images").remove();
  draw();
}
