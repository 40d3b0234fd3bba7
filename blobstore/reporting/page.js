"use strict";
// All text comes from a file that anyone may have made: it becomes text (textContent), never markup.
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const PLOTS = typeof Bokeh !== "undefined"; // without it there are no plots, which data.told says
const {Plotting, ColumnDataSource, HoverTool, LinearColorMapper, ColorBar, FixedTicker, NumeralTickFormatter} = PLOTS ? Bokeh : {};
const PALETTE = ["#4477aa", "#66aa99", "#c08a2d", "#aa5577", "#7a68b8", "#8a8a3c", "#5a9bd0", "#b06a4a"];
const KIND_COLOURS = ["#888888", "#7a68b8", "#c8c8c8", "#4477aa", "#c08a2d", "#66aa99", "#aa5577"];
const UNITS = ["bytes", "kB", "MB", "GB", "TB"];
const FIGURES = [];

function bytes(count) {
  let unit = 0, value = count;
  while (value >= 999.5 && unit < UNITS.length - 1) { value /= 1000; unit++; }
  return `${unit ? value.toPrecision(3) : value} ${UNITS[unit]}`;
}
const exact = (count) => count.toLocaleString("en-US");
function short(value) {
  if (value === null || value === undefined) return "–";
  return typeof value === "number" ? (Number.isInteger(value) && Math.abs(value) < 1e9 ? exact(value) : String(Number(value.toPrecision(4)))) : String(value);
}
function element(name, parent, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (parent) parent.append(made);
  return made;
}
function section(title, words = "", attributes = {}) {
  const made = element("section", document.querySelector("main"), null, attributes);
  element("h2", made, title);
  if (words) element("p", made, words, {class: "faint"});
  return made;
}
function legend(parent, entries) {
  const list = element("ul", parent, null, {class: "legend"});
  for (const [text, colour] of entries) {
    const item = element("li", list);
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const square = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [key, value] of [["width", "100%"], ["height", "100%"], ["fill", colour]]) square.setAttribute(key, value);
    mark.append(square);
    item.append(mark, text);
  }
}

// ------------------------------------------------------------------------------------------------------------ plots
function theme() {
  const style = getComputedStyle(document.documentElement);
  const [ground, text, line] = ["--ground", "--text", "--line"].map((name) => style.getPropertyValue(name).trim());
  for (const {figure, bar} of FIGURES) {
    figure.setv({background_fill_color: ground, border_fill_color: ground, outline_line_color: line});
    for (const axis of [...figure.below, ...figure.left]) {
      axis.setv({major_label_text_color: text, axis_label_text_color: text, axis_line_color: line,
        major_tick_line_color: line, minor_tick_line_color: null});
    }
    if (bar) bar.setv({background_fill_color: ground, major_label_text_color: text, title_text_color: text});
  }
}
function plot(parent, label, options, draw) {
  const controls = element("div", parent, null, {class: "bar"});
  const place = element("div", parent, null, {class: "plot", tabindex: "0", role: "group", "aria-label": `${label}. Plus and minus zoom, arrows move, 0 shows all.`});
  const figure = Plotting.figure({sizing_mode: "stretch_width", toolbar_location: "right", output_backend: "canvas", ...options});
  figure.toolbar.setv({logo: null, autohide: false});
  const drawn = draw(figure) ?? {};
  FIGURES.push({figure, ...drawn});
  const home = [figure.x_range, figure.y_range].map((range) => [range.start, range.end]);
  const both = options.tools?.includes("xwheel") ? [true, false] : [true, true];
  const view = (scale, right = 0, up = 0) => [figure.x_range, figure.y_range].forEach((range, axis) => {
    if (!both[axis]) return;
    const [from, to] = home[axis];
    let width = Math.min(to - from, (range.end - range.start) * scale);
    let start = (range.start + range.end - width) / 2 + (axis ? up : right) * width / 4;
    start = Math.max(from, Math.min(start, to - width));
    range.setv({start, end: start + width});
  });
  const all = () => [figure.x_range, figure.y_range].forEach((range, axis) => range.setv({start: home[axis][0], end: home[axis][1]}));
  const keys = {"+": [0.5], "=": [0.5], "-": [2], ArrowLeft: [1, -1], ArrowRight: [1, 1], ArrowUp: [1, 0, 1], ArrowDown: [1, 0, -1]};
  place.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "0") all(); else if (keys[event.key]) view(...keys[event.key]); else return;
    event.preventDefault();
  });
  for (const [text, act] of [["zoom in", () => view(0.5)], ["zoom out", () => view(2)], ["show all", all]]) {
    element("button", controls, text, {type: "button"}).addEventListener("click", act);
  }
  Plotting.show(figure, place);
  return {figure, controls, all};
}
function quads(figure, columns, tips, line = null) {
  const source = new ColumnDataSource({data: columns});
  const field = (name) => ({field: name});
  const glyph = figure.quad({left: field("left"), right: field("right"), bottom: field("bottom"), top: field("top"),
    fill_color: field("colour"), line_color: line, line_width: 0.5, source, nonselection_fill_alpha: 0.45});
  figure.add_tools(new HoverTool({tooltips: tips, renderers: [glyph]}));
  return source;
}
function select(parent, label, choices, change) {
  const made = element("select", element("label", parent, `${label} `));
  for (const [value, text] of choices) element("option", made, text, {value});
  made.addEventListener("change", () => change(made.value));
  return made;
}
function tapped(source, act) {
  source.selected.properties.indices.change.connect(() => {
    const [index] = source.selected.indices;
    if (index !== undefined) act(index);
  });
}

