// Curves that answer: values under the pointer and by arrow keys, zoom, choice of settings. Every text from the study is set
// as text, never as markup.
"use strict";
const page = JSON.parse(document.getElementById("page-data").textContent);
const root = document.documentElement;
const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
const format = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toString());
const amount = (value) => (value !== null && Math.abs(value) >= 10 ? value.toFixed(2) : format(value));
const charts = [];

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function button(words, action, description) {
  const made = element("button", { type: "button", textContent: words });
  if (description) made.title = description;
  made.addEventListener("click", () => action(made));
  return made;
}

function styleOf(index) {
  const { colours, dashes, markers } = page.styles;
  return {
    colour: colours[index % colours.length],
    dash: dashes[index % dashes.length],
    marker: markers[index % markers.length],
  };
}

function mark(context, kind, x, y, size) {
  const path = { s: [[-1, -1], [1, -1], [1, 1], [-1, 1]], "^": [[-1, 1], [0, -1], [1, 1]], v: [[-1, -1], [1, -1], [0, 1]],
    D: [[-1.2, 0], [0, -1.2], [1.2, 0], [0, 1.2]],
    P: [[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4],
      [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]],
    X: [[-1.2, -0.6], [-0.6, -1.2], [0, -0.6], [0.6, -1.2], [1.2, -0.6], [0.6, 0], [1.2, 0.6], [0.6, 1.2], [0, 0.6],
      [-0.6, 1.2], [-1.2, 0.6], [-0.6, 0]] }[kind];
  context.beginPath();
  if (path) path.forEach(([dx, dy]) => context.lineTo(x + dx * size, y + dy * size));
  else context.arc(x, y, size, 0, 2 * Math.PI);
  context.fill();
}

function swatch(style) {
  const made = element("canvas", { width: 88, height: 28, className: "swatch" });
  made.setAttribute("aria-hidden", "true");
  const context = made.getContext("2d");
  context.strokeStyle = context.fillStyle = style.colour;
  context.lineWidth = 4;
  context.setLineDash(style.dash.map((part) => part * 4));
  context.beginPath();
  context.moveTo(2, 14);
  context.lineTo(86, 14);
  context.stroke();
  mark(context, style.marker, 44, 14, 8);
  return made;
}

class Chart {
  constructor(host, { name, groups, range, xLabel, yLabel, chosen }) {
    Object.assign(this, { host, name, groups, firstRange: range, xLabel, yLabel, chosen, single: false });
    const positions = [...new Set(groups.flatMap((group) => group.curves))];
    this.lines = positions.map((position, index) => ({ ...page.curves[position], style: styleOf(index), position }));
    this.x = [...new Set(this.lines.flatMap((line) => line.x))].sort((a, b) => a - b);
    for (const line of this.lines) {
      const place = new Map(line.x.map((value, index) => [value, index]));
      line.at = this.x.map((value) => (place.has(value) ? place.get(value) : null));
      line.shown = !chosen || chosen.includes(line.position);
    }
    this.build();
  }

  build() {
    this.over = element("div", { className: "plot", tabIndex: 0 });
    this.over.setAttribute("role", "slider");
    this.over.setAttribute("aria-label", `${this.name}: ${this.xLabel}. Left and right move, plus and minus zoom, 0 resets`);
    this.over.addEventListener("keydown", (event) => this.key(event));
    this.tip = element("div", { className: "tip", hidden: true });
    this.where = element("p", { className: "where" });
    const tools = element("div", { className: "tools" },
      button("Whole training", () => this.show(0)), button("Last third", () => this.show(2 / 3)),
      button("Reset", () => this.reset(), "Everything as at first; so does a double click in the plot"));
    tools.setAttribute("role", "group");
    tools.setAttribute("aria-label", `View of ${this.name}`);
    if (this.lines.some((line) => Object.keys(line.runs).length > 1)) {
      this.seeds = button("Single seeds", () => this.toggleSeeds(!this.single), "Thin lines for the runs behind every mean");
      this.seeds.setAttribute("aria-pressed", "false");
      tools.append(this.seeds);
    }
    this.host.append(tools, this.over, this.where, this.choices());
    this.draw();
    new ResizeObserver(() => this.plot.setSize(this.size())).observe(this.over);
  }

  choices() {
    const made = element("div", { className: "choices" });
    for (const group of this.groups) {
      const fields = element("fieldset", {}, element("legend", { textContent: group.title }));
      for (const position of group.curves) fields.append(this.choice(this.lines.find((line) => line.position === position)));
      if (this.groups.length > 1) {
        const mine = this.lines.filter((line) => group.curves.includes(line.position));
        const all = button("all or none", () => this.choose(mine, !mine.every((line) => line.shown)));
        all.setAttribute("aria-label", `all or none of ${group.title}`);
        fields.firstChild.append(" ", all);
      }
      made.append(fields);
    }
    return made;
  }

