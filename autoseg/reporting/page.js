// Tables that sort and filter, and sliders through slices. A browser without scripts shows the same page, standing still.
"use strict";

const NUMBER = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?(?=$|\s)/i; // nothing may follow but a further word
const numberIn = (text) => (NUMBER.test(text) ? parseFloat(text) : NaN);
const isEmpty = (text) => text === "-" || text === "";

function sortRows(table, column, descending) {
  const key = (row) => row.cells[column].textContent.trim();
  const rows = [...table.tBodies[0].rows];
  const numeric = rows.every((row) => isEmpty(key(row)) || !Number.isNaN(numberIn(key(row))));
  rows.sort((one, other) => {
    const [a, b] = [key(one), key(other)];
    if (isEmpty(a) || isEmpty(b)) return isEmpty(a) - isEmpty(b); // whatever the direction, nothing comes last
    const order = numeric ? numberIn(a) - numberIn(b) : a.localeCompare(b, undefined, { numeric: true });
    return descending ? -order : order;
  });
  table.tBodies[0].append(...rows);
}

function makeSortable(table) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    header.replaceChildren(button);
    header.addEventListener("click", () => {
      const descending = header.getAttribute("aria-sort") === "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortRows(table, column, descending);
    });
  });
}

// What is typed is words that a row must hold, or a comparison such as "Dice < 0.8"; both can be joined by commas. Of a
// column a part of its name is enough. Columns that are not there are named in `unknown`.
function matcher(text, names, unknown) {
  const holds = (row, words) => row.textContent.toLowerCase().includes(words.toLowerCase());
  const tests = text.split(/,(?!\d)/).map((part) => part.trim()).filter(Boolean).map((part) => {
    const compared = part.match(/^(.+?)\s*([<>]=?|=)\s*([-+]?[\d.,]+(?:e[-+]?\d+)?)$/i);
    if (!compared) return (row) => holds(row, part);
    const wanted = compared[1].trim().toLowerCase();
    const exact = names.indexOf(wanted);
    const column = exact >= 0 ? exact : names.findIndex((name) => name.includes(wanted));
    if (column < 0) unknown.push(compared[1].trim());
    if (column < 0) return () => false;
    const [limit, sign] = [parseFloat(compared[3].replace(",", ".")), compared[2]];
    return (row) => {
      const value = numberIn(row.cells[column].textContent.trim());
      if (sign === "=") return value === limit;
      return sign[0] === "<" ? value < limit || (sign === "<=" && value === limit)
        : value > limit || (sign === ">=" && value === limit);
    };
  });
  return (row) => tests.every((test) => test(row)) || holds(row, text.trim());
}

function makeFilterable(line, table) {
  const [input, told] = [line.querySelector("input"), line.querySelector("output")];
  const rows = [...table.tBodies[0].rows];
  const names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim().toLowerCase());
  line.style.display = "block";
  const apply = () => {
    const unknown = [];
    const matches = matcher(input.value, names, unknown);
    let shown = 0;
    for (const row of rows) {
      row.hidden = !matches(row);
      shown += !row.hidden;
    }
    const lost = unknown.length && !shown ? `: there is no column ${unknown.join(", ")}` : "";
    told.textContent = `${shown} of ${rows.length}${lost}`;
  };
  input.addEventListener("input", apply);
  apply();
}

function makeSlider(plane) {
  const [slider, told] = [plane.querySelector("input"), plane.querySelector("output")];
  const numbers = plane.dataset.slices.split(" ");
  const show = () => {
    const share = numbers.length > 1 ? slider.value / (numbers.length - 1) : 0;
    plane.querySelectorAll(".layer").forEach((layer) => { layer.style.backgroundPositionY = `${100 * share}%`; });
    told.textContent = `slice ${numbers[slider.value]} of ${plane.dataset.of}`;
  };
  slider.addEventListener("input", show);
}

for (const line of document.querySelectorAll(".filter")) {
  const table = line.parentElement.querySelector("table");
  makeFilterable(line, table);
}
document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll(".plane").forEach(makeSlider);
for (const box of document.querySelectorAll(".viewer input[type=checkbox]")) {
  box.addEventListener("change", () => {
    box.closest(".viewer").classList.toggle(`no-${box.name}`, !box.checked);
  });
}
