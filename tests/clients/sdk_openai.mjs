// The official openai SDK: Chat Completions, Completions, Responses; helpers, tools, errors, retries, abort.
import OpenAI from 'openai';
import { assert, fails, busy, cancelled, citySchema, hello, keyedUrl, model, outlivesFullQueue, run, test, tinyUrl, url, weather } from './check.mjs';

const make = (base, more = {}) => new OpenAI({ baseURL: `${base}/v1`, apiKey: 'any', maxRetries: 0, ...more });
const ai = make(url);
const user = (content) => [{ role: 'user', content }];
const getWeather = { type: 'function', function: { name: 'get_weather', parameters: citySchema } };

test('models', async () => {
  const all = (await ai.models.list()).data;
  assert.equal(all.length, 1);
  const one = await ai.models.retrieve(all[0].id);
  assert.equal(one.id, all[0].id);
  assert.equal(one.object, 'model');
});

test('chat', async () => {
  const r = await ai.chat.completions.create({ model, messages: user(hello.prompt) });
  const [choice] = r.choices;
  assert.equal(r.model, model);
  assert.equal(choice.message.content, hello.text);
  assert.equal(choice.message.reasoning_content, hello.reasoning);
  assert.equal(choice.finish_reason, 'stop');
  assert.equal(r.usage.total_tokens, r.usage.prompt_tokens + r.usage.completion_tokens);
  assert.ok(r.usage.completion_tokens_details.reasoning_tokens > 0);
});

test('chat, thinking off', async () => {
  const r = await ai.chat.completions.create({ model, messages: user('[plain]'), reasoning_effort: 'none' });
  assert.equal(r.choices[0].message.content, 'No thoughts.');
  assert.ok(!r.choices[0].message.reasoning_content);
});

test('chat stream', async () => {
  const stream = await ai.chat.completions.create({
    model, messages: user(hello.prompt), stream: true, stream_options: { include_usage: true },
  });
  let text = '', reasoning = '', usage = null, finish = null;
  for await (const chunk of stream) {
    assert.equal(chunk.model, model);
    text += chunk.choices[0]?.delta.content ?? '';
    reasoning += chunk.choices[0]?.delta.reasoning_content ?? '';
    finish = chunk.choices[0]?.finish_reason ?? finish;
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, hello.text);
  assert.equal(reasoning, hello.reasoning);
  assert.equal(finish, 'stop');
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
});

test('chat stream helper with tools', async () => {
  const stream = ai.chat.completions.stream({ model, messages: user(weather.prompt), tools: [getWeather] });
  const done = [];
  let text = '';
  stream.on('content', (delta) => (text += delta));
  stream.on('tool_calls.function.arguments.done', (call) => done.push(call));
  const { message, finish_reason } = (await stream.finalChatCompletion()).choices[0];
  assert.equal(text, weather.text);
  assert.equal(finish_reason, 'tool_calls');
  assert.deepEqual(message.tool_calls.map((c) => JSON.parse(c.function.arguments).city), weather.cities);
  assert.deepEqual(done.map((c) => [c.name, JSON.parse(c.arguments).city]), weather.cities.map((c) => ['get_weather', c]));
  assert.equal(new Set(message.tool_calls.map((c) => c.id)).size, 2);
});

for (const stream of [false, true]) {
  test(`chat tool runner, ${stream ? 'streamed' : 'whole'}`, async () => {
    const asked = [];
    const runner = ai.chat.completions.runTools({
      model, stream, messages: user(weather.prompt),
      tools: [{ type: 'function', function: {
        name: 'get_weather', parameters: citySchema, parse: JSON.parse,
        function: ({ city }) => (asked.push(city), weather.result[city]),
      } }],
    });
    assert.equal(await runner.finalContent(), weather.answer);
    assert.deepEqual(asked, weather.cities);
  });
}

test('completions', async () => {
  const whole = await ai.completions.create({ model, prompt: '[plain]' });
  assert.equal(whole.choices[0].text, 'No thoughts.');
  let text = '';
  for await (const part of await ai.completions.create({ model, prompt: '[plain]', stream: true })) {
    text += part.choices[0].text;
  }
  assert.equal(text, whole.choices[0].text);
});

