/* Maps: from the bytes of the data to numbers, and from numbers to a glow over the picture. */

const EVEN = 64; // the byte of a cell that gets its even share, as in page.py
// What a map is made of: the scale's words, as in scale.py, and how a word's status begins.
const MAP_OF = {
  attention: { scale: "attention of a cell", most: "Looked most", evenly: "Looked evenly at all of it." },
  gradient: { scale: "contribution of a cell to the word", most: "Rests most on what is", evenly: "Rests on all of it alike." },
  occlusion: { scale: "loss of the word when a cell is hidden", most: "Depends most on what is", evenly: "Depends on all of it alike." },
};
const STRONGEST = 0.82; // opacity at the top of the scale, as in scale.py
// The colour map inferno from 0.3 to 1, as in scale.py.
const COLOURS = (
  "6a176e 751b6e 7f1e6c 8a226a 932667 9d2964 a82e5f b1325a bc3754 c43c4e cc4248 d54a41 dd513a e45a31 ea632a " +
  "ef6c23 f37819 f78212 f98e09 fb9906 fca50a fcb216 fbbe23 f9cb35 f6d746 f3e35a f1ef75 f4f88e fcffa4"
).split(" ");
const TABLE = colourTable();

function colourTable() {
  const stops = COLOURS.map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const table = new Uint8ClampedArray(256 * 4);
  for (let step = 0; step < 256; step++) {
    const place = (step / 255) * (stops.length - 1);
    const first = Math.min(Math.floor(place), stops.length - 2);
    const share = place - first;
    for (let i = 0; i < 3; i++) {
      table[step * 4 + i] = stops[first][i] * (1 - share) + stops[first + 1][i] * share;
    }
    table[step * 4 + 3] = step;
  }
  return table;
}

/** A caption of the data with its maps as numbers, multiples of the even share, and as how strongly each cell glows. */
function decode(caption, cells) {
  const bytes = atob(caption.maps);
  const top = caption.scale[0];
  if (bytes.length !== caption.words.length * cells) {
    throw new Error(`${caption.words.length} words of ${cells} cells, but ${bytes.length} bytes of maps`);
  }
  const maps = caption.words.map((_, word) =>
    Float32Array.from({ length: cells }, (_, cell) => {
      const byte = bytes.charCodeAt(word * cells + cell);
      return byte < EVEN ? byte / EVEN : Math.pow(top, (byte - EVEN) / (255 - EVEN));
    }),
  );
  const glows = maps.map((map) => map.map((value) => Math.log(Math.max(value, 1)) / Math.log(top)));
  const { text, score, finished, words } = caption;
  return { text, score, finished, words, top, maps, glows };
}

/** For each pixel along an axis: the cells whose centres it lies between, and the weights of their values and slopes. */
function between(pixels, length, start, end, cells, smooth) {
  const perCell = (end - start) / cells;
  const lowest = Math.max(0, Math.floor(-start / perCell + 1e-6)); // before it, and beyond the last, is only padding
  const last = Math.min(cells, Math.ceil((length - start) / perCell - 1e-6)) - 1;
  const first = new Uint16Array(pixels);
  const second = new Uint16Array(pixels);
  const weights = new Float32Array(pixels * 4);
  for (let i = 0; i < pixels; i++) {
    const place = (((i + 0.5) * length) / pixels - start) / perCell;
    if (place < 0 || place > cells) continue; // what was cropped away has no map
    const from = Math.max(lowest, Math.min(last, smooth ? place - 0.5 : Math.floor(place)));
    first[i] = Math.floor(from);
    second[i] = Math.min(first[i] + 1, last);
    const share = from - first[i];
    const rest = 1 - share;
    weights.set([(1 + 2 * share) * rest * rest, share * share * (3 - 2 * share)], i * 4);
    weights.set([share * rest * rest, -share * share * rest], i * 4 + 2);
  }
  return { first, second, weights, lowest, last };
}

/** Slopes at the centres of a line of cells between which a cubic neither overshoots nor adds a peak (Fritsch and
    Butland 1984): the harmonic mean of the steps to both sides, and level at peaks, valleys and ends. */
function slopes(values, start, stride, lowest, last, into) {
  for (let i = lowest, at = start + lowest * stride; i <= last; i++, at += stride) {
    const before = i > lowest ? values[at] - values[at - stride] : 0;
    const after = i < last ? values[at + stride] - values[at] : 0;
    into[at] = before * after > 0 ? (2 * before * after) / (before + after) : 0;
  }
}

/** Paint a map over the whole of a canvas, which covers the picture exactly. */
function paint(canvas, glow, data, smooth) {
  const { width, height } = canvas;
  if (!width || !height) return;
  const [rows, columns] = data.grid;
  const [left, upper, right, lower] = data.extent;
  const across = between(width, data.size[0], left, right, columns, smooth);
  const down = between(height, data.size[1], upper, lower, rows, smooth);
  const downSlopes = new Float32Array(glow.length);
  for (let column = 0; column < columns; column++) slopes(glow, column, columns, down.lowest, down.last, downSlopes);
  const line = new Float32Array(columns);
  const lineSlopes = new Float32Array(columns);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = image.data;
  for (let y = 0, at = 0; y < height; y++) {
    const one = down.first[y] * columns;
    const two = down.second[y] * columns;
    const [a, b, c, d] = down.weights.subarray(y * 4, y * 4 + 4);
    for (let i = 0; i < columns; i++) {
      line[i] = glow[one + i] * a + glow[two + i] * b + downSlopes[one + i] * c + downSlopes[two + i] * d;
    }
    slopes(line, 0, 1, across.lowest, across.last, lineSlopes);
    for (let x = 0; x < width; x++, at += 4) {
      const first = across.first[x];
      const second = across.second[x];
      const strength =
        line[first] * across.weights[x * 4] +
        line[second] * across.weights[x * 4 + 1] +
        lineSlopes[first] * across.weights[x * 4 + 2] +
        lineSlopes[second] * across.weights[x * 4 + 3];
      if (strength <= 0) continue;
      const step = Math.min(255, Math.round(strength * 255)) * 4;
      pixels[at] = TABLE[step];
      pixels[at + 1] = TABLE[step + 1];
      pixels[at + 2] = TABLE[step + 2];
      pixels[at + 3] = TABLE[step + 3];
    }
  }
  context.putImageData(image, 0, 0);
}

/** Where a map is strongest: how many times its even share, and in which part of the picture. */
function peak(map, data) {
  const [rows, columns] = data.grid;
  let best = 0;
  for (let cell = 1; cell < map.length; cell++) if (map[cell] > map[best]) best = cell;
  const [left, upper, right, lower] = data.extent;
  const x = (left + (((best % columns) + 0.5) * (right - left)) / columns) / data.size[0];
  const y = (upper + ((Math.floor(best / columns) + 0.5) * (lower - upper)) / rows) / data.size[1];
  const third = (value, names) => names[Math.max(0, Math.min(2, Math.floor(value * 3)))];
  const place = [third(y, ["upper", "", "lower"]), third(x, ["left", "", "right"])].filter(Boolean);
  const words = { upper: "at the top", lower: "at the bottom", left: "at the left", right: "at the right" };
  const where = place.length === 2 ? `at the ${place.join(" ")}` : words[place[0]] || "in the middle";
  return { times: map[best], where };
}
