/* The server's page: pictures go to /v1/captions one by one, and come back as captions in the viewer.

   The cards are those of captioner/show/viewer/pictures.js. Picture and caption stay in this page alone: to download one
   as page or figure, its picture is sent once more. */
(function () {
  "use strict";

  const AT_A_TIME = 2; // requests
  const MOST_TRIES = 6; // when the queue is full
  const { notice, Failure } = window.CaptionPictures;
  const find = (id) => document.getElementById(id);
  const limits = { max_upload: Infinity };
  let known = false; // the models and their settings
  let started = null; // settled then

  const sleep = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

  function failureOf(request) {
    let problem = {};
    try {
      problem = JSON.parse(request.responseText);
    } catch {
      // no problem object: the status is all there is
    }
    const wait = Number.parseInt(request.getResponseHeader("Retry-After"), 10);
    return new Failure(problem.title || `Error ${request.status}`, problem.detail || "The server did not say why.", {
      again: request.status >= 500 || request.status === 408,
      wait: request.status === 503 && wait >= 0 ? wait : null,
    });
  }

  /** Send a picture; returns the answer as text or blob. `signal` stops it, `progress` receives the share sent so far. */
  function send(file, fields, { to = "captions", type = "text", signal, progress = () => {} } = {}) {
    return new Promise((done, fail) => {
      const form = new FormData();
      for (const [name, value] of Object.entries(fields)) form.append(name, value);
      form.append("file", file, file.name);
      const request = new XMLHttpRequest(); // fetch does not report the progress of an upload
      request.open("POST", `/v1/${to}`);
      if (type === "blob") request.responseType = "arraybuffer";
      request.upload.addEventListener("progress", (event) => progress(event.loaded / event.total));
      request.upload.addEventListener("load", () => progress(1));
      request.addEventListener("load", async () => {
        if (request.status === 200) {
          const kind = request.getResponseHeader("Content-Type");
          done(type === "blob" ? new Blob([request.response], { type: kind }) : request.responseText);
        } else if (type === "blob") {
          const responseText = new TextDecoder().decode(request.response);
          const { status } = request;
          fail(failureOf({ responseText, status, getResponseHeader: (name) => request.getResponseHeader(name) }));
        } else {
          fail(failureOf(request));
        }
      });
      request.addEventListener("error", () =>
        fail(new Failure("Not sent", "The server does not answer, or the file cannot be read.", { again: true })),
      );
      request.addEventListener("abort", () => fail(new DOMException("stopped", "AbortError")));
      const stop = () => request.abort();
      signal?.addEventListener("abort", stop);
      request.addEventListener("loadend", () => signal?.removeEventListener("abort", stop)); // a card lives long
      request.send(form);
    });
  }

  /** As `send`, but waits and tries again while the server's queue is full. */
  async function sendPatiently(file, fields, { waiting = () => {}, ...options } = {}) {
    for (let tries = 1; ; tries++) {
      try {
        return await send(file, fields, options);
      } catch (failure) {
        if (!(failure instanceof Failure) || failure.wait === null || tries === MOST_TRIES) throw failure;
        waiting();
        await sleep(failure.wait + Math.random());
        if (options.signal?.aborted) throw new DOMException("stopped", "AbortError");
      }
    }
  }

  function settings() {
    const beam = Number(find("beam").value);
    const fields = { beam: String(beam), n_best: String(Math.min(beam, Number(find("n-best").value))) };
    if (find("model").value) fields.model = find("model").value;
    return fields;
  }

  const found = (text) => {
    const { viewer, ...line } = JSON.parse(text).captions[0];
    return { viewer, line };
  };

  /** A caption that was edited, as the model reads it. */
  const read = async (file, fields, text, { signal }) =>
    found(await sendPatiently(file, { ...fields, text, viewer: "true" }, { signal }));

  async function caption(file, fields, { signal, tell }) {
    if (!known) {
      // The picture was faster than the list of models, whose default is the width of the beam.
      await started;
      if (signal.aborted) throw new DOMException("stopped", "AbortError");
      Object.assign(fields, settings());
    }
    const size = file.size;
    if (size > limits.max_upload) {
      const [has, may] = [size, limits.max_upload].map((bytes) => Math.ceil(bytes / 1e5) / 10);
      throw new Failure("Too large", `This file has ${has} MB, and the server takes ${may} MB.`);
    }
    const text = await sendPatiently(file, { ...fields, viewer: "true" }, {
      signal,
      progress: (share) =>
        share < 1 ? tell(`Sending, ${Math.round(100 * share)} %`, share) : tell("Captioning"),
      waiting: () => tell("The server is busy: waiting for a place"),
    });
    return found(text);
  }

  async function ask(file, question, { signal }) {
    const text = await sendPatiently(file, { question, n_best: "5", viewer: "true" }, { to: "answers", signal });
    return JSON.parse(text).answers[0].viewer;
  }

  const download = (file, fields, format, { signal }) =>
    sendPatiently(file, { ...fields, format }, { type: "blob", signal });

  const parts = { caption, ask, download, read, settings, atATime: AT_A_TIME };
  const { take, askAgain } = window.CaptionPictures.start(parts);

  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", async () => {
      const number = Number(button.dataset.example);
      try {
        const answer = await fetch(`/examples/${number}.png`);
        if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
        take([new File([await answer.blob()], `example ${number + 1}.png`, { type: "image/png" })]);
      } catch (error) {
        notice(`The example cannot be loaded: ${error.message}`);
      }
    });
  }

  // Settings.

  let changed = null;
  function change() {
    find("beam-value").textContent = find("beam").value;
    clearTimeout(changed);
    changed = setTimeout(askAgain, 350);
  }
  find("settings").addEventListener("input", change);
  find("settings").addEventListener("submit", (event) => event.preventDefault());
  find("model").addEventListener("change", () => {
    const width = find("model").selectedOptions[0].dataset.beam;
    if (width) find("beam").value = width; // the model's own default
    find("beam-value").textContent = find("beam").value;
  });

  async function start() {
    const answer = await fetch("/v1/models");
    const { models, limits: found, version } = await answer.json();
    Object.assign(limits, found);
    for (const { name, decoding } of models) {
      const option = new Option(name, name);
      if (decoding?.width) option.dataset.beam = Math.min(10, decoding.width);
      find("model").append(option);
    }
    const width = find("model").selectedOptions[0]?.dataset.beam;
    if (width) find("beam").value = find("beam-value").textContent = width;
    for (const id of ["model", "beam", "n-best"]) find(id).disabled = false;
    known = true;
    find("limits").textContent += ` Up to ${limits.max_upload / 1e6} MB each.`;
    find("version").textContent = `captioner ${version}`;
  }

  started = start().catch(() => notice("The server does not answer: is it still running?"));
})();
