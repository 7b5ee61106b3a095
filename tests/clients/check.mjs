// Shared by the tests of the SDKs: a small runner, the addresses of the servers that sdk.py started, and
// what both sides of a test need to know about its scripted answers.
import assert from 'node:assert/strict';

export { assert };
export const url = process.env.FATHOM_URL; // scripted answers (or the mini model), no key
export const keyedUrl = process.env.FATHOM_KEYED_URL; // asks for the key "the-right-key"
export const tinyUrl = process.env.FATHOM_TINY_URL; // one answer at once, one may wait
export const model = 'any/näme'; // echoed byte for byte

export const hello = { prompt: '[hello]', reasoning: 'I know this.', text: 'Hello, wörld 🙂.\n\nBye.' };
export const weather = {
  prompt: '[weather] in Oslo and Rome?',
  reasoning: 'Two cities.',
  text: 'I will look.',
  cities: ['Oslo', 'Rome'],
  result: { Oslo: 'sunny-21', Rome: 'rainy-9' },
  answer: 'Sun in Oslo, rain in Rome.',
};
export const citySchema = {
  type: 'object', properties: { city: { type: 'string' } }, required: ['city'], additionalProperties: false,
};

/** The promise must fail as this class of error; returns the error. */
export async function fails(promise, kind) {
  const e = await promise.then(() => assert.fail(`no ${kind.name}`), (error) => error);
  assert.ok(e instanceof kind, `${e?.constructor?.name} instead of ${kind.name}: ${e?.message}`);
  return e;
}

const tests = [];
export const test = (name, fn) => tests.push([name, fn]);

/** Runs what was registered, one after the other; a failed test makes the process fail. */
export async function run() {
  const only = process.argv.slice(2);
  for (const [name, fn] of tests) {
    if (only.length && !only.includes(name)) continue;
    const start = Date.now();
    try {
      await fn();
      console.log(`ok      ${name}  ${((Date.now() - start) / 1000).toFixed(1)} s`);
    } catch (e) {
      console.log(`FAILED  ${name}`);
      console.log(e?.stack ?? e);
      process.exitCode = 1;
    }
  }
}

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** A counter or gauge of the server; 0 while there is none. labels: {endpoint="chat",code="429"} or ''. */
export async function metric(base, name, labels = '') {
  const text = await (await fetch(`${base}/metrics`)).text();
  const line = text.split('\n').find((l) => l.startsWith(`fathom_${name}${labels} `));
  return line ? Number(line.split(' ').pop()) : 0;
}

/** Waits until a metric has a value. */
export async function settled(base, name, value, labels = '', ms = 5000) {
  const end = Date.now() + ms;
  while ((await metric(base, name, labels)) !== value) {
    assert.ok(Date.now() < end, `${name}${labels} does not become ${value}`);
    await sleep(20);
  }
}

/** Fills the tiny server: one answer runs, one waits. Returns what lets both go. */
export async function busy() {
  const leave = [];
  const each = ['requests_running', 'requests_queued'];
  for (const name of each) {
    const stop = new AbortController();
    const body = JSON.stringify({ model, stream: true, messages: [{ role: 'user', content: `[long] ${name}` }] });
    const r = await fetch(`${tinyUrl}/v1/chat/completions`, { method: 'POST', body, signal: stop.signal });
    assert.equal(r.status, 200);
    leave.push(stop);
    await settled(tinyUrl, name, 1);
  }
  return async () => {
    leave.reverse().forEach((c) => c.abort()); // the one that waits first, so that it never runs
    for (const name of each) await settled(tinyUrl, name, 0);
  };
}

/** ask() with retries must outlive a full queue: it is refused at least once, then answered. */
export async function outlivesFullQueue(endpoint, ask) {
  const labels = `{endpoint="${endpoint}",code="429"}`;
  const before = await metric(tinyUrl, 'requests_total', labels);
  const free = await busy();
  const answer = ask();
  answer.catch(() => {}); // looked at below; a failure while waiting must not end the process
  const end = Date.now() + 5000;
  while ((await metric(tinyUrl, 'requests_total', labels)) === before) {
    assert.ok(Date.now() < end, 'the request was not refused');
    await sleep(20);
  }
  await free();
  return answer;
}

/** stop() must end the running answer of the server (how soon: tests/api/test_serve_sched.py). */
export async function cancelled(stop) {
  await settled(url, 'requests_running', 1);
  const labels = '{phase="decode"}';
  const before = await metric(url, 'request_cancelled_total', labels);
  stop();
  await settled(url, 'request_cancelled_total', before + 1, labels);
  await settled(url, 'requests_running', 0);
}
