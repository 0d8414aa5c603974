// What the page does with its charts: puts them in the place of drawings, saves files, turns light and dark. Without scripts
// the page shows the same figures as drawings.
const PAPER_COLOURS = { ink: "#1b1f24", faint: "#59636e", rule: "#dde1e6", paper: "#fffffe" };

function save(name, type, content) {
  const address = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = element("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

function drawing(figure) {
  const copy = figure.querySelector(".drawn svg").cloneNode(true);
  const box = copy.viewBox.baseVal;
  copy.setAttribute("width", box.width);
  copy.setAttribute("height", box.height);
  const text = new XMLSerializer().serializeToString(copy);
  return { box, text: text.replace(/var\(--([a-z]+)\)/g, (_, name) => PAPER_COLOURS[name]) };
}

function savePicture(figure, name) {
  const { box, text } = drawing(figure);
  const picture = new Image();
  picture.addEventListener("load", () => {
    const canvas = element("canvas", { width: Math.round(box.width * 2.5), height: Math.round(box.height * 2.5) });
    const context = canvas.getContext("2d");
    context.fillStyle = "#ffffff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => save(`${name}.png`, "image/png", blob));
  });
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
}

function offerFiles(figure, name) {
  const row = element("span", { className: "tools" },
    button("SVG", () => save(`${name}.svg`, "image/svg+xml", drawing(figure).text)),
    button("PNG", () => savePicture(figure, name)),
    button("CSV", () => save(`${name}.csv`, "text/csv", page.csv[name])));
  row.querySelectorAll("button").forEach((one) => one.setAttribute("aria-label", `Save ${name} as ${one.textContent}`));
  figure.querySelector(".files").replaceChildren("Save as ", row);
}

function enliven(figure) {
  const name = figure.dataset.name;
  offerFiles(figure, name);
  const spec = page.figures[name];
  if (!spec || !spec.curves.some((position) => page.curves[position].x.length)) return;
  const live = element("div", { className: "live" }, element("p", { className: "title", textContent: figure.dataset.title }));
  figure.prepend(live);
  figure.classList.add("is-live");
  charts.push(new Chart(live, { name: figure.dataset.heading, xLabel: spec.x, yLabel: spec.y, range: spec.range,
    groups: [{ title: "Shown", curves: spec.curves }] }));
}

function explore(section) {
  const known = (position) => page.curves[position].x.length > 0;
  const arms = page.arms.filter((arm) => arm.curves.some(known));
  if (!arms.length) return;
  section.hidden = false;
  const groups = arms.map((arm) => ({ title: arm.title, curves: arm.curves.filter(known) }));
  charts.push(new Chart(section.querySelector(".live"), { name: "All curves", xLabel: "epoch", yLabel: "validation accuracy (%)",
    range: null, groups, chosen: groups[0].curves }));
}

function offerTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  const repaint = () => charts.forEach((chart) => chart.plot.redraw(false));
  const made = button("", () => { root.dataset.theme = isDark() ? "light" : "dark"; told(); });
  const told = () => { made.textContent = isDark() ? "Light page" : "Dark page"; repaint(); };
  made.className = "theme";
  dark.addEventListener("change", told);
  document.querySelector("header").prepend(made);
  told();
}

root.classList.add("scripted");
document.querySelectorAll("figure[data-name]").forEach(enliven);
document.querySelectorAll("#explore").forEach(explore);
offerTheme();
