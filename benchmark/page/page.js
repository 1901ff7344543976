"use strict";
// The view is a function of location.hash: board, x, y, sort, filters and the open panel. This file shows a board, hides
// and sorts rows, opens panels and writes CSV; chart.js draws.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);
const FACETS = ["division", "data", "encoder", "budget"];
const FILTERS = ["method", ...FACETS, "hardware", "fresh"];
const MOST_ROWS = 100; // of a table, until all are asked for
const boards = all(".board"), form = one(".filters");
let state = {}, opener = null;

const parts = new Map(); // of each board: its views with their tables, rows, keys of rows, and plots
function partsOf(board) {
  if (!parts.has(board)) parts.set(board, all(".view", board).map((view) => ({
    view,
    tables: all(".table", view).map((box) => ({
      box,
      heads: all("thead th", box),
      rows: all("tbody tr", box).map((row, place) => ({
        row, place, key: row.dataset.k, beside: row.parentNode.className === "beside",
        name: one("th", row).textContent.toLowerCase(), hardware: row.dataset.h.trim().split(" "),
      })),
    })),
    charts: all("svg.chart", view).map((svg) => ({
      svg, points: all(".points a", svg), labels: all(".labels > g", svg), leaders: all(".leaders path", svg),
      names: all(".points title", svg).map((title) => title.textContent.split(": ")[0]),
    })),
    x: one("select[name=x]", view), y: one("select[name=y]", view),
    layouts: view.querySelector("script") && JSON.parse(one("script", view).textContent), drawn: "0 0",
  })));
  return parts.get(board);
}
const isShown = (board) => state.board === "*" || board.id === `b-${state.board}`;
const textOf = (head) => one("button", head).textContent;

function read() {
  const hash = location.hash.slice(1), fresh = Object.fromEntries(new URLSearchParams(hash));
  const first = boards[0].id.slice(2);
  if (hash.startsWith("p-")) {
    const holds = (board) => one(`tr[data-k="${CSS.escape(hash.slice(2))}"]`, board);
    const board = boards.find((each) => isShown(each) && holds(each)) || boards.find(holds);
    state = {...state, board: board ? board.id.slice(2) : state.board || first, open: hash.slice(2)};
  } else if (hash.startsWith("b-")) {
    state = {...state, board: hash.slice(2), open: ""};
  } else if (hash.includes("=") || hash === "") {
    state = {board: first, ...fresh};
  } else if (!state.board) {
    state = {board: first};
  }
  if (state.board !== "*" && !document.getElementById(`b-${state.board}`)) state.board = first;
}

function change(patch, adds = true) {
  state = {...state, ...patch};
  const entries = Object.entries(state).filter(([, value]) => value).sort();
  history[adds ? "pushState" : "replaceState"](null, "", `#${new URLSearchParams(entries)}`);
  apply();
}

function apply() {
  let count = 0, total = 0;
  one("main").classList.toggle("all", state.board === "*");
  for (const board of boards) {
    board.classList.toggle("on", isShown(board));
    if (!isShown(board)) continue;
    for (const part of partsOf(board)) {
      const visible = new Set();
      for (const table of part.tables) {
        filter(table);
        sort(table);
        show(table);
        for (const each of table.rows) {
          if (each.passes) visible.add(each.key);
          total += !each.beside;
          count += each.passes && !each.beside;
        }
      }
      part.view.hidden = part.tables.every((table) => table.box.hidden);
      if (part.layouts) draw(part, visible);
    }
  }
  for (const link of all("nav.boards a")) link.ariaCurrent = link.getAttribute("href") === `#b-${state.board}` ? "true" : null;
  for (const name of FILTERS) {
    const field = form.elements[name], value = state[name] || "";
    field.checked = Boolean(value);
    if (name !== "fresh" && field.value !== value) field.value = value;
  }
  const filtered = FILTERS.some((name) => state[name]);
  if (FILTERS.slice(2).some((name) => state[name])) one("details", form).open = true;
  one("[role=status]", form).textContent = filtered ? `${count} of ${total} lines` : "";
  one("[data-do=clear]", form).hidden = !filtered;
  one(".nothing").hidden = count > 0;
  openPanel(state.open || "");
}

