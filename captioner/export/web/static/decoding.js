/* Beam search for one picture; as captioner/decoding.py, in the same order and the same precision. */

const START = 1;
const END = 2;

/**
 * The captions of an encoded picture, the best first.
 *
 * @param backend has `begin()`, which returns a state with one row, `select(state, rows)`, and
 *   `step(tokens, state)`, which returns {logP, maps, offGrid, state}: (rows, words), (rows, cells) and (rows). With a
 *   reranker it has `consensus(captions)`, which returns the consensus scores of captions in ids.
 * @param options of captioner.options.Beam, by their names there.
 * @returns [{tokens, probabilities, maps, offGrid, score, finished}]; the maps of n words are n + 1, the last one that
 *   of the step after the last word.
 */
export async function beam(backend, options) {
  const { width, max_length: longest, length_penalty: penalty, n_best: wanted, refill } = options;
  const steps = []; // {source, word, logP} of each row, by which a hypothesis is read backwards
  const looked = []; // {maps, offGrid} of each step, by the rows before it
  const done = [];
  let state = backend.begin();
  let last = [START];
  let totals = [0];
  let tokens = [[]];
  const reranks = Boolean(backend.consensus) && options.rerank > 0 && width > 1;
  const earlyStopping = options.early_stopping && !refill && penalty <= 1;
  const finished = () => done.filter((one) => one.finished).length;
  for (let words = 0; words <= longest; words++) {
    const step = await backend.step(last, state);
    state = step.state;
    looked.push({ maps: step.maps, offGrid: step.offGrid });
    const logP = forbid(step.logP, last.length, tokens, words, options);
    const vocabulary = logP.length / last.length;
    const found = best(logP, totals, vocabulary, width * (refill ? 2 : 1));
    if (refill) dropRefilled(found, width, finished());
    let alive = [];
    for (const one of found) {
      if (!Number.isFinite(one.total)) continue;
      if (one.word !== END) alive.push(one);
      else done.push(trace(steps, one.source, one.total / (words + 1) ** penalty, true));
    }
    if (words === longest) {
      cutOff();
      break;
    }
    if (earlyStopping) alive = worthGoingOn(alive, words + 2);
    if (!alive.length) break;
    // What is forbidden raises the others in the search. A word's probability is the model's own.
    steps.push(alive.map(({ source, word }) => ({ source, word, logP: step.logP[source * vocabulary + word] })));
    state = backend.select(state, alive.map(({ source }) => source));
    tokens = alive.map(({ source, word }) => [...tokens[source], word]);
    last = alive.map(({ word }) => word);
    totals = alive.map(({ total }) => total);
  }
  if (!done.length) throw notFinite();
  done.sort((one, other) => Number(other.finished) - Number(one.finished) || other.score - one.score);
  if (reranks) await rerank(backend, options);
  return done.slice(0, wanted).map((one) => hypothesis(one, looked));

  /** Those that would score above the best that have ended if they ended with the next word, of so many in all. */
  function worthGoingOn(alive, length) {
    const kept = reranks ? width : wanted;
    if (done.length < kept) return alive;
    const bar = done.map((one) => one.score).sort((one, other) => other - one)[kept - 1];
    return alive.filter((one) => one.total / length ** penalty > bar);
  }

  /** The captions of the beam by their scores and consensus scores. */
  async function rerank(backend, { rerank: weight }) {
    done.splice(width);
    const consensus = await backend.consensus(done.map((one) => one.tokens));
    if (!consensus.every(Number.isFinite)) throw notFinite();
    done.forEach((one, i) => (one.total = one.score + weight * consensus[i]));
    done.sort((one, other) => Number(other.finished) - Number(one.finished) || other.total - one.total);
  }

  /** Where fewer have ended than are asked for, those that live count as they are. */
  function cutOff() {
    const ended = finished();
    totals.forEach((total, row) => {
      if (ended >= wanted) return;
      const one = trace(steps, row, total / Math.max(1, longest) ** penalty, false);
      if (!done.some((other) => String(other.tokens) === String(one.tokens))) done.push(one);
    });
  }
}

const notFinite = () => new Error("The model's numbers are not finite: its files are damaged.");

/** The likeliest continuations of all rows, the likeliest first: [{total, source, word}]. */
function best(logP, totals, vocabulary, wanted) {
  const found = [];
  for (let place = 0; place < logP.length; place++) {
    const source = Math.floor(place / vocabulary);
    const total = Math.fround(totals[source] + logP[place]);
    if (Number.isNaN(total)) throw notFinite();
    if (found.length === wanted && total <= found[wanted - 1].total) continue;
    let at = found.length;
    while (at > 0 && found[at - 1].total < total) at--;
    found.splice(at, 0, { total, source, word: place % vocabulary });
    if (found.length > wanted) found.pop();
  }
  return found;
}

/** Of the continuations that end, those among the `width` likeliest count; of the others the `width` likeliest live,
    unless `width` have ended. The rest get a total of minus infinity. */
function dropRefilled(found, width, ended) {
  let going = 0;
  found.forEach((one, place) => {
    one.drop = one.word === END ? place >= width : ++going > width;
    if (one.word === END && !one.drop && Number.isFinite(one.total)) ended++;
  });
  for (const one of found) if (one.drop || (one.word !== END && ended >= width)) one.total = -Infinity;
}

/** Log-probabilities (rows, words) with what may not follow at minus infinity, and the rest of their rows summing to
    1 again; where nothing may follow, the end does. */
function forbid(logP, rows, tokens, words, { min_length: shortest, no_repeat_ngram: n }) {
  const vocabulary = logP.length / rows;
  let changed = logP;
  for (let row = 0; row < rows; row++) {
    const banned = words < shortest ? [END] : [];
    if (n && words >= n) {
      const begun = tokens[row].slice(words - n + 1);
      for (let at = 0; at + n <= words; at++) {
        if (begun.every((word, i) => tokens[row][at + i] === word)) banned.push(tokens[row][at + n - 1]);
      }
    }
    if (!banned.length) continue;
    if (changed === logP) changed = logP.slice();
    const own = changed.subarray(row * vocabulary, (row + 1) * vocabulary);
    for (const word of banned) own[word] = -Infinity;
    let highest = -Infinity;
    for (const value of own) if (value > highest) highest = value;
    if (highest === -Infinity) {
      own[END] = 0;
      continue;
    }
    let sum = 0;
    for (const value of own) sum += Math.exp(value - highest);
    const total = Math.log(sum);
    for (let word = 0; word < vocabulary; word++) own[word] = own[word] - highest - total;
  }
  return changed;
}

/** The hypothesis that a row holds, read backwards; `rows` has the row of each step, and of the step after it. */
function trace(steps, row, score, finished) {
  const [tokens, logP, rows] = [[], [], [row]];
  for (let i = steps.length - 1; i >= 0; i--) {
    const step = steps[i][row];
    tokens.unshift(step.word);
    logP.unshift(step.logP);
    row = step.source;
    rows.unshift(row);
  }
  return { tokens, logP, rows, score, finished };
}

function hypothesis({ tokens, logP, rows, score, finished }, looked) {
  const maps = rows.map((row, step) => {
    const cells = looked[step].maps.length / looked[step].offGrid.length;
    return looked[step].maps.slice(row * cells, (row + 1) * cells);
  });
  const offGrid = rows.map((row, step) => looked[step].offGrid[row]);
  return { tokens, probabilities: logP.map((value) => Math.exp(value)), maps, offGrid, score, finished };
}
