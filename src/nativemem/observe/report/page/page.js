"use strict";
/* The parts of a report that move: the timeline, and the frames of the flame graph. All data is in the page. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const MEASURES = ["live", "peak", "total"];
  const ROW = 24; /* pixels of a frame */
  const at = (id) => document.getElementById(id);

  function size(n) {
    if (Math.abs(n) < 1024) return Math.round(n) + " B";
    for (const unit of ["KiB", "MiB", "GiB"]) {
      n /= 1024;
      if (Math.abs(n) < 1024) return n.toFixed(1) + " " + unit;
    }
    return (n / 1024).toFixed(1) + " TiB";
  }
  const count = (n) => Math.round(n).toLocaleString("en");
  const time = (s) => (s < 10 ? s.toFixed(3) : s.toFixed(1)) + " s";

  function make(tag, name, text) {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  /* What is looked at; every control changes this and calls its listeners. */
  const state = { owner: -1, measure: data.by, root: 0, query: "" };

  /* ---- the flame graph: frames hang below the one that called them ---- */

  const { parents, frames, places, leaves } = data.tree;
  const children = parents.map(() => []);
  for (let i = 1; i < parents.length; i++) children[parents[i]].push(i);

  /* Bytes and blocks of each node with all below it, and of itself. A parent's number is smaller than its child's. */
  function added() {
    const which = 2 + 2 * MEASURES.indexOf(state.measure);
    const bytes = new Float64Array(parents.length);
    const blocks = new Float64Array(parents.length);
    for (const leaf of leaves) {
      if (state.owner >= 0 && leaf[1] !== state.owner) continue;
      bytes[leaf[0]] += leaf[which];
      blocks[leaf[0]] += leaf[which + 1];
    }
    const own = bytes.slice();
    for (let i = parents.length - 1; i > 0; i--) {
      bytes[parents[i]] += bytes[i];
      blocks[parents[i]] += blocks[i];
    }
    return { bytes, blocks, own };
  }

  const place = (node) => places[frames[node]];
  const short = (file) => file.replace(/^.*\/(?:site-packages|dist-packages|lib(?:64)?\/python3\.\d+t?)\//, "").replace(data.folder, "");
  function name(node) {
    if (node === 0) return "all";
    const [file, line, called] = place(node);
    return file ? `${called} (${short(file)}:${line})` : called;
  }
  function hue(node) {
    let hash = 7;
    for (const c of place(node)[0]) hash = (hash * 31 + c.codePointAt(0)) >>> 0;
    return hash % 360;
  }

  const graph = at("graph");
  let sums = null;
  let shown = []; /* {node, level, element}, as they lie: by level, then from the left */
  let current = 0; /* of shown: what has the focus */

  function describe(node) {
    const of = sums.bytes[0] ? ((100 * sums.bytes[node]) / sums.bytes[0]).toFixed(1) : "0";
    const own = sums.own[node] ? `, itself ${size(sums.own[node])}` : "";
    return `${name(node)}: ${size(sums.bytes[node])} ${data.measures[state.measure]} (${of} %), ${count(sums.blocks[node])} blocks${own}`;
  }

  function matches(node) {
    if (!state.query || node === 0) return false;
    const [file, line, called] = place(node);
    return `${called} ${file}:${line}`.toLowerCase().includes(state.query);
  }

  function lay(node, level, left, width, least) {
    if (width < least) return;
    shown.push({ node, level, left, width });
    let from = left;
    const below = children[node].filter((each) => sums.bytes[each] > 0).sort((a, b) => sums.bytes[b] - sums.bytes[a]);
    for (const each of below) {
      const part = (width * sums.bytes[each]) / sums.bytes[node];
      lay(each, level + 1, from, part, least);
      from += part;
    }
  }

  function draw(focus) {
    shown = [];
    const above = [];
    for (let node = state.root; node !== 0; node = parents[node]) above.unshift(parents[node]);
    above.forEach((node, level) => shown.push({ node, level, left: 0, width: 1, above: true }));
    lay(state.root, above.length, 0, 1, 3 / Math.max(graph.clientWidth, 200));
    shown.sort((a, b) => a.level - b.level || a.left - b.left);
    const found = document.createDocumentFragment();
    const least = 28 / Math.max(graph.clientWidth, 200); /* of a frame with words */
    for (const each of shown) {
      const words = each.node === 0 ? `all: ${size(sums.bytes[0])}` : each.width < least ? "" : name(each.node);
      const element = (each.element = make("div", "frame", words));
      element.setAttribute("role", "treeitem");
      element.setAttribute("aria-level", each.level + 1);
      element.setAttribute("aria-label", describe(each.node));
      element.tabIndex = -1;
      element.dataset.node = each.node;
      element.style.left = `${100 * each.left}%`;
      element.style.width = `${100 * each.width}%`;
      element.style.top = `${ROW * each.level}px`;
      element.style.setProperty("--hue", hue(each.node));
      if (each.above) element.classList.add("above");
      if (each.node === 0) element.classList.add("root");
      if (state.query) element.classList.add(matches(each.node) ? "hit" : "miss");
      found.append(element);
    }
    graph.replaceChildren(found);
    graph.style.height = `${ROW * (1 + Math.max(...shown.map((each) => each.level)))}px`;
    current = Math.max(0, shown.findIndex((each) => each.node === state.root));
    shown[current].element.tabIndex = 0;
    if (focus) shown[current].element.focus();
    at("whole").disabled = state.root === 0;
    at("detail").textContent = describe(state.root);
    search();
  }

  function search() {
    if (!state.query) {
      at("found").textContent = "";
      return;
    }
    let bytes = 0;
    let hits = 0;
    const inside = new Uint8Array(parents.length); /* below one that matches: counted with it */
    for (let i = 1; i < parents.length; i++) {
      const hit = matches(i) && sums.bytes[i] > 0;
      if (hit) hits++;
      if (hit && !inside[parents[i]]) bytes += sums.bytes[i];
      inside[i] = hit || inside[parents[i]];
    }
    const of = sums.bytes[0] ? ((100 * bytes) / sums.bytes[0]).toFixed(1) : "0";
    at("found").textContent = `${count(hits)} ${hits === 1 ? "frame matches" : "frames match"}, with ${size(bytes)} (${of} %)`;
  }

  function move(to) {
    if (to < 0 || to >= shown.length) return;
    shown[current].element.tabIndex = -1;
    current = to;
    shown[current].element.tabIndex = 0;
    shown[current].element.focus();
  }
  function zoom(node) {
    state.root = node;
    draw(true);
  }
  /* Of the frames of a level the one that lies over or below the present one. */
  function next(step) {
    const from = shown[current];
    const middle = from.left + from.width / 2;
    if (step < 0) return shown.findIndex((each) => each.node === parents[from.node] && from.node !== 0);
    const below = shown.filter((each) => parents[each.node] === from.node && each.node !== 0);
    const best = below.sort((a, b) => b.width - a.width || Math.abs(a.left - middle) - Math.abs(b.left - middle))[0];
    return best ? shown.indexOf(best) : -1;
  }
  function beside(step) {
    const other = shown[current + step];
    return other && other.level === shown[current].level ? current + step : -1;
  }

  graph.addEventListener("keydown", (event) => {
    const from = shown[current];
    const keys = {
      ArrowUp: () => move(next(-1)),
      ArrowDown: () => move(next(1)),
      ArrowLeft: () => move(beside(-1)),
      ArrowRight: () => move(beside(1)),
      Home: () => move(0),
      Enter: () => zoom(from.node),
      " ": () => zoom(from.node),
      Escape: () => zoom(0),
      Backspace: () => zoom(parents[state.root]),
    };
    if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  graph.addEventListener("click", (event) => {
    const element = event.target.closest(".frame");
    if (element) zoom(Number(element.dataset.node));
  });
  for (const kind of ["focusin", "pointerover"])
    graph.addEventListener(kind, (event) => {
      const element = event.target.closest(".frame");
      if (element) at("detail").textContent = describe(Number(element.dataset.node));
    });
  at("whole").addEventListener("click", () => zoom(0));
  at("search").addEventListener("input", (event) => {
    state.query = event.target.value.trim().toLowerCase();
    draw(false);
  });

  /* ---- the timeline ---- */

  const line = data.timeline;
  const colours = () => getComputedStyle(document.documentElement);
  const hidden = new Set(line.owners.map((_, i) => i).filter((i) => i >= 6));
  let plot = null;

  const visible = (i) => (state.owner >= 0 ? line.owners[i].number === state.owner : !hidden.has(i));
  const colour = (i) => colours().getPropertyValue(`--line-${i % 8}`).trim();

  /* The limits are in sight where they are not far above what was used. */
  function range() {
    let used = 0;
    let limit = 0;
    line.owners.forEach((owner, i) => {
      if (!visible(i)) return;
      for (const n of owner.used) if (n > used) used = n;
      for (const n of owner.limit) if (n > limit) limit = n;
    });
    const top = limit <= 4 * used ? Math.max(limit, used) : used;
    return [0, (top || 1) * 1.08];
  }

  function refusals(u) {
    const mark = colours().getPropertyValue("--refused").trim();
    const pixels = window.devicePixelRatio || 1;
    const { ctx } = u;
    ctx.save();
    ctx.fillStyle = ctx.strokeStyle = mark;
    ctx.lineWidth = pixels;
    ctx.setLineDash([]);
    for (const [seconds, owner] of line.refused) {
      if (state.owner >= 0 && owner !== state.owner) continue;
      const x = Math.round(u.valToPos(seconds, "x", true));
      if (x < u.bbox.left || x > u.bbox.left + u.bbox.width) continue;
      ctx.globalAlpha = 0.35;
      ctx.beginPath();
      ctx.moveTo(x, u.bbox.top);
      ctx.lineTo(x, u.bbox.top + u.bbox.height);
      ctx.stroke();
      ctx.globalAlpha = 1;
      ctx.beginPath();
      ctx.moveTo(x, u.bbox.top + 9 * pixels);
      ctx.lineTo(x - 5 * pixels, u.bbox.top);
      ctx.lineTo(x + 5 * pixels, u.bbox.top);
      ctx.fill();
    }
    ctx.restore();
  }

  function say(u) {
    const index = u.cursor.idx;
    if (index === null || index === undefined) return;
    const parts = line.owners
      .map((owner, i) => (visible(i) ? `${owner.name} ${owner.used[index] === null ? "not yet" : size(owner.used[index])}` : ""))
      .filter(Boolean);
    at("moment").textContent = `${time(line.seconds[index])}: ${parts.join(", ")}`;
  }

  function drawTimeline() {
    const host = at("timeline");
    if (!host || line.seconds.length < 2) return;
    if (plot) plot.destroy();
    const ink = colours().getPropertyValue("--ink-2").trim();
    const grid = { stroke: colours().getPropertyValue("--grid").trim(), width: 1 };
    const stepped = uPlot.paths.stepped({ align: 1 });
    const series = [{}];
    const values = [line.seconds];
    line.owners.forEach((owner, i) => {
      const common = { stroke: colour(i), paths: stepped, points: { show: false }, show: visible(i) };
      series.push({ ...common, label: owner.name, width: 2 }, { ...common, label: `${owner.name}, limit`, width: 1.5, dash: [7, 5] });
      values.push(owner.used, owner.limit);
    });
    const narrow = host.clientWidth < 500;
    plot = new uPlot(
      {
        width: Math.max(host.clientWidth, 240),
        height: narrow ? 220 : 300,
        legend: { show: false },
        scales: { x: { time: false }, y: { range } },
        axes: [
          { stroke: ink, grid, ticks: grid, values: (_, all) => all.map((n) => `${n} s`) },
          { stroke: ink, grid, ticks: grid, size: 74, values: (_, all) => all.map((n) => size(n).replace(".0 ", " ")), incrs: steps },
        ],
        series,
        hooks: { draw: [refusals], setCursor: [say] },
      },
      values,
      host,
    );
  }
  /* Round numbers of bytes are powers of two. */
  const steps = [];
  for (let power = 0; power < 50; power++) steps.push(2 ** power);

  function drawLegend() {
    const legend = at("lines");
    if (!legend) return;
    const items = line.owners.map((owner, i) => {
      const item = make("label", "line");
      const box = make("input");
      box.type = "checkbox";
      box.checked = visible(i);
      box.disabled = state.owner >= 0;
      box.addEventListener("change", () => {
        if (box.checked) hidden.delete(i);
        else hidden.add(i);
        drawTimeline();
      });
      const swatch = make("span", "swatch");
      swatch.style.background = colour(i);
      item.append(box, swatch, make("span", "", owner.name));
      return item;
    });
    legend.replaceChildren(...items);
  }

  if (at("timeline"))
    at("timeline").addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -1e9, End: 1e9 }[event.key];
      if (step === undefined || !plot) return;
      event.preventDefault();
      const index = Math.min(Math.max((plot.cursor.idx ?? 0) + step, 0), line.seconds.length - 1);
      plot.setCursor({ left: plot.valToPos(line.seconds[index], "x"), top: 10 });
    });

  /* ---- the switches ---- */

  function filterTables() {
    const name = state.owner >= 0 ? data.owners[state.owner] : null;
    for (const row of document.querySelectorAll("tr[data-owner]")) row.hidden = name !== null && row.dataset.owner !== name;
  }
  function all(focus) {
    sums = added();
    if (sums.bytes[state.root] === 0) state.root = 0;
    draw(focus);
  }
  at("owner").addEventListener("change", (event) => {
    state.owner = Number(event.target.value);
    all(false);
    drawLegend();
    drawTimeline();
    filterTables();
  });
  for (const radio of document.querySelectorAll("input[name=measure]"))
    radio.addEventListener("change", () => {
      state.measure = radio.value;
      all(false);
    });

  all(false);
  drawLegend();
  drawTimeline();
  let width = document.documentElement.clientWidth;
  new ResizeObserver(() => {
    if (document.documentElement.clientWidth === width) return;
    width = document.documentElement.clientWidth;
    draw(false);
    drawTimeline();
  }).observe(document.documentElement);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    drawLegend();
    drawTimeline();
  });
})();
