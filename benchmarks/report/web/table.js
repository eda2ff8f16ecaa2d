// The table: of all lines those that pass the filters, sorted, fifty at a time. What is chosen is in
// the address behind its #, so that a copied address shows the same.
const LINES_AT_ONCE = 50;
const ALL_TASKS = ["task", "agent", "access", "n", "harmonic_mean", "rank"];
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const find = (selector, inside = document) => inside.querySelector(selector);
const make = (name, properties = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
};

const tables = read("data-tables");
const lines = tables.flatMap((table, place) => {
  const places = Object.fromEntries(table.columns.map((column, index) => [column.key, index]));
  return table.lines.map((cells, index) => ({
    table, place, index, cells, places,
    access: cells[places.access][0],
    text: `${cells[places.agent][0]} ${table.title} ${table.full} ${table.suite}`.toLowerCase(),
  }));
});
const allColumns = [{ key: "task", label: "task", numeric: false, better: null }];
for (const column of tables.flatMap((table) => table.columns))
  if (!allColumns.some((known) => known.key === column.key)) allColumns.push(column);

const form = find(".filters");
// Tasks that few agents have in common are first in the list, but nothing to begin with.
const most = Math.max(...tables.map((table) => table.lines.length));
const firstTask = tables.find((table) => 2 * table.lines.length >= most)?.slug ?? "";
const state = { task: firstTask, access: "", text: "", columns: null, sort: null, from: 0, open: null };

function shownTables() {
  return state.task ? tables.filter((table) => table.slug === state.task) : tables;
}

function offeredColumns() {
  return state.task ? shownTables().flatMap((table) => table.columns) : allColumns;
}

function shownColumns() {
  const usual = state.task ? shownTables().flatMap((table) => table.first) : ALL_TASKS;
  const wanted = state.columns ?? usual;
  const shown = offeredColumns().filter((column) => wanted.includes(column.key));
  // The agent comes first: its column stays in sight, and holds the button that opens a line.
  const agent = offeredColumns().find((column) => column.key === "agent");
  return agent ? [agent, ...shown.filter((column) => column !== agent)] : shown;
}

function cellOf(line, key) {
  if (key === "task") return [line.table.title];
  const place = line.places[key];
  return place === undefined ? ["—"] : line.cells[place];
}

function chosenLines() {
  const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = lines.filter((line) =>
    (!state.task || line.table.slug === state.task)
    && (!state.access || line.access === state.access)
    && words.every((word) => line.text.includes(word) || fullName(line).includes(word)));
  if (!state.sort) return chosen;
  const [key, way] = state.sort;
  const column = offeredColumns().find((known) => known.key === key);
  if (!column) return chosen;
  const sign = way === "ascending" ? 1 : -1;
  const valued = chosen.map((line) => {
    const cell = cellOf(line, key);
    return [column.numeric ? cell[1] ?? null : cell[0] === "—" ? null : cell[0].toLowerCase(), line];
  });
  // What is missing comes last, whichever way the rest is sorted.
  valued.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (a < b ? -1 : a > b ? 1 : 0);
  });
  return valued.map(([, line]) => line);
}

function sortBy(column) {
  const first = column.better === "higher" ? "descending" : "ascending";
  const other = first === "ascending" ? "descending" : "ascending";
  const again = state.sort && state.sort[0] === column.key && state.sort[1] === first;
  change({ sort: [column.key, again ? other : first], from: 0 });
}

function change(what) {
  Object.assign(state, what);
  history.replaceState(null, "", `#${writtenState()}`);
  draw();
}

function writtenState() {
  const parts = new URLSearchParams();
  parts.set("task", state.task || "all");
  if (state.access) parts.set("access", state.access);
  if (state.text) parts.set("text", state.text);
  if (state.columns) parts.set("columns", state.columns.join(","));
  if (state.sort) parts.set("sort", state.sort.join("."));
  if (state.from) parts.set("from", state.from);
  if (state.open) parts.set("open", state.open);
  return parts;
}

