/* table.c - the commands and options of the program, as data. The order here is the order of
 * the help text and of the man page. An option is written once, with the set of commands that
 * take it. docs/fathom.1 and the completions are generated from this file (`fathom help man`)
 * and a test compares them. Read next: options.c (parsing), help.c (printing). */
#include "cmd/cmd.h"

#include "base/mem.h"

const struct command cli_commands[] = {
    {"run", CMD_RUN, cmd_run, "", 0, 0, "one answer, streamed to stdout",
     "Asks the model once. The prompt comes from -p, from -f, or from stdin. stdout gets the "
     "answer and nothing else; reasoning is shown on stderr when that is a terminal. Tool "
     "calls are printed as one JSON object a line."},
    {"chat", CMD_CHAT, cmd_chat, "", 0, 0, "interactive chat with line editing and history",
     "Goes on with this model's last conversation, without computing it again, unless --new. "
     "Ctrl-C stops the answer, not the program; Ctrl-D ends it. Lines that start with / are "
     "commands: /help lists them. Conversations are text files in fathom/chat in the cache "
     "folder, readable by you alone; /forget deletes one, and with --kv-dir none nothing is "
     "kept."},
    {"serve", CMD_SERVE, cmd_serve, "", 0, 0,
     "HTTP server: OpenAI Chat Completions, Responses, Completions, and Anthropic Messages",
     "Agent clients work against http://127.0.0.1:8000 (OpenAI: /v1; Anthropic: without it). Keys "
     "come from --api-key, --api-key-file and $FATHOM_API_KEY; without one every local client is "
     "served, and an address that other machines reach is refused. The first Ctrl-C lets running "
     "answers end, the second stops at once. With --script the answers are read from a file, for "
     "tests of clients."},
    {"convert", CMD_CONVERT, cmd_convert, "DIR", 1, 1,
     "official safetensors checkpoint to GGUF",
     "DIR holds config.json and model.safetensors, or an index with shards. Tokenizer files are "
     "taken along when they are there. Drafting blocks (mtp.*) go to FILE.mtp.gguf. A row whose "
     "length does not fit the recipe's type takes the next type of its role's list, which is "
     "reported for each tensor."},
    {"imatrix", CMD_IMATRIX, cmd_imatrix, "[FILE...]", 0, CLI_MAX_ARGS,
     "importance matrix for convert, from a model and texts",
     "Runs the texts of -f through the model and sums up the squares of every matrix's inputs, "
     "each routed expert for itself. A text file is cut into pieces; a .jsonl file has one "
     "object a line: {\"messages\":[...]} (chat template), {\"prompt\":\"...\"} (rendered text) "
     "or {\"text\":\"...\"}. With --merge the FILEs are added up instead (docs/factory.md)."},
    {"inspect", CMD_INSPECT, cmd_inspect, "[FILE]", 0, 1,
     "metadata, tensors and sizes of a model file",
     "With --check everything is validated: the file's structure, all keys and tensors the model "
     "needs, and every value (no NaN or infinity in any tensor)."},
    {"plan", CMD_PLAN, cmd_plan, "", 0, 0,
     "what fits on this machine, without loading the model",
     "Prints weights, KV memory, scratch, the largest context that fits, and what to change if "
     "it does not."},
    {"explain", CMD_EXPLAIN, cmd_explain, "", 0, 0,
     "the recorded program of a decode step or prefill chunk",
     "Lists the fused ops in order, grouped by level (ops of one level are independent), and "
     "counts ops, levels and launches."},
    {"tokens", CMD_TOKENS, cmd_tokens, "", 0, 0, "text to token ids and back",
     "Text comes from -p, -f or stdin and is trusted: control strings become control ids, unless "
     "--plain. With --decode, ids from --ids or stdin become text. -m takes a GGUF or a "
     "tokenizer.json (also .xz). With --jsonl: {\"text\":\"...\"} gives {\"ids\":[...]}; with "
     "--decode {\"ids\":[...]} gives {\"deltas\":[...],\"flush\":\"...\"}."},
    {"render", CMD_RENDER, cmd_render, "", 0, 0, "messages JSON to the prompt and its ids",
     "Input: {\"messages\":[...],\"options\":{...}}, one object, or one a line with --jsonl. This "
     "is the release's own rendering, without what the API adds."},
    {"parse", CMD_PARSE, cmd_parse, "", 0, 0, "completion text to structured JSON",
     "Input: {\"completion\":\"...\",\"thinking_mode\":\"chat\"|\"thinking\"}. Output: reasoning, "
     "content and tool calls, or an error: the release's own grammar. A truncated call is never "
     "returned as a call."},
    {"logits", CMD_LOGITS, cmd_logits, "", 0, 0, "token ids to logits",
     "Prints {\"vocab\":V,\"positions\":[{\"pos\":0,\"argmax\":i,\"logits\":[...]}]}: the last "
     "position, or all with --all. NaN and infinities are null."},
    {"bench", CMD_BENCH, cmd_bench, "", 0, 0,
     "speed at context frontiers, against this machine's memory bandwidth",
     "At each frontier the last tokens are decoded one by one, behind a prompt that is computed, "
     "or with --fill behind random cache rows. With --fill all contexts are held at once and "
     "decode in turn, step by step, and each is compared with the first, round by round: the "
     "median of the quotients is what depth costs, whatever else the machine did meanwhile. If "
     "memory does not hold them together, they are measured one after the other, as without "
     "--fill, and the output says so. With --synthetic the model has random weights and "
     "the true width; a cut of few layers is extrapolated to all of them. With --kernels the "
     "products of the cpu backend are measured, not a model."},
    {"eval", CMD_EVAL, cmd_eval, "", 0, 0,
     "quality: likelihood, KL divergence from another file, tasks, official answers",
     "Scores a text (-f) or the continuations of a manifest (--cases), and with --against or "
     "--reference also how far the predictions are from those of another file, token by token. "
     "--tasks answers prompts and compares with accepted answers; --official compares with the "
     "tokens that the vendor's API chose. Means stand with 95 % intervals (bootstrap). The forms "
     "of the files are described in docs/quality.md."},
    {"kv", CMD_KV, cmd_kv, "ACTION [KEY...]", 1, 4,
     "the state kept on disk: list, check, remove",
     "ACTION: ls lists the files; show KEY describes one (--text: its part of the prompt, with the "
     "tokenizer of -m); verify [KEY] checks every byte of one or of all; rm KEY... removes files "
     "and what needs them; gc removes the oldest until the rest fits --kv-disk. KEY is the "
     "beginning of a key that ls shows, or a file name. Works without the model; rm, gc and "
     "verify --delete-bad wait for no lock: they are refused while another process writes. The "
     "files hold the token ids of prompts: removing them is not overwriting them. Exit status: 0 "
     "clean, 1 problems found, 2 wrong usage, 3 locked or not usable."},
    {"selftest", CMD_SELFTEST, cmd_selftest, "", 0, 0,
     "the golden tiny model through every backend of this machine",
     "Builds the golden model in memory, runs it through every backend and compares with the "
     "known logits; the report is fit for a bug report."},
    {"help", CMD_HELP, cmd_help, "[TOPIC]", 0, 1, "help on a command; also: man, bash, zsh",
     "`fathom help man` writes the manual page, `fathom help bash` and `fathom help zsh` the "
     "shell completions."},
};
const size_t cli_n_commands = ARRAY_LEN(cli_commands);

