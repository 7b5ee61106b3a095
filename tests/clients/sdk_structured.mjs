// Structured output through the official SDKs: schemas, forced tools, typed objects. The scripted model
// begins with talk that no schema allows, so each answer parses only if the server holds it to the schema.
// FATHOM_MINI_URL: the mini model, which knows nothing of JSON schemas; what it writes must fit all the same.
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import Anthropic from '@anthropic-ai/sdk';
import { zodOutputFormat } from '@anthropic-ai/sdk/helpers/zod';
import { generateText, jsonSchema, Output, streamText, tool } from 'ai';
import OpenAI from 'openai';
import { zodFunction, zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';
import { assert, citySchema, model, run, test, url, weather } from './check.mjs';

globalThis.AI_SDK_LOG_WARNINGS = false;
const miniUrl = process.env.FATHOM_MINI_URL;
const apiKey = 'any';
const clients = (base) => ({
  openai: new OpenAI({ baseURL: `${base}/v1`, apiKey, maxRetries: 0 }),
  anthropic: new Anthropic({ baseURL: base, apiKey, maxRetries: 0 }),
});
const { openai, anthropic } = clients(url);
const user = (content) => [{ role: 'user', content }];
const Person = z.object({ name: z.string(), age: z.number() });
const ada = { name: 'Ada', age: 36 };
const ask = '[person]';

test('openai: chat parse', async () => {
  const r = await openai.chat.completions.parse({ model, messages: user(ask), response_format: zodResponseFormat(Person, 'person') });
  assert.deepEqual(r.choices[0].message.parsed, ada);
  assert.equal(r.choices[0].message.reasoning_content, 'A person.');
});

test('openai: chat parse, streamed', async () => {
  const stream = openai.chat.completions.stream({ model, messages: user(ask), response_format: zodResponseFormat(Person, 'person') });
  assert.deepEqual((await stream.finalChatCompletion()).choices[0].message.parsed, ada);
});

test('openai: json_object', async () => {
  const r = await openai.chat.completions.create({ model, messages: user(ask), response_format: { type: 'json_object' } });
  assert.deepEqual(JSON.parse(r.choices[0].message.content), ada);
});

test('openai: responses parse', async () => {
  const r = await openai.responses.parse({ model, input: ask, text: { format: zodTextFormat(Person, 'person') } });
  assert.deepEqual(r.output_parsed, ada);
});

test('openai: strict tool, required', async () => {
  const r = await openai.chat.completions.parse({
    model, messages: user('[call]'), tools: [zodFunction({ name: 'get_weather', parameters: z.object({ city: z.string() }) })],
    tool_choice: 'required',
  });
  const { message } = r.choices[0];
  assert.ok(!message.content);
  assert.deepEqual(message.tool_calls.map((c) => [c.function.name, c.function.parsed_arguments]), [['get_weather', { city: 'Oslo' }]]);
});

test('openai: a named tool', async () => {
  const tools = ['get_time', 'get_weather'].map((name) => ({ type: 'function', function: { name, parameters: citySchema } }));
  const r = await openai.chat.completions.create({
    model, messages: user('[call]'), tools, tool_choice: { type: 'function', function: { name: 'get_weather' } } });
  const [call] = r.choices[0].message.tool_calls;
  assert.equal(call.function.name, 'get_weather');
  assert.deepEqual(JSON.parse(call.function.arguments), { city: 'Oslo' });
});

test('anthropic: parse', async () => {
  const m = await anthropic.messages.parse({
    model, max_tokens: 1000, messages: user(ask), output_config: { format: zodOutputFormat(Person) } });
  assert.deepEqual(m.parsed_output, ada);
});

for (const choice of [{ type: 'any' }, { type: 'tool', name: 'get_weather' }]) {
  test(`anthropic: tool choice ${choice.type}`, async () => {
    const m = await anthropic.messages.create({
      model, max_tokens: 1000, messages: user('[call]'), tool_choice: choice,
      tools: [{ name: 'get_time', input_schema: citySchema }, { name: 'get_weather', input_schema: citySchema }] });
    assert.deepEqual(m.content.filter((b) => b.type !== 'thinking').map((b) => [b.type, b.name, b.input]),
      [['tool_use', 'get_weather', { city: 'Oslo' }]]);
  });
}

const compatible = (base, more) => createOpenAICompatible({ name: 'fathom', baseURL: `${base}/v1`, apiKey, ...more })(model);
const providers = {
  'openai chat': (base) => createOpenAI({ baseURL: `${base}/v1`, apiKey }).chat(model),
  'openai responses': (base) => createOpenAI({ baseURL: `${base}/v1`, apiKey }).responses(model),
  'openai-compatible, json_object': (base) => compatible(base, {}),
  'openai-compatible, json_schema': (base) => compatible(base, { supportsStructuredOutputs: true }),
  anthropic: (base) => createAnthropic({ baseURL: `${base}/v1`, apiKey })(model), // by a forced tool named json
};
for (const [name, make] of Object.entries(providers)) {
  const prompt = name === 'anthropic' ? '[json tool]' : ask;
  const output = Output.object({ schema: Person });
  test(`ai-sdk, ${name}: object`, async () => {
    assert.deepEqual((await generateText({ model: make(url), prompt, output })).output, ada);
  });
  test(`ai-sdk, ${name}: object, streamed`, async () => {
    assert.deepEqual(await streamText({ model: make(url), prompt, output, onError: () => {} }).output, ada);
  });
  if (name.includes('json_object')) continue; // no schema is sent: nothing holds the mini model to it
  test(`ai-sdk, ${name}: object of the mini model`, async () => {
    const Colour = z.object({ colour: z.enum(['red', 'green']), sure: z.boolean() });
    const { output: it } = await generateText({
      model: make(miniUrl), prompt: 'Say hello.', temperature: 0, output: Output.object({ schema: Colour }) });
    assert.ok(Colour.safeParse(it).success);
  });
}

test('ai-sdk: tool choice required', async () => {
  const tools = { get_weather: tool({ inputSchema: jsonSchema(citySchema) }) };
  for (const make of Object.values(providers)) {
    const r = await generateText({ model: make(url), prompt: '[call]', tools, toolChoice: 'required' });
    assert.deepEqual(r.toolCalls.map((c) => [c.toolName, c.input]), [['get_weather', { city: weather.cities[0] }]]);
  }
});

test('mini model: parse', async () => {
  const Answer = z.object({ ok: z.boolean(), kind: z.enum(['cat', 'dog', 'bird']) });
  const mini = clients(miniUrl);
  for (const effort of ['none', 'high']) {
    const r = await mini.openai.chat.completions.parse({
      model, messages: user('What does a dog say?'), temperature: 0, reasoning_effort: effort,
      response_format: zodResponseFormat(Answer, 'answer') });
    assert.ok(Answer.safeParse(r.choices[0].message.parsed).success);
  }
  const m = await mini.anthropic.messages.parse({
    model, max_tokens: 300, messages: user('Hello!'), temperature: 0, output_config: { format: zodOutputFormat(Answer) } });
  assert.ok(Answer.safeParse(m.parsed_output).success);
});

await run();