function readState() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const task = parts.get("task");
  const columns = parts.get("columns");
  const sort = (parts.get("sort") ?? "").match(/^(.*)\.(ascending|descending)$/);
  Object.assign(state, {
    task: task === "all" ? "" : tables.some((table) => table.slug === task) ? task : firstTask,
    access: parts.get("access") ?? "",
    text: parts.get("text") ?? "",
    columns: columns === null ? null : columns.split(","),
    sort: sort && [sort[1], sort[2]],
    from: Math.max(0, Number.parseInt(parts.get("from"), 10) || 0),
    open: parts.get("open"),
  });
  form.elements.task.value = state.task;
  form.elements.access.value = state.access;
  form.elements.text.value = state.text;
}

function draw() {
  const chosen = chosenLines();
  const columns = shownColumns();
  if (state.from >= chosen.length) state.from = 0;
  const until = Math.min(state.from + LINES_AT_ONCE, chosen.length);
  find("#lines thead tr").replaceChildren(...columns.map(drawnHead));
  find("#lines tbody").replaceChildren(
    ...chosen.slice(state.from, until).flatMap((line) => drawnLine(line, columns)));
  const range = chosen.length > LINES_AT_ONCE ? `Lines ${state.from + 1}–${until} of ` : "";
  const count = chosen.length.toLocaleString("en");
  find("#count").textContent = range ? `${range}${count}` : `${count} ${count === "1" ? "line" : "lines"}`;
  find("[name=earlier]").disabled = state.from === 0;
  find("[name=later]").disabled = until === chosen.length;
  find(".pager").hidden = chosen.length <= LINES_AT_ONCE;
  drawChoices(columns);
}

function drawnHead(column) {
  const head = make("th", { scope: "col", className: column.numeric ? "" : "text" },
    make("button", { type: "button", textContent: together(column.label), onclick: () => sortBy(column) }));
  head.dataset.key = column.key;
  if (state.sort && state.sort[0] === column.key) head.setAttribute("aria-sort", state.sort[1]);
  return head;
}

// An arrow stays on the line of its last word.
function together(label) {
  return label.replace(/ (?=[↑↓]$)/, "\u00a0");
}

function drawnLine(line, columns) {
  const name = identity(line);
  const isOpen = state.open === name;
  const row = make("tr", {}, ...columns.map((column) => drawnCell(line, column, isOpen)));
  if (!isOpen) return [row];
  const inside = make("td", { colSpan: columns.length }, openedLine(line));
  return [row, make("tr", { className: "opened" }, inside)];
}

function drawnCell(line, column, isOpen) {
  const [text, , detail, marks] = cellOf(line, column.key);
  const parts = [text];
  if (column.key === "agent") {
    const toggle = () => {
      change({ open: isOpen ? null : identity(line) });
      // The button was drawn anew.
      [...document.querySelectorAll(".agent")].find((one) => one.dataset.name === identity(line))?.focus();
    };
    // What tells an agent from its namesakes, in brackets, is small print.
    const [, agent, variant] = text.match(/^(.*?)( \(.*\))?$/s);
    const button = make("button", { type: "button", className: "agent", onclick: toggle }, agent);
    if (variant) button.append(make("span", { className: "variant", textContent: variant }));
    button.setAttribute("aria-expanded", isOpen);
    button.dataset.name = identity(line);
    parts[0] = button;
  }
  for (const mark of marks ?? []) {
    const kind = mark === "#1" ? " first" : mark.startsWith("#") ? "" : " flag";
    parts.push(make("span", { className: `mark${kind}`, textContent: mark }));
  }
  if (detail) parts.push(make("span", { className: "small", textContent: detail }));
  return column.key === "agent"
    ? make("th", { scope: "row" }, ...parts)
    : make("td", { className: column.numeric ? "" : `text ${column.key}` }, ...parts);
}

function drawChoices(columns) {
  const shown = columns.map((column) => column.key);
  const choices = offeredColumns().filter((column) => column.key !== "agent").map((column) => {
    const box = make("input", { type: "checkbox", checked: shown.includes(column.key) });
    box.onchange = () => {
      const kept = shown.filter((key) => key !== column.key);
      change({ columns: box.checked ? [...kept, column.key] : kept });
      [...document.querySelectorAll(".choices input")].find((one) => one.dataset.key === column.key)?.focus();
    };
    box.dataset.key = column.key;
    return make("label", {}, box, column.label);
  });
  find(".choices").replaceChildren(...choices);
}

function identity(line) {
  const agent = line.cells[line.places.agent][0];
  return state.task ? agent : `${line.table.slug}/${agent}`;
}