// ----------------------------------------------------------------------------------------------------------- treemap
// Squarified: rows of rectangles as near to squares as their areas allow (Bruls, Huizing and van Wijk, 2000).
function squarify(items, x, y, width, height, put) {
  const total = items.reduce((sum, item) => sum + item.size, 0);
  if (!total || width <= 0 || height <= 0) return;
  const scale = width * height / total;
  let at = 0;
  while (at < items.length) {
    const side = Math.min(width, height);
    let sum = 0, end = at, worst = Infinity;
    const most = items[at].size * scale;
    while (end < items.length) {
      const area = items[end].size * scale, next = sum + area;
      const ratio = Math.max(side * side * most / (next * next), next * next / (side * side * area));
      if (ratio > worst) break;
      [sum, worst, end] = [next, ratio, end + 1];
    }
    const thick = sum / side;
    let along = 0;
    for (; at < end; at++) {
      const long = items[at].size * scale / thick;
      if (width >= height) put(items[at], x, y + along, thick, long); else put(items[at], x + along, y, long, thick);
      along += long;
    }
    if (width >= height) { x += thick; width -= thick; } else { y += thick; height -= thick; }
  }
}
function treemap(tensors, colours, groupBy) {
  const groups = new Map();
  tensors.name.forEach((_, place) => {
    if (!tensors.nbytes[place]) return;
    const key = tensors[groupBy][place];
    if (!groups.has(key)) groups.set(key, {key, size: 0, items: []});
    const group = groups.get(key);
    group.size += tensors.nbytes[place];
    group.items.push({place, size: tensors.nbytes[place]});
  });
  const made = {left: [], right: [], bottom: [], top: [], colour: [], place: [], name: [], words: [], group: []};
  const frames = {left: [], right: [], bottom: [], top: [], colour: [], label: []};
  const sorted = [...groups.values()].sort((a, b) => b.size - a.size);
  squarify(sorted, 0, 0, 1600, 600, (group, x, y, width, height) => {
    const title = group.key || "(no layer)";
    for (const [key, value] of [["left", x], ["right", x + width], ["bottom", y], ["top", y + height], ["colour", null],
      ["label", width > 100 && height > 30 ? title.slice(0, Math.floor(width / 9)) : ""]]) frames[key].push(value);
    group.items.sort((a, b) => b.size - a.size);
    squarify(group.items, x + 1, y + 1, width - 2, height - 2, ({place}, left, bottom, wide, high) => {
      for (const [key, value] of [["left", left], ["right", left + wide], ["bottom", bottom], ["top", bottom + high],
        ["colour", colours[tensors.type[place]]], ["place", place], ["name", tensors.name[place]], ["group", `${title}, ${bytes(group.size)}`],
        ["words", `${tensors.type[place]} ${tensors.shape[place]}, ${bytes(tensors.nbytes[place])}`]]) made[key].push(value);
    });
  });
  return [made, frames];
}
function showTreemap(tensors, table) {
  const types = [...new Set(tensors.type)];
  const colours = Object.fromEntries(types.map((type, place) => [type, PALETTE[place % PALETTE.length]]));
  const part = section("Bytes", "Each tensor is a rectangle as large as its bytes, in its layer; its colour is its type. Click one to find it in the table.");
  let [columns, frames] = treemap(tensors, colours, "layer");
  let source, frame;
  const {controls, all} = plot(part, "Treemap", {height: 420, x_range: [0, 1600], y_range: [0, 600], x_axis_type: null, y_axis_type: null,
    tools: "pan,wheel_zoom,box_zoom,tap,reset"}, (figure) => {
    source = quads(figure, columns, [["name", "@name"], ["tensor", "@words"], ["in", "@group"]], "#ffffff");
    frame = new ColumnDataSource({data: frames});
    figure.quad({left: {field: "left"}, right: {field: "right"}, bottom: {field: "bottom"}, top: {field: "top"}, fill_color: null, line_color: "#000000", line_width: 1.5, source: frame});
    figure.text({x: {field: "left"}, y: {field: "top"}, text: {field: "label"}, x_offset: 5, y_offset: 4, text_baseline: "top", text_font_size: "11px", text_color: "#ffffff", source: frame});
    
  });
  select(controls, "grouped by", [["layer", "layer"], ["type", "type"]], (by) => {
    [columns, frames] = treemap(tensors, colours, by);
    source.data = columns;
    frame.data = frames;
    all();
  });
  tapped(source, (index) => table.show(columns.place[index]));
  const sums = Object.fromEntries(types.map((type) => [type, 0]));
  tensors.type.forEach((type, place) => { sums[type] += tensors.nbytes[place]; });
  legend(part, types.map((type) => [`${type}, ${bytes(sums[type])}`, colours[type]]));
}

