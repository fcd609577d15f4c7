// The map of examples by windows, early against late, and the scatter of estimates beside retraining.
const PATTERNS = ["early", "throughout", "late", "changes sign"];
function heatRows() {
  return examples.filter(function (one) { return one.windows.length > 1; }).slice().sort(function (a, b) {
    return PATTERNS.indexOf(a.pattern) - PATTERNS.indexOf(b.pattern) || a.place - b.place;
  });
}
function mixed(from, to, part) { return from.map(function (v, k) { return Math.round(v + (to[k] - v) * part); }); }
function rgb(name) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map(function (k) { return parseInt(hex.slice(k, k + 2), 16); });
}
function drawHeat() {
  const where = byId("heat"), rows = heatRows();
  if (!where || !rows.length) return;
  const sizes = rows.flatMap(function (one) { return one.windows.map(function (v) { return Math.abs(v || 0); }); }).sort(function (a, b) { return a - b; });
  const top = sizes[Math.floor(0.99 * (sizes.length - 1))] || sizes[sizes.length - 1] || 1; // a few giants would leave the rest pale
  const canvas = make("canvas", { width: windows.length, height: rows.length, role: "img",
    "aria-label": rows.length + " examples by " + windows.length + " windows; the table below has the numbers" });
  canvas.style.height = Math.max(120, Math.min(640, rows.length * 4)) + "px";
  const context = canvas.getContext("2d"), image = context.createImageData(windows.length, rows.length);
  const back = rgb("--page"), low = rgb("--neg"), high = rgb("--pos");
  rows.forEach(function (one, r) {
    one.windows.forEach(function (v, k) {
      const strength = Math.sqrt(Math.min(1, Math.abs(v || 0) / top)), c = mixed(back, v < 0 ? low : high, strength);
      image.data.set([c[0], c[1], c[2], 255], 4 * (r * windows.length + k));
    });
  });
  context.putImageData(image, 0, 0);
  const at = function (event) { const box = canvas.getBoundingClientRect(); return [Math.floor((event.clientY - box.top) / box.height * rows.length), Math.floor((event.clientX - box.left) / box.width * windows.length)]; };
  canvas.addEventListener("click", function (event) { const one = rows[at(event)[0]]; if (one) goTo(one); });
  canvas.addEventListener("mousemove", function (event) {
    const [r, k] = at(event), one = rows[r];
    if (one && windows[k]) canvas.title = cut(one.id, 60) + ", " + one.pattern + ", " + windowName(k) + ": " + signed(one.windows[k]);
  });
  where.replaceChildren(canvas);
  const counts = PATTERNS.map(function (p) { return rows.filter(function (one) { return one.pattern === p; }).length + " " + p; }).join(", ");
  byId("heat-words").textContent = "A row is an example, a column a window of training (the first on the left). From top to bottom: " + counts +
    ". A colour as strong as can be is an effect of " + number(top) + " or more. Choose a row to look at the example. Early or late: two thirds of the effect, by size, lie in the first or the second half of the windows; " +
    "changes sign: both halves sum up to a quarter of it or more, with opposite signs.";
}
function drawHalves() {
  const where = byId("halves"), rows = heatRows();
  if (!where) return;
  const signs = [-1, 0, 1].filter(function (s) { return s !== 0 || rows.some(function (one) { return halvesOf(one).includes(0); }); });
  const head = signs.map(function (s) { return make("th", { scope: "col" }, "late: " + called(s)); });
  const body = signs.map(function (early) {
    return make("tr", {}, make("th", { scope: "row" }, "early: " + called(early)), signs.map(function (late) {
      const n = rows.filter(function (one) { return String(halvesOf(one)) === String([early, late]); }).length;
      return make("td", {}, make("button", { type: "button", class: "plain", "aria-label": n + " examples: early " + called(early) + ", late " + called(late), on: { click: function () {
        resetFilters(); onlyHalves = [early, late]; draw(); byId("examples").scrollIntoView(); byId("examples").focus();
      } } }, String(n)));
    }));
  });
  where.replaceChildren(make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "early against late" }, make("table", {}, make("thead", {}, make("tr", {}, make("td", {}), head)), make("tbody", {}, body))));
}
function drawScatter() {
  const where = byId("scatter"), some = examples.filter(function (one) { return one.retrained && known(one.score); });
  if (!where || !some.length) return;
  const values = some.flatMap(function (one) { return [one.score, one.retrained.value]; }).concat([0]);
  const low = Math.min.apply(null, values), high = Math.max.apply(null, values), wide = (high - low) || 1, size = 420, edge = 60;
  const x = function (v) { return edge + (size - 2 * 10) * (v - low + 0.04 * wide) / (1.08 * wide); };
  const y = function (v) { return 10 + (size - 2 * 10) * (1 - (v - low + 0.04 * wide) / (1.08 * wide)); };
  const dots = some.map(function (one) {
    const text = "example " + cut(one.id, 60) + ": estimate " + signed(one.score) + ", retrained " + signed(one.retrained.value);
    return make("circle", { class: "dot " + sideOf(one.retrained.value), cx: x(one.score).toFixed(1), cy: y(one.retrained.value).toFixed(1), r: some.length > 400 ? 2.5 : 4,
      on: { click: function () { goTo(one); } } }, make("title", {}, text));
  });
  const ticks = [low, 0, high].filter(function (v, k, all) { return all.indexOf(v) === k && (v === 0 || Math.abs(v) > 0.15 * wide); });
  where.replaceChildren(make("svg", { class: "plot", viewBox: "0 0 " + (size + edge) + " " + (size + 36), role: "img", "aria-label": some.length + " examples, estimate across, retrained upwards; the table below has the numbers" },
    make("line", { class: "grid", x1: x(low), y1: y(low), x2: x(high), y2: y(high) }),
    make("line", { class: "axis", x1: x(low), x2: x(high), y1: y(0), y2: y(0) }), make("line", { class: "axis", x1: x(0), x2: x(0), y1: y(low), y2: y(high) }),
    ticks.map(function (v) { return [make("text", { x: x(v), y: size + 8, "text-anchor": "middle" }, number(v, 1)), make("text", { x: edge - 6, y: y(v) + 4, "text-anchor": "end" }, number(v, 1))]; }),
    make("text", { x: edge + size / 2, y: size + 28, "text-anchor": "middle" }, "estimate"), make("text", { x: edge - 50, y: 9 }, "retrained"), dots));
}
