// Figures and notes of the tasks that are shown, drawn when they come into sight; and the start.
const drawing = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((one) => one.isIntersecting)) {
    drawing.unobserve(entry.target);
    drawFigures(entry.target);
  }
}, { rootMargin: "600px" });
let plots = null;
let groupsOf = null;

function drawGroups() {
  if (groupsOf === state.task) return;
  groupsOf = state.task;
  const shown = shownTables();
  const groups = shown.map((table) => {
    const section = make("section", {}, make("h3", { textContent: table.title }));
    const notes = make("ul", { className: "notes" }, ...table.notes.map((note) => make("li", { textContent: note })));
    if (table === shown[0]) section.append(make("p", { className: "quiet", textContent: table.reading }));
    const figures = make("div", { className: "plots" });
    figures.dataset.place = tables.indexOf(table);
    section.append(notes, figures);
    drawing.observe(figures);
    return section;
  });
  find("#groups").replaceChildren(...groups);
}

function drawFigures(around) {
  plots ??= read("data-plots");
  for (const plot of plots[Number(around.dataset.place)]) {
    const panels = make("div", { className: "panels" });
    panels.innerHTML = plot.panels.join("");
    const figure = make("figure", { className: plot.panels.length === 1 ? "single" : "" }, panels);
    if (plot.legend.length) {
      const legend = make("ul", { className: "legend" }, ...plot.legend.map(([name, swatch], place) => {
        const item = make("li");
        item.dataset.of = place;
        item.innerHTML = swatch;
        item.firstChild.setAttribute("aria-hidden", "true");
        item.append(make("span", { textContent: name, title: name }));
        return item;
      }));
      figure.append(legend);
    }
    const file = make("a", { href: plot.file, textContent: `${plot.kind} as SVG` });
    figure.append(make("figcaption", {}, `${plot.caption} `, file));
    around.append(figure);
  }
}

// Of many curves the one under the pointer, in the drawing or its legend, stands out.
function standOut(event) {
  const about = event.target.closest?.("figure [data-of]");
  const figure = about?.closest("figure");
  for (const one of document.querySelectorAll("figure.dimmed")) if (one !== figure) one.classList.remove("dimmed");
  figure?.classList.add("dimmed");
  for (const one of figure?.querySelectorAll("[data-of]") ?? []) one.classList.toggle("on", one.dataset.of === about.dataset.of);
}

function showTip(event) {
  const tip = find("#tip");
  const about = event.target.closest?.("[data-tip]");
  tip.hidden = !about;
  if (!about) return;
  tip.textContent = about.dataset.tip;
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 10)}px`;
}

function fillFilters() {
  const tasks = form.elements.task;
  tasks.append(make("option", { value: "", textContent: "All tasks, line by line" }));
  for (const suite of new Set(tables.map((table) => table.suite))) {
    const own = tables.filter((table) => table.suite === suite);
    tasks.append(make("optgroup", { label: `suite ${suite}` },
      ...own.map((table) => make("option", { value: table.slug, textContent: table.title }))));
  }
  const kinds = [...new Set(lines.map((line) => line.access))].filter((kind) => kind !== "—").sort();
  form.elements.access.append(make("option", { value: "", textContent: "any" }),
    ...kinds.map((kind) => make("option", { value: kind, textContent: kind })));
}

function start() {
  fillFilters();
  form.onsubmit = (event) => event.preventDefault();
  form.elements.task.onchange = (event) =>
    redraw({ task: event.target.value, columns: null, sort: null, from: 0, open: null });
  form.elements.access.onchange = (event) => redraw({ access: event.target.value, from: 0 });
  form.elements.text.oninput = (event) => redraw({ text: event.target.value, from: 0 });
  find("[name=reset]").onclick = () => redraw({ columns: null });
  const turn = (by) => { redraw({ from: Math.max(0, state.from + by) }); find("#scroll").scrollTop = 0; };
  find("[name=earlier]").onclick = () => turn(-LINES_AT_ONCE);
  find("[name=later]").onclick = () => turn(LINES_AT_ONCE);
  // The address holds the filters: links to parts of the page must leave it alone.
  for (const link of document.querySelectorAll("header nav a"))
    link.onclick = (event) => {
      event.preventDefault();
      const title = find(`${link.getAttribute("href")} h2`);
      title.scrollIntoView();
      title.focus({ preventScroll: true });
    };
  document.addEventListener("pointermove", showTip);
  document.addEventListener("pointerover", standOut);
  document.addEventListener("click", (event) => {
    if (!event.target.closest(".columns") && event.target.isConnected) find(".columns").open = false;
  });
  addEventListener("hashchange", readAndDraw);
  readAndDraw();
}

function redraw(what) {
  change(what);
  drawGroups();
}

function readAndDraw() {
  readState();
  draw();
  drawGroups();
}

start();
