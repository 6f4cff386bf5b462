/* A sentence from the words of the tokeniser; as captioner/tokenizer/detokenize.py. */

const CLITICS = new Set(["'s", "'ll", "'re", "'ve", "'d", "'m", "n't"]);
const OPENING = new Map([["-lrb-", "("], ["-lsb-", "["], ["-lcb-", "{"]]);
const CLOSING = new Map([["-rrb-", ")"], ["-rsb-", "]"], ["-rcb-", "}"]]);
const CUT = new Set(["can not", "gon na", "got ta", "wan na", "lem me", "gim me", "'t is", "'t was", "y' all"]);
const NUMBER = /^(?:[0-9][0-9.,:/-]*|\.[0-9]+)$/;
const BEFORE_NUMBER = /^(?:[a-z]*\$|#)$/;

export function detokenize(words) {
  let text = "";
  let before = "";
  for (const word of words) {
    if (text && !joined(before, word)) text += " ";
    text += word.replace(/-[lr][rsc]b-/g, (found) => OPENING.get(found) ?? CLOSING.get(found)).replaceAll("\u00a0", " ");
    before = word;
  }
  return text;
}

/** Whether no space stands between two words. */
function joined(before, word) {
  if (CLITICS.has(word) || CLOSING.has(word) || OPENING.has(before) || CUT.has(`${before} ${word}`)) return true;
  if (word === "%" || word === "°" || before === "°") {
    if (before === "°") return word === "c" || word === "f";
    return NUMBER.test(before);
  }
  return /^[!?]{2,}$/.test(word) || (BEFORE_NUMBER.test(before) && NUMBER.test(word));
}
