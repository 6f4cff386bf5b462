/* The model: its files, loaded with progress and kept for use without a network, and its graphs in ONNX Runtime. */

/** A file of this folder: from the cache of this version where it is, else from the server, which is asked whether the
    browser's own copy is the present one. `progress` receives the bytes that have come, of `size` bytes. */
export async function load(url, cacheName, { progress = () => {}, size = null } = {}) {
  const cache = globalThis.caches ? await caches.open(cacheName).catch(() => null) : null; // none without https
  let response = await cache?.match(url);
  const isKept = Boolean(response);
  response ??= await fetch(url, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${url.pathname}: the server answers ${response.status}.`);
  const parts = [];
  const reader = response.body.getReader();
  for (let next = await reader.read(); !next.done; next = await reader.read()) {
    parts.push(next.value);
    progress(next.value.length);
  }
  const blob = new Blob(parts);
  if (size !== null && blob.size !== size) {
    await cache?.delete(url);
    throw new Error(`${url.pathname}: ${blob.size} bytes, where ${size} are expected. Is the folder whole? Load the page again.`);
  }
  if (cache && !isKept) {
    const headers = { "Content-Type": response.headers.get("Content-Type") ?? "application/octet-stream" };
    await cache.put(url, new Response(blob, { headers })).catch(() => {}); // a full disk costs the use offline alone
  }
  return new Uint8Array(await blob.arrayBuffer());
}

/** ONNX Runtime and the two graphs. */
export class Model {
  /**
   * @param base the folder's URL.
   * @param config of its config.json.
   * @param threads of ONNX Runtime on WebAssembly.
   * @param progress receives (bytes that have come, bytes in all).
   */
  static async open(base, config, cacheName, threads, progress) {
    const isGpu = Boolean(await globalThis.navigator.gpu?.requestAdapter().catch(() => null));
    try {
      return await Model.#open(base, config, cacheName, threads, progress, isGpu ? "webgpu" : "wasm");
    } catch (error) {
      if (!isGpu) throw error;
      return await Model.#open(base, config, cacheName, threads, progress, "wasm"); // a driver that does not do what it promises
    }
  }

  static async #open(base, config, cacheName, threads, progress, runtime) {
    const files = config.web.runtimes[runtime];
    const wanted = [files.wasm, "encode.onnx", "step.onnx"];
    if ("rerank.onnx" in config.web.bytes) wanted.push("rerank.onnx");
    const total = wanted.reduce((sum, name) => sum + config.web.bytes[name], 0);
    let come = 0;
    const [wasmBinary, encode, step, rerank] = await Promise.all(
      wanted.map((name) => {
        const size = config.web.bytes[name];
        return load(new URL(name, base), cacheName, { size, progress: (bytes) => progress((come += bytes), total) });
      }),
    );
    const ort = await import(new URL(files.script, base).href);
    ort.env.wasm.wasmPaths = { mjs: new URL(files.module, base).href };
    ort.env.wasm.wasmBinary = wasmBinary.buffer;
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "error";
    // A step is so small that a GPU only adds the way to it and back.
    const sessions = {
      encode: await ort.InferenceSession.create(encode, { executionProviders: [runtime] }),
      step: await ort.InferenceSession.create(step, { executionProviders: ["wasm"] }),
      rerank: rerank && (await ort.InferenceSession.create(rerank, { executionProviders: ["wasm"] })),
    };
    return new Model(ort, sessions, config, { runtime, threads, files: wanted });
  }

  constructor(ort, sessions, config, { runtime, threads, files }) {
    Object.assign(this, { ort, sessions, config, runtime, threads, files });
    this.names = config.state.map((leaf) => leaf.name);
  }

  /** A picture as a backend of decoding.js. `pixels` are (side, side, 3) bytes, `mask` a byte for each cell. */
  async encode(pixels, mask) {
    const { Tensor } = this.ort;
    const { side } = this.config.preprocessing;
    const [rows, columns] = this.config.grid;
    const feed = { pixels: new Tensor("uint8", pixels, [1, side, side, 3]) };
    if (this.config.preprocessing.pad) feed.mask = new Tensor("bool", mask, [1, rows, columns]);
    const first = await this.sessions.encode.run(feed);
    const encoded = new Encoded(this, this.names.map((name) => first[name]));
    if (this.sessions.rerank) encoded.consensus = (captions) => this.#consensus(captions, first.pooled);
    return encoded;
  }

  /** The consensus scores of captions of one picture, of which a reranker reads the mean of the encoder's grid. */
  async #consensus(captions, pooled) {
    const { Tensor } = this.ort;
    const longest = Math.max(1, ...captions.map((tokens) => tokens.length));
    const tokens = new BigInt64Array(captions.length * longest); // padded with 0
    captions.forEach((caption, row) => tokens.set(BigInt64Array.from(caption, BigInt), row * longest));
    const feed = {
      tokens: new Tensor("int64", tokens, [1, captions.length, longest]),
      pooled,
    };
    return (await this.sessions.rerank.run(feed)).consensus.data;
  }
}

/** A picture that was encoded. A state is the tensors of the decoder, (rows, ...) where a tensor has rows. */
class Encoded {
  constructor(model, tensors) {
    Object.assign(this, { model, tensors });
  }

  begin() {
    return this.tensors;
  }

  select(state, rows) {
    return state.map((tensor, i) => {
      if (this.model.config.state[i].axis !== "row") return tensor;
      const size = tensor.data.length / tensor.dims[0];
      const data = new tensor.data.constructor(rows.length * size);
      rows.forEach((row, to) => data.set(tensor.data.subarray(row * size, (row + 1) * size), to * size));
      return new this.model.ort.Tensor(tensor.type, data, [rows.length, ...tensor.dims.slice(1)]);
    });
  }

  async step(tokens, state) {
    const { ort, sessions, config, names } = this.model;
    const feed = { tokens: new ort.Tensor("int64", BigInt64Array.from(tokens, BigInt), [1, tokens.length]) };
    state.forEach((tensor, i) => {
      const hasRows = config.state[i].axis === "row";
      feed[names[i]] = hasRows ? new ort.Tensor(tensor.type, tensor.data, [1, ...tensor.dims]) : tensor;
    });
    const taken = sessions.step.inputNames;
    for (const name of Object.keys(feed)) if (!taken.includes(name)) delete feed[name]; // no step reads it
    const wanted = ["log_p", "map", "off_grid", ...sessions.step.outputNames.filter((name) => name.startsWith("next_"))];
    const found = await sessions.step.run(feed, wanted);
    return {
      logP: found.log_p.data,
      maps: found.map.data,
      offGrid: found.off_grid.data,
      state: state.map((tensor, i) => found[`next_${names[i]}`] ?? tensor),
    };
  }
}
