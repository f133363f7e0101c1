"use strict";

const data = JSON.parse(document.getElementById("figures-data").textContent);
const $ = (id) => document.getElementById(id);
const percent = (share) => (share === null ? "–" : fixed(100 * share, 1) + "%");
const kib = (bytes) => fixed(bytes / 1024, 0);
const pValue = (p) => (p < 0.001 ? "<0.001" : `${Number(p.toPrecision(2))}`);
const RIGHT = "✓", WRONG = "✗";
const ROW = 30;
const state = { task: data.tasks[0], samples: null, rows: [], chosen: 0 };

/** As Python rounds: a tie goes to the even digit, so that the page says what the tables say. */
function fixed(value, digits) {
  const exact = value.toFixed(60), point = exact.indexOf("."), cut = exact.slice(0, point + (digits ? digits + 1 : 0));
  const tie = /^50*$/.test(exact.slice(point + 1 + digits));
  return tie && Number(cut.slice(-1)) % 2 === 0 ? cut : value.toFixed(digits);
}

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
    `mean length ${fixed(result.mean_length, 0)} tokens, median ${result.median_length}, 90% below ${result.p90_length}`,
    `repetitive ${percent(result.repetitive)}, overlong ${percent(result.overlong)}, incorrect ${percent(result.incorrect)}`,
    `unparsed ${percent(result.unparsed)}`,
    `KV ${kib(result.kv_bytes)} KiB, ${percent(result.kv_share)} of full`];
  const pair = result.against_full;
  if (pair) lines.push(`against full: ${pair.gained} gained, ${pair.lost} lost, p ${pair.p_value < 0.001 ? "" : "= "}${pValue(pair.p_value)}`);
  return lines;
}

function byMethod() {
  const methods = new Map();
  for (const result of state.task.results) {
    if (result.method !== "full" && result.x === null) continue;  // of no budget
    if (!methods.has(result.method)) methods.set(result.method, []);
    methods.get(result.method).push(result);
  }
  return methods;
}

