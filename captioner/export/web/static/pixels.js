/* From a picture's file to the model's input, as Pillow computes it; see captioner/image.py.

   A resize is Pillow's: bicubic (a = -0.5) over a support that grows with the scale, in two passes, with weights of 22
   bits and bytes between the passes. Large pictures are averaged in boxes before it. */

export const MAX_PIXELS = 100_000_000; // as in captioner/image.py
const SHARP = 640; // as in captioner/prepared.py
const GAP = 3; // Pillow's reducing_gap
const BITS = 22;
const TILE = 2048; // pixels a side that a canvas hands over at once

/** What is wrong with a picture: a title, and a sentence for the user. */
export class PictureError extends Error {
  constructor(title, detail) {
    super(detail);
    this.title = title;
  }
}

/** An upright picture {width, height, data} with 3 bytes a pixel; `isJpeg` says that its file is a JPEG. */
export async function open(blob) {
  if (!blob.size) throw new PictureError("Not a picture", "The file is empty.");
  const start = new Uint8Array(await blob.slice(0, 3).arrayBuffer());
  const isJpeg = start[0] === 0xff && start[1] === 0xd8 && start[2] === 0xff;
  let bitmap;
  try {
    const options = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
    bitmap = await createImageBitmap(blob, options);
  } catch {
    const formats = "JPEG, PNG, WebP, GIF, BMP or AVIF";
    throw new PictureError("Not a picture", `The file is damaged, or not a picture that this browser opens (${formats}).`);
  }
  const { width, height } = bitmap;
  try {
    if (width * height > MAX_PIXELS) {
      const limit = MAX_PIXELS.toLocaleString("en");
      throw new PictureError("Too many pixels", `${width} x ${height} pixels are more than the ${limit} that are taken.`);
    }
    return { width, height, data: readPixels(bitmap), isJpeg };
  } finally {
    bitmap.close();
  }
}

/** The pixels of a bitmap, transparency laid on white: (height, width, 3) bytes. */
function readPixels(bitmap) {
  const { width, height } = bitmap;
  const data = new Uint8Array(width * height * 3);
  const canvas = new OffscreenCanvas(Math.min(width, TILE), Math.min(height, TILE));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (let top = 0; top < height; top += TILE) {
    for (let left = 0; left < width; left += TILE) {
      const [across, down] = [Math.min(TILE, width - left), Math.min(TILE, height - top)];
      context.fillStyle = "white";
      context.fillRect(0, 0, across, down);
      context.drawImage(bitmap, -left, -top);
      const pixels = context.getImageData(0, 0, across, down).data;
      for (let y = 0, from = 0; y < down; y++) {
        let to = ((top + y) * width + left) * 3;
        for (let x = 0; x < across; x++, from += 4) {
          data[to++] = pixels[from];
          data[to++] = pixels[from + 1];
          data[to++] = pixels[from + 2];
        }
      }
    }
  }
  return data;
}

/** The model's input (side, side, 3): the picture squashed, or padded with mid-gray to the right and below. */
export function fit(picture, geometry) {
  const { side } = geometry;
  const [width, height] = geometry.content;
  let image = picture;
  if (picture.isJpeg) {
    // Python decodes a large JPEG at 1/2, 1/4 or 1/8 of its size; averages of boxes are close to that.
    const needed = Math.max(GAP * side, SHARP);
    const scale = Math.min(Math.floor(image.width / needed), Math.floor(image.height / needed));
    const factor = [8, 4, 2].find((each) => scale >= each) ?? 1;
    image = reduce(image, factor, factor);
  }
  const [across, down] = [image.width / width, image.height / height].map((s) => Math.max(1, Math.floor(s / GAP)));
  const small = reduce(image, across, down);
  const fitted = resize(small, width, height, image.width / across, image.height / down);
  if (width === side && height === side) return fitted;
  const padded = new Uint8Array(side * side * 3).fill(128);
  for (let y = 0; y < height; y++) padded.set(fitted.subarray(y * width * 3, (y + 1) * width * 3), y * side * 3);
  return padded;
}

