/* Keeps the folder's files, so that the page works without a network. A new export has another cache. */

const PREFIX = `captioner ${self.registration.scope} `; // one server may have several folders
const CACHE = `${PREFIX}{version}`;
const FILES = {files};
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

/** The model's files are there already: the page has put them into the cache as they came. */
async function keep() {
  const cache = await caches.open(CACHE);
  for (const name of FILES) {
    const url = new URL(name, self.registration.scope);
    if (!(await cache.match(url))) await cache.add(new Request(url, { cache: "no-cache" }));
  }
}

async function begin() {
  for (const name of await caches.keys()) if (name.startsWith(PREFIX) && name !== CACHE) await caches.delete(name);
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
