// The official SDKs with the mini model behind the real server: it chooses the right tool, fills in the
// right arguments, and its answer says what the tool returned. Greedy, so every run gives the same; the
// requests are of the kinds it was trained on (models/mini/README.md), the names and numbers are ours.
import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';
import { assert, run, test, url } from './check.mjs';

const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'any', maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url, apiKey: 'any', maxRetries: 0 });
const model = 'mini';
const schema = (properties) => ({ type: 'object', properties, required: Object.keys(properties) });
const string = { type: 'string' }, integer = { type: 'integer' };
