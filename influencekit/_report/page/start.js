// What happens when the page opens.
function options(id, pairs) { byId(id).replaceChildren(...pairs.map(function (pair) { return make("option", { value: pair[0] }, pair[1]); })); }
function start() {
  document.documentElement.classList.add("with-script");
  document.querySelectorAll(".tools, .needs-script").forEach(function (e) { e.hidden = false; });
  const count = function (test) { return " (" + examples.filter(test).length + ")"; };
  const lists = [["", "all" + count(function () { return true; })]];
  if (examples.some(function (one) { return one.is_issue; })) lists.push(["issue", "issues" + count(function (one) { return one.is_issue; })]);
  (data.mark_names || []).forEach(function (name) { lists.push(["mark:" + name, oneLine(name) + count(function (one) { return one.marks.includes(name); })]); });
  const sides = [["negative", words.negative], ["positive", words.positive]];
  if (words.first > 0) sides.reverse();
  sides.forEach(function (pair) { lists.push([pair[0], (["lowers", "raises"].includes(pair[1]) ? "removal " + pair[1] + " it" : pair[1]) + count(function (one) { return sideOf(one.score) === pair[0]; })]); });
  options("list", lists);
  const labels = Array.from(new Set(examples.map(function (one) { return one.label; }).filter(function (l) { return l !== undefined; }))).sort();
  options("class", [["", "all"]].concat(labels.slice(0, 1000).map(function (l) { return ["=" + l, cut(l, 60)]; })));
  byId("class").parentElement.hidden = data.numbers || labels.length < 2; // numbers of a regression are no classes
  const patterns = PATTERNS.filter(function (p) { return examples.some(function (one) { return one.pattern === p; }); });
  options("pattern", [["", "all"]].concat(patterns.map(function (p) { return [p, p]; })));
  byId("pattern").parentElement.hidden = !patterns.length;
  byId("verified").parentElement.hidden = !examples.some(function (one) { return one.retrained; });
  sorts.score[0] = endName(words.first < 0 ? words.negative : words.positive) + " first";
  sorts.last[0] = endName(words.first < 0 ? words.positive : words.negative) + " first";
  const suspicious = examples.some(function (one) { return known(one.suspicion); });
  if (!suspicious) delete sorts.suspicion;
  options("sort", Object.entries(sorts).map(function (pair) { return [pair[0], pair[1][0]]; }));
  ["list", "class", "verified", "tagged", "pattern", "view"].forEach(function (id) { byId(id).addEventListener("change", function () { page = 0; draw(); }); });
  byId("find").addEventListener("input", function () { page = 0; draw(); });
  byId("sort").addEventListener("change", function () { order = { value: sorts[byId("sort").value][1], descending: false, column: null }; page = 0; draw(); });
  byId("reset").addEventListener("click", function () { resetFilters(); draw(); });
  byId("previous").addEventListener("click", function () { page -= 1; draw(); byId("examples").scrollIntoView(); });
  byId("next").addEventListener("click", function () { page += 1; draw(); byId("examples").scrollIntoView(); });
  byId("csv").addEventListener("click", function () { download("examples.csv", shownExamples()); });
  byId("csv-tags").addEventListener("click", function () { download("tags.csv", examples.filter(function (one) { const t = tagOf(one); return t.tag || t.note; })); });
  document.querySelectorAll("details[data-table]").forEach(function (box) {
    box.fill = function () { if (!box.filled) { box.filled = true; tableMakers[box.dataset.table](box.querySelector("div")); } };
    box.addEventListener("toggle", function () { if (box.open) box.fill(); });
  });
  const first = (data.mark_names || []).length ? "mark:" + data.mark_names[0] : "";
  byId("list").value = first; // what suspects and curate say comes first
  if (first && suspicious) { byId("sort").value = "suspicion"; order = { value: sorts.suspicion[1], descending: false, column: null }; }
  draw(); startPoints(); drawHalves(); drawScatter(); drawHeat();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawHeat);
  window.addEventListener("beforeprint", function () { document.querySelectorAll("details:not(.card details)").forEach(function (box) { if (box.fill) box.fill(); box.open = true; }); });
}
start();
