// Two panes: test examples, and the training examples that act on them; each narrows the other.
function smallCard(one, words, act, chosen) {
  const wrong = !data.numbers && one.label && one.prediction && one.label !== one.prediction;
  const picture = one.content && one.content.kind === "picture";
  const facts = make("div", {}, make("button", { type: "button", class: "plain", "aria-pressed": String(chosen), on: { click: act } }, make("bdi", {}, cut(one.id, 60))),
    make("div", {}, one.label ? "label " + cut(one.label, 40) : "", one.prediction ? make("span", { class: wrong ? "wrong" : null }, ", predicted " + cut(one.prediction, 40)) : ""),
    known(one.loss) ? make("div", {}, "loss " + plain(one.loss)) : null, words);
  return make("li", { class: "card" + (chosen ? " chosen" : ""), "data-id": one.id }, make("div", { class: "pair" }, picture ? look(one.content, one.id) : null, facts), picture ? null : look(one.content, one.id), lost(one.content));
}
function drawPoints(point, example) {
  const left = points.filter(function (p) { return example === null || p.links.some(function (l) { return l[0] === example; }); });
  const value = function (p, place) { const found = p.links.find(function (l) { return l[0] === place; }); return found ? found[1] : null; };
  if (example !== null) left.sort(function (a, b) { return Math.abs(value(b, example)) - Math.abs(value(a, example)); });
  const some = left.slice(0, example === null ? left.length : 10);
  byId("point-list").replaceChildren(...some.map(function (p) {
    const said = example === null ? null : make("div", { class: colour(value(p, example)) }, signed(value(p, example)) + ", " + called(value(p, example)) + " for it");
    return smallCard(p, said, function () { drawPoints(p === point ? null : p, null); }, p === point);
  }));
  let links;
  if (point) links = point.links.map(function (l) { return [examples[l[0]], l[1]]; });
  else {
    const count = new Map();
    points.forEach(function (p) { p.links.forEach(function (l) { count.set(l[0], (count.get(l[0]) || 0) + 1); }); });
    links = Array.from(count.entries()).sort(function (a, b) { return b[1] - a[1] || a[0] - b[0]; }).slice(0, PAGE).map(function (pair) { return [examples[pair[0]], null, pair[1]]; });
  }
  byId("link-list").replaceChildren(...links.map(function (row) {
    const said = row[1] === null ? make("div", {}, "acts on " + row[2] + " of these test examples")
      : make("div", { class: colour(row[1]) }, "removing it " + (row[1] < 0 ? "lowers" : "raises") + " this loss by " + number(Math.abs(row[1])) + ": " + (row[1] < 0 ? "harmful" : "helpful"));
    const place = row[0].place;
    return smallCard(row[0], [said, make("div", {}, make("button", { type: "button", class: "plain", "aria-label": "Look at " + cut(row[0].id, 60) + " in the list", on: { click: function () { goTo(row[0]); } } }, "in the list"))],
      function () { drawPoints(null, place === example ? null : place); }, place === example);
  }));
  byId("points-status").textContent = some.length + " test examples, " + links.length + " training examples" +
    (point ? " with the largest effect on test example " + cut(point.id, 60) : example !== null ? "; the test examples are those that training example " + cut(examples[example].id, 60) + " acts on" : "");
}
function startPoints() {
  if (!points.length) return;
  byId("all-points").addEventListener("click", function () { drawPoints(null, null); });
  byId("all-links").addEventListener("click", function () { drawPoints(null, null); });
  drawPoints(null, null);
}
