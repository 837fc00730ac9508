// What the map draws, and what lies under the pointer.

const {prototypes, levels, items, overlaps} = data;
const count = items.name.length;
const X = items.x.map(value => value / data.places * 2 - 1), Y = items.y.map(value => value / data.places * 2 - 1);
const most = Math.max(1, ...items.seen);
const reach = items.seen.map(seen => 1.6 + 3.2 * Math.sqrt(seen / most));
const rarestFirst = [...items.name.keys()].sort((a, b) => items.seen[a] - items.seen[b]);
// The coarsest prototype of an item is its first one: memberships are sorted by level, then by share.
const coarse = items.in.map(shares => shares.length ? shares[0] : -1);
const chosen = {prototype: -1, item: -1, found: null};
let hovered = -1, colours = [], look = {};

function share(item, prototype) {
  const shares = items.in[item];
  for (let k = 0; k < shares.length; k += 2) if (shares[k] === prototype) return shares[k + 1] / 100;
  return 0;
}

// The coarsest prototype above one.
function rootOf(number) {
  while (prototypes[number].parent >= 0) number = prototypes[number].parent;
  return number;
}

function readColours() {
  const style = getComputedStyle(document.documentElement), value = name => style.getPropertyValue(name).trim();
  look = {ink: value("--ink"), soft: value("--soft"), card: value("--card"), accent: value("--accent"), font: style.fontFamily};
  look.font = getComputedStyle(document.body).fontFamily;
  colours = prototypes.map(each => `oklch(${value("--light")} ${value("--chroma")} ${each.hue})`);
}

function circle(pen, x, y, radius) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
}

// How bright an item is: all alike, or by what is chosen.
function strength(item) {
  if (chosen.found) return chosen.found.has(item) ? 1 : 0.08;
  if (chosen.item >= 0) return item === chosen.item ? 1 : coarse[item] === coarse[chosen.item] ? 0.5 : 0.14;
  if (chosen.prototype < 0) return 0.88;
  const part = share(item, chosen.prototype);
  return part ? 0.25 + 0.75 * part : 0.08;
}

let drawn = false;
function draw() {
  if (drawn) return;
  drawn = true;
  requestAnimationFrame(() => { drawn = false; paint(); });
}

function paint() {
  const width = canvas.clientWidth, height = canvas.clientHeight, ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d"), k = scale();
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  paintDiscs(pen, k);
  if (chosen.prototype >= 0) paintOverlaps(pen);
  const grow = Math.min(2.4, camera.zoom ** 0.35) * Math.min(1.15, Math.max(0.55, 30 / Math.sqrt(count)));
  const crowd = Math.min(1, k / 330);
  for (const item of rarestFirst) {
    const [x, y] = toScreen(X[item], Y[item]);
    if (x < -9 || y < -9 || x > width + 9 || y > height + 9) continue;
    pen.globalAlpha = strength(item);
    pen.fillStyle = coarse[item] < 0 ? look.soft : colours[coarse[item]];
    circle(pen, x, y, Math.max(1, reach[item] * grow * crowd));
    pen.fill();
  }
  pen.globalAlpha = 1;
  for (const item of [chosen.item, hovered]) if (item >= 0) {
    const [x, y] = toScreen(X[item], Y[item]);
    pen.strokeStyle = look.ink;
    pen.lineWidth = 2;
    circle(pen, x, y, reach[item] * grow * crowd + 3);
    pen.stroke();
  }
  paintLabels(pen, k, width, height);
}

function paintDiscs(pen, k) {
  prototypes.forEach((each, number) => {
    if (!each.disc) return;
    const [x, y] = toScreen(each.disc[0], each.disc[1]), radius = each.disc[2] * k;
    if (each.level > 0 && (radius < 34 || number !== chosen.prototype && camera.zoom < 1.7)) return;
    pen.save();
    const island = prototypes[rootOf(number)].disc;
    if (each.level > 0 && island) {
      circle(pen, ...toScreen(island[0], island[1]), island[2] * k);
      pen.clip();
    }
    circle(pen, x, y, radius);
    pen.globalAlpha = number === chosen.prototype ? 0.2 : each.level ? 0.06 : 0.1;
    pen.fillStyle = colours[number];
    pen.fill();
    if (number === chosen.prototype) {
      pen.globalAlpha = 0.9;
      pen.strokeStyle = colours[number];
      pen.lineWidth = 1.5;
      pen.stroke();
    }
    pen.restore();
  });
  pen.globalAlpha = 1;
}