test('responses', async () => {
  const r = await ai.responses.create({ model, input: hello.prompt, reasoning: { summary: 'auto' } });
  assert.equal(r.model, model);
  assert.equal(r.output_text, hello.text);
  assert.equal(r.output.find((i) => i.type === 'reasoning').summary[0].text, hello.reasoning);
  assert.equal(r.status, 'completed');
});

test('responses stream helper', async () => {
  const stream = ai.responses.stream({ model, input: hello.prompt });
  let text = '', reasoning = '';
  stream.on('response.output_text.delta', (e) => (text += e.delta));
  stream.on('response.reasoning_summary_text.delta', (e) => (reasoning += e.delta));
  const r = await stream.finalResponse();
  assert.equal(text, hello.text);
  assert.equal(reasoning, hello.reasoning);
  assert.equal(r.output_text, hello.text);
});

test('responses with tools', async () => {
  const tools = [{ type: 'function', name: 'get_weather', parameters: citySchema, strict: false }];
  const input = user(weather.prompt);
  const first = await ai.responses.stream({ model, input, tools }).finalResponse();
  const calls = first.output.filter((i) => i.type === 'function_call');
  assert.deepEqual(calls.map((c) => JSON.parse(c.arguments).city), weather.cities);
  const results = calls.map((c) => ({
    type: 'function_call_output', call_id: c.call_id, output: weather.result[JSON.parse(c.arguments).city],
  }));
  const second = await ai.responses.create({ model, tools, input: [...input, ...first.output, ...results] });
  assert.equal(second.output_text, weather.answer);
  const { cached_tokens } = second.usage.input_tokens_details;
  assert.ok(cached_tokens >= first.usage.total_tokens - 1, `${cached_tokens} of ${first.usage.total_tokens} cached`);
});

test('refused requests', async () => {
  let e = await fails(ai.chat.completions.create({ model, messages: user('x'), temperature: 7 }), OpenAI.BadRequestError);
  assert.equal(e.param, 'temperature');
  assert.equal(e.type, 'invalid_request_error');
  e = await fails(ai.chat.completions.create({ model, messages: user('long '.repeat(20000)) }), OpenAI.BadRequestError);
  assert.equal(e.code, 'context_length_exceeded');
  assert.match(e.message, /maximum context length is \d+ tokens/);
  e = await fails(ai.responses.create({ model, input: 'x', previous_response_id: 'resp_1' }), OpenAI.BadRequestError);
  assert.equal(e.param, 'previous_response_id');
  await fails(ai.embeddings.create({ model, input: 'x' }), OpenAI.NotFoundError);
  await fails(ai.responses.retrieve('resp_1'), OpenAI.NotFoundError);
  e = await fails(make(keyedUrl, { apiKey: 'wrong' }).models.list(), OpenAI.AuthenticationError);
  assert.equal(e.code, 'invalid_api_key');
  assert.equal((await make(keyedUrl, { apiKey: 'the-right-key' }).models.list()).data.length, 1);
});

test('a full queue: 429, and retries that outlive it', async () => {
  const free = await busy();
  const e = await fails(make(tinyUrl).chat.completions.create({ model, messages: user('x') }), OpenAI.RateLimitError);
  assert.ok(Number(e.headers.get('retry-after')) >= 1);
  await free();
  const patient = make(tinyUrl, { maxRetries: 5 });
  const chat = await outlivesFullQueue('chat_completions', () => patient.chat.completions.create({ model, messages: user(hello.prompt) }));
  assert.equal(chat.choices[0].message.content, hello.text);
});

test('a fault in the middle of a stream', async () => {
  const chat = async () => {
    for await (const _ of await ai.chat.completions.create({ model, messages: user('[fault]'), stream: true }));
  };
  await fails(chat(), OpenAI.APIError);
  const failed = await ai.responses.stream({ model, input: '[fault]' }).finalResponse().catch((e) => e);
  assert.ok(failed instanceof Error || failed.status === 'failed');
});

test('abort', async () => {
  const stream = await ai.chat.completions.create({ model, messages: user('[long]'), stream: true });
  await cancelled(() => stream.controller.abort());
  const stop = new AbortController();
  const whole = ai.chat.completions.create({ model, messages: user('[long]') }, { signal: stop.signal });
  const ended = fails(whole, OpenAI.APIUserAbortError);
  await cancelled(() => stop.abort());
  await ended;
});

await run();
