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
     "Ctrl-C stops the answer, not the program; Ctrl-D ends it. Lines that start with / are "
     "commands: /help lists them."},
    {"convert", CMD_CONVERT, cmd_convert, "DIR", 1, 1,
     "official safetensors checkpoint to GGUF",
     "DIR holds config.json and model.safetensors, or an index with shards. Tokenizer files are "
     "taken along when they are there. A row whose length does not fit the recipe's type takes "
     "the next type of its role's list, which is reported for each tensor."},
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
     "or with --fill behind random cache rows. With --synthetic the model has random weights and "
     "the true width; a cut of few layers is extrapolated to all of them. With --kernels the "
     "products of the cpu backend are measured, not a model."},
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
     CMD_ENGINE | CMD_PARTS | CMD_INSPECT | CMD_PLAN | CMD_EXPLAIN, "PATH", NULL, 0, 0,
     "model file; default $FATHOM_MODEL, else the embedded mini model"},
    {"prompt", 'p', OPTION_STR, AT(prompt), CMD_RUN | CMD_TOKENS, "TEXT", NULL, 0, 0,
     "the text"},
    {"file", 'f', OPTION_STR, AT(file), CMD_RUN | CMD_PARTS, "FILE", NULL, 0, 0,
     "read the input from FILE (- is stdin)"},
    {"system", 0, OPTION_STR, AT(system), CMD_ANSWER, "TEXT", NULL, 0, 0, "system message"},
    {"tools", 0, OPTION_STR, AT(tools), CMD_RUN, "FILE", NULL, 0, 0,
     "JSON array of tool definitions (OpenAI form) offered to the model"},
    {"think", 0, OPTION_CHOICE, AT(think), CMD_ANSWER, "LEVEL", "on|off|low|high|max", 0, 0,
     "reasoning before the answer; default on"},
    {"show-reasoning", 0, OPTION_FLAG, AT(show_reasoning), CMD_ANSWER, NULL, NULL, 0, 0,
     "show the reasoning on stderr even if that is no terminal"},
    {"raw", 0, OPTION_FLAG, AT(raw), CMD_RUN, NULL, NULL, 0, 0,
     "no chat template: the prompt is used as it is, control strings included"},
    {"max-tokens", 'n', OPTION_U32, AT(n_predict), CMD_ANSWER, "N", NULL, 0, 0,
     "longest answer in tokens; default: up to the context's end"},
    {"stop", 0, OPTION_LIST, AT(stop), CMD_RUN, "TEXT", NULL, 0, 0,
     "end the answer before TEXT; may be given up to 8 times"},
    {"temp", 0, OPTION_NUM, AT(temp), CMD_ANSWER, "X", NULL, 0, 100,
     "sampling temperature, 0 is greedy; default 1"},
    {"seed", 0, OPTION_U64, AT(seed), CMD_ANSWER, "N", NULL, 0, 0,
     "same seed, same answer; default: drawn from the clock"},
    {"top-k", 0, OPTION_U32, AT(top_k), CMD_ANSWER, "N", NULL, 0, 0,
     "only the N likeliest tokens"},
    {"top-p", 0, OPTION_NUM, AT(top_p), CMD_ANSWER, "X", NULL, 0, 1,
     "only the likeliest tokens that sum to X"},
    {"min-p", 0, OPTION_NUM, AT(min_p), CMD_ANSWER, "X", NULL, 0, 1,
     "only tokens at least X times as likely as the likeliest"},
    {"release", 0, OPTION_CHOICE, AT(release), CMD_ANSWER | CMD_RENDER, "NAME", "preview|0731",
     0, 0, "chat format of this release; default: what the model file says"},
    {"ids", 0, OPTION_STR, AT(ids), CMD_LOGITS | CMD_TOKENS, "LIST", NULL, 0, 0,
     "token ids, comma separated (- reads them from stdin)"},
    {"all", 0, OPTION_FLAG, AT(all), CMD_LOGITS, NULL, NULL, 0, 0,
     "every position, not only the last"},
    {"decode", 0, OPTION_FLAG, AT(decode), CMD_TOKENS, NULL, NULL, 0, 0, "ids to text"},
    {"plain", 0, OPTION_FLAG, AT(plain), CMD_TOKENS, NULL, NULL, 0, 0,
     "untrusted text: control strings stay ordinary text"},
    {"lenient", 0, OPTION_FLAG, AT(lenient), CMD_PARSE, NULL, NULL, 0, 0,
     "also accept the small deviations that the server accepts (docs/chat-format.md)"},
    {"output", 'o', OPTION_STR, AT(output), CMD_CONVERT, "FILE", NULL, 0, 0,
     "the GGUF to write"},
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
     "random cache rows before each frontier, so that depth needs no prompt"},
    {"prefill", 0, OPTION_U32, AT(prefill), CMD_BENCH, "N", NULL, 0, 1 << 20,
     "with --fill: about N prompt tokens are computed at each frontier; default 256"},
    {"gen", 0, OPTION_U32, AT(gen), CMD_BENCH, "N", NULL, 0, 1 << 20,
     "tokens decoded at each frontier; default 32"},
    {"kernels", 0, OPTION_FLAG, AT(kernels), CMD_BENCH, NULL, NULL, 0, 0,
     "products of every weight format on every tier, not a model"},
    {"formats", 0, OPTION_STR, AT(formats), CMD_BENCH, "LIST", NULL, 0, 0,
     "with --kernels: only these weight formats"},
    {"decode-only", 0, OPTION_FLAG, AT(decode_only), CMD_BENCH, NULL, NULL, 0, 0,
     "with --kernels: no prefill"},
    {"csv", 0, OPTION_FLAG, AT(csv), CMD_BENCH, NULL, NULL, 0, 0, "CSV output"},
    {"rule", 0, OPTION_LIST, AT(rules), CMD_CONVERT, "NAME=TYPE", NULL, 0, 0,
     "type of the matrices whose GGUF name matches NAME (* stands for anything); up to 8"},
    {"dry-run", 0, OPTION_FLAG, AT(dry_run), CMD_CONVERT, NULL, NULL, 0, 0,
     "report types and sizes, write nothing"},
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
    {"backend", 0, OPTION_STR, AT(backend), CMD_ENGINE | CMD_SELFTEST | CMD_PLAN | CMD_EXPLAIN,
     "NAME", NULL, 0, 0,
     "metal, cpu or ref; default: the best available (selftest, explain: all)"},
    {"threads", 't', OPTION_U32, AT(threads), CMD_ENGINE | CMD_SELFTEST | CMD_CONVERT, "N",
     NULL, 0, 4096, "threads to use; default: all cores"},
    {"chunk", 0, OPTION_U32, AT(chunk), CMD_ENGINE | CMD_PLAN, "N", NULL, 0, 65536,
     "prompt tokens computed per step (1: one at a time)"},
    {"sim", 0, OPTION_CHOICE, AT(sim), CMD_ENGINE | CMD_PLAN | CMD_EXPLAIN, "MODE", "on|off", 0,
     0, "on (default): native FP8/FP4 rows; off: F32 rows, for tests"},
    {"act", 0, OPTION_CHOICE, AT(act), CMD_ENGINE | CMD_EXPLAIN, "FORM", "a8|f32", 0, 0,
     "activations: a8 (default) or f32, for tests"},
    {"cpu-mask", 0, OPTION_U32, AT(cpu_mask), CMD_ENGINE | CMD_SELFTEST, "BITS", NULL, 0, 0,
     "instruction-set tiers the CPU backend may use; default: all"},
    {"debug", 0, OPTION_STR, AT(debug), CMD_ENGINE | CMD_SELFTEST, "LIST", NULL, 0, 0,
     "developer switches, comma separated"},
    {"jsonl", 0, OPTION_FLAG, AT(jsonl), CMD_PARTS, NULL, NULL, 0, 0,
     "one JSON object a line in, one a line out"},
    {"json", 0, OPTION_FLAG, AT(json),
     CMD_RUN | CMD_PARTS | CMD_LOGITS | CMD_INSPECT | CMD_PLAN | CMD_EXPLAIN | CMD_SELFTEST |
         CMD_BENCH,
     NULL, NULL, 0, 0, "JSON output"},
    {"help", 'h', OPTION_FLAG, AT(help), CMD_ALL, NULL, NULL, 0, 0, "this text"},
};
const size_t cli_n_options = ARRAY_LEN(cli_options);

const char *cli_unbuilt(const char *name)
{
    static const char *const names[] = {"serve", "eval", "imatrix", "kv"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            return names[i];
        }
    }
    return NULL;
}
