// The panel beside the map: search, the list of prototypes, what is chosen; and what hands do on the map.

const panel = document.getElementById("panel"), search = document.getElementById("search");
const tip = document.getElementById("tip"), said = document.getElementById("said");
const FOUND = 40, LEAST = 0.005;
let shownLevel = 0;

// An element with a class, text and children. Text is set as text, never as markup: titles are other people's.
function make(tag, name, ...parts) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...parts);
  return element;
}

function dot(number) {
  const mark = make("i", "dot");
  mark.style.setProperty("border", "0");
  mark.style.setProperty("background", number < 0 ? "var(--soft)" : `oklch(var(--light) var(--chroma) ${prototypes[number].hue})`);
  return mark;
}

function pick(mark, words, figure, act) {
  const button = make("button", "pick", mark, make("span", "", words));
  button.type = "button";
  if (figure) button.append(make("em", "", figure));
  button.onclick = act;
  return button;
}

const itemButton = (item, figure) => pick(dot(coarse[item]), items.name[item], figure, () => chooseItem(item, true));
const prototypeButton = (number, figure) => pick(dot(number), prototypes[number].label, figure, () => choosePrototype(number));

function back() {
  const button = make("button", "back", "← All prototypes");
  button.type = "button";
  button.onclick = () => { clearChoice(); flyTo(0, 0, 1); };
  return button;
}

const plural = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;

function showList() {
  const bar = make("div", "switch");
  bar.setAttribute("role", "group");
  bar.setAttribute("aria-label", "Resolution");
  levels.forEach((level, number) => {
    const button = make("button", "", level.name);
    button.type = "button";
    button.setAttribute("aria-pressed", String(number === shownLevel));
    button.onclick = () => { shownLevel = number; showList(); };
    bar.append(button);
  });
  const own = prototypes.map((each, number) => number).filter(number => prototypes[number].level === shownLevel)
    .sort((a, b) => prototypes[b].items - prototypes[a].items);
  const rows = own.slice(0, 200).map(number => prototypeButton(number, prototypes[number].items.toLocaleString("en")));
  panel.replaceChildren(...(levels.length > 1 ? [bar] : []), ...rows);
  if (own.length > 200) panel.append(make("p", "note", `and ${own.length - 200} smaller ones`));
}

function showPrototype(number) {
  const each = prototypes[number];
  const drift = each.drift === null ? "new in the last run" : `${Math.round(each.drift * 100)} % of its members left in the last run`;
  panel.replaceChildren(back(), make("h3", "", dot(number), each.label));
  panel.append(make("p", "note", `${levels[each.level].name} · ${plural(each.items, "item")} · ${drift}`));
  if (each.parent >= 0) panel.append(make("h4", "", "Part of"), prototypeButton(each.parent));
  const near = overlaps.filter(pair => pair[2] >= LEAST && (pair[0] === number || pair[1] === number)).slice(0, 5);
  if (near.length) {
    panel.append(make("h4", "", "Overlaps with"));
    for (const [a, b, cosine] of near) panel.append(prototypeButton(a === number ? b : a, cosine.toFixed(3)));
  }
  panel.append(make("h4", "", "Top items"), ...each.top.map(item => itemButton(item, "")));
  const parts = prototypes.map((other, child) => child).filter(child => prototypes[child].parent === number && prototypes[child].items);
  if (parts.length) panel.append(make("h4", "", "Divided into"), ...parts.slice(0, 12).map(child => prototypeButton(child, prototypes[child].items.toLocaleString("en"))));
}

function showItem(item) {
  panel.replaceChildren(back(), make("h3", "", items.name[item]));
  panel.append(make("p", "note", `Seen ${plural(items.seen[item], "time")} in the train split`));
  levels.forEach((level, number) => {
    const rows = [];
    for (let k = 0; k < items.in[item].length; k += 2) {
      const [prototype, percent] = items.in[item].slice(k, k + 2);
      if (prototypes[prototype].level === number) rows.push(prototypeButton(prototype, `${percent} %`));
    }
    if (rows.length) panel.append(make("h4", "", level.name), ...rows);
  });
}

function clearChoice() {
  Object.assign(chosen, {prototype: -1, item: -1, found: null});
  search.value = "";
  showList();
  draw();
}

function choosePrototype(number) {
  Object.assign(chosen, {prototype: number, item: -1, found: null});
  showPrototype(number);
  panel.scrollTop = 0;
  said.textContent = `${prototypes[number].label}, ${plural(prototypes[number].items, "item")}`;
  const disc = prototypes[number].disc;
  if (disc) flyTo(disc[0], disc[1], Math.max(1, Math.min(14, 0.45 / disc[2])));
  else draw();
}

function chooseItem(item, fly) {
  Object.assign(chosen, {item, prototype: -1, found: null});
  showItem(item);
  panel.scrollTop = 0;
  said.textContent = items.name[item];
  if (fly) flyTo(X[item], Y[item], Math.max(camera.zoom, 3));
  else draw();
}