  choice(line) {
    const box = element("input", { type: "checkbox", checked: line.shown });
    box.addEventListener("change", () => this.choose([line], box.checked));
    const value = element("span", { className: "value" });
    (line.boxes ??= []).push(box);
    (line.values ??= []).push(value);
    return element("label", {}, box, swatch(line.style), element("span", { className: "words", textContent: line.legend }), value);
  }

  size() {
    return { width: Math.max(240, this.over.clientWidth), height: this.over.clientWidth < 520 ? 280 : 380 };
  }

  draw() {
    const axis = (label) => ({
      label, stroke: () => colour("ink"), labelSize: 22, labelGap: 2, font: "12px system-ui, sans-serif",
      labelFont: "12px system-ui, sans-serif", ticks: { stroke: () => colour("faint"), width: 1, size: 4 },
    });
    this.plot = new uPlot({
      ...this.size(),
      legend: { show: false },
      padding: [12, 14, 0, 0],
      scales: { x: { time: false, range: (_, low, high) => [low, high] }, y: { auto: false, range: (_, low, high) => [low, high] } },
      axes: [
        { ...axis(this.xLabel), size: 30, grid: { show: false }, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] },
        { ...axis(this.yLabel), grid: { stroke: () => colour("rule"), width: 1 }, size: 52 },
      ],
      cursor: {
        focus: { prox: 30 }, drag: { x: true, y: true, uni: 40, dist: 5 },
        bind: { dblclick: () => () => { this.reset(); return null; } },
      },
      focus: { alpha: 0.35 },
      series: [{}, ...this.lines.map((line) => ({
        label: line.label, show: line.shown, stroke: line.style.colour, width: 2, dash: line.style.dash.map((part) => part * 2),
        spanGaps: true, points: { show: false },
      }))],
      hooks: {
        drawAxes: [(plot) => this.under(plot)], draw: [(plot) => this.markers(plot)],
        setCursor: [(plot) => this.read(plot.cursor.idx)], setSeries: [(_, index) => { this.near = index; }],
      },
    }, [this.x, ...this.lines.map((line) => line.at.map((index) => (index === null ? null : line.mean[index])))], this.over);
    this.plot.over.append(this.tip);
    this.view(this.bounds(0), this.firstRange ?? this.heights(0));
    this.read(null);
  }

  clipped(plot, paint) {
    const { ctx: context, bbox: box } = plot;
    context.save();
    context.beginPath();
    context.rect(box.left, box.top, box.width, box.height);
    context.clip();
    paint(context, (value) => plot.valToPos(value, "x", true), (value) => plot.valToPos(value, "y", true));
    context.restore();
  }

  under(plot) {
    this.clipped(plot, (context, across, up) => {
      for (const line of this.lines.filter((one) => one.shown)) {
        const inside = line.x.map((_, index) => index).filter((index) => line.low[index] !== null);
        context.fillStyle = `${line.style.colour}24`;
        context.beginPath();
        inside.forEach((index) => context.lineTo(across(line.x[index]), up(line.high[index])));
        inside.reverse().forEach((index) => context.lineTo(across(line.x[index]), up(line.low[index])));
        context.fill();
        context.strokeStyle = `${line.style.colour}80`;
        context.lineWidth = devicePixelRatio;
        for (const values of this.single ? Object.values(line.runs) : []) {
          context.beginPath();
          values.forEach((value, index) => { if (value !== null) context.lineTo(across(line.x[index]), up(value)); });
          context.stroke();
        }
      }
    });
  }

  markers(plot) {
    this.clipped(plot, (context, across, up) => {
      this.lines.forEach((line, order) => {
        if (!line.shown) return;
        const inside = line.x.map((_, index) => index).filter((index) => line.x[index] >= plot.scales.x.min);
        const spacing = Math.max(1, Math.floor(inside.length / 9));
        context.fillStyle = line.style.colour;
        inside.forEach((index, place) => {
          if ((place - order) % spacing === 0 && line.mean[index] !== null) {
            mark(context, line.style.marker, across(line.x[index]), up(line.mean[index]), 4 * devicePixelRatio);
          }
        });
      });
    });
  }

  bounds(share) {
    const shown = this.lines.filter((line) => line.shown && line.x.length);
    const [first, last] = [Math.min(...shown.map((line) => line.x[0])), Math.max(...shown.map((line) => line.x.at(-1)))];
    if (!shown.length) return [0, 1];
    const room = 0.015 * (last - first || 1);
    return [(share ? Math.max(first, share * last) : first) - room, last + room];
  }

  heights(share) {
    const [start] = this.bounds(share);
    const values = this.lines.filter((line) => line.shown)
      .flatMap((line) => line.mean.filter((value, index) => value !== null && line.x[index] >= start));
    if (!values.length) return [0, 1];
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const room = 0.06 * (high - low || Math.abs(high) || 1);
    return [low - room, high + room];
  }

  view([left, right], [low, high]) {
    this.plot.batch(() => {
      this.plot.setScale("x", { min: left, max: right });
      this.plot.setScale("y", { min: low, max: high });
    });
  }

  show(share) {
    this.view(this.bounds(share), this.heights(share));
  }

  reset() {
    this.lines.forEach((line) => { line.shown = !this.chosen || this.chosen.includes(line.position); });
    this.choose([], true);
    this.toggleSeeds(false);
    this.view(this.bounds(0), this.firstRange ?? this.heights(0));
    this.plot.setCursor({ left: -10, top: -10 });
  }

  choose(lines, shown) {
    lines.forEach((line) => { line.shown = shown; });
    this.lines.forEach((line, index) => {
      line.boxes.forEach((box) => { box.checked = line.shown; });
      if (this.plot.series[index + 1].show !== line.shown) this.plot.setSeries(index + 1, { show: line.shown });
    });
    this.near = null;
    this.plot.redraw(false);
    this.read(null);
  }

  toggleSeeds(single) {
    this.single = single && Boolean(this.seeds);
    if (this.seeds) this.seeds.setAttribute("aria-pressed", String(this.single));
    this.plot.redraw(false);
  }

  words(line, index) {
    const place = line.at[index];
    if (place === null || place === undefined || line.mean[place] === null) return "–";
    const ends = line.low[place] === null ? "" : ` [${amount(line.low[place])}, ${amount(line.high[place])}]`;
    return amount(line.mean[place]) + ends;
  }

  read(index) {
    const hovers = index !== null && index !== undefined && this.plot.cursor.left >= 0;
    const shown = this.lines.filter((line) => line.shown);
    const last = Math.max(0, ...shown.map((line) => line.at.findLastIndex((place) => place !== null)));
    const at = hovers ? index : last;
    this.index = hovers ? index : null;
    this.where.textContent = this.x.length ? `At ${this.xLabel} ${format(this.x[at])}${hovers ? "" : ", the last"}` : "";
    this.lines.forEach((line) => line.values.forEach((value) => {
      value.textContent = line.shown ? this.words(line, at) : "";
    }));
    const said = `${this.xLabel} ${format(this.x[at])}: ${shown.map((line) => `${line.label} ${this.words(line, at)}`).join("; ")}`;
    const facts = { valuemin: this.x[0] ?? 0, valuemax: this.x.at(-1) ?? 0, valuenow: this.x[at] ?? 0, valuetext: said };
    Object.entries(facts).forEach(([name, value]) => this.over.setAttribute(`aria-${name}`, value));
    this.point(hovers ? at : null, shown);
  }

  point(at, shown) {
    const near = this.near ? this.lines[this.near - 1] : shown.length === 1 ? shown[0] : null;
    this.tip.hidden = at === null;
    if (at === null) return;
    this.tip.textContent = `${this.xLabel} ${format(this.x[at])}` + (near?.shown ? `\n${near.label}\n${this.words(near, at)}` : "");
    const { left } = this.plot.cursor;
    const right = left > this.plot.over.clientWidth / 2;
    Object.assign(this.tip.style, { left: right ? "" : `${left + 14}px`,
      right: right ? `${this.plot.over.clientWidth - left + 14}px` : "", top: "6px" });
  }

  key(event) {
    const { min, max } = this.plot.scales.x;
    const inside = this.x.map((_, index) => index).filter((index) => this.x[index] >= min && this.x[index] <= max);
    if (!inside.length || event.ctrlKey || event.metaKey || event.altKey) return;
    const now = this.index ?? inside.at(-1) + (event.key === "ArrowLeft" ? 1 : 0);
    const step = event.shiftKey ? 10 : 1;
    const moves = { ArrowRight: now + step, ArrowUp: now + step, ArrowLeft: now - step, ArrowDown: now - step,
      PageUp: now + 10, PageDown: now - 10, Home: inside[0], End: inside.at(-1) };
    if (event.key in moves) this.move(Math.min(Math.max(moves[event.key], inside[0]), inside.at(-1)));
    else if (event.key === "+" || event.key === "=") this.zoom(this.x[now] ?? max, 0.6);
    else if (event.key === "-") this.zoom(this.x[now] ?? max, 1 / 0.6);
    else if (event.key === "0" || event.key === "Escape") this.reset();
    else return;
    event.preventDefault();
  }

  move(index) {
    const line = this.lines.find((one) => one.shown && one.at[index] !== null);
    const top = line ? this.plot.valToPos(line.mean[line.at[index]], "y") : 0;
    this.plot.setCursor({ left: this.plot.valToPos(this.x[index], "x"), top });
  }

  zoom(middle, factor) {
    const [first, last] = this.bounds(0);
    const { min, max } = this.plot.scales.x;
    const around = [middle - (middle - min) * factor, middle + (max - middle) * factor];
    this.plot.setScale("x", { min: Math.max(first, around[0]), max: Math.min(last, around[1]) });
    if (this.index !== null) this.move(this.index);
  }
}