// Lines from the chosen prototype to those that it overlaps with, the thicker the more.
function paintOverlaps(pen) {
  for (const [a, b, cosine] of overlaps) {
    if (a !== chosen.prototype && b !== chosen.prototype) continue;
    const from = prototypes[a].disc, to = prototypes[b].disc;
    if (!from || !to || cosine < LEAST) continue;
    const [x, y] = toScreen(from[0], from[1]), [u, v] = toScreen(to[0], to[1]);
    pen.strokeStyle = colours[chosen.prototype];
    pen.globalAlpha = 0.65;
    pen.lineWidth = 1 + 9 * Math.sqrt(cosine);
    pen.lineCap = "round";
    pen.beginPath();
    pen.moveTo(x, y);
    pen.quadraticCurveTo((x + u) / 2 + (v - y) * 0.16, (y + v) / 2 - (u - x) * 0.16, u, v);
    pen.stroke();
  }
  pen.globalAlpha = 1;
}

// Names of prototypes where there is room: the coarse ones first, finer ones as the map is zoomed.
function paintLabels(pen, k, width, height) {
  const taken = [];
  const order = prototypes.map((each, number) => number).filter(number => prototypes[number].disc)
    .sort((a, b) => (b === chosen.prototype) - (a === chosen.prototype) || prototypes[a].level - prototypes[b].level
      || prototypes[b].items - prototypes[a].items);
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.lineJoin = "round";
  for (const number of order) {
    const each = prototypes[number], radius = each.disc[2] * k, first = number === chosen.prototype;
    if (!first && radius < (each.level ? 60 : 20)) continue;
    const [x, middle] = toScreen(each.disc[0], each.disc[1]), size = each.level ? 12 : 13.5;
    if (x < 0 || x > width || middle + radius < 30 || middle - radius > height) continue;
    // On the upper rim, where no item is hidden; inside the picture when the rim is not.
    const y = Math.max(size, middle - radius);
    const words = each.label.split(",")[0].slice(0, 26);
    pen.font = `${each.level ? 500 : 650} ${size}px ${look.font}`;
    const half = pen.measureText(words).width / 2 + 5, box = [x - half, y - size * 0.8, x + half, y + size * 0.8];
    if (taken.some(other => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) continue;
    taken.push(box);
    pen.globalAlpha = chosen.prototype >= 0 && !first || chosen.item >= 0 || chosen.found ? 0.55 : 1;
    pen.strokeStyle = look.card;
    pen.lineWidth = 4.5;
    pen.strokeText(words, x, y);
    pen.fillStyle = look.ink;
    pen.fillText(words, x, y);
  }
  pen.globalAlpha = 1;
}

// The item under a point of the canvas, or -1.
function itemAt(left, top) {
  let best = -1, least = 13 ** 2;
  for (let item = 0; item < count; item++) {
    if (chosen.found && !chosen.found.has(item)) continue;
    const [x, y] = toScreen(X[item], Y[item]), distance = (x - left) ** 2 + (y - top) ** 2;
    if (distance < least) [best, least] = [item, distance];
  }
  return best;
}

// The finest prototype under a point that is drawn large enough to be meant, or -1.
function prototypeAt(left, top) {
  const [x, y] = toMap(left, top), k = scale();
  let best = -1;
  prototypes.forEach((each, number) => {
    if (!each.disc || !each.items || Math.hypot(each.disc[0] - x, each.disc[1] - y) > each.disc[2]) return;
    if (each.level > 0 && (each.disc[2] * k < 60 || camera.zoom < 1.7)) return;
    if (best < 0 || each.level > prototypes[best].level) best = number;
  });
  return best;
}