// ------------------------------------------------------------------------------------------------------------- strip
function showStrip(layout, tensors, table) {
  const part = section("Layout", "The file from its first byte to its last. Zoom with the wheel, the buttons, or plus and minus.");
  const byKey = new Map();
  tensors.key.forEach((key, place) => { if (!byKey.has(key)) byKey.set(key, place); });
  const ends = layout.offset.map((offset, place) => offset + layout.nbytes[place]);
  const columns = {left: layout.offset, right: ends, bottom: ends.map(() => 0), top: ends.map(() => 1),
    colour: layout.kind.map((kind) => KIND_COLOURS[kind]),
    what: layout.kind.map((kind, place) => `${data.kinds[kind]} ${layout.key[place]}`),
    name: layout.key.map((key) => byKey.has(key) && key ? tensors.name[byKey.get(key)] : "–"),
    words: layout.offset.map((offset, place) => `${exact(offset)} to ${exact(ends[place])}, ${exact(layout.nbytes[place])} bytes`)};
  let source;
  plot(part, "Layout of the file", {height: 130, x_range: [0, ends[ends.length - 1]], y_range: [0, 1], y_axis_type: null,
    tools: "xpan,xwheel_zoom,xbox_zoom,tap,reset", active_scroll: "xwheel_zoom"}, (figure) => {
    source = quads(figure, columns, [["what", "@what"], ["tensor", "@name"], ["bytes", "@words"]]);
    figure.below[0].setv({formatter: new NumeralTickFormatter({format: "0,0"})});
  });
  tapped(source, (index) => { const place = byKey.get(layout.key[index]); if (layout.key[index] && place !== undefined) table.show(place); });
  const sums = data.kinds.map(() => 0);
  layout.kind.forEach((kind, place) => { sums[kind] += layout.nbytes[place]; });
  legend(part, data.kinds.map((kind, place) => [`${kind}, ${bytes(sums[place])}`, KIND_COLOURS[place]]).filter((_, place) => sums[place]));
}

