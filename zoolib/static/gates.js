function render({ model, el }) {
  const get = name => model.get(name);
  const classes = get("classes"), members = get("members"), layers = get("layers"), scale = get("scale");
  const root = make("div", { class: "zw zw-gates" });
  const [modeField, modeSelect] = choose("gates of", [["all", "all images (mean)"], ["class", "one class (mean)"], ["image", "one image"]],
    get("mode"), value => put(model, { mode: value }));
  const here = [...new Set(get("labels"))].sort((a, b) => a - b);
  const [classField, classSelect] = choose("class", here.map(c => [String(c), classes[c]]), String(get("only_class")),
    value => put(model, { only_class: +value }));
  const slider = make("input", { type: "range", min: 0, max: layers.length - 1, step: 1, class: "zw-layer",
    oninput: () => put(model, { layer: +slider.value }) });
  const layerOut = make("output");
  const thumbs = make("div", { class: "zw-thumbs zw-short", role: "listbox", "aria-label": "test images" },
    ...get("thumbs").map((uri, i) => make("button", { type: "button", role: "option", "data-i": i,
      onclick: () => put(model, { selected: i, mode: "image" }) },
      make("img", { src: uri, alt: `image ${get("index")[i]}: ${classes[get("labels")[i]]}` }))));
  thumbs.onkeydown = event => arrows(event, thumbs, get("selected"), place => {
    put(model, { selected: place, mode: "image" });
    thumbs.children[place].focus();
  });
  const map = make("div", { class: "zw-map" }), bars = make("div", { class: "zw-bars", role: "status" });
  root.append(make("div", { class: "zw-bar" }, modeField, classField,
    make("label", { class: "zw-field" }, make("span", {}, "layer"), slider, layerOut)), thumbs,
    make("div", { class: "zw-columns" }, map, bars));
  el.appendChild(root);

  const mean = rows => layers.map((_, l) => members.map((_, m) => rows.reduce((sum, row) => sum + row[l][m], 0) / rows.length));
  const values = () => {
    const mode = get("mode");
    if (mode === "all") return get("mean");
    if (mode === "image") return get("gates")[get("selected")];
    return get("class_mean")[String(get("only_class"))] ?? mean(get("gates").filter((_, i) => get("labels")[i] === get("only_class")));
  };
  const colour = value => scale[Math.min(scale.length - 1, Math.max(0, Math.floor(value * scale.length)))];
  function draw() {
    const mode = get("mode"), layer = get("layer"), table = values();
    modeSelect.value = mode;
    classField.style.display = mode === "class" ? "" : "none";
    classSelect.value = String(get("only_class"));
    slider.value = layer;
    layerOut.textContent = layers[layer];
    for (const button of thumbs.children) {
      const on = +button.dataset.i === get("selected");
      button.setAttribute("aria-selected", String(on && mode === "image"));
      button.tabIndex = on ? 0 : -1;
    }
    map.replaceChildren(make("table", { "aria-label": "gates by layer and model" },
      make("thead", {}, make("tr", {}, make("td"), ...members.map(name => make("th", { scope: "col" }, make("span", {}, name))))),
      make("tbody", {}, ...table.map((row, l) => make("tr", { class: l === layer ? "zw-on" : "", "data-layer": l, onclick: () => put(model, { layer: l }) },
        make("th", { scope: "row" }, layers[l]),
        ...row.map(value => make("td", { style: `background:${colour(value)}`, title: value.toFixed(3) },
          make("span", { class: "zw-hidden" }, value.toFixed(2)))))))));
    const of = mode === "all" ? "all images" : mode === "class" ? `class ${classes[get("only_class")]}`
      : `image ${get("index")[get("selected")]} (${classes[get("labels")[get("selected")]]})`;
    bars.replaceChildren(make("p", {}, `${layers[layer]}, ${of}`), make("table", {}, make("tbody", {}, ...members.map((name, m) =>
      make("tr", { "data-member": m }, make("th", { scope: "row" }, name),
        make("td", {}, make("span", { class: "zw-track" }, make("i", { style: `width:${(100 * table[layer][m]).toFixed(1)}%;background:${get("colours")[m]};border-color:${get("colours")[m]}` }))),
        make("td", { class: "zw-number" }, table[layer][m].toFixed(3)))))));
  }
  return follow(model, ["mode", "only_class", "layer", "selected"], draw);
}
export default { render };
