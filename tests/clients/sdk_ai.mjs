// The ai-sdk over its three providers: text, reasoning, tool loops, errors, retries, abort.
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai';
import { assert, cancelled, citySchema, hello, keyedUrl, model, outlivesFullQueue, run, test, tinyUrl, url, weather } from './check.mjs';

globalThis.AI_SDK_LOG_WARNINGS = false;
const apiKey = 'any';
/** provider name -> [endpoint in the metrics, (base url, key) -> language model] */
const providers = {
  'openai-compatible': ['chat_completions', (base, key = apiKey) =>
    createOpenAICompatible({ name: 'fathom', baseURL: `${base}/v1`, apiKey: key, includeUsage: true })(model)],
  'openai chat': ['chat_completions', (base, key = apiKey) => createOpenAI({ baseURL: `${base}/v1`, apiKey: key }).chat(model)],
  'openai responses': ['responses', (base, key = apiKey) => createOpenAI({ baseURL: `${base}/v1`, apiKey: key }).responses(model)],
  anthropic: ['messages', (base, key = apiKey) => createAnthropic({ baseURL: `${base}/v1`, apiKey: key })(model)],
};

for (const [name, [endpoint, make]] of Object.entries(providers)) {
  const ai = make(url);
  // responses are not stored here; this provider sends reasoning back only if it came sealed
  const providerOptions = { openai: { store: false, include: ['reasoning.encrypted_content'] } };
  const thinks = name !== 'openai chat'; // that one does not read reasoning_content

  test(`${name}: text`, async () => {
    const r = await generateText({ model: ai, prompt: hello.prompt });
    assert.equal(r.text, hello.text);
    if (thinks) assert.equal(r.reasoningText, hello.reasoning);
    assert.equal(r.finishReason, 'stop');
    assert.ok(r.usage.inputTokens > 0 && r.usage.outputTokens > 0);
  });

  test(`${name}: stream`, async () => {
    const r = streamText({ model: ai, prompt: hello.prompt, onError: () => {} });
    let text = '', reasoning = '';
    for await (const part of r.fullStream) {
      assert.notEqual(part.type, 'error', String(part.error));
      if (part.type === 'text-delta') text += part.text;
      if (part.type === 'reasoning-delta') reasoning += part.text;
    }
    assert.equal(text, hello.text);
    if (thinks) assert.equal(reasoning, hello.reasoning);
    assert.equal(await r.finishReason, 'stop');
    assert.ok((await r.usage).inputTokens > 0);
  });

  for (const stream of [false, true]) {
    test(`${name}: tool loop, ${stream ? 'streamed' : 'whole'}`, async () => {
      const asked = [];
      const request = {
        model: ai, prompt: weather.prompt, stopWhen: stepCountIs(5), providerOptions,
        tools: { get_weather: tool({
          description: 'The weather of a city.', inputSchema: jsonSchema(citySchema),
          execute: async ({ city }) => (asked.push(city), weather.result[city]),
        }) },
      };
      const r = stream ? streamText({ ...request, onError: () => {} }) : await generateText(request);
      assert.equal(await r.text, weather.answer);
      assert.deepEqual(asked, weather.cities);
      assert.equal((await r.steps).length, 2);
      const [first, second] = (await r.steps).map((s) => s.usage);
      if (thinks) { // what was sampled comes back, so the second step finds it in the cache
        const left = first.inputTokens + first.outputTokens;
        assert.ok(second.cachedInputTokens >= left - 1, `${second.cachedInputTokens} of ${left} cached`);
      }
    });
  }

  test(`${name}: refused requests`, async () => {
    const e = await generateText({ model: ai, prompt: 'long '.repeat(20000) }).catch((error) => error);
    assert.ok(APICallError.isInstance(e), String(e));
    assert.equal(e.statusCode, 400);
    assert.equal(e.isRetryable, false);
    assert.match(e.message, /maximum context length|prompt is too long/);
    const wrong = await generateText({ model: make(keyedUrl, 'wrong'), prompt: 'x' }).catch((error) => error);
    assert.equal(wrong.statusCode, 401);
    assert.ok((await generateText({ model: make(keyedUrl, 'the-right-key'), prompt: 'x' })).text);
  });

  if (name === 'openai responses') {
    test(`${name}: what needs stored responses is refused, and the message says what to do`, async () => {
      const tools = { get_weather: tool({ inputSchema: jsonSchema(citySchema), execute: async () => 'x' }) };
      const e = await generateText({ model: ai, prompt: weather.prompt, stopWhen: stepCountIs(2), tools }).catch((error) => error);
      assert.equal(e.statusCode, 400);
      assert.match(e.message, /store = false/);
    });
  }

  test(`${name}: retries outlive a full queue`, async () => {
    const r = await outlivesFullQueue(endpoint, () => generateText({ model: make(tinyUrl), prompt: hello.prompt, maxRetries: 4 }));
    assert.equal(r.text, hello.text);
  });

  test(`${name}: a fault in the middle of a stream`, async () => {
    const errors = [];
    const r = streamText({ model: ai, prompt: '[fault]', onError: ({ error }) => errors.push(error) });
    await r.consumeStream();
    assert.ok(errors.length > 0);
  });

  test(`${name}: abort`, async () => {
    const stop = new AbortController();
    const r = streamText({ model: ai, prompt: '[long]', abortSignal: stop.signal, onError: () => {} });
    const read = r.consumeStream();
    await cancelled(() => stop.abort());
    await read;
  });
}

await run();