// ------------------------------------------------------------------------------------------------------------- table
// Only the rows in sight exist, so that 16,000 tensors scroll as smoothly as ten.
const COLLATOR = new Intl.Collator("en", {numeric: true}); // layer 2 before layer 10
const ROW = 23, BLOCKS = " ▁▂▃▄▅▆▇██", PRINTED = 500;
function grid(parent, columns, count, cell, value, label, chosen = () => {}) {
  const bar = element("div", parent, null, {class: "bar"});
  const filter = element("input", element("label", bar, "filter "), null, {type: "search", placeholder: "words, all of which must be there"});
  const told = element("span", bar, "", {class: "faint", "aria-live": "polite"});
  const box = element("div", parent, null, {class: "grid", tabindex: "0", "aria-label": label});
  const table = element("table", box);
  table.setAttribute("aria-rowcount", count);
  table.style.width = `${columns.reduce((sum, [, , width]) => sum + width, 0)}px`;
  const group = element("colgroup", table);
  const head = element("tr", element("thead", table)), body = element("tbody", table);
  const texts = Array.from({length: count}, (_, row) => columns.map(([key]) => cell(key, row)).join("\n").toLowerCase());
  let order = Array.from({length: count}, (_, row) => row), sorted = null, down = false, selected = null;
  let drawn = "";
  function draw(from, to) {
    const now = `${from} ${to}`;
    if (now === drawn) return;
    drawn = now;
    body.replaceChildren();
    const space = (rows) => { if (rows > 0) element("td", element("tr", body, null, {class: "space", "aria-hidden": "true"}), null, {colspan: columns.length}).style.height = `${rows * ROW}px`; };
    space(from);
    for (const row of order.slice(from, to)) {
      const line = element("tr", body, null, {"aria-selected": String(row === selected), "aria-rowindex": order.indexOf(row) + 1});
      for (const [key, , , kind] of columns) {
        const text = cell(key, row);
        element("td", line, text, kind ? {class: kind} : {title: text});
      }
      line.addEventListener("click", () => choose(row));
    }
    space(order.length - to);
  }
  function sight() {
    const from = Math.max(0, Math.floor(box.scrollTop / ROW) - 10);
    draw(from, Math.min(order.length, from + Math.ceil(box.clientHeight / ROW) + 25));
  }
  function again() { drawn = ""; sight(); }
  function choose(row) { selected = row; chosen(row); again(); }
  function reveal(row) {
    let at = order.indexOf(row);
    if (at < 0) { filter.value = ""; refresh(); at = order.indexOf(row); }
    box.scrollTop = Math.max(0, at * ROW - box.clientHeight / 2);
    choose(row);
  }
  function refresh() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    order = [];
    for (let row = 0; row < count; row++) if (words.every((word) => texts[row].includes(word))) order.push(row);
    if (sorted) {
      const values = new Map(order.map((row) => [row, value(sorted, row)]));
      const compare = (a, b) => {
        const [x, y] = [values.get(a), values.get(b)];
        if (x === null || y === null || x === y) return x === y ? a - b : x === null ? 1 : -1; // what is not known comes last
        return (typeof x === typeof y ? (typeof x === "number" ? x - y : COLLATOR.compare(x, y)) : typeof x === "number" ? -1 : 1) * (down ? -1 : 1);
      };
      order.sort(compare);
    }
    told.textContent = order.length === count ? `${exact(count)} rows` : `${exact(order.length)} of ${exact(count)} rows`;
    box.scrollTop = 0;
    again();
  }
  for (const [key, title, width] of columns) {
    element("col", group).style.width = `${width}px`;
    const cellOfHead = element("th", head, null, {scope: "col", "aria-sort": "none"});
    element("button", cellOfHead, title, {type: "button"}).addEventListener("click", () => {
      [sorted, down] = [key, sorted === key ? !down : false];
      for (const other of head.children) {
        other.setAttribute("aria-sort", "none");
        other.firstChild.textContent = other.firstChild.textContent.replace(/ [▲▼]$/, "");
      }
      cellOfHead.setAttribute("aria-sort", down ? "descending" : "ascending");
      cellOfHead.firstChild.textContent = `${title} ${down ? "▼" : "▲"}`;
      refresh();
    });
  }
  box.addEventListener("scroll", sight, {passive: true});
  filter.addEventListener("input", refresh);
  box.addEventListener("keydown", (event) => {
    if (event.target !== box || !order.length) return;
    const steps = {ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15, Home: -Infinity, End: Infinity};
    if (!(event.key in steps)) return;
    event.preventDefault();
    const at = selected === null ? -1 : order.indexOf(selected);
    reveal(order[Math.max(0, Math.min(order.length - 1, at + steps[event.key]))]);
  });
  addEventListener("beforeprint", () => {
    drawn = "";
    draw(0, Math.min(order.length, PRINTED));
    body.querySelectorAll(".space").forEach((space) => space.remove());
    if (order.length > PRINTED) told.textContent = `the first ${PRINTED} of ${exact(order.length)} rows are printed`;
  });
  addEventListener("afterprint", refresh);
  refresh();
  return {show: (row) => { parent.scrollIntoView({block: "nearest"}); reveal(row); }};
}
const TENSOR_COLUMNS = [["name", "name", 340], ["type", "type", 55], ["shape", "shape", 110], ["nbytes", "bytes", 95, "number"], ["histogram", "histogram", 150, "blocks"],
  ["min", "min", 80, "number"], ["max", "max", 80, "number"], ["mean", "mean", 85, "number"], ["std", "std", 80, "number"], ["nan", "NaN", 60, "number"],
  ["inf", "inf", 60, "number"], ["zeros", "zeros", 70, "number"], ["key", "key", 140], ["aliases", "further names", 200], ["offset", "offset", 110, "number"],
  ["digest", "SHA-256 of its blob", 480]];
