function render({ model, el }) {
  const get = name => model.get(name);
  const columns = get("columns"), rows = get("rows");
  const root = make("div", { class: "zw zw-table" });
  const query = make("input", { type: "search", placeholder: "such as tuning", oninput: () => put(model, { query: query.value }) });
  const groups = [...new Set(columns.map(column => column.group).filter(Boolean))];
  const [showField, showSelect] = choose("numbers", [["all", "ours and the paper's"], ["ours", "ours"], ["paper", "the paper's"]],
    get("show"), value => put(model, { show: value }));
  if (groups.length < 2) showField.style.display = "none";
  // A column of few words, such as a verdict, is chosen from: as a filter, "supported" would find "not supported" too.
  const words = columns.map((column, c) => [...new Set(rows.map(row => row[c].text))].sort());
  const few = columns.map((_, c) => c).filter(c => !columns[c].numeric && words[c].length > 1 && words[c].length <= 6 && rows.length >= 2 * words[c].length);
  const picks = few.map(c => [c, ...choose(columns[c].name, [["", "any"], ...words[c].map(word => [word, word])], get("only")[c] ?? "",
    value => put(model, { only: { ...get("only"), [c]: value } }))]);
  const count = make("p", { class: "zw-count", role: "status" });
  const place = make("div", { class: "zw-scroll" });
  root.append(make("div", { class: "zw-bar" }, labelled("filter", query), ...picks.map(([, field]) => field), showField), count, place);
  el.appendChild(root);
  const sortBy = c => put(model, get("sort") === c ? { descending: !get("descending") } : { sort: c, descending: rows.some(row => row[c].value != null) });
  const compare = (a, b, c) => {
    const x = rows[a][c], y = rows[b][c], sign = get("descending") ? -1 : 1;
    const numeric = rows.some(row => row[c].value != null);
    if (!numeric) return sign * x.text.localeCompare(y.text);
    if (x.value == null || y.value == null) return (x.value == null) - (y.value == null); // what is missing comes last
    return sign * (x.value - y.value);
  };
  function draw() {
    query.value = get("query");
    showSelect.value = get("show");
    const kept = columns.map((_, c) => c).filter(c => get("show") === "all" || !columns[c].group || columns[c].group === get("show"));
    for (const [c, , select] of picks) select.value = get("only")[c] ?? "";
    const asked = get("query").toLowerCase().split(/\s+/).filter(Boolean);
    let order = rows.map((_, r) => r).filter(r => few.every(c => !get("only")[c] || rows[r][c].text === get("only")[c]));
    order = order.filter(r => asked.every(word => rows[r].some(cell => cell.text.toLowerCase().includes(word))));
    if (get("sort") >= 0) order = order.sort((a, b) => compare(a, b, get("sort")) || a - b);
    count.textContent = `${order.length} of ${rows.length} rows`;
    const focused = place.contains(document.activeElement) ? document.activeElement.dataset.c ?? document.activeElement.dataset.r : null;
    const wasRow = place.contains(document.activeElement) && "r" in document.activeElement.dataset;
    place.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...kept.map(c => {
      const on = get("sort") === c;
      return make("th", { scope: "col", class: columns[c].numeric ? "zw-number" : "",
        "aria-sort": on ? (get("descending") ? "descending" : "ascending") : "none" },
        make("button", { type: "button", "data-c": c, onclick: () => sortBy(c) }, columns[c].name, on ? (get("descending") ? " ▼" : " ▲") : ""));
    }))), make("tbody", {}, ...order.map(r => make("tr", { "data-r": r, tabindex: 0, class: r === get("selected") ? "zw-on" : "",
      "aria-selected": String(r === get("selected")),
      onclick: () => put(model, { selected: r }),
      onkeydown: event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); put(model, { selected: r }); } } },
      ...kept.map(c => make(c === 0 ? "th" : "td", { class: columns[c].numeric ? "zw-number" : "", scope: c === 0 && "row" }, rows[r][c].text)))))));
    if (focused !== null) place.querySelector(wasRow ? `tr[data-r="${focused}"]` : `button[data-c="${focused}"]`)?.focus();
  }
  return follow(model, ["query", "only", "show", "sort", "descending", "selected"], draw);
}
export default { render };
