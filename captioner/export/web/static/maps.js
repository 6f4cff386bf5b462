/* Maps of a caption: what becomes of sinks and delay (captioner/explain/postprocess.py), and the bytes that the viewer
   takes (captioner.show.page.quantise). */

const EVEN = 64; // the byte of a cell that gets its even share
const FAINTEST_TOP = 3;

/**
 * The maps of n words from those of n + 1 steps.
 *
 * @param steps Float32Array of the cells, of each step.
 * @param offGrid the weight off the grid at each step.
 * @param mask 1 for each cell that holds picture.
 * @param options {sinks, delay} of captioner.options.MapOptions.
 * @returns {maps, offGrid}: each map sums to 1 with its weight off the grid.
 */
export function postprocess(steps, offGrid, mask, { sinks, delay }) {
  const words = steps.length - 1;
  const cells = mask.length;
  if (sinks === "keep" && !delay) return { maps: steps.slice(0, words), offGrid: offGrid.slice(0, words) };
  const mean = new Float64Array(cells);
  const deviation = new Float64Array(cells);
  for (const map of steps) map.forEach((value, cell) => (mean[cell] += value / steps.length));
  for (const map of steps) map.forEach((value, cell) => (deviation[cell] += (value - mean[cell]) ** 2 / steps.length));
  deviation.forEach((value, cell) => (deviation[cell] = Math.sqrt(value)));
  const valid = mask.reduce((sum, one) => sum + one, 0);
  const typical = deviation.reduce((sum, value, cell) => sum + value * mask[cell], 0) / valid;
  const chosen = steps.slice(delay, words + delay);
  const off = offGrid.slice(delay, words + delay).map((value) => Math.max(0, Math.min(1, value)));
  const maps = chosen.map((map, word) => {
    const values = Float64Array.from(map, (value, cell) => {
      if (!mask[cell]) return 0;
      const above = sinks === "keep" ? value : value - mean[cell];
      return Math.max(0, sinks === "standardise" ? above / (deviation[cell] + 0.1 * typical + 1e-12) : above);
    });
    const total = values.reduce((sum, value) => sum + value, 0);
    return Float32Array.from(values, (value, cell) => {
      const share = total > 1e-12 ? value / total : mask[cell] / valid;
      return share * (1 - off[word]);
    });
  });
  return { maps, offGrid: off };
}

/** The maps of a caption as a byte for each cell, in base64, and the end of the caption's scale. */
export function quantise(maps, mask) {
  const valid = mask.reduce((sum, one) => sum + one, 0);
  let top = FAINTEST_TOP;
  for (const map of maps) for (const value of map) top = Math.max(top, value * valid);
  let bytes = "";
  for (const map of maps) {
    for (const share of map) {
      const value = share * valid;
      const step = value < 1 ? value * EVEN : EVEN + (Math.log(value) / Math.log(top)) * (255 - EVEN);
      bytes += String.fromCharCode(Math.max(0, Math.min(255, Math.round(step))));
    }
  }
  return { maps: btoa(bytes), top };
}
