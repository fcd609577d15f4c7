// The data, and how numbers, names and sentences are written. Text from the data only ever becomes a text node.
const data = JSON.parse(document.getElementById("data").textContent);
const words = data.words;
const examples = (data.examples || []).map(function (one, place) {
  return Object.assign({ windows: [], marks: [], notes: [], parts: [], place: place }, one);
});
const points = (data.points || []).map(function (one) { return Object.assign({ links: [] }, one); });
const windows = data.windows || [];
const columns = data.columns || [];
const svgSpace = "http://www.w3.org/2000/svg";

// An element with attributes and children; strings become text.
function make(tag, attributes, ...children) {
  const own = ["svg", "path", "line", "circle", "text", "polyline", "title", "g"].includes(tag);
  const element = own ? document.createElementNS(svgSpace, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "on") for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  for (const child of children.flat(3)) if (child !== null && child !== undefined) element.append(child);
  return element;
}
function byId(id) { return document.getElementById(id); }
// Control characters and marks that turn the direction of writing, as escapes.
function visible(text) {
  return String(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
    function (c) { return "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"); });
}
function oneLine(text) { return visible(String(text).replace(/[\n\t]/g, function (c) { return c === "\n" ? "\\n" : "\\t"; })); }
function cut(text, most) { const said = oneLine(text); return said.length > most ? said.slice(0, most) + " …" : said; }
function known(value) { return typeof value === "number" && isFinite(value); }
function minus(text) { return text.replace(/-/g, "\u2212"); } // at which no line is broken
function number(value, digits) { return known(value) ? value === 0 ? "0" : minus(value.toExponential(digits === undefined ? 2 : digits)) : "-"; }
function signed(value, digits) { return known(value) && value > 0 ? "+" + number(value, digits) : number(value, digits); }
function plain(value) { return known(value) ? minus(String(Number(value.toPrecision(3)))) : "-"; }
function called(value) {
  if (!known(value)) return "not scored";
  if (value === 0) return "no effect";
  const word = value < 0 ? words.negative : words.positive;
  return ["lowers", "raises"].includes(word) ? "removal " + word + " it" : word;
}
function sideOf(value) { return known(value) && value !== 0 ? (value < 0 ? "negative" : "positive") : ""; }
function colour(value) { return value < 0 ? "neg" : value > 0 ? "pos" : "quiet"; }
// "removing it lowers the test loss by 3.20e-4"
function effect(value) {
  if (!known(value)) return "not scored";
  if (value === 0) return "removing it leaves " + words.query + " as it is";
  return "removing it " + (value < 0 ? "lowers " : "raises ") + words.query + " by " + number(Math.abs(value));
}
function titleCase(word) { return word.charAt(0).toUpperCase() + word.slice(1); }
function endName(word) { return ["lowers", "raises"].includes(word) ? "removal " + word + " it most" : "most " + word; }
function windowName(k) { return "steps " + windows[k][0] + " to " + windows[k][1]; }
function interval(r) { return known(r.low) && known(r.high) ? " (" + signed(r.low) + " to " + signed(r.high) + ")" : ""; }
if (!["harmful", "helpful"].includes(words.negative)) document.documentElement.classList.add("neither");
else if (words.negative === "helpful") document.documentElement.classList.add("higher");

// Details whose inside is made when they are opened, or printed.
function unfolded(summary, inside) {
  const box = make("details", {}, make("summary", {}, summary));
  box.fill = function () { if (!box.filled) { box.filled = true; box.append(inside()); } };
  box.addEventListener("toggle", function () { if (box.open) box.fill(); });
  return box;
}
// What an example looks like.
function look(content, name) {
  if (!content) return null;
  if (content.kind === "picture") {
    return make("img", { src: "data:image/png;base64," + content.value, width: content.width, height: content.height, alt: "example " + cut(name, 60) });
  }
  if (content.kind === "text") return make("p", { class: "text", dir: "auto", tabindex: "0" }, visible(content.value));
  if (content.kind === "tokens") return make("ul", { class: "tokens", tabindex: "0", "aria-label": "tokens" }, content.value.map(function (t) { return make("li", { dir: "auto" }, oneLine(t)); }));
  if (content.kind === "row") {
    const some = content.value.slice(0, 3).map(function (v, k) { return cut(columns[k] || k, 24) + " = " + cut(v, 16); }).join(", ");
    return unfolded(some + (content.value.length > 3 ? ", …" : ""), function () {
      const rows = content.value.map(function (v, k) { return make("tr", {}, make("th", { scope: "row" }, oneLine(columns[k] || "column " + k)), make("td", {}, oneLine(v))); });
      return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "values of " + cut(name, 60) }, make("table", {}, make("tbody", {}, rows)));
    });
  }
  if (content.kind === "wave") {
    const path = content.value.map(function (pair, k) { return "M" + k + " " + (30 - 0.28 * pair[1]) + "V" + (30.5 - 0.28 * pair[0]); }).join("");
    return make("svg", { class: "wave", viewBox: "0 0 " + content.value.length + " 60", preserveAspectRatio: "none", role: "img", "aria-label": "waveform of example " + cut(name, 60) }, make("path", { d: path }));
  }
  return null;
}
// The parts of an example, such as tokens: the background says how strong, the line below which way.
const strongest = examples.reduce(function (most, one) { return one.parts.reduce(function (m, pair) { return Math.max(m, Math.abs(pair[1])); }, most); }, 0) || 1;
function strength(value) { return value === 0 ? 0 : Math.max(1, Math.ceil(4 * Math.sqrt(Math.abs(value) / strongest))); }
function partsOf(one) {
  if (!one.parts.length) return null;
  return make("ol", { class: "tokens parts", tabindex: "0", "aria-label": "parts of " + cut(one.id, 60) + ", each with its effect" }, one.parts.map(function (pair) {
    const said = signed(pair[1]) + ", " + called(pair[1]);
    return make("li", { dir: "auto", class: colour(pair[1]) + " strength" + strength(pair[1]), title: said }, oneLine(pair[0]), make("span", { class: "unseen" }, " (" + said + ")"));
  }));
}
function lost(content) { return content && content.note ? make("div", { class: "quiet" }, oneLine(content.note)) : null; }
// A line of the score in every window.
function spark(one) {
  if (one.windows.length < 2) return null;
  const top = Math.max.apply(null, one.windows.map(function (v) { return Math.abs(v || 0); })) || 1;
  const path = one.windows.map(function (v, k) { return (k ? "L" : "M") + (2 + 140 * k / (one.windows.length - 1)).toFixed(1) + " " + (14 - 12 * (v || 0) / top).toFixed(1); }).join("");
  const label = "score by window, from " + signed(one.windows[0]) + " to " + signed(one.windows[one.windows.length - 1]) + ", largest size " + number(top);
  return make("svg", { class: "spark", viewBox: "0 0 144 28", role: "img", "aria-label": label }, make("line", { x1: 0, x2: 144, y1: 14, y2: 14 }), make("path", { d: path }));
}