#define AT(field) offsetof(struct cli, field)

const struct option_def cli_options[] = {
    {"model", 'm', OPTION_STR, AT(model),
     CMD_ENGINE | CMD_PARTS | CMD_INSPECT | CMD_PLAN | CMD_EXPLAIN | CMD_KV, "PATH", NULL, 0, 0,
     "model file; default $FATHOM_MODEL, else the embedded mini model"},
    {"prompt", 'p', OPTION_STR, AT(prompt), CMD_RUN | CMD_TOKENS, "TEXT", NULL, 0, 0,
     "the text"},
    {"file", 'f', OPTION_STR, AT(file), CMD_RUN | CMD_PARTS | CMD_IMATRIX | CMD_EVAL, "FILE",
     NULL, 0, 0, "read the input from FILE (- is stdin)"},
    {"system", 0, OPTION_STR, AT(system), CMD_ANSWER, "TEXT", NULL, 0, 0, "system message"},
    {"tools", 0, OPTION_STR, AT(tools), CMD_RUN, "FILE", NULL, 0, 0,
     "JSON array of tool definitions (OpenAI form) offered to the model"},
    {"think", 0, OPTION_CHOICE, AT(think), CMD_ANSWER | CMD_SERVE, "LEVEL",
     "on|off|low|high|max", 0, 0, "reasoning before the answer; default on"},
    {"show-reasoning", 0, OPTION_FLAG, AT(show_reasoning), CMD_ANSWER, NULL, NULL, 0, 0,
     "show the reasoning on stderr even if that is no terminal"},
    {"raw", 0, OPTION_FLAG, AT(raw), CMD_RUN | CMD_IMATRIX, NULL, NULL, 0, 0,
     "no chat template: the prompt is used as it is, control strings included"},
    {"max-tokens", 'n', OPTION_U32, AT(n_predict), CMD_ANSWER | CMD_SERVE, "N", NULL, 0, 0,
     "longest answer in tokens; default: up to the context's end"},
    {"stop", 0, OPTION_LIST, AT(stop), CMD_RUN, "TEXT", NULL, 0, 8,
     "end the answer before TEXT; may be given up to 8 times"},
    {"temp", 0, OPTION_NUM, AT(temp), CMD_ANSWER | CMD_SERVE, "X", NULL, 0, 100,
     "sampling temperature, 0 is greedy; default 1"},
    {"seed", 0, OPTION_U64, AT(seed), CMD_ANSWER | CMD_EVAL, "N", NULL, 0, 0,
     "same seed, same answer; default: drawn from the clock (eval: 1)"},
    {"top-k", 0, OPTION_U32, AT(top_k), CMD_ANSWER, "N", NULL, 0, 0,
     "only the N likeliest tokens"},
    {"top-p", 0, OPTION_NUM, AT(top_p), CMD_ANSWER, "X", NULL, 0, 1,
     "only the likeliest tokens that sum to X"},
    {"min-p", 0, OPTION_NUM, AT(min_p), CMD_ANSWER, "X", NULL, 0, 1,
     "only tokens at least X times as likely as the likeliest"},
    {"release", 0, OPTION_CHOICE, AT(release),
     CMD_ANSWER | CMD_RENDER | CMD_IMATRIX | CMD_SERVE | CMD_EVAL, "NAME", "preview|0731", 0, 0,
     "chat format of this release; default: what the model file says"},
    {"host", 0, OPTION_STR, AT(host), CMD_SERVE, "ADDRESS", NULL, 0, 0,
     "IP address to listen on; default 127.0.0.1 (:: is every address, IPv6 and IPv4)"},
    {"port", 0, OPTION_U32, AT(port), CMD_SERVE, "N", NULL, 0, 65535,
     "port to listen on; default 8000, 0 takes a free one"},
    {"socket", 0, OPTION_STR, AT(socket), CMD_SERVE, "PATH", NULL, 0, 0,
     "listen on a Unix-domain socket instead"},
    {"api-key", 0, OPTION_LIST, AT(api_keys), CMD_SERVE, "KEY", NULL, 0, 0,
     "a key that clients must send; may be given up to 8 times"},
    {"api-key-file", 0, OPTION_STR, AT(api_key_file), CMD_SERVE, "FILE", NULL, 0, 0,
     "file of keys, one a line"},
    {"insecure-no-auth", 0, OPTION_FLAG, AT(insecure_no_auth), CMD_SERVE, NULL, NULL, 0, 0,
     "serve other machines without any key"},
    {"allowed-hosts", 0, OPTION_STR, AT(allowed_hosts), CMD_SERVE, "LIST", NULL, 0, 0,
     "more names of this server in Host headers, comma separated"},
    {"cors-origin", 0, OPTION_STR, AT(cors_origin), CMD_SERVE, "LIST", NULL, 0, 0,
     "web origins whose pages may use the server, comma separated; * is any"},
    {"parallel", 0, OPTION_U32, AT(parallel), CMD_SERVE, "N", NULL, 0, 256,
     "answers generated at once; default 4"},
    {"queue", 0, OPTION_U32, AT(queue), CMD_SERVE, "N", NULL, 0, 100000,
     "requests that may wait; more get 429; default 32"},
    {"connections", 0, OPTION_U32, AT(connections), CMD_SERVE, "N", NULL, 0, 65536,
     "connections at once; default 256"},
    {"body-limit", 0, OPTION_U32, AT(body_mb), CMD_SERVE, "MIB", NULL, 0, 1024,
     "largest request body in MiB; default 64"},
    {"reasoning-limit", 0, OPTION_U32, AT(reasoning_limit), CMD_SERVE, "N", NULL, 0, 0,
     "most tokens of reasoning in an answer; default: no limit"},
    {"keepalive", 0, OPTION_NUM, AT(keepalive), CMD_SERVE, "SECONDS", NULL, 0, 3600,
     "silence after which a stream gets a keepalive; default 5"},
    {"header-timeout", 0, OPTION_NUM, AT(header_seconds), CMD_SERVE, "SECONDS", NULL, 0, 3600,
     "time for the headers of a request; default 10"},
    {"idle-timeout", 0, OPTION_NUM, AT(idle_seconds), CMD_SERVE, "SECONDS", NULL, 0, 3600,
     "longest pause while a body comes in or a response goes out; default 30"},
    {"stall", 0, OPTION_NUM, AT(stall), CMD_SERVE, "SECONDS", NULL, 0, 60,
     "longest wait that a long prompt may cause between tokens of others; default 0.25"},
    {"alias", 0, OPTION_STR, AT(alias), CMD_SERVE, "NAME", NULL, 0, 0,
     "name of the model in /v1/models; default: what the file says"},
    {"strict-model", 0, OPTION_FLAG, AT(strict_model), CMD_SERVE, NULL, NULL, 0, 0,
     "requests for another model name are refused"},
    {"image-placeholder", 0, OPTION_FLAG, AT(image_placeholder), CMD_SERVE, NULL, NULL, 0, 0,
     "replace images in requests by a note instead of refusing them"},
    {"special-tokens", 0, OPTION_FLAG, AT(special_tokens), CMD_SERVE, NULL, NULL, 0, 0,
     "control tokens in raw prompts (Completions) are recognised"},
    {"metrics", 0, OPTION_FLAG, AT(metrics), CMD_SERVE, NULL, NULL, 0, 0,
     "answer /metrics to other machines, too"},
    {"trace", 0, OPTION_STR, AT(trace), CMD_SERVE, "FILE", NULL, 0, 0,
     "write all requests, prompts, tokens and responses to FILE, for a bug report"},
    {"script", 0, OPTION_STR, AT(script), CMD_SERVE, "FILE", NULL, 0, 0,
     "answer with these completions ({\"completion\":\"...\"} a line, in turn), not the model"},
    {"quiet", 0, OPTION_FLAG, AT(quiet), CMD_SERVE, NULL, NULL, 0, 0,
     "no line for each request on stderr"},
    {"ids", 0, OPTION_STR, AT(ids), CMD_LOGITS | CMD_TOKENS, "LIST", NULL, 0, 0,
     "token ids, comma separated (- reads them from stdin)"},
    {"all", 0, OPTION_FLAG, AT(all), CMD_LOGITS | CMD_KV | CMD_EVAL, NULL, NULL, 0, 0,
     "logits: every position, not only the last; kv verify, kv rm: all files; eval --cases: the "
     "prompts, too"},
    {"decode", 0, OPTION_FLAG, AT(decode), CMD_TOKENS, NULL, NULL, 0, 0, "ids to text"},
    {"plain", 0, OPTION_FLAG, AT(plain), CMD_TOKENS | CMD_EVAL, NULL, NULL, 0, 0,
     "untrusted text: control strings stay ordinary text"},
    {"lenient", 0, OPTION_FLAG, AT(lenient), CMD_PARSE, NULL, NULL, 0, 0,
     "also accept the small deviations that the server accepts (docs/chat-format.md)"},
    {"output", 'o', OPTION_STR, AT(output), CMD_CONVERT | CMD_IMATRIX, "FILE", NULL, 0, 0,
     "the GGUF to write"},
    {"merge", 0, OPTION_FLAG, AT(merge), CMD_IMATRIX, NULL, NULL, 0, 0,
     "add up the FILEs (GGUF form) instead of collecting"},
    {"window", 0, OPTION_U32, AT(window), CMD_IMATRIX | CMD_EVAL, "N", NULL, 0, 1u << 30,
     "tokens of a piece of plain text; default 2048"},
    {"skip-prompts", 0, OPTION_U32, AT(skip_prompts), CMD_IMATRIX, "N", NULL, 0, 0,
     "begin behind the first N pieces or lines"},
    {"limit-prompts", 0, OPTION_U32, AT(limit_prompts), CMD_IMATRIX, "N", NULL, 0, 0,
     "use at most N pieces or lines"},
    {"limit-tokens", 0, OPTION_U64, AT(limit_tokens), CMD_IMATRIX, "N", NULL, 0, 0,
     "begin no further piece or line after N tokens"},
    {"save-minutes", 0, OPTION_U32, AT(save_minutes), CMD_IMATRIX, "N", NULL, 0, 10000,
     "write the file every N minutes; 0: only at the end; default 10"},
    {"recipe", 0, OPTION_CHOICE, AT(recipe), CMD_CONVERT | CMD_PLAN | CMD_EXPLAIN | CMD_BENCH,
     "NAME", "f32|f16|bf16|q8|q2|q2-q4tail|q4|mxfp4", 0, 0,
     "types of the weights; default: mxfp4 to convert, else q2"},
    {"synthetic", 0, OPTION_CHOICE, AT(synthetic), CMD_BENCH, "NAME", "flash|pro", 0, 0,
     "a model of this shape with random weights instead of a file"},
    {"layers", 0, OPTION_U32, AT(layers), CMD_BENCH, "N", NULL, 0, 256,
     "layers of the synthetic model, all kinds among them; default: all"},
    {"ratios", 0, OPTION_STR, AT(ratios), CMD_BENCH, "LIST", NULL, 0, 0,
     "compression ratio of each layer, comma separated; default 0,4,128,4,128,..."},
    {"experts", 0, OPTION_U32, AT(experts), CMD_BENCH, "N", NULL, 0, 4096,
     "routed experts kept in each layer, to save memory; a token still reads as much"},
    {"vocab", 0, OPTION_U32, AT(vocab), CMD_BENCH, "N", NULL, 0, 1 << 24,
     "size of the vocabulary; default: the shape's"},
    {"save", 0, OPTION_STR, AT(save), CMD_BENCH, "FILE", NULL, 0, 0,
     "write the synthetic model as a GGUF and end; measure it with -m"},
    {"frontiers", 0, OPTION_STR, AT(frontiers), CMD_BENCH, "LIST", NULL, 0, 0,
     "contexts to measure; default 2k,8k,32k, with --fill also 128k,1m"},
    {"standard", 0, OPTION_FLAG, AT(standard), CMD_BENCH, NULL, NULL, 0, 0,
     "the standard pair: a prompt of 11,709 tokens, and decoding at 32k"},
    {"fill", 0, OPTION_FLAG, AT(fill), CMD_BENCH, NULL, NULL, 0, 0,
     "random cache rows before each frontier, so that depth needs no prompt; the contexts decode "
     "in turn"},
    {"prefill", 0, OPTION_U32, AT(prefill), CMD_BENCH, "N", NULL, 0, 1 << 20,
     "with --fill: about N prompt tokens are computed at each frontier; default 256"},
    {"gen", 0, OPTION_U32, AT(gen), CMD_BENCH, "N", NULL, 0, 1 << 20,
     "tokens decoded at each frontier; default 32"},
    {"kv-memory", 0, OPTION_BYTES, AT(kv_memory), CMD_BENCH, "SIZE", NULL, 0, 0,
     "most memory for the caches of all contexts; default: what is free"},
    {"kernels", 0, OPTION_FLAG, AT(kernels), CMD_BENCH, NULL, NULL, 0, 0,
     "products of every weight format on every tier, not a model"},
    {"formats", 0, OPTION_STR, AT(formats), CMD_BENCH, "LIST", NULL, 0, 0,
     "with --kernels: only these weight formats"},
    {"decode-only", 0, OPTION_FLAG, AT(decode_only), CMD_BENCH, NULL, NULL, 0, 0,
     "with --kernels: no prefill"},
    {"csv", 0, OPTION_FLAG, AT(csv), CMD_BENCH, NULL, NULL, 0, 0, "CSV output"},
    {"cases", 0, OPTION_STR, AT(cases), CMD_EVAL, "FILE", NULL, 0, 0,
     "JSON Lines of prompts and continuations to score"},
    {"against", 0, OPTION_STR, AT(against), CMD_EVAL, "FILE", NULL, 0, 0,
     "compare with this model, open at the same time"},
    {"reference", 0, OPTION_STR, AT(reference), CMD_EVAL, "FILE", NULL, 0, 0,
     "compare with the predictions in this file"},
    {"save-reference", 0, OPTION_STR, AT(save_reference), CMD_EVAL, "FILE", NULL, 0, 0,
     "write the model's predictions for a later --reference"},
    {"keep", 0, OPTION_I32, AT(keep), CMD_EVAL, "N", NULL, 0, 0,
     "ids kept of each row of --save-reference; 0: all logits; default 256, all of a vocabulary "
     "up to 4096"},
    {"floor", 0, OPTION_CHOICE, AT(floor), CMD_EVAL, "FORM", "act|ref|both", 0, 0,
     "also measure the noise floor: the same weights with other activations, or on the ref "
     "backend"},
    {"overlap", 0, OPTION_I32, AT(overlap), CMD_EVAL, "N", NULL, 0, 0,
     "tokens of the window before that are repeated as context; default a quarter"},
    {"limit", 0, OPTION_U32, AT(limit), CMD_EVAL, "N", NULL, 0, 0,
     "score about N tokens, spread over the whole"},
    {"rows", 0, OPTION_STR, AT(rows), CMD_EVAL, "FILE", NULL, 0, 0,
     "write a line per scored token (CSV)"},
    {"tasks", 0, OPTION_STR, AT(tasks), CMD_EVAL, "FILE", NULL, 0, 0,
     "JSON Lines of prompts with accepted answers, answered greedily"},
    {"every", 0, OPTION_U32, AT(every), CMD_EVAL, "N", NULL, 0, 1 << 20,
     "only every N-th task"},
    {"official", 0, OPTION_STR, AT(official), CMD_EVAL, "FILE", NULL, 0, 0,
     "JSON Lines of greedy answers of the vendor's API"},
    {"tensor", 0, OPTION_LIST, AT(rules), CMD_CONVERT, "PATTERN=TYPE", NULL, 0, 0,
     "type of the matrices whose GGUF name matches (* stands for anything); up to 64, the first "
     "match decides"},
    {"dense", 0, OPTION_CHOICE, AT(dense), CMD_CONVERT, "TYPE", "q8_0|q6_k|q5_k|q4_k", 0, 0,
     "type of attention and shared expert instead of the recipe's"},
    {"no-mtp", 0, OPTION_FLAG, AT(no_mtp), CMD_CONVERT, NULL, NULL, 0, 0,
     "leave the drafting blocks out (default: FILE.mtp.gguf beside FILE.gguf)"},
    {"imatrix", 0, OPTION_STR, AT(imatrix), CMD_CONVERT, "FILE", NULL, 0, 0,
     "importance matrix for the searched types (GGUF form or legacy .dat)"},
    {"imatrix-strict", 0, OPTION_FLAG, AT(imatrix_strict), CMD_CONVERT, NULL, NULL, 0, 0,
     "refuse to write a searched type without importance"},
    {"shrink", 0, OPTION_NUM, AT(shrink), CMD_CONVERT, "K", NULL, 0, 1e9,
     "an expert's importance counts as if it had met its layer's mean K times more; default 32"},
    {"dry-run", 0, OPTION_FLAG, AT(dry_run), CMD_CONVERT | CMD_KV, NULL, NULL, 0, 0,
     "report what would be done, write and remove nothing"},
    {"shape", 0, OPTION_CHOICE, AT(shape), CMD_PLAN | CMD_EXPLAIN, "NAME", "flash|pro", 0, 0,
     "a known model's shape instead of a file"},
    {"ctx", 'c', OPTION_U32, AT(ctx), CMD_ENGINE | CMD_PLAN | CMD_EXPLAIN, "N", NULL, 0,
     1u << 30, "context length in tokens (128k and 1m are understood)"},
    {"sequences", 0, OPTION_U32, AT(sequences), CMD_PLAN, "N", NULL, 0, 1024,
     "conversations held at once; default 1"},
    {"tokens", 0, OPTION_U32, AT(tokens), CMD_EXPLAIN, "N", NULL, 0, 65536,
     "tokens of the step; default 1 (decode)"},
    {"layer", 0, OPTION_I32, AT(layer), CMD_EXPLAIN, "N", NULL, 0, 0,
     "only layer N; -1 all; default: one layer of each kind"},
    {"operands", 0, OPTION_FLAG, AT(operands), CMD_EXPLAIN, NULL, NULL, 0, 0,
     "also list where every operand lies"},
    {"check", 0, OPTION_FLAG, AT(check), CMD_INSPECT, NULL, NULL, 0, 0, "validate everything"},
    {"kv-dir", 0, OPTION_STR, AT(kv_dir), CMD_ANSWER | CMD_SERVE | CMD_KV, "DIR", NULL, 0, 0,
     "keep KV state on disk in DIR, so that a prompt is never computed twice; none: nothing is "
     "kept. Default: fathom/kv in the cache folder (run: none)"},
    {"kv-disk", 0, OPTION_BYTES, AT(kv_disk), CMD_ANSWER | CMD_SERVE | CMD_KV, "SIZE", NULL, 0,
     0, "most that all files in the KV directory may take; default 16g"},
    {"kv-flush-seconds", 0, OPTION_NUM, AT(kv_flush), CMD_ANSWER | CMD_SERVE, "S", NULL, 0,
     86400, "at the end, go on writing KV state for at most S seconds; default 5"},
    {"tree", 0, OPTION_FLAG, AT(tree), CMD_KV, NULL, NULL, 0, 0,
     "ls: every file behind the ones it needs, indented"},
    {"text", 0, OPTION_FLAG, AT(text), CMD_KV, NULL, NULL, 0, 0,
     "show: also the text, by the tokenizer of -m"},
    {"delete-bad", 0, OPTION_FLAG, AT(delete_bad), CMD_KV, NULL, NULL, 0, 0,
     "verify: remove what fails"},
    {"salt", 0, OPTION_STR, AT(salt), CMD_KV, "HEX", NULL, 0, 0,
     "rm: files of this salt (the beginning of its SHA-256, as show and ls --json print it)"},
    {"older-than", 0, OPTION_U32, AT(older_than), CMD_KV, "DAYS", NULL, 0, 36500,
     "rm: files not used for so many days"},
    {"new", 0, OPTION_FLAG, AT(new_chat), CMD_CHAT, NULL, NULL, 0, 0,
     "begin a new conversation instead of going on with the last one"},
    {"backend", 0, OPTION_STR, AT(backend), CMD_ENGINE | CMD_SELFTEST | CMD_PLAN | CMD_EXPLAIN,
     "NAME", NULL, 0, 0,
     "metal, cpu or ref; default: the best available (selftest, explain: all)"},
    {"threads", 't', OPTION_U32, AT(threads), CMD_ENGINE | CMD_SELFTEST | CMD_CONVERT, "N",
     NULL, 0, 4096, "threads to use; default: all cores that this process may use"},
    {"chunk", 0, OPTION_U32, AT(chunk), CMD_ENGINE | CMD_PLAN, "N", NULL, 0, 65536,
     "prompt tokens computed per step (1: one at a time)"},
    {"sim", 0, OPTION_CHOICE, AT(sim), CMD_ENGINE | CMD_PLAN | CMD_EXPLAIN, "MODE", "on|off", 0,
     0, "on (default): native FP8/FP4 rows; off: F32 rows, for tests"},
    {"act", 0, OPTION_CHOICE, AT(act), CMD_ENGINE | CMD_EXPLAIN, "FORM", "a8|f32", 0, 0,
     "activations: a8 (default) or f32, for tests"},
    {"cpu-mask", 0, OPTION_U32, AT(cpu_mask), CMD_ENGINE | CMD_SELFTEST, "BITS", NULL, 0, 0,
     "instruction-set tiers the CPU backend may use; default: all"},
    {"pin", 0, OPTION_FLAG, AT(pin), CMD_ENGINE, NULL, NULL, 0, 0,
     "CPU workers stay on one core each (Linux), for a machine of their own"},
    {"debug", 0, OPTION_STR, AT(debug), CMD_ENGINE | CMD_SELFTEST, "LIST", NULL, 0, 0,
     "developer switches, comma separated"},
    {"jsonl", 0, OPTION_FLAG, AT(jsonl), CMD_PARTS, NULL, NULL, 0, 0,
     "one JSON object a line in, one a line out"},
    {"json", 0, OPTION_FLAG, AT(json),
     CMD_RUN | CMD_PARTS | CMD_LOGITS | CMD_INSPECT | CMD_PLAN | CMD_EXPLAIN | CMD_SELFTEST |
         CMD_BENCH | CMD_KV | CMD_EVAL,
     NULL, NULL, 0, 0, "JSON output"},
    {"help", 'h', OPTION_FLAG, AT(help), CMD_ALL, NULL, NULL, 0, 0, "this text"},
};
const size_t cli_n_options = ARRAY_LEN(cli_options);
