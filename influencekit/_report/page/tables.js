// Tables that stand in for plots, 50 rows a page, and CSV files.
function cell(text) { const said = text === null || text === undefined ? "" : String(text); return /[",\r\n]/.test(said) ? '"' + said.replace(/"/g, '""') + '"' : said; }
function csvOf(some) {
  const head = ["id", "label", "prediction", "loss", "rank", "score", "retrained", "retrained_low", "retrained_high", "pattern", "lists", "suspicion", "influence_score", "tag", "note", "is_influence_issue", "windows"];
  const rows = some.map(function (one) {
    const r = one.retrained || {}, tag = tagOf(one);
    return [one.id, one.label, one.prediction, one.loss, one.rank, one.score, r.value, r.low, r.high, one.pattern, one.marks.join("; "), one.suspicion, one.issue_score, tag.tag, tag.note, tag.tag === "drop", data.span];
  });
  return [head].concat(rows).map(function (row) { return row.map(cell).join(","); }).join("\r\n") + "\r\n";
}
function download(name, some) {
  const link = make("a", { href: URL.createObjectURL(new Blob([csvOf(some)], { type: "text/csv;charset=utf-8" })), download: name });
  document.body.append(link); link.click(); link.remove();
  setTimeout(function () { URL.revokeObjectURL(link.href); }, 10000);
  say(some.length + " examples in " + name);
}
// A paged table in `where`: heads, and a function that gives the rows (lists of text or elements).
function pagedTable(where, label, heads, rows) {
  let at = 0;
  const status = make("span", {}), body = make("tbody", {});
  const turn = function (by) {
    at = Math.max(0, Math.min(at + by, Math.ceil(rows.length / PAGE) - 1));
    body.replaceChildren(...rows.slice(at * PAGE, (at + 1) * PAGE).map(function (row) {
      return make("tr", {}, row.map(function (c, k) { return k ? make("td", {}, c) : make("th", { scope: "row", dir: "auto" }, c); }));
    }));
    status.textContent = "rows " + (rows.length ? at * PAGE + 1 : 0) + " to " + Math.min(rows.length, (at + 1) * PAGE) + " of " + rows.length;
    back.disabled = at === 0; on.disabled = (at + 1) * PAGE >= rows.length;
  };
  const back = make("button", { type: "button", on: { click: function () { turn(-1); } } }, "Previous rows");
  const on = make("button", { type: "button", on: { click: function () { turn(1); } } }, "Next rows");
  where.replaceChildren(make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    make("table", {}, make("thead", {}, make("tr", {}, heads.map(function (h) { return make("th", { scope: "col" }, h); }))), body)),
    make("div", { class: "pager" }, back, status, on));
  turn(0);
}
function link(one) { return make("button", { type: "button", class: "plain", on: { click: function () { goTo(one); } } }, cut(one.id, 60)); }
const tableMakers = {
  points: function (where) {
    const rows = points.flatMap(function (p) { return p.links.map(function (l) { return [cut(p.id, 60), link(examples[l[0]]), signed(l[1]), called(l[1])]; }); });
    pagedTable(where, "links", ["test example", "training example", "effect of removal on its loss", "so it is"], rows);
  },
  heat: function (where) {
    pagedTable(where, "scores by window", ["example", "pattern"].concat(windows.map(function (w, k) { return windowName(k); })),
      heatRows().map(function (one) { return [link(one), one.pattern].concat(one.windows.map(function (v) { return signed(v); })); }));
  },
  scatter: function (where) {
    const some = examples.filter(function (one) { return one.retrained && known(one.score); });
    pagedTable(where, "estimate and retrained", ["example", "estimate", "retrained", "interval", "removing it, exactly"],
      some.map(function (one) { return [link(one), signed(one.score), signed(one.retrained.value), interval(one.retrained) || "-", effect(one.retrained.value).replace("removing it ", "")]; }));
  },
};
