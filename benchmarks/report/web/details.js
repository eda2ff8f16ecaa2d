// What a line opens to. It is read when the first line is opened, or a text is looked for.
let kept = null;
const details = () => (kept ??= read("data-details"));

function detailsOf(line) {
  return details().lines[line.place][line.index];
}

function fullName(line) {
  return detailsOf(line).name.toLowerCase();
}

function openedLine(line) {
  const own = detailsOf(line);
  const { texts, edits } = details();
  const inside = make("div", { className: "inside" });
  const add = (title, ...parts) => inside.append(make("h3", { textContent: title }), ...parts);
  if (own.name !== line.cells[line.places.agent][0]) add("Name in full", make("p", {}, make("code", { textContent: own.name })));
  if (line.table.full !== line.table.title) add("Task in full", make("p", {}, make("code", { textContent: line.table.full })));
  if (!own.runs.length) {
    add("Runs", make("p", { className: "quiet", textContent: "Nothing is finished here." }));
    return inside;
  }
  const strata = new Set(own.runs.map((run) => run[1]));
  const labels = Object.fromEntries(line.table.columns.map((column) => [column.key, column.label]));
  const heads = ["seed", ...(strata.size > 1 ? ["task"] : []), ...own.keys.map((key) => labels[key] ?? key.replaceAll("_", " ")), "files"];
  const runs = own.runs.map((run) => [
    run[0], ...(strata.size > 1 ? [texts[run[1]]] : []), ...run[6].map(numeral), files(run),
  ]);
  add(own.runs.length === 1 ? "The run" : `All ${own.runs.length} runs`, smallTable(heads, runs, "Runs"));
  add("Run it again", codeBlock(own.command));
  const cells = own.runs.slice(0, 20).map((run) => run[2].slice(0, 12)).join(",");
  add("Check it", codeBlock(`python -m benchmarks.leaderboard validate DIR --rows ${cells}`),
    make("p", { className: "quiet", textContent: "DIR is the folder of this page; --rerun K lets the agent learn and edit K of them again." }));
  const example = own.runs.find((run) => edits[run[2]]?.length);
  if (example) {
    const records = edits[example[2]];
    const shown = records.map(([edit, prompt, target, now, end, skipped]) =>
      [edit, words(prompt), words(target), words(skipped ? `not made: ${skipped}` : now ?? "—"), words(end)]);
    add(`The first ${records.length} edits of seed ${example[0]}`,
      smallTable(["edit", "prompt", "target", "answer right after", "answer at the end"], shown, "Edits"));
  }
  for (const [stratum, settings] of own.settings) {
    const of = own.settings.length > 1 ? ` in ${texts[stratum]}` : "";
    inside.append(make("details", {},
      make("summary", { textContent: `Settings in full${of}` }), codeBlock(texts[settings])));
  }
  add("Measured with", make("ul", { className: "notes" },
    ...[...new Set(own.runs.map((run) => run[5]))].map((place) => make("li", { textContent: texts[place] }))));
  return inside;
}

function numeral(value) {
  if (value === null) return "—";
  const size = Math.abs(value);
  if (size >= 100) return value.toFixed(0);
  return size > 0 && size < 0.0005 ? value.toExponential(1) : value.toFixed(4);
}

function files(run) {
  const links = [["journal", run[3]], ["records", run[4]]].filter(([, file]) => file);
  return make("span", {}, ...links.flatMap(([name, file]) => [make("a", { href: file, textContent: name }), " "]));
}

function words(text) {
  return make("span", { className: "words", textContent: text ?? "—" });
}

function codeBlock(text) {
  return make("pre", { textContent: text, tabIndex: 0 });
}

function smallTable(heads, rows, name) {
  const table = make("table", {},
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col", textContent: head })))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((value) =>
      make("td", { className: value.className === "words" ? "words" : "" }, value.nodeType ? value : String(value)))))));
  const around = make("div", { className: "runs", tabIndex: 0 }, table);
  around.setAttribute("role", "region");
  around.setAttribute("aria-label", name);
  return around;
}