/** Averages of boxes of so many pixels, rounded; what is left over at the right and below makes smaller boxes. */
export function reduce(image, across, down) {
  if (across === 1 && down === 1) return image;
  const [width, height] = [Math.ceil(image.width / across), Math.ceil(image.height / down)];
  const data = new Uint8Array(width * height * 3);
  const sums = new Uint32Array(width * 3);
  for (let y = 0; y < height; y++) {
    sums.fill(0);
    const [top, bottom] = [y * down, Math.min((y + 1) * down, image.height)];
    for (let row = top; row < bottom; row++) {
      let from = row * image.width * 3;
      for (let x = 0; x < width; x++) {
        const end = Math.min((x + 1) * across, image.width);
        for (let column = x * across; column < end; column++) {
          sums[x * 3] += image.data[from++];
          sums[x * 3 + 1] += image.data[from++];
          sums[x * 3 + 2] += image.data[from++];
        }
      }
    }
    for (let x = 0; x < width; x++) {
      const count = (bottom - top) * (Math.min((x + 1) * across, image.width) - x * across);
      // Pillow multiplies by this instead of dividing, and so rounds down where a sum divides evenly.
      const inverse = Math.trunc(Math.fround(2 ** 32 / (256 * count)));
      for (let i = x * 3; i < x * 3 + 3; i++) {
        data[y * width * 3 + i] = Math.floor(((sums[i] + (count >> 1)) * inverse) / 2 ** 24);
      }
    }
  }
  return { width, height, data };
}

/** Resize to (height, width, 3). `boxWidth` and `boxHeight` are how much of the image is used, in its pixels. */
export function resize(image, width, height, boxWidth = image.width, boxHeight = image.height) {
  const across = coefficients(image.width, boxWidth, width);
  const down = coefficients(image.height, boxHeight, height);
  // The order of Pillow 13, which matters because bytes lie between the passes; earlier versions go across first.
  const isDownFirst = image.height > height && image.height - height > 2 * (image.width - width);
  const fitted = isDownFirst
    ? resizeAcross(resizeDown(image, height, down), width, across)
    : resizeDown(resizeAcross(image, width, across), height, down);
  return new Uint8Array(fitted.data.buffer);
}

function resizeAcross(image, width, across) {
  const data = new Uint8ClampedArray(image.height * width * 3);
  for (let y = 0, to = 0; y < image.height; y++) {
    const row = y * image.width * 3;
    for (let x = 0; x < width; x++, to += 3) pass(image.data, row + across.first[x] * 3, 3, across, x, data, to);
  }
  return { width, height: image.height, data };
}

function resizeDown(image, height, down) {
  const { width } = image;
  const data = new Uint8ClampedArray(height * width * 3);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 3) {
      pass(image.data, (down.first[y] * width + x) * 3, width * 3, down, y, data, to);
    }
  }
  return { width, height, data };
}

/** One pixel of a pass: a weighted sum of pixels that lie `stride` apart, rounded; the target clamps it to a byte. */
function pass(source, start, stride, { counts, weights, size }, place, target, to) {
  let [red, green, blue] = [1 << (BITS - 1), 1 << (BITS - 1), 1 << (BITS - 1)];
  const base = place * size;
  for (let i = 0, at = start; i < counts[place]; i++, at += stride) {
    const weight = weights[base + i];
    red += source[at] * weight;
    green += source[at + 1] * weight;
    blue += source[at + 2] * weight;
  }
  target[to] = red >> BITS;
  target[to + 1] = green >> BITS;
  target[to + 2] = blue >> BITS;
}

/** For each output pixel along an axis: the first input pixel, how many, and their weights in units of 2 ** -22. */
function coefficients(length, used, outputs) {
  const scale = Math.fround(used) / outputs;
  const stretch = Math.max(scale, 1);
  const support = 2 * stretch;
  const size = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(outputs);
  const counts = new Int32Array(outputs);
  const weights = new Int32Array(outputs * size);
  for (let i = 0; i < outputs; i++) {
    const centre = (i + 0.5) * scale;
    first[i] = Math.max(0, Math.trunc(centre - support + 0.5));
    counts[i] = Math.min(length, Math.trunc(centre + support + 0.5)) - first[i];
    const raw = Array.from({ length: counts[i] }, (_, k) => bicubic((k + first[i] - centre + 0.5) / stretch));
    const total = raw.reduce((sum, weight) => sum + weight, 0);
    raw.forEach((weight, k) => {
      const fixed = (weight / total) * (1 << BITS);
      weights[i * size + k] = Math.trunc(fixed < 0 ? fixed - 0.5 : fixed + 0.5);
    });
  }
  return { first, counts, weights, size };
}

function bicubic(distance) {
  const x = Math.abs(distance);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}