/** Drawn at the size that it is shown at, so that its text is never scaled. */
function drawChart() {
  const svg = $("chart"), task = state.task, width = Math.round(svg.getBoundingClientRect().width);
  const height = width < 500 ? 320 : 420, left = 44, right = 8, top = 26, bottom = 46;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  $("legend").replaceChildren();
  const marks = task.axis.marks, sign = task.axis.of_bytes ? -1 : 1;
  const places = [...marks.map(([place]) => place), ...task.results.filter((one) => one.x !== null).map((one) => one.x)].map((place) => sign * place);
  const first = Math.min(...places), span = Math.max(...places) - first;
  const x = (place) => left + 30 + (span ? (sign * place - first) / span : 0.5) * (width - left - right - 60);
  const y = (share) => top + (1 - share) * (height - top - bottom);
  const line = (attributes) => make("line", { stroke: "#e4e7eb", ...attributes });
  svg.append(make("text", { x: 0, y: 12 }, "accuracy, 95% interval"));
  for (const share of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
    svg.append(line({ x1: left, x2: width - right, y1: y(share), y2: y(share) }));
    svg.append(make("text", { x: left - 8, y: y(share) + 4, "text-anchor": "end" }, `${Math.round(100 * share)}%`));
  }
  for (const [place, text] of marks) {
    if (task.axis.of_bytes) svg.append(line({ x1: x(place), x2: x(place), y1: y(0), y2: y(1) }));
    svg.append(make("text", { x: x(place), y: height - bottom + 20, "text-anchor": "middle" }, text));
  }
  const wide = width >= 500, axis = wide ? `${task.axis.name} (${task.axis.note})` : task.axis.name;
  svg.append(make("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, axis));
  const methods = [...byMethod()], moving = methods.filter(([method]) => method !== "full").map(([method]) => method);
  for (const [method, results] of methods) {
    const dodge = 5 * (moving.indexOf(method) - (moving.length - 1) / 2);
    drawMethod(svg, method, results, (place) => x(place) + dodge, y, [left, width - right]);
  }
  for (const row of task.drawn) drawPublishedCurve(svg, row, x, y);
  if (task.drawn.length) drawPublishedFull(svg, task.drawn[0], y, [left, width - right]);
  const notes = [wide ? "" : `${task.axis.name}: ${task.axis.note}. `,
    task.results.some((result) => result.x !== null && result.drops_tokens) ? "Dotted: methods that drop tokens. " : "",
    task.drawn.length ? `Dashed: published figures of ${task.drawn[0].model} (${task.source}). ` : ""];
  $("note").textContent = notes.join("");
}

/** A pattern comes in widths of the line. */
const dashed = (pattern, width) => (pattern.length ? { "stroke-dasharray": pattern.map((part) => part * width).join(" ") } : {});

function drawMethod(svg, method, results, x, y, [start, end]) {
  const colour = results[0].colour, group = make("g", { "data-method": method }), dash = dashed(results[0].dash, 2);
  const levels = new Map();
  for (const result of results) levels.set(result.level, [...(levels.get(result.level) || []), result]);
  if (method === "full") {
    const full = results[0];
    group.append(make("rect", { x: start, width: end - start, y: y(full.high), height: Math.max(1, y(full.low) - y(full.high)),
      fill: colour, opacity: 0.1 }));
    group.append(make("line", { x1: start, x2: end, y1: y(full.accuracy), y2: y(full.accuracy), stroke: colour, "stroke-width": 1.5 }));
    group.append(withTip(make("rect", { x: start, width: end - start, y: y(full.accuracy) - 5, height: 10, opacity: 0 }), facts(full)));
  } else {
    const mean = (some, what) => some.reduce((sum, result) => sum + result[what], 0) / some.length;
    const points = [...levels].sort((a, b) => (state.task.axis.of_bytes ? b[0] - a[0] : a[0] - b[0]));
    const path = points.map(([, some], i) => `${i ? "L" : "M"}${x(mean(some, "x"))} ${y(mean(some, "accuracy"))}`).join("");
    group.append(make("path", { d: path, fill: "none", stroke: colour, "stroke-width": 2, ...dash }));
    for (const [, some] of points) for (const result of some) {
      if (some.length === 1) group.append(make("line", { x1: x(result.x), x2: x(result.x), y1: y(result.low), y2: y(result.high),
        stroke: colour, "stroke-width": 1.4 }));
      const mark = make("circle", { cx: x(result.x), cy: y(result.accuracy), r: some.length > 1 ? 4 : 5, fill: colour,
        opacity: some.length > 1 ? 0.5 : 1, class: "point", "data-result": result.id, style: "cursor: pointer" });
      mark.addEventListener("click", () => compare(result.id));
      group.append(withTip(mark, facts(result)));
    }
  }
  svg.append(group);
  addLegend(svg, group, method, { stroke: colour, ...dash });
}

/** A published curve: dashed, with hollow marks, and without an interval, which tables do not give. */
function drawPublishedCurve(svg, row, x, y) {
  const group = make("g", { "data-published": row.method }), name = `${row.method}, published`, dash = dashed(data.published_dash, 1.3);
  const path = row.points.map((point, i) => `${i ? "L" : "M"}${x(point.x)} ${y(point.accuracy)}`).join("");
  group.append(make("path", { d: path, fill: "none", stroke: row.colour, "stroke-width": 1.3, ...dash }));
  for (const point of row.points) {
    const lines = [name, `${row.model}, ${state.task.source}`, `accuracy ${percent(point.accuracy)} at sparsity ${point.sparsity}`];
    if (state.task.axis.of_bytes) lines.push(`drawn at ${percent(point.x)} of full’s bytes; windows of streaming heads would come on top`);
    group.append(withTip(make("circle", { cx: x(point.x), cy: y(point.accuracy), r: 4, fill: "#fff", stroke: row.colour,
      "stroke-width": 1.3, class: "point" }), lines));
  }
  svg.append(group);
  addLegend(svg, group, name, { stroke: row.colour, ...dash });
}

function drawPublishedFull(svg, row, y, [start, end]) {
  const group = make("g", { "data-published": "full" }), dash = dashed(data.published_dash, 1.3), at = y(row.full);
  const stroke = state.task.results.find((result) => result.method === "full")?.colour;
  if (!stroke) return;
  group.append(make("line", { x1: start, x2: end, y1: at, y2: at, stroke, "stroke-width": 1.3, ...dash }));
  group.append(withTip(make("rect", { x: start, width: end - start, y: at - 5, height: 10, opacity: 0 }),
    ["full, published", `${row.model}, ${state.task.source}`, `accuracy ${percent(row.full)}`]));
  svg.prepend(group);  // below the marks, which are to be pointed at
  addLegend(svg, group, "full, published", { stroke, ...dash });
}

function addLegend(svg, group, name, line) {
  const swatch = make("svg", { width: 26, height: 8 });
  swatch.append(make("line", { x1: 0, x2: 26, y1: 4, y2: 4, "stroke-width": 2.5, ...line }));
  const entry = make("li", {}, swatch, name);
  const others = (dim) => svg.querySelectorAll("g").forEach((other) => other.classList.toggle("dim", dim && other !== group));
  entry.addEventListener("mouseenter", () => others(true));
  entry.addEventListener("mouseleave", () => others(false));
  $("legend").append(entry);
}

const MODES = ["repetitive", "overlong", "incorrect"];

function drawFigures() {
  const results = state.task.results, budgets = state.task.axis.of_bytes;
  const columns = ["method", ...(budgets ? ["budget"] : []), "sparsity", "accuracy", "95% interval", "std. error", "failures", "unparsed",
    "length", "median", "KV KiB", "KV of full", "gained / lost", "p vs full"];
  const head = columns.map((name) => withTip(make("th", {}, name), [name, data.glossary[name]]));
  let previous = null;
  const rows = results.map((result) => {
    const first = result.method !== previous;
    previous = result.method;
    return make("tr", first ? { class: "first" } : {}, ...cells(result, budgets));
  });
  $("figures").replaceChildren(make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
  $("key").replaceChildren("failures:", ...MODES.flatMap((mode) => [make("i", { class: mode }), mode]));
}

function cells(result, budgets) {
  const cell = (value) => make("td", {}, value === null || value === undefined ? "–" : `${value}`), pair = result.against_full;
  const name = make("td", { title: result.label }, result.label);
  const bar = make("span", { class: "modes" }, ...MODES.map((mode) => make("i", { class: mode, style: `width: ${100 * result[mode]}%` })));
  const failures = withTip(make("td", {}, bar), ["failures", ...MODES.map((mode) => `${mode} ${percent(result[mode])}`)]);
  return [name, ...(budgets ? [cell(result.budget)] : []), cell(result.drops_tokens ? null : Number(result.sparsity.toPrecision(3))),
    cell(percent(result.accuracy)), cell(`${fixed(100 * result.low, 1)}–${percent(result.high)}`), cell(percent(result.standard_error)), failures,
    cell(percent(result.unparsed)), cell(fixed(result.mean_length, 0)), cell(result.median_length), cell(kib(result.kv_bytes)),
    cell(percent(result.kv_share)), cell(pair && `${pair.gained} / ${pair.lost}`), cell(pair && pValue(pair.p_value))];
}

function drawPublished() {
  const rows = state.task.published, place = $("published");
  place.replaceChildren();
  if (!state.task.source) return;
  place.append(make("h2", {}, "Published ", make("small", {}, `accuracy by sparsity, ${state.task.source}`)));
  if (!rows.length) { place.append(make("p", { class: "hint" }, `Has no row for ${state.task.label}.`)); return; }
  if (!state.task.drawn.length) place.append(make("p", { class: "hint" },
    "Not drawn: none of its methods took part, or --published-model has to say which of its models to draw."));
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
  $("scale").style.background = `linear-gradient(to right, ${STOPS.join(", ")})`;
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

/** How much of its beginning a task's every problem shares, up to a break between words: no way to tell them apart. */
function sharedStart(problems) {
  const texts = problems.map((problem) => problem[1]);
  let same = 0;
  while (texts.length > 1 && same < texts[0].length && texts.every((text) => text[same] === texts[0][same])) same += 1;
  return texts[0].slice(0, same).search(/\S*$/);
}

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
      make("span", {}, `${Math.floor(row.index / data.draws) + 1}${draw}`), make("span", {}, row.problem[1].slice(state.shared).trim().replace(/\s+/g, " ").slice(0, 60)));
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
        ` · answer `, make("b", {}, one.extracted === null ? "none" : one.extracted), ` · ${one.reason} · ${one.length} tokens · ${one.finish} · ${kib(one.kv)} KiB`),
      make("pre", { class: "answer" }, differs ? text.slice(0, same) : text, ...(differs ? [make("mark", {}, text.slice(same))] : [])));
  };
  detail.replaceChildren(make("h3", {}, `Problem ${Math.floor(row.index / data.draws) + 1} `, make("small", {}, row.problem[0])), make("pre", { class: "problem" }, row.problem[1]),
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
  state.shared = sharedStart(state.samples.problems[task.label]);
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
  addEventListener("resize", drawChart);
  document.body.dataset.ready = "yes";
}

start();