function showTable(tensors) {
  const part = section("Tensors", "", {class: "long"});
  element("p", part, "Min, max, mean and std are of the finite values. Click a heading to sort; choose a row with the arrows for a larger histogram.", {class: "faint"});
  const cell = (key, row) => {
    const value = tensors[key][row];
    if (key === "histogram") return [...value].map((digit) => BLOCKS[Number(digit)]).join("");
    if (key === "zeros") return value === null ? "–" : `${short(value * 100)} %`;
    if (key === "nbytes" || key === "offset") return exact(value);
    if (key === "aliases") return value.join(", ");
    return typeof value === "number" || value === null ? short(value) : value;
  };
  const value = (key, row) => (key === "aliases" ? tensors[key][row].join(", ") : key === "shape" ? tensors[key][row].split("×").reduce((size, side) => size * (Number(side) || 1), 1) : tensors[key][row]);
  const place = element("div", null);
  const table = grid(part, TENSOR_COLUMNS, tensors.name.length, cell, value, "Tensors; the arrows choose a row", (row) => showHistogram(place, tensors, row));
  part.append(place);
  return {table, part};
}
let bars;
function showHistogram(place, tensors, row) {
  if (!PLOTS) return;
  const digits = [...tensors.histogram[row]].map(Number);
  if (!bars) {
    place.append(element("p", null, "", {class: "title"}));
    bars = {title: place.firstChild};
    plot(place, "Histogram of the chosen tensor", {height: 180, tools: "", toolbar_location: null, x_range: [0, 1], y_range: [0, 9.5], y_axis_type: null}, (figure) => {
      bars.source = quads(figure, {left: [], right: [], bottom: [], top: [], colour: []}, [["from", "@left"], ["to", "@right"]], "#ffffff");
      bars.figure = figure;
    });
    place.querySelector(".bar").remove();
    theme();
  }
  bars.title.textContent = digits.length ? tensors.name[row] : `${tensors.name[row]}: no values that can be shown`;
  const low = tensors.min[row] ?? 0, high = tensors.max[row] ?? 1, wide = (high - low || 1) / (digits.length || 1), start = high === low ? low - 0.5 : low;
  bars.source.data = {left: digits.map((_, bin) => start + bin * wide), right: digits.map((_, bin) => start + (bin + 1) * wide), bottom: digits.map(() => 0), top: digits, colour: digits.map(() => PALETTE[0])};
  bars.figure.x_range.setv({start, end: start + wide * (digits.length || 1)});
}

