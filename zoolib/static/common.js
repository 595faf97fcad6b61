// Shared by all widgets: elements, listening, and a list of buttons that arrow keys move through.
const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element[name] = value;
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter(child => child != null));
  return element;
};
const percent = value => `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)} %`;
const put = (model, values) => {
  for (const [name, value] of Object.entries(values)) model.set(name, value);
  model.save_changes();
};
// Calls draw now and whenever one of the traits changes; returns what anywidget calls when the view goes away.
const follow = (model, traits, draw) => {
  for (const trait of traits) model.on(`change:${trait}`, draw);
  draw();
  return () => { for (const trait of traits) model.off(`change:${trait}`, draw); };
};
const labelled = (text, control) => make("label", { class: "zw-field" }, make("span", {}, text), control);
const choose = (text, options, value, onpick) => {
  const select = make("select", { onchange: () => onpick(select.value) },
    ...options.map(([key, name]) => make("option", { value: key }, name)));
  select.value = value;
  return [labelled(text, select), select];
};
// Options of a listbox: one of them is in the tab order, arrow keys, Home and End move the choice.
const arrows = (event, list, current, pick) => {
  const columns = list.children.length ? Math.max(1, Math.round(list.clientWidth / list.children[0].offsetWidth)) : 1;
  const move = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  const last = list.children.length - 1;
  let next = null;
  if (event.key in move) next = current + move[event.key];
  if (event.key === "Home") next = 0;
  if (event.key === "End") next = last;
  if (next === null || last < 0) return;
  event.preventDefault();
  pick(Math.min(last, Math.max(0, next)));
};
