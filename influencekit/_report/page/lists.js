// The list of training examples: filters, order, pages, tags.
const PAGE = 50;
const TAGS = ["keep", "relabel", "drop"];
const storeKey = "influencekit-report-" + data.key;
let tags = {};
try { tags = JSON.parse(localStorage.getItem(storeKey)) || {}; } catch (error) { tags = {}; } // no storage: tags last as long as the page
let page = 0;
let onlyHalves = null; // [early sign, late sign], chosen in the matrix
const sorts = {
  score: ["score", function (one) { return known(one.score) ? -words.first * one.score : Infinity; }],
  last: ["score, other end first", function (one) { return known(one.score) ? words.first * one.score : Infinity; }],
  size: ["size of the score", function (one) { return known(one.score) ? -Math.abs(one.score) : Infinity; }],
  loss: ["loss, largest first", function (one) { return known(one.loss) ? -one.loss : Infinity; }],
  retrained: ["retrained effect", function (one) { return one.retrained ? -words.first * one.retrained.value : Infinity; }],
  suspicion: ["suspicion, largest first", function (one) { return known(one.suspicion_rank) ? one.suspicion_rank : known(one.suspicion) ? -one.suspicion : Infinity; }],
  label: ["class", function (one) { return one.label || ""; }],
  id: ["id", function (one) { return one.id; }],
};
const columnsOfTable = [
  ["rank", function (one) { return known(one.rank) ? one.rank : Infinity; }], ["id", sorts.id[1]], ["class", sorts.label[1]],
  ["prediction", function (one) { return one.prediction || ""; }], ["loss", function (one) { return known(one.loss) ? one.loss : Infinity; }],
  ["score", function (one) { return known(one.score) ? one.score : Infinity; }], ["retrained", function (one) { return one.retrained ? one.retrained.value : Infinity; }],
  ["pattern", function (one) { return one.pattern || ""; }], ["tag", function (one) { return tagOf(one).tag || ""; }],
];
let order = { value: sorts.score[1], descending: false, column: null };