// ----------------------------------------------------------------------------------------------------------- changes
const MEASURES = [["abs", "largest |a − b|"], ["rel", "largest |a − b| / max(|a|, |b|)"], ["differ", "share of values that differ"], ["angle", "1 − cosine"]];
const CHANGE_COLUMNS = [["name", "name", 380], ["what", "what", 80], ["type", "type", 110], ["shape", "shape", 150], ["differ", "differ", 90, "number"], ["abs", "max abs", 90, "number"],
  ["rel", "max rel", 90, "number"], ["angle", "1 − cosine", 100, "number"], ["more", "more", 340]];
const RAMP = ["#fde725", "#b5de2b", "#6ece58", "#35b779", "#1f9e89", "#26828e", "#31688e", "#3e4989", "#482878", "#440154"];
function showChanges(changes) {
  const entries = changes.entries;
  const counted = Object.entries(changes.counts).map(([kind, count]) => `${exact(count)} ${kind}`).join(", ") || "nothing to compare";
  const part = section("What changed", `From ${changes.a} to ${changes.b}: ${counted}.`);
  for (const note of changes.notes) element("p", part, note, {class: "told"});
  const measured = entries.name.map((_, place) => place).filter((place) => typeof entries.abs[place] === "number");
  if (measured.length && PLOTS) {
    const layers = [...new Set(measured.map((place) => entries.layer[place]))].sort(COLLATOR.compare);
    const roles = [...new Set(measured.map((place) => entries.role[place]))].sort(COLLATOR.compare).reverse();
    const columnOf = new Map(layers.map((layer, place) => [layer, place])), rowOf = new Map(roles.map((role, place) => [role, place]));
    const columns = {left: [], right: [], bottom: [], top: [], name: [], words: [], shown: [], value: []};
    for (const place of measured) {
      const x = columnOf.get(entries.layer[place]), y = rowOf.get(entries.role[place]);
      for (const [key, value] of [["left", x], ["right", x + 1], ["bottom", y], ["top", y + 1], ["name", entries.name[place]],
        ["words", MEASURES.map(([key, text]) => `${text}: ${short(entries[key][place])}`).join("; ")]]) columns[key].push(value);
    }
    const paint = (by) => {
      const values = measured.map((place) => entries[by][place]).map((value) => (typeof value === "number" && value > 0 ? Math.log10(value) : NaN));
      const finite = values.filter(Number.isFinite);
      const [low, high] = finite.length ? [finite.reduce((a, b) => Math.min(a, b)), finite.reduce((a, b) => Math.max(a, b))] : [0, 1];
      mapper.setv({low, high: high > low ? high : low + 1});
      source.data = {...columns, value: values, shown: values};
    };
    element("p", part, "Each cell is a tensor: a column is a layer. Cells that are empty did not change, or have no values to compare.", {class: "faint"});
    const mapper = new LinearColorMapper({palette: RAMP, low: 0, high: 1, nan_color: "#8a8a8a"});
    let source;
    const long = Math.min(44, roles.reduce((most, role) => Math.max(most, role.length), 0));
    const {controls} = plot(part, "Heatmap of differences by layer", {height: Math.max(180, Math.min(900, 110 + 22 * roles.length)), x_range: [0, layers.length], y_range: [0, roles.length],
      tools: "pan,wheel_zoom,box_zoom,reset"}, (figure) => {
      source = new ColumnDataSource({data: {...columns, value: columns.left, shown: columns.left}});
      const glyph = figure.quad({left: {field: "left"}, right: {field: "right"}, bottom: {field: "bottom"}, top: {field: "top"}, fill_color: {field: "value", transform: mapper}, line_color: "#808080", line_width: 0.5, source});
      figure.add_tools(new HoverTool({tooltips: [["name", "@name"], ["difference", "@words"]], renderers: [glyph]}));
      const named = (axis, names, width, most) => axis.setv({
        ticker: new FixedTicker({ticks: names.map((_, place) => place + 0.5).filter((_, place) => place % Math.ceil(names.length / most) === 0)}),
        major_label_overrides: new Map(names.map((name, place) => [place + 0.5, name.length > width ? `…${name.slice(1 - width)}` : name || "(no layer)"]))});
      named(figure.left[0], roles, long, 38);
      named(figure.below[0], layers, 30, 60);
      figure.below[0].setv({major_label_orientation: layers.length > 4 ? 0.9 : "horizontal"});
      const bar = new ColorBar({color_mapper: mapper, title: "log₁₀", width: 12});
      figure.add_layout(bar, "right");
      return {bar};
    });
    select(controls, "colour:", MEASURES, paint);
    paint("abs");
  }
  if (entries.name.length) {
    element("h3", part, "Differences");
    const order = entries.name.map((_, place) => place).sort((a, b) => (entries.abs[b] === null) - (entries.abs[a] === null) || (typeof entries.abs[b] === "number" && typeof entries.abs[a] === "number" ? entries.abs[b] - entries.abs[a] : typeof entries.abs[a] === "string" ? -1 : 1));
    const at = (key, row) => entries[key][order[row]];
    grid(part, CHANGE_COLUMNS, order.length, (key, row) => (key === "differ" && at(key, row) !== null ? `${short(at(key, row) * 100)} %` : short(at(key, row))), at, "Differences, the largest first");
  }
}

