// Where the map looks: a centre in the unit disc and a zoom; moves are eased, unless people ask for less motion.

const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("canvas");
const still = matchMedia("(prefers-reduced-motion: reduce)");

const camera = {x: 0, y: 0, zoom: 1};
const MOST_ZOOM = 60;
let flight = 0;

// Pixels of the canvas that one unit of the map takes.
function scale() {
  return Math.min(canvas.clientWidth, canvas.clientHeight) / 2 * 0.92 * camera.zoom;
}

function toScreen(x, y) {
  const k = scale();
  return [(x - camera.x) * k + canvas.clientWidth / 2, (y - camera.y) * k + canvas.clientHeight / 2];
}

function toMap(left, top) {
  const k = scale();
  return [(left - canvas.clientWidth / 2) / k + camera.x, (top - canvas.clientHeight / 2) / k + camera.y];
}

function keepInside() {
  camera.zoom = Math.max(0.8, Math.min(MOST_ZOOM, camera.zoom));
  camera.x = Math.max(-1, Math.min(1, camera.x));
  camera.y = Math.max(-1, Math.min(1, camera.y));
}

// Zoom by a factor around a point of the canvas, which stays where it is.
function zoomAt(factor, left, top) {
  const [x, y] = toMap(left, top);
  camera.zoom *= factor;
  keepInside();
  const [a, b] = toMap(left, top);
  camera.x += x - a;
  camera.y += y - b;
  keepInside();
  cancelAnimationFrame(flight);
  draw();
}

function pan(left, top) {
  const k = scale();
  camera.x -= left / k;
  camera.y -= top / k;
  keepInside();
  cancelAnimationFrame(flight);
  draw();
}

function flyTo(x, y, zoom) {
  cancelAnimationFrame(flight);
  const from = {...camera}, started = performance.now(), took = still.matches ? 0 : 450;
  const step = now => {
    const t = took ? Math.min(1, (now - started) / took) : 1, eased = 1 - (1 - t) ** 3;
    camera.x = from.x + (x - from.x) * eased;
    camera.y = from.y + (y - from.y) * eased;
    camera.zoom = from.zoom * (zoom / from.zoom) ** eased;
    keepInside();
    draw();
    if (t < 1) flight = requestAnimationFrame(step);
  };
  step(started);
}