function filter(table) {
  const words = (state.method || "").toLowerCase().split(/[\s,]+/).filter(Boolean);
  const fits = FACETS.every((name) => !state[name] || table.box.dataset[name] === state[name]);
  const machines = [...form.elements.hardware.options].map((each) => each.value);
  const hardware = state.hardware && String(machines.indexOf(state.hardware));
  for (const each of table.rows) {
    each.passes = fits && (!words.length || words.some((word) => each.name.includes(word))) &&
      (!hardware || each.hardware.includes(hardware)) && !(state.fresh && each.row.classList.contains("stale"));
  }
  const some = table.rows.some((each) => each.passes && (!each.beside || words.length));
  for (const each of table.rows) each.passes = some && (each.passes || each.beside);
  table.box.hidden = !some;
}

function sort(table) {
  const wanted = state.sort || "rank", down = wanted.startsWith("-"), heading = wanted.replace(/^-/, "");
  if (table.sorted === wanted) return;
  const column = Math.max(table.heads.findIndex((head) => textOf(head) === heading), 0);
  const isText = column === 1 || heading === "notes", sign = down && column ? -1 : 1;
  table.heads.forEach((head, place) => { head.ariaSort = place === column ? (sign < 0 ? "descending" : "ascending") : null; });
  for (const each of table.rows) {
    const text = column ? each.row.cells[column].textContent : "";
    each.value = isText ? text : parseFloat(text.replace(/,/g, ""));
  }
  const empty = (value) => value === "" || Number.isNaN(value);
  table.rows.sort((a, b) => a.beside - b.beside || empty(a.value) - empty(b.value) ||
    (a.value < b.value ? -sign : a.value > b.value ? sign : 0) || a.place - b.place);
  table.sorted = wanted;
}

function show(table) { // moving many rows takes long, so long tables are folded, and folded rows stay where they are
  let place = 0, folded = 0;
  for (const each of table.rows) {
    const fits = each.beside || state.rows === "all" || place < MOST_ROWS;
    place += each.passes && !each.beside;
    folded += each.passes && !fits;
    if (each.row.hidden === (each.passes && fits)) each.row.hidden = !(each.passes && fits);
  }
  for (const body of all("tbody", table.box)) {
    const rows = table.rows.map((each) => each.row).filter((row) => !row.hidden && row.parentNode === body);
    if (rows.some((row, i) => row !== body.rows[i])) body.prepend(...rows);
  }
  one("[data-do=rows]", table.box).hidden = !folded;
  one("[data-do=rows]", table.box).textContent = `Show ${folded.toLocaleString("en")} more lines`;
}

function openPanel(key) {
  const shown = one(".panel.on"), panel = key && document.getElementById(`p-${key}`);
  if (shown === panel) return;
  shown?.classList.remove("on");
  if (panel) {
    addCommands(panel);
    opener = opener || document.activeElement;
    panel.classList.add("on");
    panel.scrollTop = 0;
    panel.focus({preventScroll: true});
  } else {
    opener?.focus({preventScroll: true});
    opener = null;
  }
}

function markColumn(row, cell) {
  const panel = one(".panel.on"), heading = cell && textOf(all("thead th", row.closest("table"))[cell.cellIndex]);
  if (!panel) return;
  const seeds = one("table", panel), column = all("thead th", seeds).findIndex((head) => head.textContent === heading);
  for (const each of all("tbody td", seeds)) each.classList.toggle("here", each.cellIndex === column);
}

const make = (tag, properties) => Object.assign(document.createElement(tag), properties);

function addCommands(panel) {
  const runs = all("a.run", panel);
  if (!runs.length || one(".repeat", panel)) return;
  const {command, folder} = document.body.dataset, list = make("div");
  list.append(make("h3", {textContent: "Make a run again, and compare"}));
  for (const run of runs) {
    const path = folder + decodeURIComponent(run.getAttribute("href").slice(2));
    const text = command + (/^[\w./-]+$/.test(path) ? path : `'${path.replace(/'/g, "'\\''")}'`);
    const button = make("button", {type: "button", className: "plain", textContent: "Copy"});
    button.addEventListener("click", () => copy(text, button));
    list.append(make("div", {className: "repeat"}));
    list.lastChild.append(make("code", {textContent: text}), button);
  }
  one(".scroll", panel).after(list);
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", {value: text});
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1500);
}