// -------------------------------------------------------------------------------------------------------------- page
function showHead() {
  const main = element("main", document.body);
  document.title = `${data.input} · blobstore report`;
  element("h1", main, data.input);
  for (const told of data.told) element("p", main, told, {class: "told"});
  const part = section("Findings");
  const counted = ["error", "warning", "note"].map((one) => [one, data.findings.filter(([severity]) => severity === one).length]).filter(([, count]) => count);
  element("p", part, `check and verify: ${counted.map(([one, count]) => `${count} ${one}${count > 1 ? "s" : ""}`).join(", ") || "nothing found"}. ${data.runs}`);
  if (data.findings.length) {
    const table = element("table", part, null, {class: "findings"});
    for (const [severity, code, subject, message, effect, fix, by] of data.findings) {
      const row = element("tr", table);
      element("td", row, severity, {class: severity});
      element("td", row, code);
      const words = element("td", row);
      element("div", words, `${subject}: ${message}`);
      element("div", words, `${[effect, fix].filter(Boolean).join("; ")} (${by})`, {class: "faint"});
    }
  }
  if (data.facts.length) {
    const table = element("table", section("File"), null, {class: "facts"});
    for (const [name, text] of data.facts) {
      const row = element("tr", table);
      element("th", row, name, {scope: "row"});
      element("td", row, text.length > 600 ? `${text.slice(0, 600)}… (${exact(text.length)} characters)` : text);
    }
  }
}
showHead();
if (data.changes) showChanges(data.changes);
if (data.tensors.name?.length) {
  let shown;
  const table = {show: (place) => shown.show(place)};
  if (PLOTS) {
    showTreemap(data.tensors, table);
    showStrip(data.layout, data.tensors, table);
  }
  shown = showTable(data.tensors).table;
} else if (PLOTS && data.layout.offset?.length) {
  showStrip(data.layout, {key: [], name: []}, {show: () => {}});
}
document.body.append(document.getElementById("licences") ?? "");
theme();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);
matchMedia("print").addEventListener("change", theme);
document.documentElement.dataset.ready = "true";
})();
