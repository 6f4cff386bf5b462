/* Keeps the folder's files, so that the page works without a network. A new export has another cache. */

const PREFIX = `captioner ${self.registration.scope} `; // one server may have several folders
const CACHE = `${PREFIX}{version}`;
const FILES = {files};
const LARGE = {large}; // of the model and of the runtimes, of which the page needs one
const HEADERS = {
  "Content-Security-Policy": "{policy}",
  "X-Content-Type-Options": "nosniff",
  "Cross-Origin-Opener-Policy": "same-origin", // with the next one, ONNX Runtime may use threads
  "Cross-Origin-Embedder-Policy": "require-corp",
};

self.addEventListener("install", (event) => event.waitUntil(keep()));
self.addEventListener("activate", (event) => event.waitUntil(begin()));
self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || !url.href.startsWith(self.registration.scope)) return;
  event.respondWith(answer(url, event.request));
});

/** The page puts the model's files into the cache as they come. Where the page of an earlier export did, those of this one
    come now: the earlier cache goes once this worker takes over, and there may be no network then. */
async function keep() {
  const cache = await caches.open(CACHE);
  const earlier = new Set();
  for (const name of await ours()) for (const { url } of await (await caches.open(name)).keys()) earlier.add(url);
  for (const name of [...FILES, ...LARGE]) {
    const url = new URL(name, self.registration.scope);
    if (LARGE.includes(name) && !earlier.has(url.href)) continue;
    if (!(await cache.match(url))) await cache.add(new Request(url, { cache: "no-cache" }));
  }
}

const ours = async () => (await caches.keys()).filter((name) => name.startsWith(PREFIX));

async function begin() {
  for (const name of await ours()) if (name !== CACHE) await caches.delete(name);
  await self.clients.claim();
}

async function answer(url, request) {
  const name = url.origin + url.pathname === self.registration.scope ? new URL("index.html", url) : url;
  const cache = await caches.open(CACHE);
  const kept = await cache.match(name, { ignoreSearch: true });
  if (!kept) return fetch(request);
  const headers = new Headers(kept.headers);
  for (const [header, value] of Object.entries(HEADERS)) headers.set(header, value);
  return new Response(kept.body, { status: kept.status, headers });
}
