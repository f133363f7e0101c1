"use strict";

const data = JSON.parse(document.getElementById("figures-data").textContent);
const $ = (id) => document.getElementById(id);
const percent = (share) => (share === null ? "–" : (100 * share).toFixed(1) + "%");
const RIGHT = "✓", WRONG = "✗";
const ROW = 30;
const state = { task: data.tasks[0], samples: null, rows: [], chosen: 0 };

/** A new element, or one of SVG, with attributes and children; strings become text, never markup. */
function make(name, attributes = {}, ...children) {
  const svg = ["svg", "g", "line", "path", "circle", "rect", "text"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** The texts come deflated; the browser inflates them without a library. */
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

function showTip(event, lines) {
  const tip = $("tip");
  tip.replaceChildren(make("b", {}, lines[0]), ...lines.slice(1).flatMap((line) => [make("br"), line]));
  tip.hidden = false;
  const x = event.clientX + 14, y = event.clientY + 14;
  tip.style.left = Math.min(x, innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = Math.min(y, innerHeight - tip.offsetHeight - 8) + "px";
}

const hideTip = () => { $("tip").hidden = true; };

function withTip(element, lines) {
  element.addEventListener("mousemove", (event) => showTip(event, lines));
  element.addEventListener("mouseleave", hideTip);
  return element;
}

function facts(result) {
  const lines = [result.name,
    `accuracy ${percent(result.accuracy)} [${percent(result.low)}, ${percent(result.high)}]`,
    `standard error ${percent(result.standard_error)}, ${result.num_answers} answers`,
    `mean length ${result.mean_length.toFixed(0)} tokens, median ${result.median_length}, 90% below ${result.p90_length}`,
    `repetitive ${percent(result.repetitive)}, overlong ${percent(result.overlong)}, incorrect ${percent(result.incorrect)}`,
    `KV ${(result.kv_bytes / 1024).toFixed(0)} KiB, ${percent(result.kv_share)} of full`];
  const pair = result.against_full;
  if (pair) lines.push(`against full: ${pair.gained} gained, ${pair.lost} lost, p = ${pair.p_value.toPrecision(2)}`);
  return lines;
}

function byMethod() {
  const methods = new Map();
  for (const result of state.task.results) {
    if (result.method !== "full" && result.level === null) continue;  // of no budget
    if (!methods.has(result.method)) methods.set(result.method, []);
    methods.get(result.method).push(result);
  }
  return methods;
}

function drawChart() {
  const width = 820, height = 420, left = 52, right = 16, top = 14, bottom = 46;
  const svg = $("chart"), task = state.task;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  const compared = task.results.filter((result) => result.method !== "full" && result.level !== null);
  const levels = [...new Set(compared.map((result) => result.level))].sort((a, b) => (task.axis === "budget" ? b - a : a - b));
  const [first, last] = levels.length ? [levels[0], levels[levels.length - 1]] : [0, 1];
  const span = last - first || 1;
  const x = (level) => left + 30 + ((level - first) / span) * (width - left - right - 60);
  const y = (share) => top + (1 - share) * (height - top - bottom);
  for (const share of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
    svg.append(make("line", { x1: left, x2: width - right, y1: y(share), y2: y(share), stroke: "#e4e7eb" }));
    svg.append(make("text", { x: left - 8, y: y(share) + 4, "text-anchor": "end" }, `${Math.round(100 * share)}%`));
  }
  for (const level of levels) svg.append(make("text", { x: x(level), y: height - bottom + 20, "text-anchor": "middle" }, `${level}`));
  const axis = task.axis === "budget" ? "budget (share of full’s KV bytes)" : "sparsity (share of KV heads that stream)";
  svg.append(make("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, axis));
  $("legend").replaceChildren();
  for (const [method, results] of byMethod()) drawMethod(svg, method, results, x, y, [left, width - right]);
}

function drawMethod(svg, method, results, x, y, [start, end]) {
  const colour = results[0].colour, group = make("g", { "data-method": method });
  const levels = new Map();
  for (const result of results) levels.set(result.level, [...(levels.get(result.level) || []), result]);
  if (method === "full") {
    const full = results[0];
    group.append(make("rect", { x: start, width: end - start, y: y(full.high), height: Math.max(1, y(full.low) - y(full.high)),
      fill: colour, opacity: 0.1 }));
    group.append(make("line", { x1: start, x2: end, y1: y(full.accuracy), y2: y(full.accuracy), stroke: colour,
      "stroke-width": 1.5, "stroke-dasharray": "6 4" }));
    group.append(withTip(make("rect", { x: start, width: end - start, y: y(full.accuracy) - 5, height: 10, opacity: 0 }), facts(full)));
  } else {
    const mean = (some) => some.reduce((sum, result) => sum + result.accuracy, 0) / some.length;
    const points = [...levels].sort((a, b) => x(a[0]) - x(b[0]));
    const path = points.map(([level, some], i) => `${i ? "L" : "M"}${x(level)} ${y(mean(some))}`).join("");
    group.append(make("path", { d: path, fill: "none", stroke: colour, "stroke-width": 2 }));
    for (const [level, some] of points) for (const result of some) {
      if (some.length === 1) group.append(make("line", { x1: x(level), x2: x(level), y1: y(result.low), y2: y(result.high),
        stroke: colour, "stroke-width": 1.4 }));
      const mark = make("circle", { cx: x(level), cy: y(result.accuracy), r: some.length > 1 ? 4 : 5, fill: colour,
        opacity: some.length > 1 ? 0.5 : 1, class: "point", "data-result": result.id, style: "cursor: pointer" });
      mark.addEventListener("click", () => compare(result.id));
      group.append(withTip(mark, facts(result)));
    }
  }
  svg.append(group);
  const entry = make("li", {}, make("i", { style: `background: ${colour}` }), method);
  const others = (dim) => svg.querySelectorAll("g").forEach((other) => other.classList.toggle("dim", dim && other !== group));
  entry.addEventListener("mouseenter", () => others(true));
  entry.addEventListener("mouseleave", () => others(false));
  $("legend").append(entry);
}

function drawFigures() {
  const columns = ["method", state.task.axis, "accuracy", "95% interval", "std. error", "failures", "length", "median", "KV KiB", "KV of full",
    "gained", "lost", "p vs full"];
  const head = make("thead", {}, make("tr", {}, ...columns.map((name) => make("th", {}, name))));
  const body = make("tbody");
  let previous = null;
  for (const result of state.task.results) {
    const pair = result.against_full || {};
    const cell = (value) => make("td", {}, value === undefined ? "–" : `${value}`);
    const bar = make("span", { class: "modes" });
    for (const mode of ["repetitive", "overlong", "incorrect"]) bar.append(make("i", { class: mode, style: `width: ${100 * result[mode]}%` }));
    const bars = withTip(make("td", {}, bar), ["failures", ...["repetitive", "overlong", "incorrect"].map((mode) => `${mode} ${percent(result[mode])}`)]);
    const row = make("tr", { class: result.method === previous ? "" : "first" }, cell(result.label),
      cell(result.method === "full" || result.level === null ? "–" : Number(result.level.toPrecision(3))), cell(percent(result.accuracy)),
      cell(`${percent(result.low)} to ${percent(result.high)}`), cell(percent(result.standard_error)), bars,
      cell(result.mean_length.toFixed(0)), cell(result.median_length), cell((result.kv_bytes / 1024).toFixed(0)), cell(percent(result.kv_share)),
      cell(pair.gained), cell(pair.lost), cell(pair.p_value === undefined ? undefined : pair.p_value < 0.001 ? "<0.001" : pair.p_value.toPrecision(2)));
    body.append(row);
    previous = result.method;
  }
  $("figures").replaceChildren(head, body);
}

function drawPublished() {
  const rows = state.task.published, place = $("published");
  place.replaceChildren();
  if (!data.published) return;
  place.append(make("h2", {}, "Published ", make("small", {}, data.published)));
  if (!rows.length) { place.append(make("p", { class: "hint" }, `Has no row for ${state.task.label}.`)); return; }
  const levels = [...new Set(rows.flatMap((row) => Object.keys(row.accuracy)))].sort((a, b) => a - b);
  const head = make("tr", {}, ...["model", "method", "full", ...levels].map((name) => make("th", {}, name)));
  const body = rows.map((row) => make("tr", {}, make("td", {}, row.model), make("td", { class: "text" }, row.method),
    make("td", {}, percent(row.full)), ...levels.map((level) => make("td", {}, percent(row.accuracy[level] ?? null)))));
  place.append(make("div", { class: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body))));
}

function drawThroughput() {
  const place = $("throughput");
  if (!data.throughput) { place.remove(); return; }
  const columns = Object.keys(data.throughput[0]);
  const show = (value) => (typeof value === "number" ? Number(value.toPrecision(4)).toLocaleString("en") : value === null ? "–" : `${value}`);
  const head = make("tr", {}, ...columns.map((name) => make("th", {}, name.replaceAll("_", " "))));
  const body = data.throughput.map((row) => make("tr", {}, ...columns.map((name) => make("td", {}, show(row[name])))));
  place.append(make("h2", {}, "Throughput"), make("div", { class: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body))));
}

const STOPS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];

function colourOf(gate) {
  const place = gate * (STOPS.length - 1), low = Math.min(Math.floor(place), STOPS.length - 2), part = place - low;
  const channel = (stop, at) => parseInt(stop.slice(at, at + 2), 16);
  const mixed = [1, 3, 5].map((at) => Math.round((1 - part) * channel(STOPS[low], at) + part * channel(STOPS[low + 1], at)));
  return `rgb(${mixed.join(" ")})`;
}

function drawHeads() {
  const heads = data.heads[$("ranking").selectedIndex], sparsity = Number($("sparsity").value);
  const layers = heads.gates.length, width = heads.gates[0].length, cell = Math.max(14, Math.min(38, 900 / width)), line = 18, left = 46;
  const ranked = heads.gates.flatMap((row, layer) => row.map((gate, head) => [gate, layer, head]));
  ranked.sort((a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2]);
  const half = sparsity * ranked.length, floor = Math.floor(half);
  const count = half - floor === 0.5 ? floor + (floor % 2) : Math.round(half);  // as Python rounds
  const streaming = new Set(ranked.slice(0, count).map(([, layer, head]) => `${layer} ${head}`));
  const svg = $("map");
  svg.replaceChildren();
  svg.setAttribute("width", left + width * cell + 10);
  svg.setAttribute("height", layers * line + 44);
  heads.gates.forEach((row, layer) => {
    if (layers <= 12 || layer % 4 === 0) svg.append(make("text", { x: left - 8, y: layer * line + 13, "text-anchor": "end" }, `${layer}`));
    row.forEach((gate, head) => {
      const streams = streaming.has(`${layer} ${head}`), x = left + head * cell, y = layer * line;
      const box = make("rect", { x: x + 1, y: y + 1, width: cell - 2, height: line - 2, fill: colourOf(gate), class: "head" });
      svg.append(withTip(box, [`layer ${layer}, KV head ${head}`, `gate ${gate.toFixed(4)}`, streams ? "streams" : "keeps everything"]));
      if (streams) svg.append(make("path", { d: `M${x + 4} ${y + line - 5}L${x + cell - 4} ${y + 5}`, stroke: gate > 0.6 ? "#24282e" : "#fff",
        "stroke-width": 1.5, "pointer-events": "none" }));
    });
  });
  for (let head = 0; head < width; head += width > 16 ? 4 : 1) {
    svg.append(make("text", { x: left + (head + 0.5) * cell, y: layers * line + 16, "text-anchor": "middle" }, `${head}`));
  }
  svg.append(make("text", { x: left + (width * cell) / 2, y: layers * line + 36, "text-anchor": "middle" }, "KV head"));
  svg.append(make("text", { x: 12, y: (layers * line) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(layers * line) / 2})` }, "layer"));
  $("streaming").value = `${sparsity.toFixed(2)}: ${count} of ${ranked.length} heads stream (struck through)`;
}

function startHeads() {
  if (!data.heads.length) { $("heads").remove(); return; }
  $("ranking").append(...data.heads.map((heads) => make("option", {}, heads.name)));
  const choose = () => { $("sparsity").value = data.heads[$("ranking").selectedIndex].sparsity; drawHeads(); };
  $("ranking").addEventListener("change", choose);
  $("sparsity").addEventListener("input", drawHeads);
  choose();
}

const FILTERS = [["all answers", () => true], ["left right, right wrong", (a, b) => a.correct && !b.correct],
  ["left wrong, right right", (a, b) => !a.correct && b.correct], ["both wrong", (a, b) => !a.correct && !b.correct],
  ["texts differ", (a, b) => a.text !== b.text], ["right is repetitive", (a, b) => b.mode === "repetitive"],
  ["right is overlong", (a, b) => b.mode === "overlong"]];

/** Rows are stored as lists; these are their names. */
const sample = ([text, correct, mode, extracted, reason, length, finish, kv]) => ({ text, correct: correct === 1, mode, extracted, reason, length, finish, kv });

function listAnswers() {
  const stored = state.samples.results, left = stored[$("left").value] || {}, right = stored[$("right").value] || {};
  const problems = state.samples.problems[state.task.label], wanted = $("find").value.toLowerCase();
  const keeps = FILTERS[$("filter").selectedIndex][1];
  state.rows = [];
  for (const index of Object.keys(left).map(Number)) {
    if (!(index in right)) continue;
    const a = sample(left[index]), b = sample(right[index]), problem = problems[Math.floor(index / data.draws)] || ["", "", ""];
    if (keeps(a, b) && (!wanted || problem[1].toLowerCase().includes(wanted))) state.rows.push({ index, a, b, problem });
  }
  $("count").value = `${state.rows.length} of ${Object.keys(left).length}`;
  state.chosen = 0;
  $("list").scrollTop = 0;
  scrollList();
  showAnswer();
}

/** Only the rows in sight exist, so that thousands of problems scroll well. */
function scrollList() {
  const list = $("list"), first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5), some = state.rows.slice(first, first + 40);
  const mark = (one) => make("span", { class: `mark ${one.correct ? "yes" : "no"}` }, one.correct ? RIGHT : WRONG);
  const items = some.map((row, i) => {
    const place = first + i, draw = data.draws > 1 ? `.${(row.index % data.draws) + 1}` : "";
    const item = make("li", { style: `top: ${place * ROW}px`, "aria-selected": place === state.chosen, "data-place": place }, mark(row.a), mark(row.b),
      make("span", {}, `${Math.floor(row.index / data.draws) + 1}${draw}`), make("span", {}, row.problem[1].replace(/\s+/g, " ").slice(0, 60)));
    item.addEventListener("click", () => choose(place));
    return item;
  });
  list.replaceChildren(make("div", { style: `height: ${state.rows.length * ROW}px` }), ...items);
}

function choose(place) {
  state.chosen = Math.max(0, Math.min(place, state.rows.length - 1));
  const list = $("list"), top = state.chosen * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  scrollList();
  showAnswer();
}

function showAnswer() {
  const row = state.rows[state.chosen], detail = $("detail");
  if (!row) { detail.replaceChildren(make("p", { class: "hint" }, "No answer is like this.")); return; }
  const name = (id) => state.task.results.find((result) => `${result.id}` === id).name;
  const texts = state.samples.texts, left = texts[row.a.text], right = texts[row.b.text];
  let same = 0;
  while (same < Math.min(left.length, right.length) && left[same] === right[same]) same += 1;
  const side = (id, one, text) => {
    const differs = left !== right && same < text.length;
    return make("div", { class: one.correct ? "right" : "wrong" }, make("h3", {}, name(id)),
      make("p", { class: "facts" }, make("b", { class: one.correct ? "yes" : "no" }, one.correct ? "right" : one.mode),
        ` · answer `, make("b", {}, one.extracted === null ? "none" : one.extracted), ` · ${one.reason} · ${one.length} tokens · ${one.finish} · ${(one.kv / 1024).toFixed(0)} KiB`),
      make("pre", { class: "answer" }, differs ? text.slice(0, same) : text, ...(differs ? [make("mark", {}, text.slice(same))] : [])));
  };
  detail.replaceChildren(make("h3", {}, `Problem ${row.problem[0]}`), make("pre", { class: "problem" }, row.problem[1]),
    make("p", { class: "facts" }, "right answer ", make("b", {}, row.problem[2])),
    make("div", { class: "pair" }, side($("left").value, row.a, left), side($("right").value, row.b, right)));
  detail.scrollTop = 0;
}

function compare(id) {
  $("right").value = id;
  listAnswers();
  $("answers").scrollIntoView({ behavior: "smooth" });
}

function startAnswers() {
  $("filter").append(...FILTERS.map(([name]) => make("option", {}, name)));
  for (const id of ["left", "right", "filter"]) $(id).addEventListener("change", listAnswers);
  $("find").addEventListener("input", listAnswers);
  $("list").addEventListener("scroll", scrollList);
  $("list").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) { event.preventDefault(); choose(state.chosen + step); }
  });
}

function showTask(task) {
  state.task = task;
  document.querySelectorAll("#tasks button").forEach((button) => button.setAttribute("aria-pressed", button.textContent === task.label));
  $("caption").textContent = task.caption;
  drawChart();
  drawFigures();
  drawPublished();
  for (const id of ["left", "right"]) $(id).replaceChildren(...task.results.map((result) => make("option", { value: result.id }, result.name)));
  const other = task.results.find((result) => result.method !== "full" && result.incorrect + result.repetitive + result.overlong > 0) || task.results[task.results.length - 1];
  $("right").value = other.id;
  listAnswers();
}

async function start() {
  state.samples = await unpack($("samples-data").textContent);
  $("settings").textContent = data.settings;
  if (data.tasks.length > 1) {
    $("tasks").append(...data.tasks.map((task) => {
      const button = make("button", {}, task.label);
      button.addEventListener("click", () => showTask(task));
      return button;
    }));
  }
  startHeads();
  drawThroughput();
  startAnswers();
  showTask(data.tasks[0]);
  document.body.dataset.ready = "yes";
}

start();