search.addEventListener("input", () => {
  const wanted = search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  if (!wanted.length) return clearChoice();
  const fits = name => wanted.every(word => name.toLowerCase().includes(word));
  const all = [...items.name.keys()];
  const named = [...prototypes.keys()].filter(number => prototypes[number].items && fits(prototypes[number].label));
  const found = all.filter(item => fits(items.name[item])).sort((a, b) => items.seen[b] - items.seen[a]);
  // Where no title has the words, the items of the prototypes that have them stand out.
  const bright = found.length ? found : all.filter(item => named.some(number => share(item, number) > 0.5));
  Object.assign(chosen, {prototype: -1, item: -1, found: new Set(bright)});
  const told = `${plural(found.length, "item")} and ${plural(named.length, "prototype")} found`;
  said.textContent = told;
  const more = found.length > FOUND ? `, the ${FOUND} most popular items listed` : "";
  panel.replaceChildren(make("p", "note", told + more));
  panel.append(...named.slice(0, 6).map(number => prototypeButton(number, prototypes[number].items.toLocaleString("en"))));
  if (found.length) panel.append(make("h4", "", "Items"), ...found.slice(0, FOUND).map(item => itemButton(item, "")));
  if (camera.zoom > 1.05 && bright.length) flyTo(0, 0, 1);
  else draw();
});

function hover(left, top) {
  const item = left === null ? -1 : itemAt(left, top);
  if (item !== hovered) { hovered = item; draw(); }
  tip.hidden = item < 0;
  if (item < 0) return;
  const shares = items.in[item], words = [];
  for (let k = 0; k < shares.length && words.length < 3; k += 2) {
    if (prototypes[shares[k]].level === 0) words.push(`${prototypes[shares[k]].label.split(",")[0]} ${shares[k + 1]} %`);
  }
  tip.replaceChildren(items.name[item], make("span", "", words.join(" · ")));
  const width = tip.offsetWidth, height = tip.offsetHeight;
  tip.style.left = `${Math.max(4, Math.min(canvas.clientWidth - width - 4, left - width / 2))}px`;
  tip.style.top = `${top > height + 24 ? top - height - 16 : top + 18}px`;
}

const hands = new Map();
let travelled = 0, apart = 0;
const spot = event => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };

canvas.addEventListener("pointerdown", event => {
  hands.set(event.pointerId, spot(event));
  if (hands.size === 1) travelled = 0;
  apart = 0;
  if (event.pointerType === "mouse") canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", event => {
  const now = spot(event), before = hands.get(event.pointerId);
  if (!before) return event.pointerType === "mouse" ? hover(...now) : undefined;
  hands.set(event.pointerId, now);
  travelled += Math.hypot(now[0] - before[0], now[1] - before[1]);
  tip.hidden = true;
  if (hands.size === 2) {
    const [[a, b], [c, d]] = hands.values(), distance = Math.hypot(a - c, b - d);
    if (apart) zoomAt(distance / apart, (a + c) / 2, (b + d) / 2);
    apart = distance;
  } else if (hands.size === 1 && travelled > 4) pan(now[0] - before[0], now[1] - before[1]);
});
canvas.addEventListener("pointerup", event => {
  const [left, top] = spot(event);
  hands.delete(event.pointerId);
  apart = 0;
  if (travelled > 4 || hands.size) return;
  const item = itemAt(left, top), prototype = prototypeAt(left, top);
  if (item >= 0) { chooseItem(item, false); if (event.pointerType !== "mouse") hover(left, top); }
  else if (prototype >= 0) choosePrototype(prototype);
  else clearChoice();
});
for (const name of ["pointercancel", "lostpointercapture"]) canvas.addEventListener(name, event => hands.delete(event.pointerId));
canvas.addEventListener("pointerleave", () => hover(null));
// The wheel scrolls the page, as everywhere, until the map is in use (or with Ctrl, which a pinch on a touchpad sends).
canvas.addEventListener("wheel", event => {
  if (!event.ctrlKey && document.activeElement !== canvas) return;
  event.preventDefault();
  zoomAt(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), ...spot(event));
}, {passive: false});
const middle = factor => zoomAt(factor, canvas.clientWidth / 2, canvas.clientHeight / 2);
canvas.addEventListener("keydown", event => {
  const moves = {ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40]};
  if (moves[event.key]) pan(...moves[event.key]);
  else if (event.key === "+" || event.key === "=") middle(1.4);
  else if (event.key === "-") middle(1 / 1.4);
  else if (event.key === "0") flyTo(0, 0, 1);
  else if (event.key === "Escape") clearChoice();
  else return;
  event.preventDefault();
});
document.getElementById("zoom-in").onclick = () => middle(1.6);
document.getElementById("zoom-out").onclick = () => middle(1 / 1.6);
document.getElementById("zoom-all").onclick = () => { clearChoice(); flyTo(0, 0, 1); };
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); draw(); });
new ResizeObserver(draw).observe(canvas);
readColours();
showList();
draw();
