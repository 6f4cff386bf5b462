/* Elements of the page. Text from outside goes through textContent, styles through the style sheet or element.style. */

function make(tag, name, parent, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

function button(name, parent, label) {
  const element = make("button", name, parent);
  element.type = "button";
  if (label) element.setAttribute("aria-label", label);
  return element;
}

function icon(parent, path) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const shape = document.createElementNS(space, "path");
  shape.setAttribute("d", path);
  svg.append(shape);
  parent.append(svg);
  return shape;
}

const PLAY = "M7 4.5v15l12.5-7.5z";
const PAUSE = "M6.5 5h4v14h-4zM13.5 5h4v14h-4z";
const ENLARGE = "M4 10V4h6v2H7.4l4.1 4.1-1.4 1.4L6 7.4V10zM20 14v6h-6v-2h2.6l-4.1-4.1 1.4-1.4 4.1 4.1V14z";
const CLOSE = "M6.4 5 12 10.6 17.6 5 19 6.4 13.4 12 19 17.6 17.6 19 12 13.4 6.4 19 5 17.6 10.6 12 5 6.4z";

/** One stop of the Tab key for a row of buttons; arrow keys go from one to the next. */
function rove(container, items) {
  items.forEach((item, i) => (item.tabIndex = i ? -1 : 0));
  container.addEventListener("keydown", (event) => {
    const now = items.indexOf(document.activeElement);
    const steps = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1 };
    const next = { ...steps, Home: 0, End: items.length - 1 }[event.key];
    if (now < 0 || next === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    items[Math.max(0, Math.min(items.length - 1, next))].focus();
  });
  container.addEventListener("focusin", (event) => {
    if (items.includes(event.target)) items.forEach((item) => (item.tabIndex = item === event.target ? 0 : -1));
  });
}

const percent = (share) => (share < 0.01 ? "<1%" : share > 0.99 && share < 1 ? ">99%" : `${Math.round(share * 100)}%`);
const times = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)}×`;
/** A gain in nats as how many times likelier the picture makes a word, as in scale.py. */
const likelier = (gain) => {
  const ratio = Math.exp(gain);
  if (ratio >= 1000) return ">1000×";
  return ratio >= 10 ? `${Math.round(ratio)}×` : ratio >= 0.1 ? `${ratio.toFixed(1)}×` : "<0.1×";
};
const mattered = (gain) => {
  if (Math.abs(gain) < 0.1) return "The picture made no difference.";
  return `The picture makes it ${likelier(Math.abs(gain))} ${gain > 0 ? "likelier" : "less likely"}.`;
};
const asked = (query) => window.matchMedia(query).matches;

const LONGEST_SHAPE = 64;
/** Width by height at which a picture is shown; one that is thinner than 1 : 64 is shown at that shape. */
const shapeOf = (data) => Math.min(LONGEST_SHAPE, Math.max(1 / LONGEST_SHAPE, data.size[0] / data.size[1]));