function tagOf(one) { return Object.prototype.hasOwnProperty.call(tags, one.id) ? tags[one.id] : {}; }
function setTag(one, change) {
  const next = Object.assign({}, tagOf(one), change);
  if (!next.tag && !next.note) delete tags[one.id];
  else Object.defineProperty(tags, one.id, { value: next, enumerable: true, configurable: true, writable: true }); // an id may be __proto__
  try { localStorage.setItem(storeKey, JSON.stringify(tags)); } catch (error) { say("Tags cannot be kept in this browser: download them before you leave."); }
}
function say(text) { byId("status").textContent = text; }
function compare(a, b) {
  const x = order.value(a), y = order.value(b);
  if (x === y) return a.place - b.place;
  if (x === Infinity || y === Infinity) return x === Infinity ? 1 : -1; // what is missing comes last
  const less = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) < 0 : x < y;
  return less !== order.descending ? -1 : 1;
}
function signOf(value) { return value < 0 ? -1 : value > 0 ? 1 : 0; }
function halvesOf(one) {
  const n = one.windows.length;
  let early = 0, late = 0;
  one.windows.forEach(function (v, k) { const w = Math.max(0, Math.min(1, n / 2 - k)); early += w * (v || 0); late += (1 - w) * (v || 0); });
  return [signOf(early), signOf(late)];
}
function shownExamples() {
  const list = byId("list").value, label = byId("class").value, verified = byId("verified").value;
  const tagged = byId("tagged").value, pattern = byId("pattern").value, find = byId("find").value.toLowerCase();
  return examples.filter(function (one) {
    const tag = tagOf(one);
    return (!list || (list === "negative" && one.score < 0) || (list === "positive" && one.score > 0) || (list === "issue" && one.is_issue) ||
        (list.startsWith("mark:") && one.marks.includes(list.slice(5)))) &&
      (!label || one.label === label.slice(1)) &&
      (!verified || (verified === "yes") === Boolean(one.retrained)) &&
      (!pattern || one.pattern === pattern) &&
      (!tagged || (tagged === "any" ? tag.tag || tag.note : tagged === "none" ? !tag.tag && !tag.note : tag.tag === tagged)) &&
      (!find || one.id.toLowerCase().includes(find)) &&
      (!onlyHalves || (one.windows.length > 1 && String(halvesOf(one)) === String(onlyHalves)));
  }).sort(compare);
}
function badges(one) {
  const found = one.marks.map(function (name) { return make("span", { class: "badge issue" }, oneLine(name)); });
  if (one.is_issue) found.unshift(make("span", { class: "badge issue" }, "issue"));
  if (one.retrained) found.push(make("span", { class: "badge good" }, "retrained"));
  if (one.pattern) found.push(make("span", { class: "badge" }, one.pattern));
  return found.length ? make("div", {}, found) : null;
}
function tagControls(one, name) {
  const buttons = TAGS.map(function (tag) {
    return make("button", { type: "button", "aria-pressed": String(tagOf(one).tag === tag), "data-tag": tag, on: { click: function () {
      const now = tagOf(one).tag === tag ? "" : tag;
      setTag(one, { tag: now });
      buttons.forEach(function (b) { b.setAttribute("aria-pressed", String(b.dataset.tag === now)); });
    } } }, tag);
  });
  const note = make("input", { type: "text", "aria-label": "note on " + name, placeholder: "note", maxlength: 1000, on: { change: function () { setTag(one, { note: note.value }); } } });
  note.value = tagOf(one).note || "";
  return make("div", { class: "tags", role: "group", "aria-label": "tag of " + name }, buttons, note);
}
function said(value) { return ["lowers", "raises"].includes(words.negative) ? "" : ", " + called(value); } // the sentence below says the rest
function retrainedLine(one) {
  if (!one.retrained) return null;
  return make("div", {}, known(one.retrained.low) ? "retrained, mean of runs: " : "retrained: ", make("b", { class: colour(one.retrained.value) }, signed(one.retrained.value)), interval(one.retrained) + said(one.retrained.value));
}
function cardOf(one) {
  const name = cut(one.id, 80), wrong = !data.numbers && one.label && one.prediction && one.label !== one.prediction;
  const facts = make("div", {},
    one.label ? make("div", {}, "label ", make("b", { dir: "auto" }, cut(one.label, 60))) : null,
    one.prediction ? make("div", { class: wrong ? "wrong" : null }, "predicted ", make("b", { dir: "auto" }, cut(one.prediction, 60)), wrong ? " (not its label)" : "") : null,
    known(one.loss) ? make("div", {}, "loss " + plain(one.loss)) : null,
    known(one.suspicion) ? make("div", {}, "suspicion " + plain(one.suspicion)) : null,
    make("div", {}, known(one.rank) ? "rank " + one.rank + " of " + data.count : "without a score"));
  const picture = one.content && one.content.kind === "picture";
  return make("li", { class: "card " + sideOf(one.score), "data-id": one.id, tabindex: "-1" },
    make("h3", { title: one.id.length > 80 ? oneLine(one.id) : null }, make("bdi", {}, name)),
    make("div", { class: "pair" }, picture ? look(one.content, one.id) : null, facts),
    picture ? null : look(one.content, one.id), lost(one.content), partsOf(one),
    make("div", {}, "score ", make("b", { class: colour(one.score) }, signed(one.score)), known(one.standard_error) ? " ± " + number(one.standard_error) : "", said(one.score)),
    make("div", { class: "quiet" }, effect(one.score)),
    retrainedLine(one), spark(one), badges(one),
    one.notes.length ? make("div", { class: "quiet" }, one.notes.map(function (pair) { return oneLine(pair[0]) + " " + cut(pair[1], 200); }).join("; ")) : null,
    tagControls(one, name));
}
function tableOf(some) {
  const heads = columnsOfTable.map(function (column) {
    const now = order.column === column[0] ? (order.descending ? "descending" : "ascending") : "none";
    return make("th", { scope: "col", "aria-sort": now, class: ["id", "class", "prediction", "pattern", "tag"].includes(column[0]) ? "left" : null },
      make("button", { type: "button", on: { click: function () {
        order = { value: column[1], descending: order.column === column[0] && !order.descending, column: column[0] };
        page = 0; draw();
        const again = Array.from(document.querySelectorAll("#shown th button")).find(function (b) { return b.textContent === column[0]; });
        if (again) again.focus();
      } } }, column[0]));
  });
  const rows = some.map(function (one) {
    const left = function (text) { return make("td", { class: "left", dir: "auto" }, text ? cut(text, 60) : "-"); };
    return make("tr", { "data-id": one.id }, make("td", {}, known(one.rank) ? String(one.rank) : "-"), make("th", { scope: "row", dir: "auto" }, cut(one.id, 80)), left(one.label), left(one.prediction),
      make("td", {}, plain(one.loss)), make("td", { class: colour(one.score) }, signed(one.score)), make("td", {}, one.retrained ? signed(one.retrained.value) : "-"), left(one.pattern), left(tagOf(one).tag));
  });
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "table of training examples" },
    make("table", {}, make("caption", {}, "Scores " + words.unit + "; " + data.span), make("thead", {}, make("tr", {}, heads)), make("tbody", {}, rows)));
}
function draw() {
  const found = shownExamples(), pages = Math.max(1, Math.ceil(found.length / PAGE));
  page = Math.max(0, Math.min(page, pages - 1));
  const some = found.slice(page * PAGE, (page + 1) * PAGE);
  const body = byId("view").value === "table" ? tableOf(some) : make("ul", { class: "cards" }, some.map(cardOf));
  byId("shown").replaceChildren(found.length ? body : make("p", {}, "No example is left by these filters."));
  byId("pager").hidden = pages < 2;
  byId("page").textContent = "page " + (page + 1) + " of " + pages;
  byId("previous").disabled = page === 0;
  byId("next").disabled = page === pages - 1;
  const half = onlyHalves ? ", only those of one cell of early against late" : "";
  say(found.length ? "examples " + (page * PAGE + 1) + " to " + (page * PAGE + some.length) + " of " + found.length + half : "0 examples");
}
// Clears the filters, turns to the page of an example, and looks at it.
function goTo(one) {
  resetFilters();
  page = Math.floor(shownExamples().indexOf(one) / PAGE);
  draw();
  const card = Array.from(document.querySelectorAll("#shown [data-id]")).find(function (c) { return c.dataset.id === one.id; });
  if (card) { card.scrollIntoView({ block: "center" }); card.classList.add("flash"); card.focus(); }
}
function resetFilters() {
  ["list", "class", "verified", "tagged", "pattern", "find"].forEach(function (id) { byId(id).value = ""; });
  onlyHalves = null; page = 0;
}
