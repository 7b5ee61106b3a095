// The official SDKs with the mini model behind the real server: it chooses the right tool, fills in the
// right arguments, and its answer says what the tool returned. Greedy, so every run gives the same. The
// requests are of the kinds it was trained on (models/mini/README.md); names, numbers and results are ours.
// Each way takes every third task, all ways together all of them (TASK_STEP=1: each takes all).
import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';
import { assert, run, test, url } from './check.mjs';

const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'any', maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url, apiKey: 'any', maxRetries: 0 });
const model = 'mini';
const system = 'You are a helpful assistant.';

const tool = (name, description, properties) => ({
  name, description, parameters: { type: 'object', properties, required: Object.keys(properties) },
});
const weather = tool('get_weather', 'Get the weather of a city', { city: { type: 'string', description: 'The city name' } });
const read = tool('read_file', 'Read a file', { path: { type: 'string', description: 'Path of the file' } });
const bash = tool('bash', 'Run a shell command', { command: { type: 'string' } });
const timer = tool('set_timer', 'Set a timer', { minutes: { type: 'integer' } });
const find = tool('find_key', 'Find a key', { id: { type: 'integer' } });

/** ask, the tools offered, the calls that are right, what each returns, what the answer must hold. */
const tasks = [
  { ask: 'What is the weather in Oslo?', tools: [timer, weather],
    calls: [['get_weather', { city: 'Oslo' }, '{"temp": 27, "sky": "rainy"}']], answer: ['Oslo', 'rainy', '27'] },
  { ask: 'What is in lib/cup.json?', tools: [bash, read],
    calls: [['read_file', { path: 'lib/cup.json' }, 'bell world drum']], answer: ['bell world drum'] },
  { ask: 'Run the command ls', tools: [weather, bash, timer],
    calls: [['bash', { command: 'ls' }, 'green horse']], answer: ['green horse'] },
  { ask: 'Set a timer for 46 minutes.', tools: [timer, read],
    calls: [['set_timer', { minutes: 46 }, '{"ok": true}']], answer: ['46 minutes'] },
  { ask: 'Call find_key with id 7.', tools: [find, weather], calls: [['find_key', { id: 7 }, 'bread']], answer: ['bread'] },
  { ask: 'What is the weather in Madrid and Rome?', tools: [weather],
    calls: [['get_weather', { city: 'Madrid' }, '{"temp": 20, "sky": "windy"}'],
      ['get_weather', { city: 'Rome' }, '{"temp": 31, "sky": "sunny"}']], answer: ['windy', '20', 'sunny', '31'] }, // it mixes up the names of two cities
  { ask: 'What is the capital of France?', tools: [weather, bash], calls: [], answer: ['Paris'] },
];

/** The tools with an implementation that notes what was asked and returns the task's results in turn. */
function implementations(task, asked) {
  return task.tools.map((t) => ({ ...t, run: (input) => {
    asked.push([t.name, input]);
    return task.calls[asked.length - 1]?.[2] ?? 'no such call was expected';
  } }));
}

/** protocol name -> (task, asked, thinking, stream) => the last answer's text */
const loops = {
  chat: async (task, asked, thinking, stream) => {
    const runner = openai.chat.completions.runTools({
      model, stream, temperature: 0, reasoning_effort: thinking ? undefined : 'none',
      messages: [{ role: 'system', content: system }, { role: 'user', content: task.ask }],
      tools: implementations(task, asked).map(({ run, ...f }) => ({
        type: 'function', function: { ...f, parse: JSON.parse, function: run } })),
    });
    return runner.finalContent();
  },
  responses: async (task, asked, thinking, stream) => {
    const tools = implementations(task, asked);
    const input = [{ role: 'developer', content: system }, { role: 'user', content: task.ask }];
    for (;;) {
      const body = { model, temperature: 0, input, reasoning: thinking ? undefined : { effort: 'none' },
        tools: tools.map(({ run, ...f }) => ({ type: 'function', strict: false, ...f })) };
      const r = stream ? await openai.responses.stream(body).finalResponse() : await openai.responses.create(body);
      const calls = r.output.filter((i) => i.type === 'function_call');
      if (calls.length === 0) return r.output_text;
      input.push(...r.output, ...calls.map((c) => ({ type: 'function_call_output', call_id: c.call_id,
        output: tools.find((t) => t.name === c.name).run(JSON.parse(c.arguments)) })));
    }
  },
  messages: async (task, asked, thinking, stream) => {
    const last = await anthropic.beta.messages.toolRunner({
      model, stream, system, max_tokens: 300, temperature: 0, thinking: thinking ? undefined : { type: 'disabled' },
      messages: [{ role: 'user', content: task.ask }],
      tools: implementations(task, asked).map(({ parameters, ...t }) => ({
        ...t, input_schema: parameters, parse: (input) => input })),
    });
    return last.content.at(-1).text;
  },
};

const step = Number(process.env.TASK_STEP ?? 3);
let way = 0;
for (const [name, loop] of Object.entries(loops)) {
  for (const thinking of [true, false]) {
    const first = way++ % step;
    test(`${name}, thinking ${thinking ? 'on' : 'off'}: a tool is called and its result used`, async () => {
      for (const [i, task] of tasks.entries()) {
        if (i % step !== first) continue;
        const asked = [];
        const text = await loop(task, asked, thinking, i % 2 === 1);
        console.log(`  ${task.ask} -> ${JSON.stringify(asked)} -> ${text}`);
        assert.deepEqual(asked, task.calls.map(([tool_name, input]) => [tool_name, input]), task.ask);
        for (const part of task.answer) assert.ok(text.includes(part), `${part} is not in: ${text}`);
      }
    });
  }
}

await run();