function csv(everything) {
  const lines = [], costs = [];
  for (const board of boards.filter((each) => everything || isShown(each))) {
    for (const {tables} of partsOf(board)) for (const {box, heads, rows} of tables) for (const {row, passes} of rows) {
      if (!everything && !passes) continue;
      const line = {board: one("h2", board).textContent};
      for (const name of FACETS) line[name] = box.dataset[name];
      const scores = [];
      heads.forEach((head, place) => {
        const text = row.cells[place].textContent.replace("†", "").trim();
        if (head.classList.contains("e")) scores.push([textOf(head), ...text.split(/ ± | /)]);
        else {
          line[textOf(head)] = text;
          if (place > 1 && !costs.includes(textOf(head))) costs.push(textOf(head));
        }
      });
      for (const [evaluation, mean, half] of scores) if (mean) lines.push({...line, evaluation, mean, half_width: half || ""});
    }
  }
  const names = ["board", ...FACETS, "rank", "method", "evaluation", "mean", "half_width", ...costs];
  const quoted = (value = "") => `"${String(value).replace(/^[=+\-@\t\r]/, "'$&").replace(/"/g, '""')}"`;
  const rows = [names, ...lines.map((line) => names.map((name) => line[name]))];
  return rows.map((cells) => `${cells.map(quoted).join(",")}\n`).join("");
}

function save(text, name) {
  const link = make("a", {href: URL.createObjectURL(new Blob([text], {type: "text/csv"})), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const actions = {
  rows: () => change({rows: "all"}),
  clear: () => change(Object.fromEntries(FILTERS.map((name) => [name, ""]))),
  link: (button) => {
    change({}, false);
    copy(location.href, button);
  },
  shown: () => save(csv(false), "results-shown.csv"),
  all: () => save(csv(true), "results.csv"),
};

document.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  const [link, row, head, action] = ["a", "tr[data-k]", ".table thead button", "[data-do]"].map((each) => event.target.closest(each));
  const target = link ? link.getAttribute("href") : "";
  if (target.startsWith("#p-") || (row && !link && !getSelection().toString())) {
    opener = link || one("th a", row);
    change({open: target.slice(3) || row.dataset.k});
    if (row) markColumn(row, event.target.closest("td.e"));
  } else if (target.startsWith("#b-")) change({board: target.slice(3), open: ""});
  else if (target === "#") change({open: ""});
  else if (target.startsWith("#d-")) showDifferences(document.getElementById(target.slice(1)));
  else if (action) actions[action.dataset.do](action);
  else if (head) sortBy(head);
  else return;
  event.preventDefault();
});

function showDifferences(details) {
  change({open: ""});
  details.open = true;
  details.scrollIntoView();
}

function sortBy(button) {
  const heading = button.textContent, head = button.parentNode, now = head.getAttribute("aria-sort");
  const down = now ? now === "ascending" : head.classList.contains("e");
  change({sort: down ? `-${heading}` : heading === "rank" ? "" : heading}, false);
}

document.addEventListener("keydown", (event) => event.key === "Escape" && state.open && change({open: ""}));
document.addEventListener("change", (event) => {
  const {name, value, checked, type} = event.target;
  if (name && type !== "search") change({[name]: type === "checkbox" ? (checked ? "1" : "") : value}, false);
});
document.addEventListener("pointerover", (event) => {
  for (const point of all(".points .hot")) point.classList.remove("hot");
  const row = event.target.closest?.("tr[data-k]");
  if (row) for (const point of all(`.points a[href="#p-${row.dataset.k}"]`, row.closest(".view"))) point.classList.add("hot");
});
if (form) {
  form.addEventListener("submit", (event) => event.preventDefault());
  form.elements.method.addEventListener("input", (event) => change({method: event.target.value}, false));
  addEventListener("popstate", () => { read(); apply(); });
  read();
  apply();
  document.documentElement.classList.add("ready");
}
