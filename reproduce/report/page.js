"use strict";

// Headers become buttons only where this script runs, so that nothing looks clickable that is not.
for (const header of document.querySelectorAll("table.sortable thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...header.childNodes);
  header.append(button);
  button.addEventListener("click", () => sortBy(header));
}

function sortBy(header) {
  const opposite = { ascending: "descending", descending: "ascending" };
  const order = opposite[header.getAttribute("aria-sort")] || header.dataset.first || "ascending";
  for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
  const body = header.closest("table").tBodies[0];
  const keyed = [...body.rows].map((row) => [key(row.cells[header.cellIndex]), row]);
  keyed.sort(([a], [b]) => compare(a, b, order === "ascending" ? 1 : -1));
  body.append(...keyed.map(([, row]) => row));
}

function key(cell) {
  const value = cell.dataset.value;
  const text = value === undefined ? cell.textContent.trim() : value;
  return text === "" ? null : value === undefined ? text : Number(value);
}

function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null); // what is missing stays last
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b), "en", { numeric: true });
}

function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const closed = target && target.closest("details:not([open])");
  if (closed) closed.open = true;
  if (!target || !target.closest("details")) return;
  target.scrollIntoView({ block: "center" });
  const box = target.closest(".scroll");
  if (box) box.scrollLeft = 0;
}

addEventListener("hashchange", reveal);
reveal();

// Beside the text the contents stay open; above it, on a narrow screen, they would push it down.
const narrow = matchMedia("(max-width: 70rem)");
const fold = () => { document.querySelector("nav details").open = !narrow.matches; };
narrow.addEventListener("change", fold);
fold();
