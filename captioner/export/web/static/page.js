/* The page of an exported folder: pictures go to a worker, and come back as captions in the viewer. The cards are those of
   captioner/show/viewer/pictures.js. */
(function () {
  "use strict";

  const { notice, say, start, Failure } = window.CaptionPictures;
  const find = (id) => document.getElementById(id);
  const cache = `captioner ${new URL("./", location.href).href} ${document.body.dataset.export}`; // as service-worker.js has it
  const asked = new Map(); // by number: what receives the worker's answer
  let broken = null; // why no picture can be captioned
  let isReady = false;

  if (location.protocol === "file:") return; // browsers load neither modules nor graphs from files; the page says so

  const threads = new URLSearchParams(location.search).get("threads") ?? "";
  const worker = new Worker(`worker.js?${new URLSearchParams({ cache, threads })}`, { type: "module" });

  const answers = {
    loading({ loaded, total }) {
      if (broken) return; // other files still come
      const [has, all] = [loaded, total].map((bytes) => (bytes / 1e6).toFixed(1));
      find("loading").textContent = loaded < total ? `Loading the model: ${has} of ${all} MB` : "Starting the model";
      find("loaded").hidden = false;
      find("loaded").value = loaded / total;
    },
    ready({ model, runtime, threads, files }) {
      isReady = true;
      find("loaded").hidden = true;
      const where = runtime === "webgpu" ? "WebGPU" : "WebAssembly";
      find("loading").textContent = `The model '${model}' is ready (${where}).`;
      say(find("loading").textContent);
      Object.assign(document.body.dataset, { runtime, threads });
      keepForUseOffline(files);
    },
    broken(sentence) {
      broken = new Failure("The model does not start", sentence);
      find("loaded").hidden = true;
      find("loading").textContent = `The model does not start: ${sentence}`;
      say(find("loading").textContent);
      for (const answer of asked.values()) answer.fail(broken);
      asked.clear();
    },
  };

  worker.addEventListener("message", ({ data }) => {
    for (const [name, value] of Object.entries(data)) answers[name]?.(value);
    const answer = asked.get(data.id);
    if (!answer) return;
    asked.delete(data.id);
    if (data.failure) answer.fail(new Failure(data.failure.title, data.failure.detail));
    else answer.done(data);
  });
  worker.addEventListener("error", (event) => {
    event.preventDefault();
    answers.broken(event.message || "its files are missing or damaged; export the folder again.");
  });

  let number = 0;
  function caption(file, _, { tell }) {
    if (broken) return Promise.reject(broken);
    tell(isReady ? "Captioning" : "Waiting for the model");
    const began = performance.now();
    return new Promise((done, fail) => {
      asked.set(++number, { done, fail });
      worker.postMessage({ id: number, file });
    }).then(({ viewer, line }) => {
      performance.measure("caption", { start: began }); // for benchmarks/browser.py and the browser's own tools
      return { viewer: { ...viewer, name: file.name }, line };
    });
  }

  const { take } = start({ caption, settings: () => ({}), atATime: 1 });

  find("scene").addEventListener("click", async () => {
    try {
      const answer = await fetch("scene.png");
      if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
      take([new File([await answer.blob()], "drawn scene.png", { type: "image/png" })]);
    } catch (error) {
      notice(`The drawn scene cannot be loaded: ${error.message}`);
    }
  });

  /** After the model has come, so that its files are taken from the cache and not loaded twice. */
  async function keepForUseOffline(files) {
    if (!navigator.serviceWorker) return; // browsers have it on https and on this machine alone
    try {
      await navigator.serviceWorker.register("service-worker.js");
      await navigator.serviceWorker.ready;
      const kept = (await (await caches.open(cache)).keys()).map(({ url }) => url);
      const isWhole = files.every((file) => kept.some((url) => url.endsWith(`/${file}`)));
      if (!isWhole) throw new Error("there is no room for the model's files.");
      find("offline").textContent = "This page also works without a network.";
    } catch (error) {
      say(`The page is not kept for use without a network: ${error.message}`);
    }
  }

  find("loading").textContent = "Loading the model";
})();
