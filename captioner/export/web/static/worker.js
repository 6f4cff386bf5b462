/* Captions pictures beside the page, so that the page never waits.

   From the page: {id, file}. To the page: {loading: {loaded, total}}, {ready: {model, runtime, threads, files}}, {broken: sentence}, and for
   each picture {id, viewer, line}, or {id, failure: {title, detail}}. */

import { beam } from "./decoding.js";
import { geometryOf } from "./geometry.js";
import { postprocess, quantise } from "./maps.js";
import { load, Model } from "./model.js";
import { fit, open, PictureError } from "./pixels.js";
import { detokenize } from "./sentences.js";

const BASE = new URL("./", self.location.href);
const ASKED = new URL(self.location.href).searchParams;
const CACHE = ASKED.get("cache");

async function start() {
  const config = JSON.parse(new TextDecoder().decode(await load(new URL("config.json", BASE), CACHE)));
  let shown = 0;
  const model = await Model.open(BASE, config, CACHE, threadsOf(ASKED.get("threads")), (loaded, total) => {
    if (performance.now() - shown < 50 && loaded < total) return;
    shown = performance.now();
    postMessage({ loading: { loaded, total } });
  });
  const { side } = config.preprocessing; // the first run is slower than those that follow
  await caption(model, { width: side, height: side, data: new Uint8Array(side * side * 3).fill(128) });
  postMessage({ ready: { model: config.name, runtime: model.runtime, threads: model.threads, files: model.files } });
  return model;
}

/** Threads of ONNX Runtime. They share memory, which browsers allow only to pages that headers isolate. One on a core that
    other work uses keeps all waiting: where no number is asked for, half of the cores, and at most four. */
function threadsOf(asked) {
  if (!self.crossOriginIsolated) return 1;
  const cores = navigator.hardwareConcurrency || 1;
  const wanted = /^[1-9]\d?$/.test(asked) ? Number(asked) : Math.min(4, Math.floor(cores / 2));
  return Math.max(1, Math.min(cores, wanted));
}

async function caption(model, picture) {
  const { config } = model;
  const { side, pad } = config.preprocessing;
  const geometry = geometryOf([picture.width, picture.height], { side, pad, grid: config.grid });
  const encoded = await model.encode(fit(picture, geometry), geometry.mask);
  const found = await beam(encoded, config.decoding);
  const readings = found.map((one) => {
    const words = one.tokens.map((token) => config.vocabulary[token]);
    return { ...one, ...postprocess(one.maps, one.offGrid, geometry.mask, config.web.maps), words, text: detokenize(words) };
  });
  return { geometry, readings };
}

const digits = (value, count) => Number(value.toFixed(count));

/** What the viewer shows, as captioner.show.page.payload makes it; the page adds the picture. */
function payload({ geometry, readings }, config) {
  const captions = readings.map((one) => {
    const { maps, top } = quantise(one.maps, geometry.mask);
    const words = one.words.map((word, i) => {
      const off = digits(one.offGrid[i], 4);
      return { word: detokenize([word]), probability: digits(one.probabilities[i], 4), ...(off > 0 && { off_grid: off }) };
    });
    return { text: one.text, score: digits(one.score, 4), finished: one.finished, words, maps, scale: [digits(top, 6)] };
  });
  const { size, extent, grid } = geometry;
  return { size, extent, grid, model: config.name, explain: "attention", captions };
}

/** A line of the command's JSON, as captioner.results.Caption.as_dict makes it. */
function line({ geometry, readings }, config, image) {
  const columns = config.grid[1];
  const plain = (one) => ({
    caption: one.text,
    score: digits(one.score, 6),
    finished: one.finished,
    words: one.words.map((word, i) => ({
      word,
      probability: digits(one.probabilities[i], 6),
      ...(one.offGrid[i] && { off_grid: digits(one.offGrid[i], 6) }),
      map: Array.from({ length: config.grid[0] }, (_, row) =>
        Array.from(one.maps[i].subarray(row * columns, (row + 1) * columns), (value) => Number(value.toPrecision(5))),
      ),
    })),
  });
  const { words, ...first } = plain(readings[0]);
  const about = { model: config.name, explain: "attention", grid: config.grid, size: geometry.size };
  return { image, ...first, ...about, words, alternatives: readings.slice(1).map(plain) };
}

const ready = start();
ready.catch((error) => postMessage({ broken: String(error?.message ?? error) }));

let before = Promise.resolve(); // one picture after the other
self.addEventListener("message", ({ data: { id, file } }) => {
  before = before.then(async () => {
    try {
      const model = await ready;
      const found = await caption(model, await open(file));
      postMessage({ id, viewer: payload(found, model.config), line: line(found, model.config, file.name) });
    } catch (error) {
      const title = error instanceof PictureError ? error.title : "Not captioned";
      postMessage({ id, failure: { title, detail: String(error?.message ?? error) } });
    }
  });
});
