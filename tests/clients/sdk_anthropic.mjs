// The official @anthropic-ai/sdk: messages, streams, tools, counting, errors, retries, abort.
import Anthropic from '@anthropic-ai/sdk';
import { assert, fails, busy, cancelled, citySchema, hello, keyedUrl, model, outlivesFullQueue, run, test, tinyUrl, url, weather } from './check.mjs';

const make = (base, more = {}) => new Anthropic({ baseURL: base, apiKey: 'any', maxRetries: 0, ...more });
const ai = make(url);
const ask = (content, more = {}) => ({ model, max_tokens: 4000, messages: [{ role: 'user', content }], ...more });
const tools = [{ name: 'get_weather', description: 'The weather of a city.', input_schema: citySchema }];
const promptTokens = (u) => u.input_tokens + u.cache_read_input_tokens + u.cache_creation_input_tokens;

test('models', async () => {
  const all = (await ai.models.list()).data;
  assert.equal(all.length, 1);
  const one = await ai.models.retrieve(all[0].id);
  assert.equal(one.type, 'model');
  assert.ok(one.display_name && !Number.isNaN(Date.parse(one.created_at)));
});

test('message', async () => {
  const m = await ai.messages.create(ask(hello.prompt));
  assert.equal(m.model, model);
  assert.deepEqual(m.content.map((b) => b.type), ['thinking', 'text']);
  assert.equal(m.content[0].thinking, hello.reasoning);
  assert.ok(m.content[0].signature);
  assert.equal(m.content[1].text, hello.text);
  assert.equal(m.stop_reason, 'end_turn');
  assert.equal(promptTokens(m.usage), (await ai.messages.countTokens({ model, messages: ask(hello.prompt).messages })).input_tokens);
});

test('thinking off', async () => {
  const m = await ai.messages.create(ask('[plain]', { thinking: { type: 'disabled' } }));
  assert.deepEqual(m.content, [{ type: 'text', text: 'No thoughts.' }]);
});

test('raw stream', async () => {
  let text = '', reasoning = '', signature = '', stop = null;
  for await (const e of await ai.messages.create(ask(hello.prompt, { stream: true, thinking: { type: 'enabled', budget_tokens: 2000 } }))) {
    if (e.type === 'message_delta') stop = e.delta.stop_reason;
    if (e.type !== 'content_block_delta') continue;
    text += e.delta.text ?? '';
    reasoning += e.delta.thinking ?? '';
    signature += e.delta.signature ?? '';
  }
  assert.equal(text, hello.text);
  assert.equal(reasoning, hello.reasoning);
  assert.ok(signature);
  assert.equal(stop, 'end_turn');
});

test('stream helper with tools, and the results sent back', async () => {
  const first = ask(weather.prompt, { tools });
  const stream = ai.messages.stream(first);
  let text = '', reasoning = '';
  stream.on('text', (delta) => (text += delta));
  stream.on('thinking', (delta) => (reasoning += delta));
  const m = await stream.finalMessage();
  assert.equal(text, weather.text);
  assert.equal(reasoning, weather.reasoning);
  assert.equal(m.stop_reason, 'tool_use');
  const calls = m.content.filter((b) => b.type === 'tool_use');
  assert.deepEqual(calls.map((c) => [c.name, c.input.city]), weather.cities.map((c) => ['get_weather', c]));
  const results = calls.map((c) => ({ type: 'tool_result', tool_use_id: c.id, content: weather.result[c.input.city] }));
  const second = await ai.messages.create({ ...first, messages: [
    ...first.messages, { role: 'assistant', content: m.content }, { role: 'user', content: results }] });
  assert.equal(second.content.at(-1).text, weather.answer);
  const left = promptTokens(m.usage) + m.usage.output_tokens;
  assert.ok(second.usage.cache_read_input_tokens >= left - 1, `${second.usage.cache_read_input_tokens} of ${left} cached`);
});

// It begins with a thread that the server would have to store; refused, it sends the whole history.
for (const stream of [false, true]) {
  test(`tool runner, ${stream ? 'streamed' : 'whole'}`, async () => {
    const asked = [];
    const runner = ai.beta.messages.toolRunner(ask(weather.prompt, { stream, tools: [{
      ...tools[0], parse: (input) => input, run: ({ city }) => (asked.push(city), weather.result[city]),
    }] }));
    const last = await runner;
    assert.equal((stream ? await runner.done() : last).content.at(-1).text, weather.answer);
    assert.deepEqual(asked, weather.cities);
    const roles = runner.params.messages.map((m) => m.role);
    assert.deepEqual(roles, ['user', 'assistant', 'user', 'assistant']);
  });
}

test('stop sequence', async () => {
  const m = await ai.messages.create(ask(hello.prompt, { stop_sequences: ['wörld'] }));
  assert.deepEqual([m.stop_reason, m.stop_sequence, m.content.at(-1).text], ['stop_sequence', 'wörld', 'Hello, ']);
});

test('refused requests', async () => {
  let e = await fails(ai.messages.create(ask('x', { temperature: 7 })), Anthropic.BadRequestError);
  assert.equal(e.error.error.type, 'invalid_request_error');
  assert.match(e.message, /temperature/);
  e = await fails(ai.messages.create(ask('long '.repeat(20000))), Anthropic.BadRequestError);
  assert.match(e.message, /prompt is too long: \d+ tokens > \d+ maximum/);
  e = await fails(make(keyedUrl, { apiKey: 'wrong' }).messages.create(ask('x')), Anthropic.AuthenticationError);
  assert.equal(e.error.error.type, 'authentication_error');
  assert.ok(e.requestID);
  assert.ok((await make(keyedUrl, { apiKey: 'the-right-key' }).messages.create(ask('x'))).content.length);
  assert.ok((await make(keyedUrl, { apiKey: null, authToken: 'the-right-key' }).messages.create(ask('x'))).content.length);
});

test('a full queue: 429, and retries that outlive it', async () => {
  const free = await busy();
  const e = await fails(make(tinyUrl).messages.create(ask('x')), Anthropic.RateLimitError);
  assert.equal(e.error.error.type, 'rate_limit_error');
  await free();
  const patient = make(tinyUrl, { maxRetries: 5 });
  const m = await outlivesFullQueue('messages', () => patient.messages.create(ask(hello.prompt)));
  assert.equal(m.content.at(-1).text, hello.text);
});

test('a fault in the middle of a stream', async () => {
  const e = await fails(ai.messages.stream(ask('[fault]')).finalMessage(), Anthropic.APIError);
  assert.match(JSON.stringify(e.error ?? e.message), /api_error/);
});

test('abort', async () => {
  const stream = ai.messages.stream(ask('[long]'));
  const ended = fails(stream.finalMessage(), Anthropic.APIUserAbortError);
  await cancelled(() => stream.abort());
  await ended;
});

await run();
