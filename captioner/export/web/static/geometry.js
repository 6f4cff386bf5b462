/* Where the cells of the grid lie on the picture; as captioner.image.Geometry. */

/** @param size [width, height] of the upright picture, @param side of the square input, @param grid [rows, columns]. */
export function geometryOf(size, { side, grid, pad }) {
  const [width, height] = size;
  const factor = side / Math.max(width, height);
  const content = pad ? [width, height].map((length) => Math.max(1, roundHalfEven(length * factor))) : [side, side];
  const [rows, columns] = grid;
  const mask = new Uint8Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const holds = row * side < rows * content[1] && column * side < columns * content[0];
      mask[row * columns + column] = Number(holds);
    }
  }
  const extent = [0, 0, (width * side) / content[0], (height * side) / content[1]];
  return { size, side, grid, pad, content, mask, extent };
}

/** As Python's round. */
function roundHalfEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}
