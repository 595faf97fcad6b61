function render({ model, el }) {
  const get = name => model.get(name);
  const classes = get("classes"), members = get("members"), colours = get("colours");
  const root = make("div", { class: "zw zw-pathways" });
  const named = i => get("labels")[i] < 0 ? "your image" : classes[get("labels")[i]];
  const right = i => get("labels")[i] < 0 || get("aggregate")[i][get("k") - 1][0][0] === get("labels")[i];
  const visible = () => get("labels").map((_, i) => i).filter(i =>
    (get("only_class") < 0 || get("labels")[i] === get("only_class")) &&
    (get("only") === "all" || (get("only") === "right") === right(i)) &&
    get("entropy")[i] >= get("min_entropy") - 1e-9);

  const here = [...new Set(get("labels").filter(label => label >= 0))].sort((a, b) => a - b);
  const [classField, classSelect] = choose("class", [["-1", "all"], ...here.map(c => [String(c), classes[c]])],
    String(get("only_class")), value => put(model, { only_class: +value }));
  const [onlyField, onlySelect] = choose("prediction", [["all", "all"], ["right", "right"], ["wrong", "wrong"]],
    get("only"), value => put(model, { only: value }));
  const entropy = make("input", { type: "range", min: 0, max: Math.log(members.length).toFixed(2), step: 0.01,
    oninput: () => put(model, { min_entropy: +entropy.value }) });
  const entropyOut = make("output");
  const slider = make("input", { type: "range", min: 1, max: members.length, step: 1, class: "zw-k",
    oninput: () => put(model, { k: +slider.value }) });
  const kOut = make("output", { class: "zw-k-value" });
  const count = make("p", { class: "zw-count", role: "status" });
  const thumbs = make("div", { class: "zw-thumbs", role: "listbox", "aria-label": "test images" });
  const detail = make("div", { class: "zw-detail" });
  const upload = make("input", { type: "file", accept: "image/*", onchange: async () => {
    const file = upload.files[0];
    if (!file) return;
    if (file.size > 7e6) {  // as text it would be more than the 10 MiB that a kernel's connection takes
      message.textContent = "This image has more than 7 MB; choose a smaller file.";
      return;
    }
    const bytes = new Uint8Array(await file.arrayBuffer());
    let text = "";
    for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
    put(model, { upload: { name: file.name, content: btoa(text) } });
  } });
  const uploadField = labelled("your image", upload);
  const message = make("p", { class: "zw-message", role: "alert" });
  root.append(
    make("div", { class: "zw-bar" }, classField, onlyField,
      make("label", { class: "zw-field" }, make("span", {}, "route entropy at least"), entropy, entropyOut), uploadField),
    message, count,
    make("div", { class: "zw-columns" }, thumbs, make("div", {},
      make("label", { class: "zw-field" }, make("span", {}, "active models k"), slider, kOut), detail)));
  el.appendChild(root);

  const pick = i => put(model, { selected: i });
  let shown = [];
  thumbs.onkeydown = event => arrows(event, thumbs, shown.indexOf(get("selected")), place => {
    pick(shown[place]);
    thumbs.children[place].focus();
  });
  const said = ([label, probability]) => `${classes[label]} (${percent(probability)})`;
  const verdict = (label, i) => label === get("labels")[i]
    ? make("span", { class: "zw-right" }, "✓", make("span", { class: "zw-hidden" }, " right"))
    : make("span", { class: "zw-wrong" }, "✗", make("span", { class: "zw-hidden" }, " wrong"));

  function drawList() {
    shown = visible();
    if (shown.length && !shown.includes(get("selected"))) { pick(shown[0]); }
    thumbs.replaceChildren(...shown.map(i => make("button", {
      type: "button", role: "option", "data-i": i, "aria-selected": String(i === get("selected")),
      tabindex: i === get("selected") ? 0 : -1, class: right(i) ? "" : "zw-is-wrong", onclick: () => pick(i),
      title: `${named(i)}${right(i) ? "" : ", predicted wrongly"}`,
    }, make("img", { src: get("thumbs")[i], alt: `image ${get("index")[i]}: ${named(i)}` }))));
    const good = shown.filter(i => get("labels")[i] >= 0 && right(i)).length;
    count.textContent = `${shown.length} of ${get("labels").length} images` +
      (shown.length ? `, ${good} predicted rightly with k = ${get("k")}` : "; widen the filters");
  }
  function drawDetail() {
    const i = get("selected"), k = get("k"), weights = get("weights")[i];
    const ranks = weights.map((w, a) => weights.filter((v, b) => v > w || (v === w && b < a)).length);
    const top = get("aggregate")[i][k - 1], label = get("labels")[i];
    const rows = members.map((name, m) => {
      const own = get("own")[i][m][0], on = ranks[m] < k;
      return make("tr", { class: on ? "zw-on" : "zw-off", "data-member": m },
        make("th", { scope: "row" }, name),
        make("td", {}, make("span", { class: "zw-track" },
          make("i", { style: `width:${(100 * weights[m]).toFixed(1)}%;background:${on ? colours[m] : "transparent"};border-color:${colours[m]}` }))),
        make("td", { class: "zw-number" }, weights[m].toFixed(3)),
        make("td", {}, on ? "active" : "–"),
        make("td", {}, said(own), " ", label < 0 ? null : verdict(own[0], i)));
    });
    detail.replaceChildren(
      make("div", { class: "zw-head" },
        make("img", { src: get("thumbs")[i], alt: `image ${get("index")[i]}, enlarged: ${named(i)}`, class: "zw-big" }),
        make("div", {}, make("div", {}, label < 0 ? "your image" : `class: ${classes[label]}`),
          make("div", { class: "zw-answer", role: "status" }, `with k = ${k}: `, make("b", {}, said(top[0])), " ",
            label < 0 ? null : verdict(top[0][0], i)),
          make("div", { class: "zw-next" }, top.slice(1).map(said).join(", ")),
          make("div", { class: "zw-next" }, `route entropy ${get("entropy")[i].toFixed(2)} of ${Math.log(members.length).toFixed(2)}`))),
      make("table", {}, make("thead", {}, make("tr", {}, ...["model", "pathway weight", "", "", "alone it says"].map(text => make("th", { scope: "col" }, text)))),
        make("tbody", {}, ...rows)));
  }
  function draw() {
    classSelect.value = String(get("only_class"));
    onlySelect.value = get("only");
    entropy.value = get("min_entropy");
    entropyOut.textContent = (+get("min_entropy")).toFixed(2);
    slider.value = get("k");
    kOut.textContent = get("k");
    uploadField.style.display = get("live") ? "" : "none";
    message.textContent = get("message");
    drawList();
    drawDetail();
  }
  // A change of the choice alone must not rebuild the list, or the focus would be lost.
  function drawChoice() {
    for (const button of thumbs.children) {
      const on = +button.dataset.i === get("selected");
      button.setAttribute("aria-selected", String(on));
      button.tabIndex = on ? 0 : -1;
    }
    drawDetail();
  }
  const off = follow(model, ["k", "only_class", "only", "min_entropy", "labels", "live", "message"], draw);
  const offChoice = follow(model, ["selected"], drawChoice);
  // Only a kernel can run the model on an image: it is asked, for the state of a saved page cannot know.
  const ask = () => { try { model.send?.({ ask: "live" }); } catch { /* a page without a kernel */ } };
  const told = content => { if (content?.attached) ask(); };
  model.on("msg:custom", told);
  ask();
  return () => { off(); offChoice(); model.off("msg:custom", told); };
}
export default { render };
